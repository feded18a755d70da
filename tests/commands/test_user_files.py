"""--overwrite deletes what tspo wrote, and no file of the user's: neither an input of the command
nor what somebody put beside it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tspo_cli.commands.app import app
from tspo_cli.config.load_config import load_config
from tspo_cli.data.convert import convert
from tspo_cli.data.corpus.made_corpus import Options, make_corpus
from tspo_cli.data.world.generate import make_world
from tspo_cli.data.world.world_config import WorldConfig
from tspo_cli.demo.demo_commands import DemoOptions
from tspo_cli.demo.demo_folder import claimed_folder
from tspo_cli.disk import one_writer
from tspo_cli.errors import InvalidInputError
from tspo_cli.evaluation.resuming.results_folder import results_folder
from tspo_cli.models.convert_gguf import check_out
from tspo_cli.overwriting import require_outside
from tspo_cli.record_digests import note_digests
from tspo_cli.retrieval.index.build_index import build_index
from tspo_cli.retrieval.index.import_vectors import import_index
from tspo_cli.runs import write_json
from tspo_cli.training.launch.claim import claimed_run
from tspo_cli.training.launch.processes import launch

WORLD = WorldConfig(entities=40, test_entities=30, train_questions=20, test_questions=10)
HOTPOT = {
    "_id": "5a01",
    "question": "Who built the tower?",
    "answer": "Ada",
    "context": [["Tower", ["Ada built the tower."]], ["Lake", ["The lake is old."]]],
    "supporting_facts": [["Tower", 0]],
}


def corpus(folder: Path) -> Path:
    path = folder / "corpus.jsonl"
    path.write_text('{"id": "a", "contents": "river mentor"}\n')
    return path


def demo(folder: Path) -> None:
    with claimed_folder(DemoOptions(folder / "out"), overwrite=True):
        (folder / "out" / "world").mkdir()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_demo_leaves_what_another_command_writes(tmp_path: Path, overwrite: bool) -> None:
    """It moved a run that somebody trained on, and deleted it at its end."""
    demo(tmp_path)
    half = tmp_path / "out" / "tspo" / "checkpoints" / ".step_000001.tmp"
    half.mkdir(parents=True)
    options = DemoOptions(tmp_path / "out")
    with one_writer(tmp_path / "out" / "tspo", "training into it"):
        refused = pytest.raises(InvalidInputError, match="out/tspo: another process writes into")
        with refused, claimed_folder(options, overwrite=overwrite):
            pass
        assert half.is_dir()
    with claimed_folder(options, overwrite=overwrite):
        assert not half.exists()


def run(folder: Path) -> None:
    with claimed_run(folder / "out", resume=False, overwrite=True):
        (folder / "out" / "config.resolved.json").write_text("{}")
        (folder / "out" / "metrics.jsonl").write_text('{"step": 1}\n')


def untrained(folder: Path) -> None:
    """It is made anew without a flag."""
    with claimed_run(folder / "out", resume=False, overwrite=False):
        (folder / "out" / "config.resolved.json").write_text("{}")


def made(folder: Path) -> None:
    (folder / "hotpot.json").write_text(json.dumps([HOTPOT]))
    make_corpus([str(folder / "hotpot.json")], folder / "out", Options(), overwrite=True)


def model(folder: Path) -> None:
    (folder / "out").mkdir(exist_ok=True)
    for name in ("config.json", "tokenizer.json", "model-00001-of-00002.safetensors"):
        (folder / "out" / name).touch()
    check_out(folder / "out", folder / "tiny.gguf", overwrite=True)


MAKE: dict[str, Callable[[Path], object]] = {
    "index": lambda folder: build_index(corpus(folder), folder / "out", overwrite=True),
    "world": lambda folder: make_world(WORLD, folder / "out", overwrite=True),
    "made corpus": made,
    "model": model,
    "run": run,
    "untrained run": untrained,
    "demo": demo,
}


@pytest.mark.parametrize("kind", MAKE)
def test_a_file_beside_what_is_replaced_stays(tmp_path: Path, kind: str) -> None:
    MAKE[kind](tmp_path)
    for name in ("notes.txt", "mine.jsonl.gz", "mine"):
        mine = tmp_path / "out" / name
        mine.mkdir() if name == "mine" else mine.write_text("mine")
        before = sorted(path.name for path in (tmp_path / "out").iterdir())
        with pytest.raises(InvalidInputError, match=rf"\({name}\); (move them to|choose)"):
            MAKE[kind](tmp_path)
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == before
        mine.rmdir() if name == "mine" else mine.unlink()
    MAKE[kind](tmp_path)


INNER = {
    "run": (
        *("model/NOTES.md", "eval/mydev/eval.json", "logs/mine.txt", "rollouts/mine.jsonl.gz"),
        *("eval/.notes.tmp", "checkpoints/.mine.tmp"),
        *("model/notes.txt", "trace/mine.toml", "tensorboard/mine.txt"),
    ),
    "demo": ("world/mine.jsonl", "tspo/notes.md", "tspo/eval/dev/eval.json", "index/notes"),
}
RECORDS = {
    "run": (
        *("model/tokenizer.model", "best/adapter/adapter_config.json", "best/best.json"),
        *("checkpoints/damaged_step_000001/state.json", "judge/replies_0.jsonl"),
        *("eval/step_000010/dev.items.jsonl.gz", "eval/step_000010/dev.judge.partial.jsonl"),
        *("rollouts/digests.jsonl", "wandb/run-1/files/any", "launch/retriever.log"),
        *("trace/step_000002_rank_0.json.gz", "tensorboard/events.out.tfevents.1.host.2.0"),
        *("model/merges.txt", "model/vocab.txt"),
        *(".model.replaced/config.json", "eval/step_000010/.dev.json.17.1.tmp"),
    ),
    "demo": (
        *("tspo/.replaced/notes", "tspo/model/config.json", "baselines/rag/world.json"),
        *(".index.build/index/.ids", ".world.new/corpus.jsonl", "tspo/.best.replaced/best.json"),
    ),
}


@pytest.mark.parametrize("kind", INNER)
def test_a_file_in_a_folder_of_what_is_replaced_stays(tmp_path: Path, kind: str) -> None:
    MAKE[kind](tmp_path)
    for name in RECORDS[kind]:
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).touch()
    for name in INNER[kind]:
        mine = tmp_path / "out" / name
        mine.parent.mkdir(parents=True, exist_ok=True)
        mine.write_text("mine")
        with pytest.raises(InvalidInputError, match=rf"\({name}\); move them to another place"):
            MAKE[kind](tmp_path)
        assert mine.read_text() == "mine"
        mine.unlink()
    MAKE[kind](tmp_path)


def test_an_input_behind_a_link_in_the_folder_lies_there(tmp_path: Path) -> None:
    """The link goes with the run, and its model could not be opened any more."""
    (tmp_path / "model").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model").symlink_to("../model")
    (tmp_path / "link").symlink_to("run")
    for folder, model in (("run", "run/model"), ("link", "run/model"), ("run", "link/model")):
        with pytest.raises(InvalidInputError, match="lies in"):
            require_outside(tmp_path / folder, tmp_path / model)
    outside = (tmp_path / "model", tmp_path / "none", tmp_path / "run" / "..")
    require_outside(tmp_path / "run", "", *outside)


def test_an_index_does_not_replace_its_own_corpus(tmp_path: Path) -> None:
    index = tmp_path / "index"
    build_index(corpus(tmp_path), index)
    for name in ("corpus.jsonl", "passages.jsonl"):
        mine = index / name
        shutil.copy(tmp_path / "corpus.jsonl", mine)
        with pytest.raises(InvalidInputError, match=f"{mine}: lies in {index}, which --overwrite"):
            build_index(mine, index, overwrite=True)
        assert mine.exists()
    for name in ("vectors.faiss", "passages.jsonl"):
        (index / name).touch()
        with pytest.raises(InvalidInputError, match="lies in"):
            import_index([index / name], corpus(tmp_path), index, encoder="e", overwrite=True)


def test_a_made_corpus_does_not_replace_its_own_sources(tmp_path: Path) -> None:
    made(tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(InvalidInputError, match="lies in"):
        make_corpus([str(tmp_path / "out")], tmp_path / "out", Options(limit=1), overwrite=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_file_is_not_converted_into_itself(tmp_path: Path) -> None:
    path = corpus(tmp_path)
    (tmp_path / "link.jsonl").symlink_to(path)
    for target in (path, tmp_path / "link.jsonl"):
        with pytest.raises(InvalidInputError, match="is the file to convert"):
            convert(path, target, overwrite=True)


def test_a_figure_replaces_nothing_but_a_figure(tmp_path: Path) -> None:
    mine = tmp_path / "mine.png"
    mine.write_text("mine")
    words = ["report", str(tmp_path), "--figure", str(mine)]
    assert "is no figure" in str(CliRunner().invoke(app, words).exception)
    assert mine.read_text() == "mine"


def evaluation(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / f"{name}.json").write_text("{}")
        (folder / f"{name}.items.jsonl.gz").write_bytes(b"")
    results = [{"dataset": name, "n": 1, "em": 1.0} for name in names]
    write_json(folder / "eval.json", {"results": results})


@pytest.mark.parametrize("is_whole", [True, False])
@pytest.mark.parametrize(
    "name",
    [
        *("mine.json", "mine.items.jsonl.gz", "questions.partial.jsonl", ".new/notes.txt"),
        *(".new/mine/questions.jsonl",),
    ],
)
def test_an_evaluation_replaces_no_file_that_none_wrote(
    tmp_path: Path, name: str, is_whole: bool
) -> None:
    """It would delete it, or write over it where a data set has its name."""
    out = tmp_path / "out"
    evaluation(out, "films", "songs")
    (out / "songs.partial.jsonl").write_text('{"signature": "5"}\n')
    if not is_whole:  # killed before its summary, which is written last
        note_digests(out / "films.json", out / "films.items.jsonl.gz")
        (out / "eval.json").unlink()
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    (out / name).write_text('{"id": "1"}\n')
    with (
        pytest.raises(InvalidInputError, match=r"no evaluation wrote and that would be deleted"),
        results_folder(out, resume=False, overwrite=True),
    ):
        pass
    assert (out / name).read_text() == '{"id": "1"}\n'
    (out / name).unlink()
    if "/mine/" in name:
        (out / name).parent.rmdir()
    with results_folder(out, resume=False, overwrite=True) as work:
        evaluation(work, "films")
    left = {path.name for path in out.iterdir()} - {".lock", "digests.jsonl"}
    assert left == {"eval.json", "films.json", "films.items.jsonl.gz"}


def test_a_damaged_evaluation_is_replaced(tmp_path: Path) -> None:
    evaluation(tmp_path / "out", "films")
    for name in ("eval.json", "digests.jsonl"):
        (tmp_path / "out" / name).write_text("{")
    with results_folder(tmp_path / "out", resume=False, overwrite=True) as work:
        evaluation(work, "songs")
    assert (tmp_path / "out" / "songs.json").exists()
    assert not (tmp_path / "out" / "films.json").exists()


@pytest.mark.parametrize(
    "folder", ["eval/step_000002", "logs", "rollouts", "checkpoints/x", "best"]
)
def test_no_evaluation_is_written_into_the_folders_of_a_run(tmp_path: Path, folder: str) -> None:
    (tmp_path / "config.resolved.json").write_text("{}")
    out = tmp_path / folder
    out.mkdir(parents=True)
    (out / "films.items.jsonl.gz").write_text("mine")
    for overwrite in (True, False):
        with (
            pytest.raises(InvalidInputError, match=r"of the run .*, which the run writes"),
            results_folder(out, resume=not overwrite, overwrite=overwrite),
        ):
            pass
    assert [path.name for path in out.iterdir()] == ["films.items.jsonl.gz"]
    with results_folder(tmp_path / "mine", resume=False, overwrite=False):
        pass


def test_an_experiment_of_the_users_is_no_run(tmp_path: Path) -> None:
    """`tspo train runs/mine/config.toml --out runs/mine` would write its own in the place of it."""
    mine = tmp_path / "config.toml"
    mine.write_text("# mine")
    for overwrite in (True, False):
        with (
            pytest.raises(InvalidInputError, match="exists and is not a run directory"),
            claimed_run(tmp_path, resume=False, overwrite=overwrite),
        ):
            pass
    assert mine.read_text() == "# mine"


@pytest.mark.parametrize("name", ["base.toml", "tspo.toml", "_shared.toml"])
def test_experiment_files_of_a_sweep_replace_no_others(tmp_path: Path, name: str) -> None:
    base = Path("experiments/tiny/grpo.toml").absolute()
    sweep = tmp_path / "mine.sweep.toml"
    sweep.write_text(f'base = "{base}"\nseeds = [0]\n[arms.base]\n[arms.tspo]\n')
    words = ["sweep", str(sweep), "--write-configs", str(tmp_path)]
    (tmp_path / name).write_text("# mine")
    said = str(CliRunner().invoke(app, words).exception)
    assert f"{tmp_path / name}: is there already, and no sweep wrote it" in said
    assert (tmp_path / name).read_text() == "# mine"
    assert {path.name for path in tmp_path.glob("*.toml")} == {sweep.name, name}
    (tmp_path / name).unlink()
    for _ in range(2):  # its own files are replaced
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.exception


@pytest.mark.parametrize(
    "setting",
    [
        *('data.held_out=["{}"]', "deepspeed.config={}", "judge.prompt={}"),
        *(
            "retriever.token_file={}",
            "credit.outcome={}.py:reward",
            "credit.algorithm={}.py:reward",
        ),
    ],
)
def test_a_run_does_not_replace_what_the_new_one_reads(tmp_path: Path, setting: str) -> None:
    run_path = tmp_path / "run"
    run_path.mkdir()
    for name in ("input", "input.py"):
        (run_path / name).write_text("def reward(a, b): return 1.0\n")
    config = load_config(["experiments/tiny/grpo.toml"], [setting.format(run_path / "input")])
    with pytest.raises(InvalidInputError, match=r"lies in .*, which --overwrite would delete"):
        launch(config, run_path, lambda *_: None, "none", resume=False, overwrite=True)

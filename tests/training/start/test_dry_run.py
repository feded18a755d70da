"""`tspo train --dry-run`: what it says of the data, the limits and the disk, and its warnings."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from tests.conftest import Finished, Playground, run_tspo
from tests.retrieval.server.live_server import serving
from tspo_cli.commands.app import app
from tspo_cli.config.load_config import load_config
from tspo_cli.data.question import Question
from tspo_cli.models.load_model import load_model, load_tokenizer
from tspo_cli.retrieval.index.build_index import build_index
from tspo_cli.retrieval.index.other_corpus import OTHER_CORPUS
from tspo_cli.retrieval.index.searcher import open_index
from tspo_cli.retrieval.types import Hit, RetrieverInfo, SearchResult
from tspo_cli.rollout.protocol import SearchProtocol
from tspo_cli.training.core.sequences import ScriptedTrajectory, ScriptedTurn
from tspo_cli.training.planning.memory import GIB, written_gib
from tspo_cli.training.start import start_warnings
from tspo_cli.training.start.inputs import TrainingInputs
from tspo_cli.training.start.start_warnings import _demonstrations, _learning_rates, _observations


def test_the_dry_run_says_epochs_limits_and_disk(
    playground: Playground, tspo: Callable[..., Finished]
) -> None:
    settings = playground.settings(train__steps=30)
    done = tspo("train", "tiny/grpo", "--dry-run", *settings)
    said = done.out + done.err
    assert "60 training questions (2 epochs)" in said
    assert "evaluation on" in said
    without = playground.settings(eval__data="[]", eval__every=0)
    assert "no evaluation during training" in tspo("train", "tiny/grpo", "--dry-run", *without).err
    assert "3 turns of 16, 2 observations of 96 (2 passages)" in said
    assert re.search(r"disk: \d+\.\d\d GiB \(.*a model of .*GiB free", said)


def test_the_findings_end_what_a_terminal_shows(playground: Playground) -> None:
    settings = playground.settings(**{"rollout.max_new_tokens": 4})
    shown = CliRunner().invoke(app, ["train", "tiny/grpo", "--dry-run", *settings]).output
    assert shown.index("[track]") < shown.index("ready: ") < shown.index("warning: ")


def test_the_recipes_of_the_demo_are_warned_of_nothing(
    playground: Playground, tspo: Callable[..., Finished]
) -> None:
    """The short style asks for no thought: 32 tokens hold its turns."""
    settings = playground.settings(**{"rollout.max_new_tokens": 32, "rollout.max_searches": 3})
    assert "do not hold" not in tspo("train", "tiny/tspo", "--dry-run", *settings).err


def test_a_place_where_no_run_can_be_is_refused(playground: Playground, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for file in ("file", "folder/notes.txt"):
        (tmp_path / file).write_text("mine")
    for out in ("file", "folder"):
        place = tmp_path / out
        done = run_tspo("train", "tiny/grpo", "--dry-run", "--out", place, *playground.settings())
        assert done.code == 3
        assert f"{out}: exists and is " in done.err


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_settings_are_shown_without_secrets(playground: Playground, form: Sequence[str]) -> None:
    urls = '["http://bob:hunter2@127.0.0.1:9", "http://127.0.0.1:9/?token=hunter2"]'
    settings = playground.settings(**{"retriever.url": urls})
    done = run_tspo("train", "tiny/grpo", "--dry-run", *form, *settings)
    assert done.code == 0, done.err
    assert '"http://***@127.0.0.1:9"' in done.out
    assert "hunter2" not in done.out + done.err


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ({"rollout.max_observation_tokens": 12}, "rollout.max_observation_tokens: 12 tokens"),
        ({"retriever.k": 20}, "do not hold the 20 passages"),
        ({"rollout.max_new_tokens": 4}, "rollout.max_new_tokens: 4 tokens"),
        ({"rollout.system": "Be brief."}, "rollout.system: without effect"),
        ({"retriever.url": "http://127.0.0.1:9"}, "not from retriever.url (http://127.0.0.1:9)"),
        (
            {"rollout.prompt": "search_r1", "rollout.max_new_tokens": 6},
            "rollout.max_new_tokens: 6 tokens",
        ),
    ],
)
def test_limits_too_small_and_settings_without_effect_are_warned_of(
    playground: Playground, tspo: Callable[..., Finished], setting: dict[str, object], key: str
) -> None:
    roomy = {"model.max_context": 0, "rollout.max_prompt_tokens": 1024}
    settings = playground.settings(**{**roomy, **setting})
    done = tspo("-q", "train", "tiny/grpo", "--dry-run", *settings)
    assert re.search(rf"^warning: .*{re.escape(key)}", done.err, re.MULTILINE), done.err
    assert "toy models" not in done.err


def test_the_index_of_another_corpus_is_warned_of(
    playground: Playground, tspo: Callable[..., Finished], tmp_path: Path
) -> None:
    (tmp_path / "c.jsonl").write_text('{"id": "other", "title": "A", "text": "far away"}\n')
    build_index(tmp_path / "c.jsonl", tmp_path / "index")
    other = playground.settings(retriever__index=tmp_path / "index")
    said = f"warning: retriever.index: {tmp_path / 'index'}: {OTHER_CORPUS}"
    assert said in tspo("train", "tiny/grpo", "--dry-run", *other).err
    own = playground.settings()
    assert OTHER_CORPUS not in tspo("train", "tiny/grpo", "--dry-run", *own).err
    words = ["eval", playground.model, "--data", playground.world / "test.jsonl", "--limit", 1]
    done = tspo(*words, "--index", tmp_path / "index", "--out", tmp_path / "other")
    assert f": {OTHER_CORPUS}" in done.err
    done = tspo(*words, "--index", playground.index, "--out", tmp_path / "own")
    assert OTHER_CORPUS not in done.err


@pytest.mark.parametrize(("tokens", "warned"), [(12, True), (900, False)])
def test_the_passages_of_a_server_are_measured_too(
    playground: Playground, tspo: Callable[..., Finished], tokens: int, warned: bool
) -> None:
    roomy = {"model.max_context": 0, "rollout.max_observation_tokens": tokens}
    with serving(open_index(playground.index)) as url:
        remote = {"retriever.index": "", "retriever.url": url, **roomy}
        done = tspo("train", "tiny/grpo", "--dry-run", *playground.settings(**remote))
    assert (f"{tokens} tokens do not hold the 2 passages of a search" in done.err) == warned
    assert "retriever: no passages" not in done.err


class Silent:
    """A retriever that answers the first question, fails at the second and finds no other."""

    blocking = True

    def __init__(self) -> None:
        self.requests: list[list[str]] = []

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        self.requests.append(list(queries))
        found = SearchResult(tuple(Hit(str(at), '"A"\n' + "far " * 400, 1.0) for at in range(k)))
        return [found, SearchResult(error="shard 3 is gone"), *[SearchResult()] * 98][
            : len(queries)
        ]

    def describe(self) -> RetrieverInfo:
        return RetrieverInfo()


def test_a_server_is_asked_once_and_what_it_does_not_find_is_said(playground: Playground) -> None:
    config = load_config([], ["retriever.k=4", "rollout.max_observation_tokens=500"])
    protocol = SearchProtocol.from_config(load_tokenizer(playground.model), config.rollout)
    questions = [Question(str(at), f"who is {at}?", ("x",), "own") for at in range(50)]
    silent = Silent()
    missing, cut = _observations(config, TrainingInputs(silent, questions, []), protocol)
    assert len(silent.requests) == 1
    assert missing.startswith("retriever: no passages for 7 of 8 questions (shard 3")
    assert "500 tokens do not hold the 4 passages of a search" in cut
    demonstrations = [ScriptedTrajectory("who wrote it?", ())]
    (cut,) = _observations(config, TrainingInputs(silent, [], demonstrations), protocol)
    assert silent.requests[1:] == [["who wrote it?"]]
    assert list(_observations(config, TrainingInputs(None, questions, []), protocol)) == []
    assert list(_observations(config, TrainingInputs(silent, [], []), protocol)) == []


@pytest.mark.parametrize(("exclude_seen", "said"), [(True, "1 of 3"), (False, "")])
def test_demonstrations_that_read_a_passage_twice_are_named(
    playground: Playground, exclude_seen: bool, said: str
) -> None:
    """The agent with rollout.exclude_seen never does."""
    config = load_config([], ["kind=sft", f"rollout.exclude_seen={str(exclude_seen).lower()}"])
    protocol = SearchProtocol.from_config(load_tokenizer(playground.model), config.rollout)
    emma, other = Hit("1", '"Emma"\na novel', 1.0), Hit("2", '"Austen"\na writer', 1.0)
    copy, answer = Hit("3", emma.contents, 1.0), ScriptedTurn("<answer> x </answer>")
    search = "<search> x </search>"

    def read(*searches: list[Hit]) -> ScriptedTrajectory:
        turns = [ScriptedTurn(search, tuple(hits)) for hits in searches]
        return ScriptedTrajectory("who?", (*turns, answer))

    demonstrations = [read([emma], [other, copy]), read([emma, copy], [other]), read([emma])]
    found = list(_demonstrations(config, TrainingInputs(None, [], demonstrations), protocol))
    assert len(found) == bool(said)
    assert all(f"rollout.exclude_seen: {said} demonstrations" in line for line in found)


@pytest.mark.parametrize("titles", ["quoted", "plain"])
def test_passages_are_measured_as_they_are_sent(
    playground: Playground, tspo: Callable[..., Finished], titles: str
) -> None:
    """Quotes of titles and tags count: the limit that the warning names holds the passages."""

    def warned(limit: int) -> re.Match[str] | None:
        options = {"model.max_context": 0, "rollout.titles": titles}
        options |= {"rollout.max_observation_tokens": limit}
        done = tspo("train", "tiny/grpo", "--dry-run", *playground.settings(**options))
        return re.search(r"has (\d+) in the median, 2 in their tags have (\d+)", done.err)

    found = warned(12)
    assert found is not None
    passage, needed = map(int, found.groups())
    tokenizer = load_tokenizer(playground.model)
    rollout = load_config([], [f"rollout.titles={titles}"]).rollout
    protocol = SearchProtocol.from_config(tokenizer, rollout)
    sent = [
        len(protocol.observation([Hit("", contents, 0.0)])[1])
        for contents in open_index(playground.index).sample(10**6)
    ]
    tags = needed - 2 * passage
    assert tags == len(protocol.observation([])[1])
    assert min(sent) <= passage + tags <= max(sent)
    assert warned(needed - 1)
    assert warned(needed) is None


def test_a_run_that_keeps_nothing_writes_neither_checkpoints_nor_model(
    playground: Playground, tspo: Callable[..., Finished], tmp_path: Path
) -> None:
    settings = playground.settings(
        train__steps=1,
        checkpoint__every=0,
        train__export_model="false",
        eval__data="[]",
        eval__every=0,
    )
    dry = tspo("train", "tiny/grpo", "--dry-run", *settings)
    assert "disk: 0.00 GiB (neither checkpoints nor model" in dry.out + dry.err
    run = tmp_path / "run"
    tspo("train", "tiny/grpo", "--out", run, *settings)
    assert not (run / "checkpoints").exists()
    assert not (run / "model").exists()
    assert (run / "metrics.jsonl").is_file()


def test_the_disk_that_is_announced_is_the_disk_that_is_used(
    playground: Playground, tspo: Callable[..., Finished], tmp_path: Path
) -> None:
    settings = playground.settings(
        train__steps=1, checkpoint__every=1, checkpoint__keep=1, eval__data="[]", eval__every=0
    )
    run = tmp_path / "run"
    tspo("train", "tiny/grpo", "--out", run, *settings)
    config = load_config([run / "config.toml"], [])
    module = load_model(run / "model")
    size = sum(weight.numel() * weight.element_size() for weight in module.parameters())
    parameters = sum(weight.numel() for weight in module.parameters())
    announced = written_gib(config, parameters, size, critic=False)
    for part, folder in (("checkpoint", "checkpoints"), ("model", "model")):
        weights = sum(path.stat().st_size for path in (run / folder).rglob("*.safetensors"))
        assert weights == pytest.approx(announced[part] * GIB, rel=0.1)


def test_a_rate_for_toys_on_a_large_model_is_warned_of() -> None:
    class Large:
        """A model of 60 M trained parameters, none of which exists."""

        def parameters(self) -> Iterator[torch.nn.Parameter]:
            yield torch.nn.Parameter(torch.empty(60_000_000, device="meta"))

    for rate, fine in (("2e-4", False), ("1e-6", True)):
        config = load_config([], [f"optimizer.lr={rate}"])
        lines = list(_learning_rates(config, Large()))
        assert bool(lines) != fine
        assert all("toy" in line and "lora.rank" in line for line in lines)


@pytest.mark.parametrize(
    ("trained", "kind", "warned"),
    [
        (135_000_000, "sft", False),
        (135_000_000, "rl", True),
        (135_000_000, "rejection_sampling", True),
        (1_700_000_000, "sft", True),
        (2_000_000, "rl", False),
    ],
)
def test_imitation_bears_larger_steps(
    trained: int, kind: str, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model of 135 M parameters has to learn a new format in a few steps."""
    monkeypatch.setattr(start_warnings, "trained_parameters", lambda model: trained)
    config = load_config([], [f"kind={kind}", "optimizer.lr=2e-4"])
    assert bool(list(_learning_rates(config, None))) == warned

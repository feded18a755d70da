"""What may change when a run is resumed: options that it does not use, and where it searches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tspo_cli.config.load_config import load_config
from tspo_cli.config.schema import Config
from tspo_cli.errors import InvalidInputError
from tspo_cli.record_digests import note_digests
from tspo_cli.retrieval.index.build_index import build_index
from tspo_cli.retrieval.index.searcher import open_index
from tspo_cli.training.launch.same_experiment import check_same_experiment, experiment_digest
from tspo_cli.training.start.inputs import TrainingInputs
from tspo_cli.training.start.same_inputs import input_digests, keep_or_compare_inputs

USER_CODE = "def rule(trajectories, config):\n    return [[config.siop.eta]]\n"


def load(*settings: str) -> Config:
    return load_config([], ["kind=rl", *settings])


@pytest.mark.parametrize("algorithm", ["grpo", "igpo", "at2po"])
def test_options_of_other_algorithms_may_change(algorithm: str, tmp_path: Path) -> None:
    before = load(f"credit.algorithm={algorithm}")
    now = load(f"credit.algorithm={algorithm}", "credit.siop.eta=1", "credit.tips.teacher=policy")
    changes = check_same_experiment(before, now, tmp_path)
    assert sorted(changes) == ["credit.siop.eta", "credit.tips.teacher"]


@pytest.mark.parametrize("algorithm", ["siop", "code"])
def test_options_that_are_read_may_not(algorithm: str, tmp_path: Path) -> None:
    """A function of the user's own gets all of [credit]."""
    if algorithm == "code":
        (tmp_path / "mine.py").write_text(USER_CODE)
        algorithm = f"{tmp_path}/mine.py:rule"
    before = load(f"credit.algorithm={algorithm}")
    now = load(f"credit.algorithm={algorithm}", "credit.siop.eta=1")
    with pytest.raises(InvalidInputError, match=r"credit\.siop\.eta \(was 5\.0, now 1\.0\)"):
        check_same_experiment(before, now, tmp_path)


def test_another_algorithm_is_another_experiment(tmp_path: Path) -> None:
    before, now = load("credit.algorithm=siop"), load("credit.algorithm=grpo", "credit.siop.eta=1")
    with pytest.raises(InvalidInputError, match=r"credit\.algorithm \(was .siop., now .grpo.\)"):
        check_same_experiment(before, now, tmp_path)


def test_nobody_is_sent_to_an_experiment_file_that_was_changed(tmp_path: Path) -> None:
    before, now = load("optimizer.lr=1e-5"), load("optimizer.lr=2e-5")
    (tmp_path / "config.toml").write_text("lr = 1e-5")
    note_digests(tmp_path / "config.toml")
    with pytest.raises(InvalidInputError, match=r"use its settings \(.*config\.toml\)"):
        check_same_experiment(before, now, tmp_path)
    (tmp_path / "config.toml").write_text("lr = 2e-5")
    with pytest.raises(InvalidInputError, match=r"now 2e-05\); .*config\.toml was changed"):
        check_same_experiment(before, now, tmp_path)
    assert check_same_experiment(before, before, tmp_path) == {}


def test_the_digest_of_an_experiment_is_of_what_its_attempts_share() -> None:
    begun = experiment_digest(load(), {"questions": "a"})
    assert experiment_digest(load("seed=5"), {"questions": "a"}) != begun
    assert experiment_digest(load("train.updates_per_step=2"), {"questions": "a"}) != begun
    assert experiment_digest(load(), {"questions": "b"}) != begun
    may_change = [f"{key}={json.dumps(value)}" for key, value in CLUSTER.items()]
    may_change += ["train.steps=7", "model.path=elsewhere", "credit.siop.eta=1"]
    assert experiment_digest(load(*may_change), {"questions": "a"}) == begun


CLUSTER = {
    "vllm.url": ["http://10.0.0.9:1"],
    "vllm.kv_cache_gib": 3,
    "vllm.sleep": 2,
    "rollout.batch_size": 9,
    "rollout.turn_deadline": 9,
    "train.tokens_per_micro_batch": 2048,
    "train.gradient_checkpointing": True,
    "train.share_prefixes": "never",
    "train.packing": False,
    "train.processes": 3,
    "train.parity_limit": 1,
    "train.stall_limit": 9,
    "deepspeed.zero_stage": 3,
    "deepspeed.offload_reference": True,
    "checkpoint.minutes": 5,
    "launch.engines": 2,
}


def test_what_a_cluster_changes_may_change(tmp_path: Path) -> None:
    now = load(*(f"{key}={json.dumps(value)}" for key, value in CLUSTER.items()))
    assert sorted(check_same_experiment(load(), now, tmp_path)) == sorted(CLUSTER)


def test_the_device_of_an_index_may_change(tmp_path: Path) -> None:
    places = {"device": "cuda:7", "batch_size": 8, "batch_tokens": 4096}
    settings = [f"retriever.search.{name}={value}" for name, value in places.items()]
    before = load("retriever.index=a")
    changes = check_same_experiment(before, load("retriever.index=a", *settings), tmp_path)
    assert sorted(changes) == sorted(f"retriever.search.{name}" for name in places)


def test_search_settings_may_move_to_a_server_that_has_the_same(tmp_path: Path) -> None:
    """`tspo launch` gives them to its server, and takes them out of the training's experiment."""
    corpus, run = tmp_path / "corpus.jsonl", tmp_path / "run"
    passages = [{"id": name, "contents": f"green {name}"} for name in ("apples", "pears")]
    corpus.write_text("".join(json.dumps(passage) + "\n" for passage in passages))
    build_index(corpus, tmp_path / "index")

    def digests(settings: dict[str, object]) -> dict[str, str]:
        index = open_index(tmp_path / "index", settings)
        return input_digests(load(), TrainingInputs(index, [], []))

    before = load("retriever.index=a", "retriever.search.ties=id")
    now = load('retriever.url=["http://127.0.0.1:9"]')
    run.mkdir()
    with pytest.raises(InvalidInputError, match=r"retriever\.search\.ties \(was .id., now"):
        check_same_experiment(before, now, run)
    keep_or_compare_inputs(run, digests({"ties": "id"}), resume=False)
    assert "retriever.search.ties" in check_same_experiment(before, now, run)
    (run / "metrics.jsonl").write_text('{"step": 1}\n')
    keep_or_compare_inputs(run, digests({"ties": "id"}), resume=True)
    with pytest.raises(
        InvalidInputError, match=r"other search settings .*\"ties\": \"id\".* now {"
    ):
        keep_or_compare_inputs(run, digests({}), resume=True)

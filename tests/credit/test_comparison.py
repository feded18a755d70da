"""Algorithms on recorded rollouts, on groups worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import run_tspo
from tspo_cli import runs
from tspo_cli.config.schema import Config, CreditConfig
from tspo_cli.credit.laboratory.comparison import Arm, compare
from tspo_cli.credit.laboratory.recorded_groups import recorded_batches
from tspo_cli.errors import InvalidInputError, MissingResourceError

FOUND = "<information>Ada lived in Rome.</information>"
NOTHING = "<information>It rains.</information>"


def turn(kind: str, **values: Any) -> dict[str, Any]:
    return {
        "kind": kind,
        "text": "",
        "query": None,
        "answer": None,
        "feedback": "",
        "tokens": 5,
    } | values


def rollout(answer: str | None, *feedback: str) -> dict[str, Any]:
    searches = [turn("search", query="ada", feedback=text) for text in feedback]
    return {"answer": answer, "turns": [*searches, turn("answer", answer=answer)]}


def group(*trajectories: dict[str, Any], name: str = "q1") -> dict[str, Any]:
    return {
        "group": ["test", name, 0],
        "question": "where?",
        "golden_answers": ["Rome"],
        "trajectories": list(trajectories),
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Step 1: an all-wrong group with one near-miss, and an all-miss group. Step 2: a mixed
    group.
    """
    folder = tmp_path / "run"
    runs.write_json(folder / runs.CONFIG_NAME, Config(seed=1).section_dict())
    near_miss = group(rollout("Oslo", FOUND, NOTHING), rollout("Oslo", NOTHING))
    all_miss = group(rollout("Oslo", NOTHING), rollout(None), name="q2")
    mixed = group(rollout("Rome", FOUND), rollout("Oslo", FOUND))
    runs.write_jsonl_gz(folder / "rollouts" / "step_000001.jsonl.gz", [near_miss, all_miss])
    runs.write_jsonl_gz(folder / "rollouts" / "step_000002.jsonl.gz", [mixed])
    return folder


def arms(*names: str) -> list[Arm]:
    return [Arm(name, CreditConfig(algorithm=name)) for name in names]


def test_which_groups_teach_what(run: Path) -> None:
    record = compare(recorded_batches(run), arms("grpo", "tspo", "retrieval_bonus")).record()
    assert (record["steps"], record["groups"], record["trajectories"], record["turns"]) == (
        [1, 2],
        3,
        6,
        12,
    )
    assert record["group_classes"] == {
        "all-correct": 0,
        "mixed": pytest.approx(1 / 3),
        "all-wrong with near-miss": pytest.approx(1 / 3),
        "all-miss": pytest.approx(1 / 3),
    }
    shares = {name: one["learns_from"] for name, one in record["algorithms"].items()}
    assert shares == {
        "grpo": pytest.approx(1 / 3),
        "tspo": pytest.approx(2 / 3),
        "retrieval_bonus": pytest.approx(2 / 3),
    }
    assert record["algorithms"]["tspo"]["learns_from_class"]["all-miss"] == 0
    assert record["algorithms"]["tspo"]["learns_from_class"]["all-correct"] is None


def test_where_two_algorithms_have_opposite_signs(run: Path) -> None:
    """In the near-miss group TSPO rewards the hit alone; the bonus also the later search and the
    wrong answer.
    """
    record = compare(recorded_batches(run, last=1), arms("tspo", "retrieval_bonus")).record()
    [pair] = record["disagreements"]
    assert pair["opposite_by_role"] == {"search after the hit": 1, "wrong answer, gold seen": 1}
    assert pair["opposite"] == pytest.approx(2 / 8)
    roles = record["algorithms"]["tspo"]["by_role"]
    # Rewards of the group's five turns: alpha once, 0 four times; standardised: 1.789 once, -0.447
    # four times.
    assert roles["search that hits"]["mean"] == pytest.approx(1.7889, abs=1e-4)
    assert roles["wrong answer, gold seen"]["mean"] == pytest.approx(-0.4472, abs=1e-4)


def test_every_turn_is_counted_once_in_every_view(run: Path) -> None:
    comparison = compare(recorded_batches(run), arms("grpo", "tspo", "gigpo", "mt_grpo"))
    for one in comparison.record()["algorithms"].values():
        assert sum(place["turns"] for place in one["by_role"].values()) == comparison.turns
        assert sum(place["turns"] for place in one["by_turn"].values()) == comparison.turns
        assert one["advantages"]["turns"] == comparison.turns
    assert len(comparison.disagreements) == 6


def test_the_command_with_options(run: Path, tmp_path: Path) -> None:
    figure = tmp_path / "f.png"
    specs = ("-a", "tspo", "-a", "tspo gate=never", "-a", "grpo")
    done = run_tspo("credit", run, *specs, "--steps", "2", "--figure", figure)
    assert done.code == 0, done.err
    assert done.out.startswith("Step 2: 1 group, ")
    assert "tspo gate=never" in done.out
    assert "No two algorithms have opposite signs" in done.out
    assert "No rollouts of a question have the same outcome and different numbers" in done.out
    assert figure.read_bytes().startswith(b"\x89PNG")
    record = json.loads(run_tspo("credit", run, *specs, "--json").out)
    assert record["options"]["tspo gate=never"]["gate"] == "never"
    assert (
        record["algorithms"]["tspo gate=never"]["by_role"]
        == record["algorithms"]["grpo"]["by_role"]
    )


def test_who_is_paid_for_turns(run: Path) -> None:
    """Step 1: two wrong rollouts of 3 and 2 turns (one near-miss), and two of 2 and 1."""
    done = run_tspo("credit", run, "-a", "tspo", "-a", "tspo turn_count_baseline=true", "--json")
    effects = [arm["turn_count"] for arm in json.loads(done.out)["algorithms"].values()]
    # TSPO: 1.789 once, -0.447 four times: means 0.298 and -0.447, which differ by 0.745 for one of
    # two pairs; the other pair has none.
    assert effects[0]["slope"] == pytest.approx(0.745 / 2, abs=1e-3)
    assert effects[0]["rollouts"] == 4
    assert (effects[1]["slope"], effects[1]["p_value"]) == (pytest.approx(0, abs=1e-12), 1)
    shown = run_tspo("credit", run, "-a", "tspo", "-a", "grpo").out
    assert "+0.373" in shown
    assert "4 rollouts of a question with the same outcome" in shown


def test_all_algorithms_that_need_no_model_by_default(run: Path) -> None:
    record = json.loads(run_tspo("credit", run, "--json").out)
    assert {"tspo", "grpo", "gigpo", "mt_grpo", "rloo"} <= set(record["algorithms"])
    assert not {"ppo", "igpo"} & set(record["algorithms"])


def test_information_gains_where_the_run_recorded_beliefs(run: Path) -> None:
    config = Config(seed=1, credit=CreditConfig(algorithm="igpo"))
    runs.write_json(run / runs.CONFIG_NAME, config.section_dict())
    one, other = rollout("Rome", FOUND), rollout("Oslo", NOTHING)
    one["gold_logprobs"], other["gold_logprobs"] = [-3.0, -1.0], [-3.0, -4.0]
    for step in (1, 2):
        file = run / "rollouts" / f"step_{step:06d}.jsonl.gz"
        runs.write_jsonl_gz(file, [group(one, other)])
    record = json.loads(run_tspo("credit", run, "--json").out)
    assert {"igpo", "a2tgpo", "mig", "grpo"} <= set(record["algorithms"])
    assert not {"ppo", "carl", "tips", "siop"} & set(record["algorithms"])
    # The belief in the group's answers is another one.
    done = run_tspo("credit", run, "-a", "grpo", "-a", "siop")
    assert done.code == 3
    assert "credit.algorithm siop: the run recorded the beliefs of igpo" in done.err
    siop = {"eta": 2.0, "probability": "shares"}
    config = Config(seed=1, credit=CreditConfig.model_validate({"algorithm": "siop", "siop": siop}))
    runs.write_json(run / runs.CONFIG_NAME, config.section_dict())
    record = json.loads(run_tspo("credit", run, "--json").out)
    assert not {"igpo", "a2tgpo", "mig"} & set(record["algorithms"])
    assert record["options"]["siop"]["siop"]["eta"] == 2, "as the run measured"
    for spec in ("igpo", "siop siop.eta=1", "siop siop.probability=sum"):
        done = run_tspo("credit", run, "-a", spec)
        assert done.code == 3
        assert "the run recorded the beliefs of siop" in done.err


def test_outcomes_are_judged_with_the_values_of_the_run(run: Path) -> None:
    values = {"outcome": "em_format", "format_score": 0.3, "retrieval_score": 0.1}
    values |= {"overlong_limit": 14, "overlong_buffer": 2, "overlong_penalty": 0.5}
    config = Config(seed=1, credit=CreditConfig.model_validate(values))
    runs.write_json(run / runs.CONFIG_NAME, config.section_dict())
    options = json.loads(run_tspo("credit", run, "-a", "grpo", "--json").out)["options"]["grpo"]
    assert {key: options[key] for key in values} == values


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--steps", "7"), 4, "no recorded rollouts of the steps asked for; kept are 1 to 2"),
        (("--steps", "x"), 2, "expected a step or a range"),
        (("--steps", "²"), 2, "expected a step or a range"),
        (("--steps", "1-" + 5000 * "9"), 2, "expected a step or a range"),
        (("-a", "tsppo"), 3, "did you mean tspo"),
        (("-a", "tspo gait=always"), 3, "credit.gait"),
        (("--figure", "x.gif"), 2, "ends in .svg"),
    ],
)
def test_what_cannot_be_done(
    run: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    done = run_tspo("credit", run, *arguments)
    assert (done.code, done.out) == (code, "")
    assert message in done.err


def test_rollouts_that_are_none(run: Path, tmp_path: Path) -> None:
    (run / "rollouts" / "step_000001.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(InvalidInputError, match="damaged"):
        list(recorded_batches(run))
    runs.write_jsonl_gz(run / "rollouts" / "step_000001.jsonl.gz", [{"question": "?"}])
    with pytest.raises(InvalidInputError, match="not a record of tspo"):
        list(recorded_batches(run))
    with pytest.raises(MissingResourceError, match=r"train\.keep_rollouts"):
        list(recorded_batches(tmp_path))

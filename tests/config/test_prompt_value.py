"""A prompt template counts by its text: in the experiment, its hash, and an evaluation's digest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import run_tspo
from tspo_cli.config.load_config import config_hash, load_config, read_resolved, write_resolved
from tspo_cli.config.schema import Config
from tspo_cli.config.sections.prompt_value import STYLE_NAMES, prompt_name, prompt_value
from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.evaluation.signature import config_digest
from tspo_cli.evaluation.standalone import EvaluationRequest, eval_config
from tspo_cli.rollout.agent_file import write_agent_file
from tspo_cli.rollout.prompts import STYLES, prompt_style
from tspo_cli.training.launch.same_experiment import check_same_experiment
from tspo_cli.training.problems import problems

TEXTS = [
    "Q: {question}\nA:",
    "Élève 😀 {question}\x7f \u2028 \"quoted\" 'single' \\n \\u0041\ttab",
    "{question}",
    'one\r\ntwo """ # {question} = [x]\n\n',
]


def load(path: Path, **more: object) -> Config:
    return load_config([], [f"rollout.prompt={path}", *(f"{k}={v}" for k, v in more.items())])


@pytest.mark.parametrize("text", TEXTS)
def test_the_text_takes_the_place_of_the_path_everywhere(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, run = tmp_path / "few shot.txt", tmp_path / "run"
    path.write_bytes(text.encode())
    shown = path.read_text(encoding="utf-8")
    (run / "model").mkdir(parents=True)
    config = load(path)
    write_resolved(config, run)
    write_agent_file(run / "model", config)
    path.unlink()
    monkeypatch.chdir(run)
    for found in (
        config,
        read_resolved(run),
        load_config([run / "config.toml"]),
        eval_config(run / "model", EvaluationRequest("run", ())),
    ):
        assert found.rollout.prompt == shown
        assert prompt_style(found.rollout.prompt).search == shown
        assert not [line for line in problems(found) if "rollout.prompt" in line]


def test_texts_tell_experiments_apart_and_paths_do_not(tmp_path: Path) -> None:
    first, same, other = (tmp_path / name for name in ("a.txt", "b.txt", "c.txt"))
    first.write_text("Ask: {question}\n")
    same.write_text("Ask: {question}\n")
    other.write_text("Ask: {question} \n")
    one, two, three = load(first), load(same), load(other)
    assert one == two
    assert config_hash(one) == config_hash(two) != config_hash(three)
    assert config_digest(one) == config_digest(two) != config_digest(three)
    check_same_experiment(one, two, tmp_path)
    with pytest.raises(InvalidInputError, match=r"rollout\.prompt \(was template \w{8} ") as error:
        check_same_experiment(one, three, tmp_path)
    assert "\n" not in str(error.value)


def test_a_setting_replaces_the_template_of_the_model(tmp_path: Path) -> None:
    template = tmp_path / "t.txt"
    template.write_text("Ask: {question}\n")
    write_agent_file(tmp_path, load(template))
    request = EvaluationRequest("m", (), settings=("rollout.prompt=short",))
    assert eval_config(tmp_path, request).rollout.prompt == "short"


@pytest.mark.parametrize("content", [b"no place for it", b"", b"\xff{question}", b"{Question}"])
def test_a_file_that_is_no_template_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"t\.txt: "):
        load(path)
    done = run_tspo("train", "tiny/tspo", "--dry-run", "--set", f"rollout.prompt={path}")
    assert done.code == 3
    assert done.err.count("\n") == 1


def test_a_record_with_the_path_of_a_file_reads_the_file_or_says_that_it_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    old = {"rollout": {"prompt": "sub/fewshot.txt"}, "k": 3}
    (tmp_path / "tspo_agent.json").write_text(json.dumps(old))
    config = eval_config(tmp_path, EvaluationRequest("m", ()))
    with pytest.raises(MissingResourceError, match=r"'sub/fewshot\.txt' is neither a style"):
        prompt_style(config.rollout.prompt)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "fewshot.txt").write_text("Old: {question}")
    config = eval_config(tmp_path, EvaluationRequest("m", ()))
    assert config.rollout.prompt == "Old: {question}"
    assert (config.rollout.after_eos, config.rollout.titles) == ("keep", "plain")
    assert config.rollout.question_mark == "never"


def test_an_earlier_resolved_experiment_keeps_what_its_prompts_meant(tmp_path: Path) -> None:
    table = Config().section_dict()
    for key in ("question_mark", "titles", "after_eos"):
        del table["rollout"][key]
    (tmp_path / "config.resolved.json").write_text(json.dumps(table))
    rollout = read_resolved(tmp_path).rollout
    assert (rollout.question_mark, rollout.titles, rollout.after_eos) == ("never", "plain", "keep")
    table["rollout"]["prompt"] = "short"
    (tmp_path / "config.resolved.json").write_text(json.dumps(table))
    assert read_resolved(tmp_path) == load_config([], ["rollout.prompt=short"])


def test_prompts_are_named_in_one_short_line() -> None:
    assert tuple(STYLES) == STYLE_NAMES
    assert prompt_name("short") == "short"
    name = prompt_name("Read\nthe question {question} and\nanswer it as well as you can " * 9)
    assert len(name) < 60
    assert "\n" not in name


def test_a_long_text_without_a_place_for_the_question_is_no_path() -> None:
    """No file can have such a name, and to look for one is an error of the operating system."""
    text = "Answer in one word. " * 300
    assert prompt_value(text) == text
    with pytest.raises(MissingResourceError, match="Answer in one word"):
        prompt_style(text)

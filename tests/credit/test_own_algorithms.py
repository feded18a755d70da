"""Options and defaults of an algorithm: of the package's own, and of a user's FILE.py:function."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import run_tspo
from tspo_cli.config.load_config import load_config, read_resolved, to_toml, write_resolved
from tspo_cli.credit.algorithms import ALGORITHMS
from tspo_cli.credit.algorithms.old_keys import OLD_KEYS
from tspo_cli.credit.find_algorithm import find_algorithm
from tspo_cli.credit.folr import judge
from tspo_cli.credit.group import AlgorithmResult
from tspo_cli.credit.laboratory.group_file import read_group
from tspo_cli.errors import InvalidInputError

PRICED = Path(__file__).with_name("priced.py")
PACKAGE = Path(__file__).resolve().parents[2] / "tspo_cli"
GROUP = {
    "question": "Who?",
    "golden_answers": ["Ada"],
    "trajectories": [
        {"answer": "Ada", "turns": [{"query": "q", "feedback": "Ada"}, {}]},
        {"answer": "Ada", "turns": [{"query": "q", "feedback": "no"}, {"query": "r"}, {}]},
    ],
}

ZEROS = "[[0, 0], [0, 0, 0]]"


def priced(*settings: str) -> list[str]:
    return [f"credit.algorithm={PRICED}:priced", *settings]


def run_cli(*arguments: str, package: Path = PACKAGE, folder: Path) -> subprocess.CompletedProcess:
    program = f"import sys; sys.path.insert(0, {str(package.parent)!r}); "
    program += "from tspo_cli.commands.app import main; main()"
    return subprocess.run(
        [sys.executable, "-I", "-c", program, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_users_algorithm_has_options_and_defaults(tmp_path: Path) -> None:
    config = load_config([], priced())
    assert config.credit.options == {"price": 0.05}
    assert config.loss.clip_high == 0.28
    own = tmp_path / "mine.toml"
    own.write_text(
        f'[credit]\nalgorithm = "{PRICED}:priced"\n[credit.options]\nprice = 1\n'
        "[loss]\nclip_high = 0.2\n"
    )
    config = load_config([own])
    assert (config.credit.options, config.loss.clip_high) == ({"price": 1.0}, 0.2)
    again = tmp_path / "again.toml"
    again.write_text(to_toml(config))
    assert load_config([again]) == config


def test_credit_uses_the_options(tmp_path: Path) -> None:
    (tmp_path / "group.json").write_text(json.dumps(GROUP))
    arguments = ["credit", "group.json", "-a", f"{PRICED}:priced", "--json"]
    done = run_cli(*arguments, "--set", "credit.options.price=0.5", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    advantages = [row["advantages"] for row in json.loads(done.stdout)["trajectories"]]
    assert advantages == [[0.25, 0.25], [-0.25, -0.25, -0.25]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("prize = 1", "unknown option of .*; did you mean credit.options.price.*mine.toml:4"),
        ("xyz = 1", r"credit.options.xyz: unknown option of .*; it has price \(.*mine.toml:4"),
        ('price = "high"', r'price: expected a number >= 0, got "high" \(.*mine.toml:4'),
        ("price = -1", r"price: expected a number >= 0, got -1 \(.*mine.toml:4"),
        ("price = nan", "price: expected a number >= 0, got NaN"),
    ],
)
def test_a_wrong_option_is_one_line_with_file_and_key(
    tmp_path: Path, line: str, message: str
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f'[credit]\nalgorithm = "{PRICED}:priced"\n[credit.options]\n{line}\n')
    with pytest.raises(InvalidInputError, match=message) as caught:
        load_config([file])
    assert "\n" not in str(caught.value)


def test_options_of_a_function_that_declares_none(tmp_path: Path) -> None:
    rule = tmp_path / "rule.py"
    rule.write_text("def rule(trajectories, config):\n    return [[0.0] * t.turns for t in x]\n")
    assert load_config([], [f"credit.algorithm={rule}:rule"]).credit.options == {}
    with pytest.raises(InvalidInputError, match="unknown option"):
        load_config([], [f"credit.algorithm={rule}:rule", "credit.options.a=1"])


def test_a_wrong_default_names_the_file(tmp_path: Path) -> None:
    rule = tmp_path / "rule.py"
    rule.write_text(
        "from tspo_cli.credit.algorithms import algorithm\n"
        "@algorithm(defaults={'loss.clip_hi': 0.2})\ndef rule(trajectories, config): ...\n"
    )
    with pytest.raises(InvalidInputError, match=r"mean loss.clip_high\? \(defaults of .*py"):
        load_config([], [f"credit.algorithm={rule}:rule"])


def test_a_run_of_a_users_algorithm_is_read_without_its_file(tmp_path: Path) -> None:
    rule = tmp_path / "priced.py"
    shutil.copy(PRICED, rule)
    config = load_config([], [f"credit.algorithm={rule}:priced", "credit.options.price=2.0"])
    write_resolved(config, tmp_path / "run")
    rule.unlink()
    assert read_resolved(tmp_path / "run") == config
    assert load_config([tmp_path / "run" / "config.toml"]) == config
    done = run_tspo("config", "validate", "run/config.toml", cwd=tmp_path)
    assert done.code == 4
    assert "no such file" in done.err


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise ValueError('no\\nprice')", r"rule.py, line 3: ValueError: no price"),
        ("return helper(trajectories)", r"rule.py, line 2: IndexError: tuple index out of range"),
        ("return [[0.0] * t.length for t in trajectories]", "rule.py, line 3: AttributeError"),
        ("import json; return json.loads('{')", "rule.py, line 3: JSONDecodeError: Expecting"),
        ("yield [0.0]; raise KeyError('late')", "rule.py, line 3: KeyError: 'late'"),
        ("return 7", "a list of advantages per trajectory, got int"),
        ("return [[0.0]]", "one advantage per turn"),
        ("pass", "a list of advantages per trajectory, got NoneType"),
        ("return [[None] * t.turns for t in trajectories]", "got NoneType None for turn 1"),
        ("return [[0, '1'], [0, 0, 0]]", r"advantages 1, got str '1' for turn 2"),
        ("return [[0, 0], [0, float('nan'), 0]]", r"advantages 2, got float nan for turn 2"),
        ("return {'a': [0, 0]}", "a list of advantages per trajectory, got dict"),
        ("return ['ab', 'abc']", "advantages 1 to be a list of numbers, got str 'ab'"),
        ("return [[0, 0], [[0, 1], 0, 0]]", r"got list \[0, 1\] for turn 1"),
        ("return [0.0, 0.0]", "advantages 1 to be a list of numbers, got float"),
    ],
)
def test_an_error_in_a_users_rule_is_one_line(tmp_path: Path, body: str, message: str) -> None:
    rule = tmp_path / "rule.py"
    helper = "def helper(rows):\n    return tuple(rows)[9]\n"
    rule.write_text(f"{helper}def rule(trajectories, config): {body}\n")
    (tmp_path / "group.json").write_text(json.dumps(GROUP))
    done = run_cli("credit", "group.json", "-a", f"{rule}:rule", folder=tmp_path)
    assert done.returncode == 3, done.stderr
    assert done.stderr.count("\n") == 1
    assert re.search(message, done.stderr)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("[[0, 0], [0, 0, 0]], [[0, 0], [0, None, 0]], 'turn'", "advantages 2, got NoneType None"),
        ("[[0, 0], [0, '', 0]], [[0, 0], [0, 0, 0]], 'turn'", "rewards 2, got str '' for turn 2"),
        ("[[0, 0], [0, 0, 0]], None, 'turn'", "a list of advantages per trajectory, got NoneType"),
        ("[[0, 0], [0, 0, 0]], [[0, 0], [0, 1e400, 0]], 'turn'", "got float inf for turn 2"),
        ("[[0, 0], [0, 0, 0]], [[0, 0], [0, 0]], 'turn'", r"per turn, \[2, 3\], got \[2, 2\]"),
        ("[[0, 0]], [[0, 0], [0, 0, 0]], 'turn'", r"one reward per turn, \[2, 3\], got \[2\]"),
        ("[[0, 0], [0, 0, 0]], [[0, 0], [0, 0, 0]], 'step'", "level .*, got str 'step'"),
        ("[[0, 0], [0, 0, 0]], [[0, 0], [0, 0, 0]], 'turn', [['a']]", "populations 1, got str 'a'"),
        ("torch.zeros(2, 2, 2), [[0, 0], [0, 0, 0]], 'turn'", "rewards 1, got Tensor"),
        (
            f"{ZEROS}, {ZEROS}, 'turn', clip_scales=[[], []]",
            r"clip scale per turn, .* got \[0, 0\]",
        ),
        (f"{ZEROS}, {ZEROS}, 'turn', [[1]], labels=['a', 'b']", "populations, 1, got 2"),
        (f"{ZEROS}, {ZEROS}, 'turn', [[]]", "populations with values"),
    ],
)
def test_a_wrong_result_is_one_line_that_names_file_and_function(
    tmp_path: Path, fields: str, message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message) as caught:
        result_of(fields, tmp_path)
    assert f"{tmp_path / 'rule.py'}:rule" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        "[torch.tensor([1.0, 2.0]), np.ones(3)], [[np.float32(1), 2], (True, 0, 0.5)], 'turn'",
        "np.array([[1, 2], [3, 4, 5]], dtype=object), [torch.ones(2), torch.ones(3)], 'turn'",
    ],
)
def test_numbers_of_other_libraries_become_floats(tmp_path: Path, fields: str) -> None:
    result = result_of(fields, tmp_path)
    for rows in (result.turn_rewards, result.advantages):
        assert [len(row) for row in rows] == [2, 3]
        assert all(type(value) is float for row in rows for value in row)


def result_of(fields: str, folder: Path) -> AlgorithmResult:
    """What a user's function that returns an AlgorithmResult of `fields` makes of GROUP."""
    file = folder / "rule.py"
    file.write_text(
        "import numpy as np\nimport torch\nfrom tspo_cli.credit.group import AlgorithmResult\n"
        f"def rule(trajectories, config):\n    return AlgorithmResult({fields})\n"
    )
    source = folder / "group.json"
    source.write_text(json.dumps(GROUP))
    config = load_config([], []).credit
    group = read_group(source)
    judged = [judge(attempt, group.golden_answers, config) for attempt in group.trajectories]
    return find_algorithm(f"{file}:rule")(judged, config)


def test_an_error_in_a_users_outcome_is_one_line(tmp_path: Path) -> None:
    rule = tmp_path / "reward.py"
    rule.write_text("def reward(answer, golds, trajectory):\n    return 1 / 0\n")
    (tmp_path / "group.json").write_text(json.dumps(GROUP))
    setting = f"credit.outcome={rule}:reward"
    done = run_cli("credit", "group.json", "-a", "grpo", "--set", setting, folder=tmp_path)
    assert done.returncode == 3, done.stderr
    assert done.stderr.count("\n") == 1
    assert "reward.py, line 2: ZeroDivisionError: division by zero" in done.stderr


@pytest.mark.parametrize(("old", "new"), OLD_KEYS.items())
def test_an_old_key_names_the_new_one(tmp_path: Path, old: str, new: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f"[credit]\n{old.removeprefix('credit.')} = 1\n")
    for sources, settings, place in (([file], [], "mine.toml:2"), ([], [f"{old}=1"], "--set")):
        with pytest.raises(InvalidInputError) as caught:
            load_config(sources, settings)
        assert f"{old}: this key has moved; write {new} (" in str(caught.value)
        assert place in str(caught.value)


def test_a_resolved_configuration_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    values = {
        "gigpo_coef": 2.0, "gigpo_similarity": 0.9, "gigpo_population": "turn",
        "mt_turns": "first", "mt_coef": 0.5, "mt_execution": 0.1, "mt_hit": 0.3,
        "information_gain": "prob_diff", "igpo_norm": "joint", "belief_prefix": "so",
        "keep_per_question": 3, "keep_above": 0.25,
    }  # fmt: skip
    record = load_config([], ["credit.algorithm=gigpo"]).section_dict()
    shared = {key: value for key, value in record["credit"].items() if type(value) is not dict}
    record["credit"] = shared | values
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.resolved.json").write_text(json.dumps(record))
    credit = read_resolved(run).section_dict()["credit"]
    for old, new in OLD_KEYS.items():
        _, table, key = new.split(".")
        assert credit[table][key] == values[old.removeprefix("credit.")]
    assert credit["gamma"] == 0.95


def test_nothing_outside_credit_knows_an_algorithm_by_name() -> None:
    """`rejection_sampling` is also a kind of training; `tspo` is also the command."""
    names = {f'"{name}"' for name in ALGORITHMS if name not in ("tspo", "rejection_sampling")}
    found = [
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).parts[0] in ("config", "training", "reporting", "commands")
        and path.name not in ("demo.py", "sweep_file.py")  # the demo compares two arms
        for name in names
        if name in path.read_text(encoding="utf-8")
    ]
    assert found == []


def test_a_new_algorithm_is_one_file_and_its_entry(tmp_path: Path) -> None:
    package = tmp_path / "tspo_cli"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    folder = package / "credit" / "algorithms"
    source = PRICED.read_text(encoding="utf-8").replace(
        "from tspo_cli.credit.algorithms import Section, algorithm",
        "from tspo_cli.config.sections.section import Section\n"
        "from tspo_cli.credit.algorithms.algorithm import algorithm",
    )
    source = source.replace(
        "@algorithm", "    sign: int = Field(1, ge=-1, le=1)\n\n\n@algorithm", 1
    ).replace("[[scores[i] - mean]", "[[options.sign * (scores[i] - mean)]")
    source = source.replace("    return [", "    rows = [") + (
        "    rewards = [[0.0] * rollout.turns for rollout in trajectories]\n"
        "    return AlgorithmResult(tuple(rewards), tuple(rows), 'trajectory')\n"
    )
    source = source.replace(
        "from pydantic", "from tspo_cli.credit.group import AlgorithmResult\nfrom pydantic"
    )
    (folder / "priced.py").write_text(source)
    registry = folder / "__init__.py"
    text = registry.read_text()
    entry = "from tspo_cli.credit.algorithms.by_turn.ppo"
    text = text.replace(entry, f"from tspo_cli.credit.algorithms.priced import priced\n{entry}")
    registry.write_text(text.replace("    rejection_sampling,\n)", "    priced,\n)"))
    (tmp_path / "group.json").write_text(json.dumps(GROUP))
    chosen = ["--set", "credit.algorithm=priced", "--set", "credit.priced.price=0.5"]
    chosen += ["--set", "credit.priced.sign=-1"]
    basics = [
        "--set", "model.path=m", "--set", "data.train=['q.jsonl']", "--set", "retriever.index=i",
    ]  # fmt: skip
    (tmp_path / "empty.toml").write_text("")

    def tspo(*arguments: str) -> subprocess.CompletedProcess:
        return run_cli(*arguments, package=package, folder=tmp_path)

    valid = tspo("config", "validate", "empty.toml", *basics, *chosen)
    assert valid.returncode == 0, valid.stderr
    shown = tspo("config", "show", "empty.toml", "--json", *chosen)
    assert json.loads(shown.stdout)["loss"]["clip_high"] == 0.28
    credit = tspo("credit", "group.json", "--json", *chosen)
    rows = [row["advantages"][0] for row in json.loads(credit.stdout)["trajectories"]]
    assert rows == [-0.25, 0.25]
    schema = tspo("config", "schema", "credit.priced").stdout
    assert "[credit.priced]" in schema
    assert "price = 0.05  # a number >= 0. Subtracted from" in schema
    assert "sign = 1" in schema
    assert "priced" in tspo("config", "schema", "credit.algorithm").stdout
    typo = tspo("config", "validate", "empty.toml", "--set", "credit.priced.prise=1")
    assert typo.returncode == 3
    assert "did you mean credit.priced.price?" in typo.stderr

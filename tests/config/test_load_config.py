"""Composition, settings, one-line errors, and the way back to files."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tspo_cli.config.keys import all_keys
from tspo_cli.config.layers import apply_settings
from tspo_cli.config.load_config import (
    config_hash,
    load_config,
    read_resolved,
    to_toml,
    write_resolved,
)
from tspo_cli.config.schema import Config
from tspo_cli.errors import InvalidInputError, MissingResourceError, TspoError, UsageError
from tspo_cli.plain_files import open_plain


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def message(
    sources: Sequence[str | Path],
    settings: Sequence[str] = (),
    kind: type[TspoError] = InvalidInputError,
) -> str:
    with pytest.raises(kind) as caught:
        load_config(sources, settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("Answer {question}", "utf-8-sig")
    (tmp_path / "a.toml").write_text('rollout.prompt = "prompt.txt"', "utf-8-sig")
    config = load_config([str(tmp_path / "a.toml")], [f"rollout.prompt={tmp_path}/prompt.txt"])
    assert config.rollout.prompt == "Answer {question}"


@pytest.mark.parametrize("key", ["seed", "train.steps", "retriever.k", "rollout.max_new_tokens"])
@pytest.mark.parametrize("value", [2**53, 2**64, 10**400], ids=["53", "64", "400 digits"])
def test_an_integer_that_no_library_takes_is_refused(key: str, value: int) -> None:
    load_config([], [f"{key}={2**53 - 1}"])
    with pytest.raises(InvalidInputError, match=rf"{key}: expected an integer >= \d below 2\^53"):
        load_config([], [f"{key}={value}"])


def test_nothing_given_is_the_defaults() -> None:
    assert load_config([]) == Config()


def test_files_compose_left_to_right_and_settings_win(tmp_path: Path) -> None:
    first = write(
        tmp_path,
        "a.toml",
        "seed = 1\n[rollout]\ngroup_size = 2\ntop_k = 7\n[data]\ntrain = ['x', 'y']\n",
    )
    second = write(tmp_path, "b.toml", "[rollout]\ngroup_size = 3\n[data]\ntrain = ['z']\n")
    config = load_config([first, str(second)], ["rollout.group_size=4", "loss.kl=1"])
    assert (config.seed, config.rollout.group_size, config.rollout.top_k) == (1, 4, 7)
    assert config.data.train == ["z"]  # lists are replaced, not joined
    assert config.loss.kl == 1.0
    assert load_config([second, first]).rollout.group_size == 2


def test_extends_takes_recipes_by_name_and_files_first(tmp_path: Path) -> None:
    top = write(tmp_path, "top.toml", "extends = 'any/tspo'\nseed = 9\n")
    config = load_config([top])
    assert (config.seed, config.credit.algorithm, config.rollout.batch_size) == (9, "tspo", 16)
    write(tmp_path, "any/tspo", "[rollout]\nbatch_size = 3\n")
    assert load_config([top]).rollout.batch_size == 3


def test_extends_is_relative_and_composed_before(tmp_path: Path) -> None:
    write(tmp_path, "base/root.toml", "seed = 1\n[rollout]\ngroup_size = 2\ntop_k = 7\n")
    write(tmp_path, "base/mid.toml", "extends = 'root.toml'\n[rollout]\ngroup_size = 3\n")
    top = write(
        tmp_path, "top.toml", "extends = ['base/mid.toml']\nseed = 9\n[model]\npath = '../m'\n"
    )
    config = load_config([top])
    assert (config.seed, config.rollout.group_size, config.rollout.top_k) == (9, 3, 7)
    assert config.model.path == "../m"


def test_a_diamond_is_not_a_cycle(tmp_path: Path) -> None:
    write(tmp_path, "root.toml", "seed = 1\n")
    write(tmp_path, "left.toml", "extends = 'root.toml'\n")
    write(tmp_path, "right.toml", "extends = 'root.toml'\n")
    assert (
        load_config([write(tmp_path, "top.toml", "extends = ['left.toml', 'right.toml']\n")]).seed
        == 1
    )


@pytest.mark.parametrize(
    ("text", "kind", "parts"),
    [
        ("extends = 'a.toml'\n", InvalidInputError, ["a.toml", "extends itself"]),
        ("extends = 'c.toml'\n", InvalidInputError, ["extends itself", "a.toml > c.toml"]),
        ("extends = 3\n", InvalidInputError, ["a.toml", "expected a file name"]),
        ("extends = 'none.toml'\n", MissingResourceError, ["a.toml: extends", "none.toml", "in "]),
        ("extends = 'any/tpso'\n", MissingResourceError, ["a.toml: extends", "mean any/tspo?"]),
        ("seed = 1\nseed = = 2\n", InvalidInputError, ["a.toml:2: not valid TOML"]),
        ("seed = 1\n[rollout\n", InvalidInputError, ["a.toml:2: not valid TOML"]),
        ("seed = 1\n[x]\ny = '''", InvalidInputError, ["a.toml:3: not valid TOML"]),
        (
            "seed = 1\nsede = 2\n",
            InvalidInputError,
            ["sede: unknown key; did you mean seed?", "a.toml:2)"],
        ),
        (
            "[rollout]\ngruop_size = 5\n",
            InvalidInputError,
            ["rollout.gruop_size", "rollout.group_size?", "a.toml:2)"],
        ),
        (
            "[rolout]\ntop_k = 5\n",
            InvalidInputError,
            ["rolout: unknown key; did you mean rollout?", "a.toml:1)"],
        ),
        (
            "[rollout]\nlr = 5\n",
            InvalidInputError,
            ["rollout.lr", "did you mean optimizer.lr or critic.lr?"],
        ),
        ("group_size = 5\n", InvalidInputError, ["did you mean rollout.group_size?"]),
        ("steps = 5\n", InvalidInputError, ["steps: unknown", "train.steps", " or ", "a.toml:1)"]),
        (
            "seed = 1\n[sampling]\nx = 1\ntop_p = 0.5\n",
            InvalidInputError,
            ["sampling.top_p: unknown key; did you mean rollout.top_p", "a.toml:4)"],
        ),
        ("[sampling]\nzzzzzz = 5\n", InvalidInputError, ["sampling: unknown key; `tspo config"]),
        ("qqqqqqqq = 5\n", InvalidInputError, ["qqqqqqqq: unknown key", "config schema"]),
        ("rollout = 5\n", InvalidInputError, ["rollout: expected a table, got 5", "a.toml:1)"]),
        ("[seed]\nx = 5\n", InvalidInputError, ["seed: expected an integer >= 0, got a table"]),
        (
            "# note\n[rollout]\ngroup_size = 'x'\n",
            InvalidInputError,
            ['rollout.group_size: expected an integer >= 1, got "x"', "a.toml:3)"],
        ),
        ("rollout.group_size = 0\n", InvalidInputError, [">= 1, got 0", "a.toml:1)"]),
        (
            "[rollout]\ntop_p = 2\n",
            InvalidInputError,
            ["rollout.top_p: expected a number > 0 and <= 1, got 2"],
        ),
        (
            "[train]\nsteps = true\n",
            InvalidInputError,
            ["train.steps: expected an integer >= 1, got true"],
        ),
        ("[train]\nsteps = '5'\n", InvalidInputError, ['got "5"']),
        ("[track]\ntensorboard = 1\n", InvalidInputError, ["expected true or false, got 1"]),
        (
            "[data]\ntrain = 'a'\n",
            InvalidInputError,
            ['data.train: expected a list of strings, got "a"; write ["a"]'],
        ),
        (
            "[data]\ntrain = '[a.jsonl, \"b\"]'\n",
            InvalidInputError,
            ["""; write ["a.jsonl", "b"], in a shell '["a.jsonl", "b"]'"""],
        ),
        ("[data]\ntrain = [1]\n", InvalidInputError, ["expected a list of strings, got [1]"]),
        (
            "[optimizer]\nbetas = [0.9]\n",
            InvalidInputError,
            ["expected a list of 2 numbers, got [0.9]"],
        ),
        ("[optimizer]\nlr = inf\n", InvalidInputError, ["optimizer.lr", "finite"]),
        ("[optimizer]\nbetas = [0.9, nan]\n", InvalidInputError, ["optimizer.betas", "finite"]),
        (
            "[credit]\nnorm = 'mean'\n",
            InvalidInputError,
            ["expected one of pooled_turns, per_turn_index, trajectory"],
        ),
        ("seed = 2020-01-01\n", InvalidInputError, ["seed: expected an integer >= 0"]),
    ],
)
def test_errors_are_one_line_with_place_and_hint(
    tmp_path: Path, text: str, kind: type[TspoError], parts: list[str]
) -> None:
    write(tmp_path, "c.toml", "extends = 'a.toml'\n")
    said = message([write(tmp_path, "a.toml", text)], kind=kind)
    assert [part for part in parts if part not in said] == []


def test_an_error_names_the_file_that_had_the_last_word(tmp_path: Path) -> None:
    good = write(tmp_path, "good.toml", "[rollout]\ngroup_size = 2\n")
    bad = write(tmp_path, "bad.toml", "[rollout]\ngroup_size = 0\n")
    assert "bad.toml:2" in message([good, bad])
    assert load_config([bad, good]).rollout.group_size == 2
    assert message([good], ["rollout.group_size=0"]).endswith("(--set)")


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(b"\xff\xfe\x00")
    assert "not a UTF-8 text file" in message([path])


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("a.b=1", 1),
        ("a.b=1.5", 1.5),
        ("a.b=1e-6", 1e-6),
        ("a.b=true", True),
        ("a.b=text", "text"),
        ("a.b=runs/x=y", "runs/x=y"),
        ('a.b="quoted"', "quoted"),
        ("a.b=", ""),
        ('a.b=["x", "y"]', ["x", "y"]),
        (" a.b = 1 ", 1),
        ("a.b=1\nc=2", "1\nc=2"),
        ("a.b=query: ", "query: "),
        ("a.b= to the left", " to the left"),
        ("a.b=two  words\t", "two  words\t"),
        ("a.b = text", "text"),
        ("a.b = text ", "text "),
        ('a.b="quoted " ', "quoted "),
        ("a.b= 1.5 ", 1.5),
        ("a.b=true ", True),
        ("a.b= [1, 2] ", [1, 2]),
    ],
)
def test_a_setting_is_toml_or_else_a_string(setting: str, value: object) -> None:
    assert apply_settings({}, [setting]) == {"a": {"b": value}}


@pytest.mark.parametrize("setting", ["a", "", "=1", "a.=1", ".a=1", "a..b=1"])
def test_a_malformed_setting_is_a_usage_error(setting: str) -> None:
    with pytest.raises(UsageError, match="expected KEY=VALUE"):
        apply_settings({}, [setting])


def test_settings_leave_their_input_alone_and_do_not_go_through_values() -> None:
    table = {"a": {"b": 1}}
    assert apply_settings(table, ["a.b=2", "a.c=3"]) == {"a": {"b": 2, "c": 3}}
    assert table == {"a": {"b": 1}}
    with pytest.raises(InvalidInputError, match=r"a\.b is a value, not a table"):
        apply_settings(table, ["a.b.c=2"])


FLOATS = st.floats(min_value=1e-12, max_value=1e6)
CONFIGS = st.builds(
    lambda seed, lr, path, files, betas: load_config(
        [], [f"seed={seed}", f"optimizer.lr={lr!r}", f"model.path={json.dumps(path)}"]
    ).model_copy(update={"data": Config().data.model_copy(update={"train": files})}),
    st.integers(0, 2**31),
    FLOATS,
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20),
    # No file name holds a NUL, which is refused.
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=10),
        max_size=3,
    ),
    st.tuples(FLOATS, FLOATS),
)


@given(CONFIGS)
def test_toml_and_run_directory_give_the_same_configuration_back(
    tmp_path_factory: pytest.TempPathFactory, config: Config
) -> None:
    run = tmp_path_factory.mktemp("run")
    write_resolved(config, run)
    assert load_config([run / "config.toml"]) == config == read_resolved(run)
    assert config_hash(read_resolved(run)) == config_hash(config)


def test_toml_states_every_key_once() -> None:
    text = to_toml(Config())
    table = tomllib.loads(text)

    def leaves(table: dict[str, object], above: str = "") -> Iterator[str]:
        for name, value in table.items():
            yield from (
                leaves(value, f"{above}{name}.") if isinstance(value, dict) else [above + name]
            )

    # Empty tables: a user's own algorithm and a chat template say what they hold.
    free = ("credit.options", "rollout.template_kwargs")
    assert table["credit"]["options"] == table["rollout"]["template_kwargs"] == {}
    assert sorted([*leaves(table), *free]) == sorted(all_keys())
    assert text.count("[rollout]") == 1


def test_hash_depends_on_content_alone(tmp_path: Path) -> None:
    one = write(tmp_path, "a.toml", "seed = 1\n[loss]\nkl = 0.5\n")
    two = write(tmp_path, "b.toml", "loss.kl = 0.5\nseed = 1\n[rollout]\ngroup_size = 5\n")
    assert config_hash(load_config([one])) == config_hash(load_config([two]))
    assert config_hash(load_config([one])) != config_hash(load_config([one], ["seed=2"]))


def test_reading_a_run_directory_that_is_none_or_was_changed(tmp_path: Path) -> None:
    with pytest.raises(MissingResourceError, match="not a run directory"):
        read_resolved(tmp_path)
    write(tmp_path, "config.resolved.json", '{"seed": -1, "model": {}}')
    with pytest.raises(InvalidInputError, match="seed: expected an integer >= 0, got -1"):
        read_resolved(tmp_path)
    write(tmp_path, "config.resolved.json", "[]")
    with pytest.raises(InvalidInputError, match="expected a JSON object"):
        read_resolved(tmp_path)


def test_every_default_satisfies_what_its_key_says_it_expects() -> None:
    for key in all_keys().values():
        stated = json.dumps(key.default)
        assert load_config([], [f"{key.name}={stated}"]) == Config(), key


@pytest.mark.parametrize("key", ["deepspeed.config", "data.train"])
def test_a_text_with_nul_is_refused(key: str) -> None:
    """No file has such a name, and the system's calls do not take it."""
    value = "a\\u0000b"
    text = f'["{value}"]' if key == "data.train" else f'"{value}"'
    with pytest.raises(InvalidInputError, match=f"{key}: expected text without NUL, got .*--set"):
        load_config(["any/tspo"], [f"{key}={text}"])


def test_a_file_whose_name_has_nul_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="expected the name of a file, without NUL"):
        open_plain(Path("a\0b"))

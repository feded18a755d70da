"""`--help` of every command: complete, short, and the same words for the same option."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from tests.conftest import run_tspo
from tspo_cli.commands.app import app

WIDTH = 80


def walk(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Every command below `command` with the words that call it, groups included."""
    yield " ".join(path), command
    if isinstance(command, TyperGroup):
        for name, child in command.commands.items():
            yield from walk(child, (*path, name))


COMMANDS = dict(walk(get_command(app)))
VERBS = [name for name, command in COMMANDS.items() if not isinstance(command, TyperGroup)]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_in_one_short_line_what_it_does(name: str) -> None:
    first, _, rest = (COMMANDS[name].help or "").partition("\n")
    assert 10 <= len(first) <= WIDTH
    assert first.endswith(".")
    assert rest == "" or rest.startswith("\n"), "the first paragraph is one line"


@pytest.mark.parametrize("name", COMMANDS)
def test_paragraphs_fill_the_terminal(name: str) -> None:
    """The line breaks of a docstring would stand in the help as ragged lines."""
    paragraphs = (COMMANDS[name].help or "").split("\n\n")
    assert [text for text in paragraphs if "\n" in text] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_argument_and_option_has_a_help_text(name: str) -> None:
    silent = [
        parameter.name
        for parameter in COMMANDS[name].params
        if not getattr(parameter, "help", None)
    ]
    assert silent == []


@pytest.mark.parametrize("number", ["inf", "nan"])
@pytest.mark.parametrize(
    ("name", "option"),
    [
        (name, parameter.opts[0])
        for name, command in COMMANDS.items()
        for parameter in command.params
        if parameter.type_descriptor.annotation is float
    ],
)
def test_no_option_takes_what_is_no_number(name: str, option: str, number: str) -> None:
    done = CliRunner().invoke(app, [*name.split(), option, number])
    assert (done.exit_code, f"Invalid value for '{option}'" in done.output) == (2, True)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_prints(name: str) -> None:
    done = CliRunner().invoke(app, [*name.split(), "--help"])
    assert done.exit_code == 0, done.output
    assert "Usage:" in done.output


@pytest.mark.parametrize("name", COMMANDS)
def test_no_word_of_a_help_text_is_lost(name: str) -> None:
    """Rich takes [word] for a style and leaves it out."""
    command = COMMANDS[name]
    shown = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "4000"}).output
    texts = [(command.help or "").replace("\\[", "[")]
    texts += [str(getattr(parameter, "help", "") or "") for parameter in command.params]
    lost = [word for text in texts for word in text.split() if word not in shown]
    assert lost == []


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_json_with_the_shared_text(name: str) -> None:
    texts = [text for option, text in option_texts(name) if option == "--json"]
    assert texts == ["Print the result as JSON on stdout."]


def test_set_means_one_of_four_things() -> None:
    """Keys of an experiment, of a search, of an index build or of a collection, each with one
    text.
    """
    texts = {text for name in VERBS for option, text in option_texts(name) if option == "--set"}
    assert len(texts) == 4
    assert "Set a key of the experiment, e.g. train.steps=20. Repeatable." in texts


def test_the_verbs_stand_in_panels() -> None:
    done = run_tspo("--help")
    assert done.code == 0
    titles = ["Start", "Data and retrieval", "Train", "Evaluate and compare"]
    places = [done.out.index(f"─ {title} ─") for title in titles]
    assert places == sorted(places)
    assert "─ Commands ─" not in done.out, "every verb is in a panel"


def option_texts(name: str) -> list[tuple[str, str | None]]:
    """(option, help) of a command."""
    return [
        (option, getattr(parameter, "help", None))
        for parameter in COMMANDS[name].params
        for option in parameter.opts
    ]

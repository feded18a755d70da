"""Where configurations come from: experiment files, recipes, and cells of sweep files."""

from __future__ import annotations

from pathlib import Path

import tomli_w

from tspo_cli.config.layers import Layer, compose, read_layers
from tspo_cli.config.recipes import source_path
from tspo_cli.config.sweeps.sweep_file import cell_layers
from tspo_cli.errors import UsageError
from tspo_cli.runs import CONFIG_TEXT_NAME, is_run

CELL_MARK = "::"
_SWEEP_ENDING = ".sweep.toml"


def source_layers(source: str | Path) -> list[Layer]:
    """The layers of a source, lowest first.

    A source is a path, the name of a recipe (`tiny/tspo`), or a cell (`hard.sweep.toml::tspo/a0`).

    Raises:
        MissingResourceError: there is no such file or recipe.
        InvalidInputError: the file is malformed, or the sweep has no such cell.
        UsageError: a sweep file without the name of a cell.
    """
    file, cell = split_source(source)
    path = source_path(file)
    if cell:
        return cell_layers(path, cell)
    if path.name.endswith(_SWEEP_ENDING):
        raise UsageError(
            f"{path}: a sweep; train all of it with `tspo sweep`, or name a cell: "
            f"{path}{CELL_MARK}CELL"
        )
    return list(read_layers(path))


def split_source(source: str | Path) -> tuple[str, str]:
    """The file and the cell of a source. The cell is empty for a whole file."""
    text = str(source)
    if Path(text).is_file():
        return text, ""
    file, _, cell = text.partition(CELL_MARK)
    return file, cell


def source_text(source: str | Path) -> str:
    """A source as one experiment file to copy and change.

    That is the text of a file which extends no other. Everything else is written anew: the keys
    that the source and the files below it state, without comments.
    """
    layers = source_layers(source)
    if len(layers) == 1 and layers[0].text:
        return layers[0].text
    return tomli_w.dumps(compose(layers))


def run_name(source: str | Path) -> str:
    """The default name of a run of `source`: `tspo` of a file, `hard-tspo-a0` of a cell, and the
    name of the run of RUN/config.toml.
    """
    file, cell = split_source(source)
    if Path(file).name == CONFIG_TEXT_NAME and is_run(Path(file).parent):
        return Path(file).resolve().parent.name
    stem = Path(file).name.removesuffix(".toml").removesuffix(".sweep")
    return "-".join([stem, *cell.split("/")]) if cell else Path(file).stem

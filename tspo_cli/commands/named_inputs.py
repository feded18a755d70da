"""Look for what a command names before it loads the libraries that open it, which takes seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tspo_cli.config.schema import Config


def find_inputs(
    *, model: str = "", revision: str = "", data: Sequence[str] = (), index: str = ""
) -> None:
    """Find a model directory, question files or data sets, and an index. Empty names are left out,
    and so are models and data of the hub.

    Raises:
        MissingResourceError: one of them is not there.
        InvalidInputError: something else stands in the place of the index or of a question file.
    """
    from tspo_cli.data.readers import resolve_data
    from tspo_cli.models.load_model import CONFIG, is_local_model
    from tspo_cli.retrieval.manifest import read_manifest

    if model:
        is_local_model(model, (CONFIG,), "configuration", revision)
    for name in data:
        resolve_data(name)
    if index:
        read_manifest(Path(index))


def find_inputs_of_training(config: Config) -> None:
    """`find_inputs` for what an experiment names."""
    find_inputs(
        model=config.model.path,
        revision=config.model.revision,
        data=(*(config.data.train if config.kind != "sft" else ()), *config.eval.data),
        index=config.retriever.index,
    )

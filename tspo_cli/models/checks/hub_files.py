"""Files of a model on the hub, in its cache on this machine: what is in them is checked before they
are loaded, as that of a directory is.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tspo_cli.models.checks.loading_report import INDEX, check_shards
from tspo_cli.runs import read_json

_WHOLE = "model.safetensors"


def cached_folder(name: str | Path, files: Iterable[str], revision: str = "") -> Path | None:
    """The folder of the cache with those of `files` that the model has, which are fetched where
    they are not there yet. None if it has none of them, or cannot be reached: the loader says why.
    """
    from transformers.utils import cached_file

    folder = None
    for file in files:
        try:
            found = cached_file(name, file, revision=revision or None)
        except (OSError, ValueError):
            continue
        folder = Path(found).parent if found else folder
    return folder


def cached_weights(name: str | Path, revision: str = "") -> Path | None:
    """The folder of the cache with the weights of a model, all of its shards included. None as
    `cached_folder`.

    Raises:
        InvalidInputError: the index of the shards cannot be read, or names files elsewhere.
        MissingResourceError: it names shards that are not there.
    """
    whole = cached_folder(name, [_WHOLE], revision)
    if whole is not None:
        return whole
    folder = cached_folder(name, [INDEX], revision)
    if folder is None:
        return None
    record = read_json(folder / INDEX)
    names = record.get("weight_map") if isinstance(record, dict) else None
    shards = {str(shard) for shard in names.values()} if isinstance(names, dict) else set()
    cached_folder(name, sorted(shard for shard in shards if Path(shard).name == shard), revision)
    check_shards(folder)
    return folder

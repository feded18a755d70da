"""What an encoder states in `config_sentence_transformers.json`: its prompts, before queries and
before passages, and the similarity that it was trained for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tspo_cli.console import warn
from tspo_cli.errors import InvalidInputError
from tspo_cli.hub_access import use_cache_without_network
from tspo_cli.retrieval.dense.load_encoder import is_local_encoder
from tspo_cli.runs import read_json

FILE_NAME = "config_sentence_transformers.json"
ROLES: dict[str, tuple[str, ...]] = {
    "query_prefix": ("query", "retrieval query", "search query", "web search query", "s2p query"),
    "passage_prefix": (
        *("document", "passage", "corpus", "retrieval document", "retrieval passage"),
        *("search document", "search passage"),
    ),
}
"""Names of the prompts of each role: the first that has a text counts, in any case and with any
marks between the words.
"""


def own_settings(encoder: str, given: Mapping[str, object]) -> dict[str, object]:
    """The settings that an encoder (a directory or a name on the hub) states itself.

    These are `query_prefix` and `passage_prefix`, and `normalize` where it was trained for dot
    products. Without prompts for retrieval, its default prompt stands before both.
    sentence-transformers writes empty prompts into every model that it saves: prompts that are
    all empty state nothing. What is in `given` is not read, so it can replace a damaged prompt.

    Raises:
        MissingResourceError: it is neither, such as a file or a mistyped path.
        InvalidInputError: the file is not of the form that sentence-transformers reads; a prompt
            is not a text; or the similarity is one that no index here ranks by.
    """
    path = _file(encoder)
    if path is None:
        return {}
    config = read_json(path)
    if not isinstance(config, dict):
        raise InvalidInputError(f"{path}: expected a JSON object, got {_short(config)}")
    if config.get("model_type", "SentenceTransformer") != "SentenceTransformer":
        # Another kind of model, of which sentence-transformers takes the transformer alone.
        return {}
    prompts = _prompts(encoder, path, config, given)
    return {**prompts, **_similarity(path, config.get("similarity_fn_name"), given)}


def _file(encoder: str) -> Path | None:
    """The file of a directory, or of a model on the hub; None if there is none."""
    if not encoder:
        return None
    if is_local_encoder(encoder):
        local = Path(encoder) / FILE_NAME
        return local if local.is_file() else None
    use_cache_without_network()
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    try:
        return Path(hf_hub_download(encoder, FILE_NAME))
    except (OSError, EntryNotFoundError, HfHubHTTPError, HFValidationError):
        # No such file. If there is no such model either, loading it says so.
        return None


def _prompts(
    encoder: str, path: Path, config: dict[str, Any], given: Mapping[str, object]
) -> dict[str, object]:
    prompts, default = config.get("prompts", {}), config.get("default_prompt_name")
    if not isinstance(prompts, dict):
        raise InvalidInputError(
            f"{path}: prompts: expected an object of names and texts, got {_short(prompts)}"
        )
    if default is not None and default not in [*prompts, "query", "document"]:
        raise InvalidInputError(
            f"{path}: default_prompt_name: expected one of its prompts "
            f"({', '.join(prompts) or 'it has none'}), got {_short(default)}"
        )
    filled = [name for name, text in prompts.items() if text not in (None, "")]
    named = {role: _first(names, filled) or _first(names, prompts) for role, names in ROLES.items()}
    if not any(name in filled for name in named.values()):
        named = dict.fromkeys(ROLES, default if default in filled else None)
    if filled and not any(named.values()) and "query_prefix" not in given:
        prompts_are, names_say = (
            (f"prompt {filled[0]} is", "its name says")
            if len(filled) == 1
            else (f"prompts {', '.join(filled)} are", "their names say")
        )
        warn(
            f"encoder {encoder}: its {prompts_are} not used, because {names_say} "
            'neither queries nor passages; to use one, add --set query_prefix="..."'
        )
    return {
        role: _text(path, prompts, name, role)
        for role, name in named.items()
        if name is not None and role not in given
    }


def _first(names: Sequence[str], prompts: Iterable[str]) -> str | None:
    """The prompt whose name comes first in `names`, if there is one."""
    known = {re.sub(r"[^a-z0-9]+", " ", name.lower()).strip(): name for name in prompts}
    return next((known[name] for name in names if name in known), None)


def _text(path: Path, prompts: dict[str, Any], name: str, role: str) -> str:
    text = "" if prompts[name] is None else prompts[name]
    if not isinstance(text, str):
        raise InvalidInputError(
            f"{path}: prompts: expected a text for {name!r}, got {_short(text)}; correct it, or "
            f'give the text with --set {role}="..."'
        )
    return text


def _similarity(path: Path, name: object, given: Mapping[str, object]) -> dict[str, object]:
    if "normalize" in given or name in (None, "cosine"):
        return {}
    if name in ("dot", "dot_product"):
        return {"normalize": False}
    raise InvalidInputError(
        f"{path}: similarity_fn_name: expected cosine or dot, by which an index ranks, got "
        f"{_short(name)}; to rank by cosine all the same, add --set normalize=true"
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"

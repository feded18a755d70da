"""Whether the files of a model hold its tensors, all of them and no others."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from tspo_cli.console import counted
from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.runs import read_json

HEAD = "lm_head.weight"
INDEX = "model.safetensors.index.json"
# Buffers that old versions of transformers saved, and value heads that trainers save with a policy.
_HARMLESS = re.compile(
    r"(^|\.)((rotary_emb\.)?inv_freq|masked_bias|attn\.bias|(v|value)_head\..*)$"
)

_ENDING = ".safetensors"


def check_shards(path: Path) -> None:
    """Refuse a directory whose index names files that are not there.

    Raises:
        MissingResourceError: the first of them, and how many.
        InvalidInputError: the index cannot be read.
    """
    index = path / INDEX
    if not index.is_file() or (path / "model.safetensors").is_file():
        return
    record = read_json(index)
    names = record.get("weight_map") if isinstance(record, dict) else None
    if (
        not isinstance(names, dict)
        or not names
        or not all(isinstance(name, str) for name in names.values())
        or not isinstance(record.get("metadata"), dict)
    ):
        raise InvalidInputError(
            f'{index}: expected {{"weight_map": {{TENSOR: FILE, ...}}, "metadata": {{...}}}}; copy '
            "the file from the original model again"
        )
    files = sorted(set(names.values()))
    outside = [name for name in files if Path(name).name != name or not name.endswith(_ENDING)]
    missing = [name for name in files if not (path / name).is_file()]
    if outside:
        raise InvalidInputError(
            f"{index}: weight_map names {outside[0]}, expected *{_ENDING} files in this directory; "
            "correct it"
        )
    if missing:
        raise MissingResourceError(
            f"{path}: {len(missing)} of {counted(len(files), 'file')} of the weights "
            f"{'is' if len(missing) == 1 else 'are'} missing, the first is {missing[0]}; "
            "download or copy the model again"
        )


def check_layers(path: Path, config: Any) -> None:
    """Refuse a configuration with more layers than the files have tensors, before memory and time
    are spent on them. What the files lack otherwise is said by `check_tensors`.

    Raises:
        InvalidInputError: it has.
    """
    from safetensors import SafetensorError, safe_open

    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    tensors = 0
    for file in path.glob(f"*{_ENDING}"):
        try:
            with safe_open(file, "np") as opened:
                tensors += len(opened.keys())
        except SafetensorError:
            return  # the loader names what is damaged
    if isinstance(layers, int) and layers > tensors:
        raise InvalidInputError(
            f"{path}: config.json says {counted(layers, 'layer')} (num_hidden_layers), but "
            f"the files have "
            f"{counted(tensors, 'tensor')}; use the configuration that belongs to the weights"
        )


def check_tensors(path: str | Path, report: Mapping[str, Any]) -> None:
    """Refuse a model whose files do not fit it, as transformers' loading report says. Tied tensors
    need no file, and harmless extra tensors are ignored.

    Raises:
        InvalidInputError: tensors are missing, do not fit or belong to nothing: the first of them,
        and how many.
    """
    missing = sorted(report["missing_keys"])
    if missing:
        advice = "use the whole model, with the configuration that belongs to it"
        if missing == [HEAD]:
            advice = (
                "use a model with its head, or set tie_word_embeddings in config.json if the head "
                "is the embedding"
            )
        raise InvalidInputError(
            f"{path}: the files lack {_count(missing)} of the model, the first is {missing[0]}, "
            f"which would be drawn at random; {advice}"
        )
    mismatched = sorted(report["mismatched_keys"])
    if mismatched:
        name, found, expected = mismatched[0]
        raise InvalidInputError(
            f"{path}: the files have {_count(mismatched)} of another shape than config.json says, "
            f"the first is {name} with shape {list(found)}, expected {list(expected)}"
        )
    unexpected = sorted(name for name in report["unexpected_keys"] if not _HARMLESS.search(name))
    if unexpected:
        raise InvalidInputError(
            f"{path}: the files have {_count(unexpected)} that the model of config.json does not "
            f"have, the first is {unexpected[0]}; use the configuration that belongs to the weights"
        )
    if report["error_msgs"]:
        raise InvalidInputError(f"{path}: {str(report['error_msgs'][0]).strip().splitlines()[0]}")


def check_head(path: str | Path, model: Any) -> None:
    """Refuse a model whose configuration ties the head to the embedding while the files have
    another head. transformers takes that one, vLLM and a copy of the model the embedding.

    Raises:
        InvalidInputError: it is such a model.
    """
    config = model.config.get_text_config()
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or not (config.tie_word_embeddings and type(model)._tied_weights_keys):
        return
    if head.weight is not embedding.weight:
        raise InvalidInputError(
            f"{path}: config.json has tie_word_embeddings, but the head in the files "
            f"({HEAD}) is not the embedding; set it to false if that head is right, or save the "
            "model without that tensor"
        )


def _count(names: Collection[Any]) -> str:
    return f"{len(names)} tensor{'s' * (len(names) > 1)}"

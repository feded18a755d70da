"""Whether the weights of a model are stored as numbers, or in a form that is read as such, in its
own directory, and as many as the model has.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tspo_cli.console import counted
from tspo_cli.errors import InvalidInputError
from tspo_cli.runs import read_json
from tspo_cli.text.repeated_keys import RepeatedKeyError, once

if TYPE_CHECKING:
    import torch

_NUMBERS = ("BF16", "F16", "F32", "F64")
"""Forms of weights, as safetensors names them."""
_LONGEST_HEADER = 100_000_000
"""Bytes of a header that safetensors reads."""
_MORE, _MORE_QUANTISED = 2, 32
"""Times the stored numbers that a model may have. A quantised file packs 16 of 2 bits in one. What
is lacking otherwise, the loader names."""
_COMPUTED = 2**26
"""Numbers that any model may have beside the stored ones: those it computes, such as masks."""
_IMPLEMENTATIONS = ("attn_implementation", "attn_implementation_internal")
"""Endings of keys."""
_COUNTS = frozenset(
    {
        "num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers",
        "decoder_layers", "num_labels",
    }
)  # fmt: skip
_MOST = 10_000
"""Of each of the counts: transformers makes lists of them when it reads a configuration."""
_ATTENTION = {"eager": "torch", "sdpa": "torch", "flex_attention": "torch"} | {
    "flash_attention_2": "flash_attn",
    "flash_attention_3": "flash_attn_interface",
}
"""The packages that implementations of attention come from. transformers fetches all others, and
what is not installed, from the hub."""


def check_named_weights(config: Path) -> None:
    """Refuse a config.json that names a file of weights: transformers reads that one, also from a
    folder below, where other engines and digests of models do not look.

    Raises:
        InvalidInputError: it does.
    """
    record = read_json(config) if config.is_file() else None
    named = record.get("transformers_weights") if isinstance(record, dict) else None
    if named not in (None, "model.safetensors"):
        raise InvalidInputError(
            f"{config}: transformers_weights names {str(named)[:80]!r}, expected the weights in "
            "model.safetensors, or in shards with model.safetensors.index.json; rename the file, "
            "and remove the key"
        )


def check_weights_inside(folder: Path) -> None:
    """Refuse a model of parts, each with a folder of its files, whose weights are elsewhere.

    Raises:
        InvalidInputError: a file names such weights.
    """
    for config in sorted(folder.rglob("config.json")):
        check_named_weights(config)
    for index in sorted(folder.rglob("*.index.json")):
        record = read_json(index)
        names = record.get("weight_map") if isinstance(record, dict) else None
        for name in names.values() if isinstance(names, dict) else ():
            if Path(str(name)).name != name:
                raise InvalidInputError(
                    f"{index}: weight_map names {str(name)[:80]}, expected files beside it; copy "
                    "the whole model again"
                )


def check_config(file: Path) -> None:
    """Refuse a configuration with which transformers would fetch code from the hub, as an
    implementation of attention, or make endless lists. What is missing is fine.

    Raises:
        InvalidInputError: it is one.
    """
    values = read_json(file) if file.is_file() else {}
    for name, value in _pairs(values):
        if name in _COUNTS and isinstance(value, int | float) and value > _MOST:
            raise InvalidInputError(
                f"{file}: {name}: expected at most {_MOST:,}, got {value:.4g}; copy the file from "
                "the original model again"
            )
        if not name.endswith(_IMPLEMENTATIONS):
            continue
        named = value.values() if isinstance(value, dict) else [value]
        for attention in filter(None, named):
            _check_attention(file, name, str(attention))


def _check_attention(file: Path, name: str, value: str) -> None:
    package = _ATTENTION.get(value)
    if package is None or find_spec(package) is None:
        known = [known for known, package in _ATTENTION.items() if find_spec(package)]
        raise InvalidInputError(
            f"{file}: {name} is {value[:80]!r}, code that is not installed here; expected one of "
            f"{', '.join(known)}; remove the key"
        )


def _pairs(values: Any) -> Iterator[tuple[str, Any]]:
    """The keys and values of all objects in a value."""
    rest = [values]
    while rest:
        part = rest.pop()
        if isinstance(part, dict):
            yield from part.items()
            rest += part.values()
        elif isinstance(part, list):
            rest += part


def check_size(folder: Path, config: Any, build: Callable[[], torch.nn.Module]) -> None:
    """Refuse a configuration of a model with far more numbers than its files, before memory is
    allocated for them. `build` makes the model of `config`.

    Raises:
        InvalidInputError: it is one, or the files have a tensor twice. Also what `build` raises.
    """
    import torch

    stored = _stored_numbers(folder)
    with torch.device("meta"):  # shapes alone
        model = build()
    numbers = sum(value.numel() for part in (model.parameters(), model.buffers()) for value in part)
    quantised = getattr(config, "quantization_config", None) is not None
    if stored and numbers > stored * (_MORE_QUANTISED if quantised else _MORE) + _COMPUTED:
        raise InvalidInputError(
            f"{folder}: config.json describes a model of {counted(numbers, 'number')}, but the "
            f"files have {counted(stored, 'number')}; use the configuration that belongs to the "
            "weights"
        )


def check_parts(folder: Path) -> None:
    """`check_config` and `check_size` for a model of parts, as sentence-transformers has it: each
    has a folder of its files.

    Raises:
        InvalidInputError: a part is refused. Also what transformers raises.
    """
    import torch
    from transformers import AutoConfig, AutoModel

    for file in sorted(folder.rglob("*.json")):
        if file.name.endswith("config.json"):
            check_config(file)
    for file in sorted(folder.rglob("config.json")):
        record = read_json(file)
        if not isinstance(record, dict):
            continue
        if "model_type" in record:
            config = AutoConfig.from_pretrained(
                str(file.parent), local_files_only=True, trust_remote_code=False
            )
            build = partial(AutoModel.from_config, config, trust_remote_code=False)
            check_size(file.parent, config, build)
        elif "in_features" in record and "out_features" in record:
            shape = record["in_features"], record["out_features"]
            check_size(file.parent, None, partial(torch.nn.Linear, *shape))


def _stored_numbers(folder: Path) -> int:
    """The numbers in the tensors that a model directory has; 0 if a file does not tell.

    Raises:
        InvalidInputError: the files have a tensor twice.
    """
    numbers, places = 0, dict[str, Path]()
    for file in _weight_files(folder):
        with open(file, "rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            header = handle.read(length) if length <= _LONGEST_HEADER else b""
        try:
            tensors = json.loads(header, object_pairs_hook=once)
            tensors.pop("__metadata__", None)
            numbers += sum(math.prod(tensor["shape"]) for tensor in tensors.values())
            twice = sorted(tensors.keys() & places.keys())
            places |= dict.fromkeys(tensors, file)
        except RepeatedKeyError as error:
            raise InvalidInputError(
                f'{file}: expected each tensor once, got "{error}" twice; copy the file again'
            ) from None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return 0  # the loader says what is damaged
        if twice:
            raise InvalidInputError(
                f"{file}: expected each tensor once, got {twice[0]!a:.80} there and in another "
                "file of the weights; copy the model again"
            )
    return numbers


def _weight_files(folder: Path) -> list[Path]:
    """The files that the weights are read from: the whole one, those that the index names, or all
    that a part of a model has.
    """
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file():
        return [whole]
    files = sorted(folder.glob("*.safetensors"))
    record = read_json(index) if index.is_file() else None
    names = record.get("weight_map") if isinstance(record, dict) else None
    if not isinstance(names, dict):
        return files
    return [file for file in files if file.name in names.values()]


def check_quantisation(path: str | Path, config: Any) -> None:
    """Refuse a quantisation that transformers does not know, and would pass over.

    Raises:
        InvalidInputError: config.json has one.
    """
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    chosen = getattr(config, "quantization_config", None)
    if not isinstance(chosen, dict) or chosen.get("load_in_8bit") or chosen.get("load_in_4bit"):
        return
    if str(chosen.get("quant_method")) not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        raise InvalidInputError(
            f"{path}: config.json has a quantization_config that transformers does not know "
            f"(quant_method {chosen.get('quant_method')!r}); use the model with float weights"
        )


def check_numbers(path: Path, model: torch.nn.Module) -> None:
    """Refuse files with weights in another form than floating point numbers of 16 bits or more:
    without its scales, an integer is not the weight.

    Raises:
        InvalidInputError: the first of these weights.
    """
    from safetensors import safe_open

    floats = {name for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    for file in _weight_files(path):
        with safe_open(file, "np") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (it is no mapping)
                form = tensors.get_slice(name).get_dtype()
                is_weight = name in floats or name.endswith(".weight")
                if is_weight and form not in _NUMBERS:
                    raise InvalidInputError(
                        f"{file}: {name} is stored as {form}, expected one of "
                        f"{', '.join(_NUMBERS)}; use the model with float weights"
                    )


def check_scales(path: Path, config: Any) -> None:
    """Refuse FP8 weights without their scales, which transformers would take as 1.

    Raises:
        InvalidInputError: the first of these weights.
    """
    from safetensors import safe_open

    chosen = getattr(config, "quantization_config", None)
    if not isinstance(chosen, dict) or chosen.get("quant_method") != "fp8":
        return
    forms: dict[str, str] = {}
    for file in _weight_files(path):
        with safe_open(file, "np") as tensors:
            forms |= {name: tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
    for name, form in forms.items():
        if form.startswith("F8_") and not {f"{name}_scale_inv", f"{name}_scale"} & forms.keys():
            raise InvalidInputError(
                f"{path}: {name} is stored as {form}, and its scale {name}_scale_inv is missing; "
                "put back a whole copy, or use the model with float weights"
            )

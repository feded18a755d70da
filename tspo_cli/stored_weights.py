"""Whether the weights of a model are stored as numbers, or in a form that is read as such, and in
its own directory.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tspo_cli.errors import InvalidInputError
from tspo_cli.runs import read_json

if TYPE_CHECKING:
    import torch

_NUMBERS = ("BF16", "F16", "F32", "F64")
"""Forms of weights, as safetensors names them."""


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
    whole = path / "model.safetensors"
    for file in [whole] if whole.is_file() else sorted(path.glob("*.safetensors")):
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
    whole = path / "model.safetensors"
    forms: dict[str, str] = {}
    for file in [whole] if whole.is_file() else sorted(path.glob("*.safetensors")):
        with safe_open(file, "np") as tensors:
            forms |= {name: tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
    for name, form in forms.items():
        if form.startswith("F8_") and not {f"{name}_scale_inv", f"{name}_scale"} & forms.keys():
            raise InvalidInputError(
                f"{path}: {name} is stored as {form}, and its scale {name}_scale_inv is missing; "
                "put back a whole copy, or use the model with float weights"
            )

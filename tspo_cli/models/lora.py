"""Low-rank adapters (Hu et al. 2022) with peft: the policy is frozen, and low-rank matrices beside
its weights are trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from tspo_cli.config.schema import LoraConfig, ModelConfig
from tspo_cli.disk import follow_umask, writing
from tspo_cli.errors import InvalidInputError
from tspo_cli.packages import missing

_NAME = "default"
_BASE, _A, _B = ".base_layer.", f".lora_A.{_NAME}.", f".lora_B.{_NAME}."
_PREFIX = "base_model.model."
"""Every tensor name in a peft file starts with it."""


def add_lora(model: Any, options: LoraConfig, seed: int) -> None:
    """Freeze `model` in place and add trained adapters to its linear layers. At first they change
    nothing: B is 0, and A is drawn with `seed`.

    Raises:
        MissingResourceError: peft is not installed.
        InvalidInputError: lora.targets names no layer of the model.
    """
    try:
        from peft import inject_adapter_in_model
    except ImportError as error:
        raise missing({"peft": "lora.rank"}, str(error)) from None
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        try:
            inject_adapter_in_model(peft_config(options), model, _NAME)
        except ValueError as error:
            reason = str(error).strip().splitlines()[0]
            raise InvalidInputError(
                f"lora.targets: {options.targets} does not fit the model ({reason})"
            ) from None


def peft_config(options: LoraConfig) -> Any:
    """peft's configuration of the same adapters."""
    import peft

    return peft.LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules="all-linear" if options.targets == ["all-linear"] else options.targets,
        task_type="CAUSAL_LM",
    )


@contextmanager
def adapters_off(model: Any) -> Iterator[None]:
    """Within it, `model` computes as it did before `add_lora`."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        # enable_adapters(False) would freeze the adapters as well, during an update.
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def merged(
    parameters: Iterable[tuple[str, torch.Tensor]], options: LoraConfig
) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and values of the plain model from those of an adapted one, in its order: W +
    alpha / rank B A, in float32 where there is an adapter.
    """
    scale = options.alpha / options.rank
    base: dict[str, torch.Tensor] = {}
    first: dict[str, torch.Tensor] = {}
    for name, value in parameters:
        if _A in name:
            first[name.replace(_A, ".")] = value
        elif _B in name:
            plain = name.replace(_B, ".")
            yield (
                plain,
                base.pop(plain).float() + scale * (value.float() @ first.pop(plain).float()),
            )
        elif name.endswith(f"{_BASE}weight"):
            base[name.replace(_BASE, ".")] = value
        else:
            yield name.replace(_BASE, "."), value


def adapter_tensors(
    parameters: Iterable[tuple[str, torch.Tensor]],
) -> Iterator[tuple[str, torch.Tensor]]:
    """Names, as in a peft file, and values of the adapters among `parameters`."""
    for name, value in parameters:
        if _A in name or _B in name:
            yield _PREFIX + name.replace(f".{_NAME}.", "."), value


def frozen_tensors(
    parameters: Iterable[tuple[str, torch.Tensor]],
) -> Iterator[tuple[str, torch.Tensor]]:
    """Names in the plain model and values of all `parameters` but the adapters."""
    for name, value in parameters:
        if not (_A in name or _B in name):
            yield name.replace(_BASE, "."), value


def adapted_layers(model: Any) -> list[str]:
    """The last part of the names of all layers with an adapter, each once."""
    names = (name for name, _ in model.named_parameters() if _A in name)
    return sorted({name.partition(_A)[0].rpartition(".")[2] for name in names})


def save_adapter(
    parameters: Iterable[tuple[str, torch.Tensor]],
    options: LoraConfig,
    base: ModelConfig,
    directory: Path,
) -> None:
    """Write the adapters among `parameters` as a directory for `peft.PeftModel.from_pretrained(base
    model, DIR)`.
    """
    from safetensors.torch import save_file

    tensors = {
        name: value.detach().cpu().contiguous() for name, value in adapter_tensors(parameters)
    }
    config = peft_config(options)
    config.base_model_name_or_path, config.inference_mode = base.path, True
    config.revision = base.revision or None
    with writing(directory, sum(tensor.nbytes for tensor in tensors.values())):
        directory.mkdir(parents=True, exist_ok=True)
        config.save_pretrained(str(directory))
        save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
        follow_umask(directory)

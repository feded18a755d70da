"""Packages that only some experiments need: what each is for, and the command that installs it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from tspo_cli.errors import MissingResourceError

if TYPE_CHECKING:
    from tspo_cli.config.schema import Config


@dataclass(frozen=True, slots=True)
class Package:
    """A package of an extra. `module` is what is imported, `name` what is installed."""

    module: str
    name: str
    extra: str
    purpose: str
    advice: str = ""

    @property
    def cure(self) -> str:
        """How to install it."""
        return f'pip install "tspo-cli[{self.extra}]"{self.advice}'


_APART = (
    " in an environment of its own; in a checkout, `make vllm` makes .venv-vllm with the build for "
    "CPUs, and docs/vllm.md has the line for GPUs"
)
_PACKAGES = (
    Package("vllm", "vllm", "gpu", "rollouts with vLLM", _APART),
    Package("sentence_transformers", "sentence-transformers", "dense", "dense indexes"),
    Package("onnx", "onnx", "onnx", "encoders in ONNX Runtime"),
    Package("onnxruntime", "onnxruntime", "onnx", "encoders in ONNX Runtime"),
    Package("Stemmer", "PyStemmer", "stem", "BM25 with stemming"),
    Package("qdrant_client", "qdrant-client", "qdrant", "passages from Qdrant"),
    Package("peft", "peft", "lora", "adapters"),
    Package("tensorboard", "tensorboard", "track", "TensorBoard logs"),
    Package("wandb", "wandb", "track", "metrics at W&B"),
    Package("gguf", "gguf", "gguf", "conversion of GGUF files"),
    Package("accelerate", "accelerate", "gguf", "conversion of GGUF files"),
    Package("trl", "trl", "peers", "side-by-side benchmarks"),
)
OPTIONAL = {package.module: package for package in _PACKAGES}
"""Every package of the extras that tspo imports, by the name of its module."""


def is_installed(module: str) -> bool:
    """True if `module` can be found. It is not imported."""
    return find_spec(module) is not None


def missing(uses: dict[str, str], reason: str = "") -> MissingResourceError:
    """The error for packages that are not here. `uses` has, by module, the setting or the work that
    needs it; `reason` is what the import said.
    """
    packages = [OPTIONAL[module] for module in uses]
    needs = "; ".join(f"{uses[package.module]} needs {package.name}" for package in packages)
    extras = ",".join(dict.fromkeys(package.extra for package in packages))
    which = "which is" if len(packages) == 1 else "which are"
    said = f" ({reason})" if reason else ""
    return MissingResourceError(
        f'{needs}, {which} not installed here{said}: pip install "tspo-cli[{extras}]"'
        f"{''.join(package.advice for package in packages)}"
    )


def require(module: str, use: str) -> None:
    """Raises MissingResourceError if `module` is not installed; `use` names what needs it."""
    if not is_installed(module):
        raise missing({module: use})


def require_packages(config: Config, *, training: bool = True) -> None:
    """Refuse a training (or an evaluation) of `config` on a machine that lacks a package for it.

    What an index needs, its manifest says: opening it refuses on its own.

    Raises:
        MissingResourceError: the settings, the packages and the command that installs them.
    """
    lacking = {
        module: use
        for module, use in _needed_packages(config, training)
        if not is_installed(module)
    }
    if lacking:
        raise missing(lacking)


def _needed_packages(config: Config, training: bool) -> Iterator[tuple[str, str]]:
    """The module and the setting that needs it, for each package that is not always there."""
    served = config.vllm.url if training else config.endpoint.url
    if config.rollout.engine == "vllm" and not served:
        yield "vllm", 'rollout.engine = "vllm"'
    if training and config.lora.rank:
        yield "peft", f"lora.rank = {config.lora.rank}"
    if training and config.track.tensorboard:
        yield "tensorboard", "track.tensorboard"
    if training and config.track.wandb:
        yield "wandb", "track.wandb"
    retriever = config.retriever
    if retriever.qdrant.url and not (retriever.index or retriever.url):
        yield "qdrant_client", "retriever.qdrant.url"
        if retriever.qdrant.kind == "dense":
            yield "sentence_transformers", 'retriever.qdrant.kind = "dense"'

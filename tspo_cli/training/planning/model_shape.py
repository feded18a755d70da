"""The sizes of a model and its number of parameters, from its configuration alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tspo_cli.config.schema import Config
from tspo_cli.errors import InvalidInputError, MissingResourceError, advising
from tspo_cli.models.checks.json_files import AGAIN
from tspo_cli.runs import read_json


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a decoder with grouped-query attention and a gated MLP (Llama, Qwen2 and
    relatives). Of other models `counted` are their parameters, and `active` those that a token goes
    through (0: what the formulas say).
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool
    qkv_bias: bool
    counted: int = 0
    active: int = 0

    def parameters(self) -> int:
        """V h (1 or 2 times) + L (2 h q + 2 h kv + 3 h m + 2 h) + h, with q and kv the widths of
        queries and keys.
        """
        return self.counted or self._outside() + self.layers * self._layer()

    def active_parameters(self) -> int:
        """Those that a token goes through: all, but for experts that it is not sent to."""
        return self.active or self.parameters()

    def frozen(self, layers: int) -> int:
        """Parameters of the embeddings and the first `layers` layers, 0 for no layers."""
        return self.vocabulary * self.hidden + layers * self._layer() if layers else 0

    def _outside(self) -> int:
        """Of the parameters, those outside the layers."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2) + self.hidden

    def _layer(self) -> int:
        if self.counted:
            return (self.counted - self._outside()) // self.layers
        h, q, kv = self.hidden, self.heads * self.head_dim, self.kv_heads * self.head_dim
        biases = q + 2 * kv if self.qkv_bias else 0
        return 2 * h * q + 2 * h * kv + 3 * h * self.intermediate + 2 * h + biases

    def adapters(self, rank: int, targets: list[str]) -> int:
        """Numbers in the adapters of `targets`: rank (inputs + outputs) of each layer."""
        h, q, kv, m = (
            self.hidden,
            self.heads * self.head_dim,
            self.kv_heads * self.head_dim,
            self.intermediate,
        )
        sides = {"q_proj": h + q, "k_proj": h + kv, "v_proj": h + kv, "o_proj": q + h}
        sides |= {"gate_proj": h + m, "up_proj": h + m, "down_proj": m + h}
        names = sides if targets == ["all-linear"] else targets
        return rank * self.layers * sum(sides.get(name, 0) for name in names)


_LARGEST = 2**31
_PLAIN = ("llama", "qwen2", "mistral", "qwen3")
"""Model types that the formulas count, but for a few numbers of normalisations."""
# Shapes of models that recipes name, so that a plan needs no download (their published
# config.json).
KNOWN = {
    "Qwen/Qwen2.5-0.5B": ModelShape(896, 24, 14, 2, 64, 4864, 151936, True, True),
    "Qwen/Qwen2.5-1.5B": ModelShape(1536, 28, 12, 2, 128, 8960, 151936, True, True),
    "Qwen/Qwen2.5-3B": ModelShape(2048, 36, 16, 2, 128, 11008, 151936, True, True),
    "Qwen/Qwen2.5-7B": ModelShape(3584, 28, 28, 4, 128, 18944, 152064, False, True),
}


def model_shape(config: Config) -> ModelShape:
    """Sizes from config.json of model.path (a folder or a hub name in the local cache), or of a new
    tiny policy.
    """
    if not config.model.path:
        # The vocabulary of a tiny policy comes from its world; the demo's has 968 tokens.
        width = config.model.hidden_size
        return ModelShape(
            width, config.model.layers, width // 32, width // 32, 32, 2 * width, 968, True, True
        )
    path = _model_config_path(config.model.path, config.model.revision)
    if path is None:
        return KNOWN[config.model.path.removesuffix("-Instruct")]
    with advising(AGAIN):
        spec = read_json(path)
        if not isinstance(spec, dict):
            raise InvalidInputError(f"{path}: expected a JSON object, the configuration of a model")
    if spec.get("model_type", "llama") not in _PLAIN:
        from tspo_cli.training.planning.counted_shape import counted_shape

        return counted_shape(path.parent)
    hidden = _size(path, spec, "hidden_size")
    heads = _size(path, spec, "num_attention_heads")
    return ModelShape(
        hidden=hidden,
        layers=_size(path, spec, "num_hidden_layers"),
        heads=heads,
        kv_heads=_size(path, spec, "num_key_value_heads", heads),
        head_dim=_size(path, spec, "head_dim", max(1, hidden // heads)),
        intermediate=_size(path, spec, "intermediate_size"),
        vocabulary=_size(path, spec, "vocab_size"),
        tied=spec.get("tie_word_embeddings") is True,
        qkv_bias=spec.get("attention_bias", spec.get("model_type") == "qwen2") is True,
    )


def _size(path: Path, spec: dict[str, Any], name: str, default: int | None = None) -> int:
    """A size in the configuration at `path`; `default` where it has none.

    Raises:
        InvalidInputError: it has none and needs one, or it is no size.
    """
    value = spec.get(name)
    if value is None and default is not None:
        return default
    if value is None:
        raise InvalidInputError(
            f"{path}: expected the key {name!r} of a decoder-only language model"
        )
    if type(value) is not int or not 0 < value < _LARGEST:
        raise InvalidInputError(f"{path}: {name}: expected a size, got {json.dumps(value)[:80]}")
    return value


def local_file(model: str, name: str, revision: str = "") -> Path | None:
    """A file of a model folder or of a hub model in the local cache; None if it is in neither."""
    local = Path(model) / name
    if local.is_file():
        return local
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(model, name, revision=revision or None)
    except HFValidationError:  # a path, not a hub name
        return None
    return Path(cached) if isinstance(cached, str) else None


def _model_config_path(model: str, revision: str) -> Path | None:
    """config.json of the model; None for a known model that is not on this machine."""
    found = local_file(model, "config.json", revision)
    if found is None and model.removesuffix("-Instruct") not in KNOWN:
        raise MissingResourceError(
            f"model.path {model}: no {Path(model) / 'config.json'} and not in the local hub cache; "
            "download it first"
        )
    return found

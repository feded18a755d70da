"""Open a model directory or a hub name; errors are one line that says what is missing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from tspo_cli.errors import InvalidInputError, MissingResourceError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
TOKENIZER = "tokenizer.json"
CONFIG = "config.json"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerFast:
    """The fast tokenizer of a model directory, or of a hub name like `Qwen/Qwen2.5-3B`.

    Raises:
        MissingResourceError: no such directory, no tokenizer in it, or the hub does not have it.
        InvalidInputError: the files cannot be read as a fast tokenizer.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    local = _is_local(path, (TOKENIZER, "tokenizer_config.json", "vocab.json"), "tokenizer")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(path), local_files_only=local, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(path, "a tokenizer", error, local) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise InvalidInputError(
            f"{path}: expected a fast tokenizer ({TOKENIZER}), got {type(tokenizer).__name__}"
        )
    return tokenizer


def load_model(
    path: str | Path, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> PreTrainedModel:
    """The causal language model of a directory or hub name, in eval mode on `device`. dtype None:
    as it was saved.

    Only safetensors weights are read, and no code that comes with a model is run.

    Raises:
        MissingResourceError: no such directory, no configuration or weights in it, or the hub does
        not have it.
        InvalidInputError: the files do not fit together or are damaged.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    local = _is_local(path, (CONFIG,), "configuration")
    if local:
        _is_local(path, WEIGHTS, "weights")
    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(path),
            dtype=dtype if dtype is not None else "auto",
            local_files_only=local,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise _unreadable(path, "a causal language model", error, local) from error
    torch.nn.Module.to(model, device)
    return model.eval()


def _is_local(path: str | Path, patterns: tuple[str, ...], what: str) -> bool:
    """True for a directory that holds a file of one of `patterns`, False for a hub name."""
    directory = Path(path)
    if directory.is_dir():
        if not any(any(directory.glob(pattern)) for pattern in patterns):
            names = " or ".join(patterns)
            raise MissingResourceError(
                f"{path}: this directory has no {what} ({names}); name a model directory"
            )
        return True
    # A first part that exists here is a mistyped path, not a hub name.
    if (
        directory.exists()
        or not _HUB_NAME.fullmatch(str(path))
        or Path(directory.parts[0]).exists()
    ):
        raise MissingResourceError(
            f"{path}: no such model directory; check the path, or give a hub name like "
            "Qwen/Qwen2.5-3B"
        )
    return False


def _unreadable(
    path: str | Path, what: str, error: Exception, local: bool
) -> InvalidInputError | MissingResourceError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if local:
        return InvalidInputError(f"{path}: cannot be read as {what}: {reason}")
    return MissingResourceError(
        f"{path}: {what} could not be loaded from the hub or its cache: {reason}"
    )

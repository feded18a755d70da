"""Open encoders and rerankers with sentence-transformers: all of their tensors come from files, and
what cannot be used is refused in one line.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.hub_access import is_directory, use_cache_without_network
from tspo_cli.own_memory import leave_files
from tspo_cli.packages import missing
from tspo_cli.stored_weights import (
    check_numbers,
    check_parts,
    check_quantisation,
    check_weights_inside,
)
from tspo_cli.text.own_words import check_words

if TYPE_CHECKING:
    from tspo_cli.config.sections.index_settings import DenseSettings

_DRAWN = re.compile(
    r"^(?P<name>[^|\n]*[^|\n ]) *\| *(?:\x1b\[\d+m)?(?:MISSING|MISMATCH)", re.MULTILINE
)
_UNUSED = re.compile(r"(^|\.)pooler\.")
"""Tensors that encoders may lack: vectors are pooled from the states of the tokens."""
_EXAMPLES = {"encoder": "intfloat/e5-base-v2", "reranker": "cross-encoder/ms-marco-MiniLM-L6-v2"}
_EITHER = ("modules.json", "config.json")
"""Files of which every model of sentence-transformers has one."""


_SAFE = {"weights_only": True, "use_kernels": False, "allow_all_kernels": False}
"""Arguments of transformers that a sentence_bert_config.json could have: others let pickled weights
run code of their author, or load kernels from the hub.
"""


class _LoadReport(logging.Filter):
    """Keeps transformers' table of what the files lack, in the place of its log."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        is_report = "LOAD REPORT" in message
        self.text += message if is_report else ""
        return not is_report


def load_encoder(name: str, settings: DenseSettings) -> Any:
    """The encoder of a directory or a hub name, with the pooling of `settings`.

    Raises:
        MissingResourceError: sentence-transformers is not installed, or there is no such encoder
            on this machine.
        InvalidInputError: its files are damaged, lack tensors, or are quantised.
    """
    torch, transformers = _packages("dense retrieval")
    options: dict[str, Any] = {"model_kwargs": _SAFE | {"dtype": getattr(torch, settings.dtype)}}
    if settings.encoder_backend != "torch":
        # ONNX Runtime recognises attention in single steps and fuses it.
        options = {"model_kwargs": _SAFE | {"attn_implementation": "eager"}, "device": "cpu"}
    elif settings.device != "auto":
        options["device"] = settings.device

    def load() -> Any:
        model = transformers.SentenceTransformer(name, **options)
        if settings.pooling != "model":
            model = _pooled(model, settings.pooling)
        vector = model.encode(["a"], show_progress_bar=False)
        if vector.shape != (1, model.get_embedding_dimension()):
            raise ValueError(f"vectors of the shape {list(vector.shape[1:])}")
        return model

    return _loaded(load, "encoder", name, _UNUSED)


def load_reranker(name: str, device: str) -> Any:
    """The cross-encoder of a directory or a hub name. `device` may be auto.

    Raises: as `load_encoder`.
    """
    _, transformers = _packages("re-ranking")

    def load() -> Any:
        reranker = type(
            "Reranker", (transformers.CrossEncoder,), {"_resolve_activation_fn": _activation}
        )
        chosen = None if device == "auto" else device
        model = reranker(name, device=chosen, model_kwargs=dict(_SAFE))
        model.predict([("a", "b")], show_progress_bar=False)
        return model

    return _loaded(load, "reranker", name)


def is_local_encoder(name: str, what: str = "encoder") -> bool:
    """True for the directory of an encoder (or another `what`), False for a name on the hub.

    Raises:
        MissingResourceError: it is neither, or a directory without a model.
        InvalidInputError: a directory whose files this user may not list.
    """
    if not is_directory(name, what, _EXAMPLES[what], alone=True):
        return False
    if not any((Path(name) / file).exists() for file in _EITHER):
        raise MissingResourceError(
            f"{name}: this directory has no {what} ({' or '.join(_EITHER)}); name the directory of "
            f"one, or a hub name like {_EXAMPLES[what]}"
        )
    return True


def _packages(use: str) -> tuple[Any, Any]:
    try:
        import sentence_transformers
        import torch
    except ImportError as error:
        raise missing({"sentence_transformers": use}, str(error)) from None
    return torch, sentence_transformers


def _loaded(
    load: Callable[[], Any], what: str, name: str, unused: re.Pattern[str] | None = None
) -> Any:
    """What `load` returns, if its tensors are in the files as numbers, but those that are `unused`,
    and its tokenizer knows words.
    """
    import torch
    from transformers import PreTrainedTokenizerFast

    folder = Path(name) if is_local_encoder(name, what) else _cached_folder(name)
    if folder is not None:
        check_weights_inside(folder)
    with _load_report() as report:
        try:
            if folder is not None:
                check_parts(folder)
            model = load()
        except InvalidInputError:
            raise
        except (MemoryError, torch.OutOfMemoryError):  # says nothing about the files
            raise
        except Exception as error:  # libraries raise anything on files that are not whole
            _require_tensors(report.text, what, name, unused)
            raise _refusal(error, what, name) from None
    _require_tensors(report.text, what, name, unused)
    configs = [part.config for part in model.modules() if hasattr(part, "config")]
    for config in configs:
        check_quantisation(name, config)
    if not any(getattr(config, "quantization_config", None) for config in configs):
        check_numbers(folder or Path(name), model)
    leave_files(model)
    tokenizer = model.tokenizer
    words = tokenizer.get_vocab().keys() - getattr(tokenizer, "added_tokens_encoder", {}).keys()
    if len(words) < 2:  # transformers makes such a one without any file
        raise InvalidInputError(
            f"{what} {name}: the tokenizer has no vocabulary; copy the whole model again"
        )
    if isinstance(tokenizer, PreTrainedTokenizerFast):
        check_words(f"{what} {name}", tokenizer)
    return model


def _cached_folder(name: str) -> Path | None:
    """The folder of a model on the hub in its cache, with the files that are read. None if it
    cannot be reached: the loader says why.
    """
    from huggingface_hub import snapshot_download

    use_cache_without_network()
    # sentence-transformers gives its own models a name of one part.
    full = name if "/" in name else f"sentence-transformers/{name}"
    try:
        return Path(snapshot_download(full, allow_patterns=["*.json", "*.safetensors"]))
    except (OSError, ValueError):
        return None


@contextmanager
def _load_report() -> Iterator[_LoadReport]:
    """What transformers says within the block about files that do not fit a model."""
    from transformers import modeling_utils
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # "Loading weights" is over at once
    report, logger = _LoadReport(), modeling_utils.logger
    level = logger.level
    # From WARNING on, transformers also says which layers it would not spread over processes.
    logger.setLevel(logging.WARNING - 1)
    logger.addFilter(report)
    try:
        yield report
    finally:
        logger.removeFilter(report)
        logger.setLevel(level)


def _require_tensors(report: str, what: str, name: str, unused: re.Pattern[str] | None) -> None:
    """Raises InvalidInputError if tensors would be drawn at random."""
    drawn = sorted(found["name"] for found in _DRAWN.finditer(report))
    drawn = [tensor for tensor in drawn if unused is None or not unused.search(tensor)]
    if drawn:
        raise InvalidInputError(
            f"{what} {name}: the files lack tensors of the model, or have them in another shape, "
            f"the first is {drawn[0]}, which would be drawn at random; use a whole {what}, with "
            "the config.json that belongs to it"
        )


def _refusal(error: Exception, what: str, name: str) -> InvalidInputError | MissingResourceError:
    lines = " ".join(str(error).strip().splitlines()[:2]) or type(error).__name__
    if "custom code" in str(error):
        lines = "it needs code of its own, which tspo does not run"
    if Path(name).is_dir():
        return InvalidInputError(
            f"{what} {name}: cannot be loaded ({lines}); copy the whole model again"
        )
    return MissingResourceError(
        f"{what} {name}: no such directory, and cannot be loaded from the hub or its cache "
        f"({lines}); name a model directory"
    )


def _activation(reranker: Any, name: str) -> Any:
    """The last function of a reranker, which its files name: one of torch.nn. sentence-transformers
    would call whatever torch has by this name.
    """
    from torch import nn

    found = getattr(nn, name.rpartition(".")[2], None)
    if name.startswith("torch.nn.") and isinstance(found, type) and issubclass(found, nn.Module):
        return found()
    raise ValueError(f"its activation {name[:80]!r} is no layer of torch.nn")


def _pooled(model: Any, pooling: str) -> Any:
    """The same transformer with another pooling, without the layers trained on its own pooling."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    if getattr(model[1], "pooling_mode", None) == pooling:
        return model
    transformer = model[0]
    return SentenceTransformer(
        modules=[transformer, Pooling(transformer.get_embedding_dimension(), pooling)]
    )

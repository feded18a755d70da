"""Open a model directory or a hub name; errors are one line that says what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tspo_cli.console import agreeing
from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.hub_access import is_directory, use_cache_without_network
from tspo_cli.models.checks.hub_files import cached_folder, cached_weights
from tspo_cli.models.checks.json_files import (
    AGAIN,
    GENERATION,
    TOKENIZER_FILES,
    check_files,
    check_generation_file,
    check_json_files,
    check_tokenizer_keys,
)
from tspo_cli.models.checks.loading_report import (
    check_head,
    check_layers,
    check_shards,
    check_tensors,
)
from tspo_cli.models.checks.model_size import is_large_on_cpu
from tspo_cli.own_memory import leave_files
from tspo_cli.stored_weights import (
    check_config,
    check_named_weights,
    check_numbers,
    check_quantisation,
    check_scales,
    check_size,
)
from tspo_cli.text.own_words import check_words

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
TOKENIZER = "tokenizer.json"
CONFIG = "config.json"
ADAPTER = "adapter_config.json"
MAIN = "main"  # the revision that a hub name means
# Decoders whose code does not read `is_decoder`, which is false in their configurations.
_ALWAYS_CAUSAL = {"gpt_neox", "gpt_neox_japanese", "trocr"}
# Permutation language models: a token is predicted from those on both sides.
_NEVER_CAUSAL = {"xlnet"}


def load_tokenizer(path: str | Path, revision: str = "") -> PreTrainedTokenizerFast:
    """The fast tokenizer of a model directory, or of a hub name like `Qwen/Qwen2.5-3B` at a
    `revision` (empty: its main branch).

    Raises:
        MissingResourceError: no such directory, no tokenizer in it, or the hub does not have it.
        InvalidInputError: the files cannot be read as a fast tokenizer.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    files = (TOKENIZER, "tokenizer_config.json", "vocab.json")
    local = is_local_model(path, files, "tokenizer", revision)
    folder = Path(path) if local else cached_folder(path, TOKENIZER_FILES, revision)
    if local:
        check_files(Path(path))
    if folder is not None:
        check_json_files(folder)
        check_tokenizer_keys(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(path), local_files_only=local, trust_remote_code=False, revision=revision or MAIN
        )
    except Exception as error:  # libraries raise anything on files that are not whole
        raise _unreadable(path, "a tokenizer", error, local, revision) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise InvalidInputError(
            f"{path}: expected a fast tokenizer ({TOKENIZER}), got {type(tokenizer).__name__}"
        )
    if local and not _has_words(tokenizer):
        if not (Path(path) / TOKENIZER).exists():
            raise MissingResourceError(
                f"{path}: the tokenizer has no vocabulary, for there is no {TOKENIZER}; {AGAIN}"
            )
        raise InvalidInputError(
            f"{path}: the tokenizer has no vocabulary, though there is a {TOKENIZER}; copy the "
            "files of the tokenizer from the original model again"
        )
    check_words(path, tokenizer)
    return tokenizer


def _has_words(tokenizer: PreTrainedTokenizerFast) -> bool:
    """False for what transformers makes without any file: special tokens, and a blank at most."""
    tokens = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False)
    return len(tokens.keys() - tokenizer.added_tokens_encoder.keys()) > 1


def model_config(path: str | Path, revision: str = "") -> Any:
    """The configuration of a causal language model, without its weights.

    Raises:
        MissingResourceError: no such directory, no configuration in it, or the hub does not have
        it.
        InvalidInputError: it, or generation_config.json, cannot be read, the model is of another
        kind, or the directory has an adapter.
    """
    from transformers import AutoConfig

    _refuse_adapter(Path(path))
    local = is_local_model(path, (CONFIG,), "configuration", revision)
    folder = Path(path) if local else cached_folder(path, (CONFIG, GENERATION), revision)
    if local:
        check_files(Path(path))
    if folder is not None:
        check_json_files(folder)
        check_generation_file(folder)
        check_named_weights(folder / CONFIG)
        check_config(folder / CONFIG)
    try:
        config = AutoConfig.from_pretrained(
            str(path), local_files_only=local, trust_remote_code=False, revision=revision or MAIN
        )
        config.get_text_config().to_dict()  # it may be a table that nothing checked
    except Exception as error:  # libraries raise anything on files that are not whole
        raise _unreadable(path, "a causal language model", error, local, revision) from error
    problem = _kind_problem(config)
    if problem is not None:
        raise InvalidInputError(
            f"{path}: model type {config.model_type} {problem}; expected a decoder that predicts "
            "the next token"
        )
    return config


def _refuse_adapter(directory: Path) -> None:
    """transformers adds an adapter to the model beside it where peft is installed, and passes over
    it elsewhere; vLLM always does.

    Raises:
        InvalidInputError: the directory has one.
    """
    if (directory / ADAPTER).exists():
        raise InvalidInputError(
            f"{directory}: holds an adapter ({ADAPTER}), which not every engine reads; merge it "
            "into its model (merge_and_unload of peft) and save that. A run of tspo has the merged "
            "model in model/"
        )


def load_model(
    path: str | Path,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    revision: str = "",
) -> PreTrainedModel:
    """The causal language model of a directory or hub name (at `revision`; empty: its main branch),
    in eval mode on `device`. dtype None: as it was saved.

    Only safetensors weights are read, and no code that comes with a model is run. Later changes of
    the files do not change the model. A large bfloat16 model multiplies in float32 on a CPU that
    has no instructions for bfloat16.

    Raises:
        MissingResourceError: no such directory, no configuration or weights in it, or the hub does
        not have it.
        InvalidInputError: the files do not fit together or are damaged, tensors are missing or
        unknown, or quantised in a way that is not read, or the model is no causal language model.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    from tspo_cli.models import dtype as formats

    disable_progress_bar()
    config = model_config(path, revision)
    check_quantisation(path, config)
    local = is_local_model(path, WEIGHTS, "weights", revision)
    folder = Path(path) if local else cached_weights(path, revision)
    if folder is not None:
        check_shards(folder)
        check_layers(folder, config)
    try:
        if folder is not None:
            build = partial(AutoModelForCausalLM.from_config, config, trust_remote_code=False)
            check_size(folder, config, build)
        with _quiet_report():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                str(path),
                dtype=dtype if dtype is not None else "auto",
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # `check_tensors` refuses them by name
                local_files_only=local,
                trust_remote_code=False,
                revision=revision or MAIN,
            )
    except InvalidInputError:
        raise
    except Exception as error:  # libraries raise anything on files that are not whole
        raise _unreadable(path, "a causal language model", error, local, revision) from error
    model, report = loaded
    check_tensors(path, report)
    check_head(path, model)
    if folder is not None and getattr(config, "quantization_config", None) is None:
        check_numbers(folder, model)
    elif folder is not None:
        check_scales(folder, config)
    torch.nn.Module.to(model, device)
    leave_files(model)
    if is_large_on_cpu(model) and not formats.has_bfloat16():
        formats.multiply_in_float32(model)
    policy: PreTrainedModel = model.eval()
    return policy


def decoder_layers(model: Any) -> Sequence[Any]:
    """The layers of a causal language model, in the order in which it computes them.

    Raises:
        InvalidInputError: they are not found.
    """
    from torch import nn

    count = model.config.get_text_config().num_hidden_layers
    for part in model.base_model.modules():
        if isinstance(part, nn.ModuleList) and len(part) == count:
            return list(part)
    layers = agreeing(count, "layer is", "layers are")
    raise InvalidInputError(f"{type(model).__name__}: its {layers} not found in a list")


def linear_layers(path: str | Path) -> list[str]:
    """The last part of the names of a model's linear layers but its output, each once.

    Raises: see `model_config`.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(model_config(path))
    output = model.get_output_embeddings()
    return sorted(
        {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and module is not output
        }
    )


def _kind_problem(config: Any) -> str | None:
    """What keeps a configuration from being that of a causal language model: a verb phrase."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    if getattr(config, "is_encoder_decoder", False):
        return "is an encoder-decoder"
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return "is no causal language model"
    if config.model_type in _NEVER_CAUSAL or getattr(config, "causal", True) is False:
        return "attends in both directions"
    # Encoders like BERT have a causal mode, which their configuration switches on.
    if getattr(config, "is_decoder", True) is False and config.model_type not in _ALWAYS_CAUSAL:
        return "attends in both directions (is_decoder is false)"
    return None


@contextmanager
def _quiet_report() -> Iterator[None]:
    """Without transformers' table of missing tensors: ours is one line."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def is_local_model(path: str | Path, patterns: tuple[str, ...], what: str, revision: str) -> bool:
    """True for a directory that holds a file of one of `patterns`, False for a hub name.

    Raises:
        MissingResourceError: no such directory, or it has no such file: no `what`.
        InvalidInputError: a revision of a directory, or one whose files may not be listed.
    """
    if not is_directory(path, "model", "Qwen/Qwen2.5-3B"):
        use_cache_without_network()
        return False
    if revision:
        raise InvalidInputError(
            f"{path}: model.revision ({revision}) names a revision on the hub, but this is a "
            "directory; leave it empty"
        )
    if not any(any(Path(path).glob(pattern)) for pattern in patterns):
        names = " or ".join(patterns)
        raise MissingResourceError(
            f"{path}: this directory has no {what} ({names}); name a model directory"
        )
    return True


def _unreadable(
    path: str | Path, what: str, error: Exception, local: bool, revision: str
) -> InvalidInputError | MissingResourceError:
    reason = _reason(error)
    if "custom code" in str(error):
        return InvalidInputError(
            f"{path}: needs code of its own, which tspo does not run; use a model of transformers"
        )
    if local and _config_problem(path) == reason:  # a tokenizer is opened with it, too
        return InvalidInputError(f"{path}/{CONFIG}: cannot be read: {reason}; {AGAIN}")
    if isinstance(error, ImportError):
        return MissingResourceError(
            f"{path}: {what} that needs a package which is not installed here: {reason}"
        )
    if local and what == "a tokenizer" and not (Path(path) / TOKENIZER).is_file():
        reason = f"there is no {TOKENIZER} ({reason}); save the tokenizer as a fast one"
    if local:
        return InvalidInputError(
            f"{path}: cannot be read as {what}: {reason}; copy the files from the original model "
            "again"
        )
    at = f" at revision {revision}" if revision else ""
    return MissingResourceError(
        f"{path}: no such directory, and {what}{at} could not be loaded from the hub or its cache: "
        f"{reason}"
    )


def _config_problem(path: str | Path) -> str:
    """Why transformers cannot read the configuration of a directory, or make a model of it; empty
    if it can, or if there is none.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if not (Path(path) / CONFIG).is_file():
        return ""
    try:
        with torch.device("meta"):
            AutoModelForCausalLM.from_config(
                AutoConfig.from_pretrained(
                    str(path), local_files_only=True, trust_remote_code=False
                ),
                trust_remote_code=False,
            )
    except Exception as error:  # libraries raise anything on files that are not whole
        return _reason(error)
    return ""


def _reason(error: Exception) -> str:
    text = f"KeyError {error}" if isinstance(error, KeyError) else str(error).strip()
    lines = text.splitlines() or [type(error).__name__]
    # The reason itself may follow a title.
    return " ".join(line.strip() for line in lines[: 1 + lines[0].endswith(":")])

"""Convert a GGUF file to a plain model directory, which transformers and vLLM load."""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tspo_cli.console import byte_size, counted, say, warn
from tspo_cli.disk import follow_umask, new_directory, writing
from tspo_cli.errors import InvalidInputError, MissingResourceError, TspoError
from tspo_cli.models.checks.gguf_header import check_header
from tspo_cli.models.load_model import CONFIG, load_model, load_tokenizer
from tspo_cli.overwriting import require_outside, require_own
from tspo_cli.packages import require
from tspo_cli.plain_files import named_like, refuse_pointer, require_plain, why_missing

if TYPE_CHECKING:
    from gguf import GGUFReader
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

Dtype = Literal["float32", "bfloat16"]
BYTES = {"float32": 4, "bfloat16": 2}
MAGIC = b"GGUF"
BESIDE_WEIGHTS = 64 * 2**20  # bytes of tokenizer and configuration, at most
CHECK_TEXT = "The capital of France is"
CHECK_TOKENS = 4
_WRITTEN = (
    *(CONFIG, "generation_config.json", "model.safetensors.index.json", "chat_template.jinja"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt"),
)
"""Files beside the weights that some version of transformers writes."""
_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
# Factors of the rotary embedding. transformers does not read them; a model that needs them would
# compute something else.
ROPE_TENSORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


@dataclass(frozen=True, slots=True)
class GgufFacts:
    """What a GGUF file says of itself: the number of its weights, and the tensors that transformers
    does not read. `reader` is the file's parsed header.
    """

    weights: int
    unread: tuple[str, ...]
    reader: GGUFReader


@dataclass(frozen=True, slots=True)
class Conversion:
    """A converted model: its directory, architecture (transformers' class), parameters, dtype and
    bytes on disk, and how many greedy tokens were compared with the GGUF file's model.
    """

    model: Path
    architecture: str
    parameters: int
    dtype: Dtype
    bytes: int
    chat_template: bool
    checked_tokens: int


def convert_gguf(
    file: Path, out: Path, *, dtype: Dtype = "float32", overwrite: bool = False
) -> Conversion:
    """Write the model of a GGUF file as a directory: configuration, safetensors, tokenizer, chat
    template and generation defaults.

    Quantised weights are dequantised. The directory is written beside `out`, read again, compared
    (every tensor, and a few greedy tokens), and renamed: `out` is whole or absent.

    Raises:
        MissingResourceError: no such file, no package `gguf`, or not enough disk space.
        InvalidInputError: not a GGUF file, a damaged one, a part of a split one, an architecture
            that transformers does not read, `out` exists and may not be replaced, or another
            process writes it.
        TspoError: the written model does not compute what the file's model computes.
    """
    for module in ("gguf", "accelerate"):
        require(module, "a GGUF file")
    # accelerate imports DeepSpeed, which looks for a device and says on stdout that it found none.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    facts = read_facts(file)
    check = partial(check_out, out, file, overwrite)
    check()
    _check_space(out, facts, dtype)
    if facts.unread:
        warn(
            f"{file}: transformers does not read {', '.join(facts.unread)} (scaled rotary "
            "embeddings); the converted model differs from llama.cpp's; prefer its original files"
        )
    with new_directory(out, "converting a model into it", check) as folder:
        tokenizer, model = _read(file, facts.reader, dtype)
        say(f"{file}: {type(model).__name__}, {counted(facts.weights, 'weight')}; writing {dtype}")
        _write(tokenizer, model, folder)
        _check(tokenizer, model, folder)
    return Conversion(
        model=out,
        architecture=type(model).__name__,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        dtype=dtype,
        bytes=sum(path.stat().st_size for path in out.iterdir()),
        chat_template=bool(tokenizer.chat_template),
        checked_tokens=CHECK_TOKENS,
    )


def read_facts(file: Path) -> GgufFacts:
    """The facts of a GGUF file; its tensors are not read.

    Raises:
        MissingResourceError: no such file.
        InvalidInputError: not a GGUF file, a damaged one, or a part of a split one.
    """
    from gguf import GGUFReader

    if file.is_dir():
        found = [path.name for path in named_like(file, "*.gguf")]
        hint = f"name one of its files: {', '.join(found[:3])}" if found else "it holds no *.gguf"
        raise InvalidInputError(f"{file}: expected a GGUF file, got a directory; {hint}")
    require_plain(file, "name a GGUF file")
    if not file.is_file():
        raise MissingResourceError(f"{file}: {why_missing(file)}")
    refuse_pointer(file)
    with open(file, "rb") as handle:
        start = handle.read(len(MAGIC))
    if start != MAGIC:
        raise InvalidInputError(
            f"{file}: not a GGUF file (it begins with {start!r}, expected {MAGIC!r})"
        )
    check_header(file)
    try:
        reader = GGUFReader(file)
        parts = reader.fields.get("split.count")
        split = int(parts.contents()) if parts is not None else 1
        weights = sum(int(tensor.n_elements) for tensor in reader.tensors)
        end = max((int(t.data_offset) + int(t.n_bytes) for t in reader.tensors), default=0)
    except (ValueError, IndexError, KeyError, OverflowError, AttributeError, TypeError) as error:
        raise InvalidInputError(
            f"{file}: damaged or cut short ({_first_line(error)}); download it again"
        ) from error
    if split > 1:
        raise InvalidInputError(
            f"{file}: one of {split} parts; join them first: llama-gguf-split --merge FIRST OUT"
        )
    size = file.stat().st_size
    if not reader.tensors or size < end:
        raise InvalidInputError(
            f"{file}: cut short ({size:,} bytes, its tensors need {end:,}); download it again"
        )
    names = {tensor.name for tensor in reader.tensors}
    return GgufFacts(weights, tuple(name for name in ROPE_TENSORS if name in names), reader)


def check_out(out: Path, file: Path, overwrite: bool) -> None:
    """Refuse a directory that may not be written.

    Raises:
        InvalidInputError: `out` exists without `overwrite`, holds something else than a model, or
            holds `file` or files of the user's.
    """
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir() or out.is_symlink():
        raise InvalidInputError(f"{out}: is not a directory; choose another --out")
    if not any(out.iterdir()):
        return
    if not (out / CONFIG).is_file():
        raise InvalidInputError(f"{out}: holds other files than a model's; choose another --out")
    if not overwrite:
        raise InvalidInputError(f"{out}: already holds a model; add --overwrite to replace it")
    require_outside(out, file)
    weights = {path.name for path in out.iterdir() if _WEIGHTS.fullmatch(path.name)}
    require_own(out, {*_WRITTEN, *weights}, "a converted model")


def _check_space(out: Path, facts: GgufFacts, dtype: Dtype) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    needed = facts.weights * BYTES[dtype] + BESIDE_WEIGHTS
    free = shutil.disk_usage(out.parent).free
    if free < needed:
        raise MissingResourceError(
            f"{out.parent}: {byte_size(free)} free, the model needs {byte_size(needed)} in "
            f"{dtype}; free some space or choose another --out"
        )


def _read(
    file: Path, reader: GGUFReader, dtype: Dtype
) -> tuple[PreTrainedTokenizerFast, PreTrainedModel]:
    """Tokenizer and dequantised model of a GGUF file, through transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

    folder, name = str(file.parent), file.name
    try:
        with _quiet_transformers(), _parsed_once(reader):
            tokenizer = AutoTokenizer.from_pretrained(
                folder, gguf_file=name, local_files_only=True, trust_remote_code=False
            )
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                gguf_file=name,
                dtype=getattr(torch, dtype),
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except Exception as error:  # a reader of foreign files: any error means that it cannot be read
        raise InvalidInputError(
            f"{file}: transformers cannot read this GGUF file: {_first_line(error)}"
        ) from error
    model, loading = loaded
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InvalidInputError(
                f"{file}: {name} holds weights that are no finite numbers; download it again"
            )
    wrong = {name: sorted(map(str, keys)) for name, keys in loading.items() if keys}
    for kind, names in wrong.items():
        raise InvalidInputError(
            f"{file}: {kind.replace('_', ' ')}: {', '.join(names[:3])} ({len(names)} in all); "
            "transformers does not read this architecture whole"
        )
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise InvalidInputError(
            f"{file}: expected a fast tokenizer, got {type(tokenizer).__name__}"
        )
    model.eval()
    with torch.no_grad():
        logits = model(tokenizer(CHECK_TEXT, return_tensors="pt")["input_ids"]).logits
    if not torch.isfinite(logits).all():  # such as a base of the rotary embedding that is 0
        raise InvalidInputError(
            f"{file}: its model computes no finite numbers, for a number of its header is wrong; "
            "download it again"
        )
    return tokenizer, model


def _write(tokenizer: PreTrainedTokenizerFast, model: PreTrainedModel, folder: Path) -> None:
    """Save the state in a model that did not come from GGUF: transformers saves no other."""
    import copy

    import torch
    from safetensors import SafetensorError

    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        plain: Any = type(model)(config)
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = copy.deepcopy(model.generation_config)
    needed = sum(value.nbytes for value in plain.parameters())
    try:
        with writing(folder, needed), _quiet_transformers():
            plain.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            follow_umask(folder)
    except SafetensorError as error:
        raise TspoError(f"{folder}: cannot be written: {_first_line(error)}") from error


def _check(tokenizer: PreTrainedTokenizerFast, model: PreTrainedModel, folder: Path) -> None:
    """Read the directory again and compare: tensors, token ids, greedy tokens."""
    import torch

    read_tokenizer, read = load_tokenizer(folder), load_model(folder)
    before, after = model.state_dict(), read.state_dict()
    wrong = sorted(before.keys() ^ after.keys()) or [
        name for name, tensor in before.items() if not torch.equal(tensor, after[name])
    ]
    prompt = tokenizer(CHECK_TEXT, return_tensors="pt")["input_ids"]
    if not torch.equal(prompt, read_tokenizer(CHECK_TEXT, return_tensors="pt")["input_ids"]):
        wrong.append("the tokenizer")
    if not wrong and not torch.equal(_greedy(model, prompt), _greedy(read, prompt)):
        wrong.append("the greedy tokens")
    if wrong:
        raise TspoError(
            f"the written model differs from the file's in {', '.join(wrong[:3])}; nothing is kept"
        )


def _greedy(model: Any, prompt: Any) -> Any:
    import torch

    return model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=CHECK_TOKENS,
        min_new_tokens=CHECK_TOKENS,
        pad_token_id=0,
    )


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No progress bars and no load reports: what is wrong is said in one line."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(level)


@contextmanager
def _parsed_once(reader: GGUFReader) -> Iterator[None]:
    """Let transformers use `reader`: it would parse the header, with its whole vocabulary, three
    times, which takes longer than the weights of a small model.
    """
    package: Any = import_module("gguf")
    original, package.GGUFReader = package.GGUFReader, lambda path: reader
    try:
        yield
    finally:
        package.GGUFReader = original


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

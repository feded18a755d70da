"""`tspo model convert`: GGUF files become plain model directories, or one line says why not."""

from __future__ import annotations

import json
import math
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import run_tspo
from tests.models.tiny_gguf import CHATML, write_gguf
from tspo_cli import packages
from tspo_cli.errors import InvalidInputError, MissingResourceError, TspoError
from tspo_cli.models import convert_gguf as conversion
from tspo_cli.models.convert_gguf import convert_gguf

TEXT = "river town Bako, 漢 river"


def tree(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_a_directory_that_plain_transformers_loads(tmp_path: Path, architecture: str) -> None:
    file, out = tmp_path / "tiny.gguf", tmp_path / "models" / "tiny"
    tokenizer = write_gguf(file, architecture)
    made = convert_gguf(file, out)
    assert (made.dtype, made.chat_template) == ("float32", True)
    from_gguf = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="tiny.gguf", dtype=torch.float32
    )
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.dtype == torch.float32
    assert getattr(model.config, "quantization_config", None) is None
    ids = AutoTokenizer.from_pretrained(out)(TEXT, return_tensors="pt")["input_ids"]
    assert ids[0].tolist() == tokenizer(TEXT)["input_ids"]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, from_gguf(ids).logits)
    assert AutoTokenizer.from_pretrained(out).chat_template == CHATML
    assert model.generation_config.eos_token_id == 1
    assert tree(out.parent) == {"tiny"}, "nothing unfinished is left"


def test_bfloat16_and_a_tokenizer_without_ends_and_template(tmp_path: Path) -> None:
    file, out = tmp_path / "base.gguf", tmp_path / "base"
    write_gguf(file, eos=False, template="")
    made = convert_gguf(file, out, dtype="bfloat16")
    assert not made.chat_template
    model = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    assert model.dtype == torch.bfloat16
    reference = AutoTokenizer.from_pretrained(tmp_path, gguf_file="base.gguf")
    assert AutoTokenizer.from_pretrained(out).eos_token == reference.eos_token


def test_the_command_prints_json_and_replaces_only_when_asked(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    out = tmp_path / "out"
    command = ("model", "convert", "tiny.gguf", "--out", "out", "--json")
    made = json.loads(run_tspo(*command, cwd=tmp_path).out)
    assert (made["model"], made["dtype"], made["source"]) == ("out", "float32", "tiny.gguf")
    assert made["bytes"] == sum(path.stat().st_size for path in out.iterdir())
    (out / "merges.txt").write_text("of an earlier model")
    assert "--overwrite" in refusal(tmp_path / "tiny.gguf", out, InvalidInputError)
    convert_gguf(tmp_path / "tiny.gguf", out, overwrite=True)
    assert "merges.txt" not in tree(out)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("gguf") / "good.gguf"
    write_gguf(file)
    return file


def refusal(file: Path, out: Path, kind: type[TspoError], **options: bool) -> str:
    before = tree(out.parent)
    with pytest.raises(kind) as caught:
        convert_gguf(file, out, **options)
    assert tree(out.parent) == before, "nothing is written"
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kept", [5, 40, 1500, 0.5, 0.999])
def test_a_file_that_is_cut_short(good: Path, tmp_path: Path, kept: float) -> None:
    raw = good.read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(raw[: int(kept if kept > 1 else kept * len(raw))])
    assert "cut short" in refusal(cut, tmp_path / "out", InvalidInputError)


@pytest.mark.parametrize("content", [b"", b"GG", b"PK\x03\x04 a zip", b"<html>not found</html>"])
def test_a_file_that_is_no_gguf(tmp_path: Path, content: bytes) -> None:
    other = tmp_path / "model.gguf"
    other.write_bytes(content)
    assert "not a GGUF file" in refusal(other, tmp_path / "out", InvalidInputError)


def test_a_pointer_of_git_lfs_is_told_from_a_file(tmp_path: Path) -> None:
    other = tmp_path / "model.gguf"
    other.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert "run `git lfs pull`" in refusal(other, tmp_path / "out", InvalidInputError)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"architecture": "mamba9"}, "mamba9 is not supported"),
        ({"architecture": "clip"}, "clip is not supported"),
        ({"architecture": "t5"}, "AutoModelForCausalLM"),
        ({"without": ("blk.1.ffn_up.weight",)}, "missing keys: model.layers.1.mlp.up_proj.weight"),
        ({"without": ("output_norm.weight",)}, "missing keys: model.norm.weight"),
        ({"split": 3}, "one of 3 parts"),
        ({"rope": math.nan}, "computes no finite numbers"),
        ({"rope": 0.0}, "computes no finite numbers"),
    ],
)
def test_what_transformers_cannot_read(
    tmp_path: Path, options: dict[str, object], words: str
) -> None:
    write_gguf(tmp_path / "x.gguf", **options)  # type: ignore[arg-type]
    assert words in refusal(tmp_path / "x.gguf", tmp_path / "out", InvalidInputError)


def test_no_file_and_a_directory(good: Path, tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "no.gguf", tmp_path / "o", MissingResourceError)
    assert "good.gguf" in refusal(good.parent, tmp_path / "o", InvalidInputError)
    assert "got a device" in refusal(Path("/dev/null"), tmp_path / "o", InvalidInputError)
    (tmp_path / "empty").mkdir()
    assert "no *.gguf" in refusal(tmp_path / "empty", tmp_path / "o", InvalidInputError)


def test_outputs_that_may_not_be_written(good: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "used")
    for name, words in (("file", "not a directory"), ("used", "other files"), ("link", "not a d")):
        for overwrite in (False, True):
            assert words in refusal(good, tmp_path / name, InvalidInputError, overwrite=overwrite)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    assert "--overwrite" in refusal(good, tmp_path / "model", InvalidInputError)
    inside = tmp_path / "model" / "inside.gguf"
    shutil.copy(good, inside)
    words = refusal(inside, tmp_path / "model", InvalidInputError, overwrite=True)
    assert "inside.gguf: lies in" in words
    assert inside.is_file()


def test_no_space_and_no_package(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(conversion.shutil, "disk_usage", lambda path: usage(10**9, 10**9, 4096))
    assert "4.0 KiB free" in refusal(good, tmp_path / "out", MissingResourceError)
    monkeypatch.setattr(packages, "is_installed", lambda module: module != "gguf")
    assert "tspo-cli[gguf]" in refusal(good, tmp_path / "out", MissingResourceError)


def test_a_model_that_differs_when_it_is_read_again_is_not_kept(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(path: Path) -> torch.nn.Module:
        model = AutoModelForCausalLM.from_pretrained(path)
        model.model.norm.weight.data += 1
        return model

    monkeypatch.setattr(conversion, "load_model", changed)
    words = refusal(good, tmp_path / "out", TspoError)
    assert "differs from the file's in model.norm.weight" in words


def test_scaled_rotary_embeddings_are_announced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_gguf(tmp_path / "long.gguf", more=("rope_freqs.weight",))
    convert_gguf(tmp_path / "long.gguf", tmp_path / "long")
    assert "does not read rope_freqs.weight" in capsys.readouterr().err

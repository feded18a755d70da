"""Which model is it? Every file that decides about weights or tokens counts, and no half of two
models is opened.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tspo_cli.config.load_config import load_config
from tspo_cli.config.sections.agent_defaults import AGENT_FILE, same_agent
from tspo_cli.disk import replace_directory
from tspo_cli.errors import InvalidInputError
from tspo_cli.evaluation.answering import open_engine as opening
from tspo_cli.models.checks.model_digest import former_digest, model_digest, steady_model
from tspo_cli.models.load_model import load_model
from tspo_cli.models.tokenizer import tiny_tokenizer
from tspo_cli.runs import write_json


def write_model(folder: Path, seed: int, words: tuple[str, ...] = ("river",)) -> Path:
    tokenizer = tiny_tokenizer(words, ["ba"])
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    torch.manual_seed(seed)
    config = LlamaConfig(vocab_size=len(tokenizer), num_attention_heads=2, **shape)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "name",
    [
        *("model.safetensors", "config.json", "generation_config.json", "tokenizer.json"),
        *("tokenizer_config.json", "tokenizer.model", "chat_template.jinja", "vocab.json"),
        *("merges.txt", "vocab.txt", "spiece.model", "sentencepiece.bpe.model"),
        *("added_tokens.json", "special_tokens_map.json", "adapter_config.json"),
        *("adapter_model.safetensors", "model.safetensors.index.json"),
        "additional_chat_templates/tool_use.jinja",
    ],
)
def test_every_file_that_decides_counts(tmp_path: Path, name: str) -> None:
    digests = [model_digest(str(tmp_path))]
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    for text in ("{}", "[]"):
        file.write_text(text)
        digests.append(model_digest(str(tmp_path)))
    assert len(set(digests)) == 3


def test_what_decides_nothing_does_not_count(tmp_path: Path) -> None:
    before = model_digest(str(tmp_path))
    for name in ("README.md", "tspo_agent.json", "trainer_state.json", "LICENSE.txt"):
        (tmp_path / name).write_text("{}")
    assert model_digest(str(tmp_path)) == before


def test_models_without_further_files_keep_their_digest(tmp_path: Path) -> None:
    """Those that tspo exports, and so the records of earlier versions."""
    model = str(write_model(tmp_path / "model", 1))
    assert model_digest(model) == former_digest(model)
    (tmp_path / "model" / "merges.txt").write_text("a b")
    assert model_digest(model) != former_digest(model)


MOMENTS = ["load_tokenizer", "load_model", "check_engine", "model_digest"]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("times", [1, 99])
@pytest.mark.parametrize("way", ["exchanged", "copied over"])
def test_a_model_that_is_replaced_meanwhile_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, times: int, way: str
) -> None:
    place, left = write_model(tmp_path / "model", 1), times
    others = [write_model(tmp_path / "other", 2), write_model(tmp_path / "third", 3)]
    from tspo_cli.models import load_model as loading
    from tspo_cli.rollout.engines.hf import engine_check

    homes = {"load_model": loading, "check_engine": engine_check}
    home = homes.get(moment, opening)
    usual: Callable[..., Any] = getattr(home, moment)

    def replaced(*arguments: Any, **options: Any) -> Any:
        nonlocal left
        if left:
            left -= 1
            source = others[left % 2]
            if way == "exchanged":
                shutil.copytree(source, tmp_path / "new")
                replace_directory(tmp_path / "new", place)
            else:
                shutil.copytree(source, place, dirs_exist_ok=True)
        return usual(*arguments, **options)

    monkeypatch.setattr(home, moment, replaced)
    settings = [f'model.path="{place}"', "model.max_context=256"]
    config = load_config([], [*settings, 'model.dtype="float32"'])
    if times > 1:
        with pytest.raises(InvalidInputError, match="model: was replaced while it was read"):
            opening.open_engine(config)
        return
    opened = opening.open_engine(config)
    engine: Any = opened.fresh()
    assert opened.model == model_digest(str(place)) == model_digest(str(others[0]))
    want = load_model(others[0]).state_dict()
    assert all(torch.equal(want[name], tensor) for name, tensor in _weights(engine).items())


def _weights(engine: Any) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = engine.model.state_dict()
    return weights


@pytest.mark.parametrize("way", ["written over", "cut"])
def test_an_opened_model_keeps_its_weights(tmp_path: Path, way: str) -> None:
    """A mapped file that is written over changes the model in use, and one that is cut ends the
    process.
    """
    path = write_model(tmp_path / "model", 1)
    model = load_model(path, torch.float32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    file = path / "model.safetensors"
    size = file.stat().st_size
    assert str(file) not in Path("/proc/self/maps").read_text()
    with open(file, "r+b") as handle:
        if way == "cut":
            handle.truncate(100)
        else:
            handle.write(b"\1" * size)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("processes", ["this one", "another"])
def test_the_agent_of_a_replaced_model_is_none_of_it(tmp_path: Path, processes: str) -> None:
    """A model takes the place of another one after the experiment was read: its weights would
    answer with the prompt of the other.
    """
    place = write_model(tmp_path / "model", 1)
    write_json(place / AGENT_FILE, {"rollout": {"prompt": "short"}, "k": 2})
    with same_agent(str(place)):
        assert steady_model(str(place), lambda: 7) == 7
        write_json(place / AGENT_FILE, {"rollout": {"prompt": "search_r1"}, "k": 3})
        if processes == "this one":
            with pytest.raises(InvalidInputError, match="model: was replaced while it was read"):
                steady_model(str(place), lambda: 7)
        else:
            program = (
                "from tspo_cli.config.sections.agent_defaults import require_same_agent\n"
                f"require_same_agent({str(place)!r})"
            )
            done = subprocess.run(
                [sys.executable, "-c", program], capture_output=True, text=True, check=False
            )
            assert "model: was replaced while it was read; try again" in done.stderr
    assert steady_model(str(place), lambda: 7) == 7


def test_an_agent_that_is_written_meanwhile_is_read_again(tmp_path: Path) -> None:
    place, looks = write_model(tmp_path / "model", 1), list[int]()

    def read() -> int:
        looks.append(1)
        if len(looks) == 1:
            write_json(place / AGENT_FILE, {"rollout": {}, "k": 3})
        return len(looks)

    assert steady_model(str(place), read) == 2

"""A tiny tokenizer, an engine that speaks scripted texts, and a server that follows
instructions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from tests.evaluation.openai_server import serve
from tests.evaluation.reader_server import Reader
from tspo_cli.models.tokenizer import tiny_tokenizer
from tspo_cli.retrieval.index.build_index import build_index
from tspo_cli.rollout.engines.engine_protocol import Completion, GenerationRequest


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Words, syllables and bytes; the tags are special tokens."""
    return tiny_tokenizer(
        ("which", "river", "town", "is", "in", "near", "born", "who"), ("ba", "ko", "ri", "mu")
    )


@dataclass
class Speaker:
    """An engine whose session n says `scripts[n]`, one text per turn; the last one again and
    again.
    """

    tokenizer: PreTrainedTokenizerFast
    scripts: Sequence[Sequence[str]]
    weight_version: int = 0
    seen: list[str] = field(default_factory=list)
    _queue: list[GenerationRequest] = field(default_factory=list)
    _turns: dict[int, int] = field(default_factory=dict)

    def submit(self, request: GenerationRequest) -> None:
        self._queue.append(request)
        self.seen.append(
            self.tokenizer.decode(list(request.token_ids), clean_up_tokenization_spaces=False)
        )

    def step(self) -> list[Completion]:
        queue, self._queue = self._queue, []
        return [self._say(request.session) for request in queue]

    def _say(self, session: int) -> Completion:
        turn = self._turns.get(session, 0)
        self._turns[session] = turn + 1
        script = self.scripts[session % len(self.scripts)]
        ids = tuple(
            self.tokenizer(script[min(turn, len(script) - 1)], add_special_tokens=False)[
                "input_ids"
            ]
        )
        return Completion(session, ids, (-0.5,) * len(ids), "stop", 0)

    def release(self, session: int) -> None: ...

    def load_weights(self, weights: Mapping[str, torch.Tensor] | None, version: int) -> None: ...

    def different_weight(self, weights: Mapping[str, torch.Tensor]) -> str | None: ...


PASSAGES = {
    "p1": ("Alien", "Alien is a film whose director is Ridley Scott."),
    "p2": ("Ridley Scott", "Ridley Scott was born in South Shields."),
    "p3": ("Paris", "Paris is a town by the river Seine."),
}
QUESTION = {
    "id": "1", "question": ("Where was the director of the film Alien "
                           "born?"), "golden_answers": ["South Shields"],
    "supporting_ids": ["p1", "p2"],
}  # fmt: skip


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    lines = [
        json.dumps({"id": i, "title": title, "text": text}) for i, (title, text) in PASSAGES.items()
    ]
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "films.jsonl").write_text(json.dumps(QUESTION) + "\n", encoding="utf-8")
    build_index(folder / "corpus.jsonl", folder / "index")
    return folder


@pytest.fixture(scope="module")
def reader() -> Iterator[tuple[Reader, str]]:
    server = Reader()
    with serve(server.app()) as url:
        yield server, url

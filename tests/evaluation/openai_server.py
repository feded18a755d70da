"""A small server that speaks OpenAI's completions and chat completions with a real policy behind
them.

Like hosted servers it leaves the stop string out and does not say which one it was, unless it is
asked for token ids as vLLM's server may be.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request

from tspo_cli.models.load_model import load_model, load_tokenizer
from tspo_cli.retrieval.server.listen import listen
from tspo_cli.rollout.engines.engine_protocol import GenerationRequest, Sampling
from tspo_cli.rollout.engines.hf.hf_engine import TransformersEngine


class Served:
    """The model, one request at a time, and what was asked of it. `failures` are statuses to answer
    with first, `delay` the seconds that an answer takes at least.
    """

    def __init__(self, model_dir: Path, key: str = "") -> None:
        self.tokenizer = load_tokenizer(model_dir)
        self.engine = TransformersEngine(
            load_model(model_dir), self.tokenizer, batch_size=1, max_context=2048
        )
        self.key, self.requests, self.failures = key, list[dict[str, Any]](), list[int]()
        self.delay = 0.0
        self._lock = threading.Lock()
        self._session = 0

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.post("/v1/completions")
        def completions(body: dict[str, Any], request: Request) -> dict[str, Any]:
            self._note(body, request)
            prompt = body["prompt"]
            ids = prompt if isinstance(prompt, list) else self._encode(prompt)
            text, reason, sampled, stopped = self._generate(ids, body)
            choice: dict[str, Any] = {"index": 0, "text": text, "finish_reason": reason}
            if body.get("return_token_ids"):
                choice |= {"token_ids": sampled, "stop_reason": stopped}
            return {
                "choices": [choice],
                "usage": {"prompt_tokens": len(ids), "completion_tokens": len(sampled)},
            }

        @app.post("/v1/chat/completions")
        def chat(body: dict[str, Any], request: Request) -> dict[str, Any]:
            self._note(body, request)
            ids = self._encode("".join(message["content"] for message in body["messages"]))
            text, reason, _, _ = self._generate(ids, body)
            message = {"role": "assistant", "content": text}
            return {"choices": [{"index": 0, "message": message, "finish_reason": reason}]}

        return app

    def _note(self, body: dict[str, Any], request: Request) -> None:
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            raise HTTPException(401, "wrong key")
        self.requests.append(body)
        if self.failures:
            raise HTTPException(self.failures.pop(0), "overloaded")

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _generate(
        self, ids: list[int], body: dict[str, Any]
    ) -> tuple[str, str, list[int], str | None]:
        stop = tuple(body.get("stop") or ())
        time.sleep(self.delay)
        with self._lock:
            self._session += 1
            sampling = Sampling(
                temperature=body["temperature"], max_new_tokens=body["max_tokens"], stop=stop
            )
            self.engine.submit(
                GenerationRequest(self._session, tuple(ids), sampling, body.get("seed", 0))
            )
            done = []
            while not done:
                done = self.engine.step()
            self.engine.release(self._session)
        sampled = done[0].token_ids[:-1] if done[0].finish_reason == "eos" else done[0].token_ids
        text = self.tokenizer.decode(list(sampled), clean_up_tokenization_spaces=False)
        places = {text.find(word): word for word in stop if word in text}
        text = text[: min(places)] if places else text
        reason = "length" if done[0].finish_reason == "length" else "stop"
        return text, reason, list(done[0].token_ids), places[min(places)] if places else None


@contextmanager
def serve(app: FastAPI) -> Iterator[str]:
    """The base URL of `app` on a free port of this machine, in a thread."""
    bound = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        thread.join(timeout=20)

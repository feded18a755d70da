"""A server that speaks OpenAI's API and follows every method's instructions by rule: it asks, reads
and answers.

It knows how to read "X is a film whose director is Y." and "Y was born in Z.", nothing else. As
hosted servers do, it leaves the stop string out and does not say which one it was.
"""

from __future__ import annotations

import json
import re
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse

DIRECTOR = re.compile(r"director is ([A-Z]\w+ [A-Z]\w+)")
BORN = re.compile(r"was born in ([A-Z]\w+ [A-Z]\w+)")


def reply(prompt: str) -> str:
    """What the policy says to a prompt of any method."""
    director, born = DIRECTOR.search(prompt), BORN.search(prompt)
    if "Useful:" in prompt:
        passages = prompt.split("Passages:")[1]
        known = DIRECTOR.search(passages) or BORN.search(passages)
        return f"{known.group(0)}." if known else "Nothing helps."
    if born:
        return f"I see. <answer> {born.group(1)} </answer> And more."
    wanted = f"{director.group(1)} born" if director else "Alien film director"
    if "<|begin_search_query|>" in prompt:
        return f"I lack a fact. <|begin_search_query|> {wanted} <|end_search_query|> and so on"
    if "call a search engine" in prompt:
        return f"<think> I lack a fact. </think> <search> {wanted} </search> and so on"
    if "Write only the next sentence" in prompt:
        return f"{wanted}. Another sentence."
    # Three times, so that it outweighs the question that ITER-RETGEN searches for together with it.
    return f"<think> {wanted} {wanted} {wanted} </think> <answer> unknown </answer>"


class Reader:
    """The server, and what was asked of it. `owner` is what it says of the software that serves its
    model, `calls` how many calls of a tool it makes at once, with or without an id, `without_tools`
    its status and message for requests with tools.
    """

    def __init__(self, owner: str = "somebody", calls: int = 1, with_ids: bool = True) -> None:
        self.requests = list[dict[str, Any]]()
        self.owner, self.calls, self.with_ids = owner, calls, with_ids
        self.without_tools: tuple[int, str] | None = None

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/v1/models")
        def models() -> dict[str, Any]:
            return {"object": "list", "data": [{"id": "reader", "owned_by": self.owner}]}

        @app.post("/v1/completions")
        def completions(body: dict[str, Any]) -> dict[str, Any]:
            self.requests.append(body)
            text = cut(reply(body["prompt"]), body)
            return {"choices": [{"text": text, "finish_reason": "stop"}]}

        @app.post("/v1/chat/completions")
        def chat(body: dict[str, Any]) -> Any:
            self.requests.append(body)
            if self.without_tools and body.get("tools"):
                status, message = self.without_tools
                return JSONResponse({"error": {"message": message}}, status)
            text = reply("\n".join(str(message.get("content")) for message in body["messages"]))
            message: dict[str, Any] = {"role": "assistant", "content": cut(text, body)}
            if body.get("tools") and "unknown" in text:
                query = "Ridley Scott born" if len(body["messages"]) > 1 else "Alien film director"
                function = {
                    "name": body["tools"][0]["function"]["name"],
                    "arguments": json.dumps({"query": query}),
                }
                calls = [
                    {
                        "id": f"call-{len(self.requests)}-{number}",
                        "type": "function",
                        "function": function,
                    }
                    for number in range(self.calls)
                ]
                if not self.with_ids:
                    calls = [{"function": call["function"]} for call in calls]
                message = {"role": "assistant", "content": None, "tool_calls": calls}
            reason = "tool_calls" if "tool_calls" in message else "stop"
            return {"choices": [{"index": 0, "message": message, "finish_reason": reason}]}

        return app


def cut(text: str, body: dict[str, Any]) -> str:
    """What a server leaves of a text that has a stop string of the request."""
    stop = body.get("stop", [])
    return text[: min([text.find(word) for word in stop if word in text], default=len(text))]

"""An HTTP client of OpenAI-compatible servers, with retries."""

from __future__ import annotations

import math
import random
import time
from typing import Any

import httpx

from tspo_cli.config.urls import check_url, shown_url
from tspo_cli.errors import RemoteServiceError
from tspo_cli.rollout.engines.endpoint.request_fields import RequestFields
from tspo_cli.text.secrets import key_of, without_secrets

LONGEST_WAIT = 30.0
"""Seconds between two tries, at most, unless the server asks for more."""
LONGEST_RETRY_AFTER = 120.0
"""Seconds that a server may ask to wait. If it asks for more, the request fails."""
PROBE_TIMEOUT = 10.0
"""Seconds to wait for the list of models."""
REFUSED = (400, 413, 422, 451)
"""Statuses that refuse one request: too long, filtered, or a field that the server does not take.
Other requests may be answered.
"""
_MESSAGE_CHARACTERS = 300


class RequestRefusedError(RemoteServiceError):
    """The server refuses this request and may answer others.

    `reason` is the server's message. `hint` is the setting that helps if it refuses a field.
    """

    def __init__(self, where: str, reason: str, hint: str = "") -> None:
        super().__init__(f"{where}: {reason}{hint}")
        self.reason, self.hint = reason, hint


class EndpointClient:
    """Posts JSON to paths below a base URL such as http://127.0.0.1:8000/v1. Thread-safe.

    Args:
        url: the base URL.
        key_env: environment variable with the key. If it is set, the key is sent as a bearer token.
            The key is never logged or saved.
        timeout: seconds for one try.
        retries: more tries after a failed connection or status 408, 429 or 5xx, with growing waits.
            A Retry-After header is waited for in full.
        fields: names of request fields that differ on this server.

    Raises:
        InvalidInputError: the URL is not http(s), or the key cannot be one.
    """

    def __init__(
        self,
        url: str,
        *,
        key_env: str = "",
        timeout: float = 120.0,
        retries: int = 5,
        fields: RequestFields | None = None,
    ) -> None:
        check_url(url, "endpoint", "http://127.0.0.1:8000/v1")
        self.url = url.rstrip("/")
        self._retries = retries
        self._fields = fields or RequestFields()
        key = key_of(key_env)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(
            timeout=timeout, headers=headers, limits=httpx.Limits(max_connections=512)
        )

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The JSON object of the response.

        Raises:
            RequestRefusedError: the server refuses this request (a status of REFUSED).
            RemoteServiceError: no response after all tries, another status than 200, or a response
                that is not a JSON object.
        """
        where = f"endpoint {shown_url(self.url).rstrip('/')}{path}"
        for attempt in range(self._retries + 1):
            problem, wait = "", min(0.5 * 2**attempt, LONGEST_WAIT) * random.uniform(0.5, 1.0)
            try:
                response = self._client.post(f"{self.url}{path}", json=self._fields.apply(body))
            except httpx.TransportError as error:
                timed_out = isinstance(error, httpx.TimeoutException)
                reason = "no response in time" if timed_out else str(error) or type(error).__name__
                problem = f"{reason}; is the server running?"
            else:
                content = _json(response)
                status = _status(response, content)
                if status == 200:
                    if isinstance(content, dict):
                        return content
                    got = _line(response.text)[:200]
                    raise RemoteServiceError(f"{where}: expected a JSON object, got {got!r}")
                message = _message(response, content)
                problem = f"status {status}: {message}"
                if status in REFUSED:
                    raise RequestRefusedError(where, problem, self._fields.hint(message, body))
                if status == 404 and not self.url.endswith("/v1"):
                    problem += "; the address of most servers ends in /v1"
                if status not in (408, 429) and status < 500:
                    break
                asked = _retry_after(response)
                if asked > LONGEST_RETRY_AFTER:
                    problem += f" (it asks to wait {asked:g} s)"
                    break
                wait = max(wait, asked)
            if attempt < self._retries:
                time.sleep(wait)
        raise RemoteServiceError(f"{where}: {problem}")

    def is_vllm(self) -> bool:
        """Whether the server's list of models says that vLLM serves them."""
        try:
            response = self._client.get(f"{self.url}/models", timeout=PROBE_TIMEOUT)
            models = response.json().get("data") if response.status_code == 200 else None
        except (httpx.TransportError, ValueError, AttributeError):
            return False
        return isinstance(models, list) and any(
            isinstance(model, dict) and model.get("owned_by") == "vllm" for model in models
        )

    def close(self) -> None:
        """Close all connections."""
        self._client.close()


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None


def _status(response: httpx.Response, content: Any) -> int:
    """The status, also where a gateway sends 200 with `{"error": {"code": 429}}`."""
    if response.status_code == 200 and isinstance(content, dict) and not content.get("choices"):
        error = content.get("error")
        code = error.get("code") if isinstance(error, dict) else None
        if isinstance(code, int) and 400 <= code < 600:
            return code
        if error:
            return 400
    return response.status_code


def _message(response: httpx.Response, content: Any) -> str:
    """The server's message in one line: of OpenAI's error object, or the body."""
    error = content.get("error") if isinstance(content, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    text = message if isinstance(message, str) and message else response.text
    return _line(text)[:_MESSAGE_CHARACTERS]


def _line(text: str) -> str:
    return " ".join(without_secrets(text).split())


def _retry_after(response: httpx.Response) -> float:
    """The Retry-After header in seconds; 0 if it is missing or a date."""
    try:
        seconds = float(response.headers.get("retry-after", ""))
    except ValueError:
        return 0.0
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0

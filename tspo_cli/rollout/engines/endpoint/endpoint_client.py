"""Requests to an OpenAI-compatible server, repeated where another try may help."""

from __future__ import annotations

import os
import random
import time
from typing import Any

import httpx

from tspo_cli.config.urls import check_url
from tspo_cli.errors import RemoteServiceError

_LONGEST_WAIT = 30.0
_SHORT = 10.0


class EndpointClient:
    """Posts JSON below a base URL such as http://127.0.0.1:8000/v1. Safe to use from several
    threads.

    Args:
        key_env: environment variable with the key, sent as a bearer token where it is set; the key
        is never written. retries: further tries after a failed connection, status 408, 429 or 5xx,
        with growing waits.

    Raises:
        InvalidInputError: the URL is not http(s).
    """

    def __init__(
        self, url: str, *, key_env: str = "", timeout: float = 120.0, retries: int = 5
    ) -> None:
        check_url(url, "endpoint", "http://127.0.0.1:8000/v1")
        self.url = url.rstrip("/")
        self._retries = retries
        key = os.environ.get(key_env, "") if key_env else ""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(
            timeout=timeout, headers=headers, limits=httpx.Limits(max_connections=512)
        )

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The JSON object that the server answers with.

        Raises:
            RemoteServiceError: no answer after all tries, another status than 200, or something
            else than an object.
        """
        for attempt in range(self._retries + 1):
            problem, wait = "", min(0.5 * 2**attempt, _LONGEST_WAIT)
            try:
                response = self._client.post(f"{self.url}{path}", json=body)
            except httpx.TransportError as error:
                timed_out = isinstance(error, httpx.TimeoutException)
                problem = "no answer in time" if timed_out else str(error) or type(error).__name__
            else:
                if response.status_code == 200:
                    return self._object(path, response)
                problem = f"status {response.status_code}: {' '.join(response.text.split())[:300]}"
                if response.status_code not in (408, 429) and response.status_code < 500:
                    break
                asked = response.headers.get("retry-after", "")
                wait = min(float(asked), _LONGEST_WAIT) if asked.isdigit() else wait
            if attempt < self._retries:
                time.sleep(wait * random.uniform(0.5, 1.0))
        raise RemoteServiceError(f"endpoint {self.url}{path}: {problem}")

    def is_vllm(self) -> bool:
        """Whether the server says that vLLM serves its models."""
        try:
            answer = self._client.get(f"{self.url}/models", timeout=_SHORT)
            models = answer.json().get("data") if answer.status_code == 200 else None
        except (httpx.TransportError, ValueError, AttributeError):
            return False
        return isinstance(models, list) and any(
            isinstance(one, dict) and one.get("owned_by") == "vllm" for one in models
        )

    def close(self) -> None:
        """Close pooled connections."""
        self._client.close()

    def _object(self, path: str, response: httpx.Response) -> dict[str, Any]:
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise RemoteServiceError(
                f"endpoint {self.url}{path}: expected a JSON object, got {response.text[:200]!r}"
            )
        return answer


def first_choice(answer: dict[str, Any], url: str) -> dict[str, Any]:
    """The first of `choices`. Raises RemoteServiceError where there is none."""
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise RemoteServiceError(
            f'endpoint {url}: expected "choices" in the answer, got {str(answer)[:200]}'
        )
    return choices[0]

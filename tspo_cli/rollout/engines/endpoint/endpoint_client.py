"""An HTTP client of OpenAI-compatible servers, with retries."""

from __future__ import annotations

import os
import random
import time
from typing import Any

import httpx

from tspo_cli.config.urls import check_url
from tspo_cli.errors import RemoteServiceError

LONGEST_WAIT = 30.0
"""Seconds between two tries, at most."""
PROBE_TIMEOUT = 10.0
"""Seconds to wait for the list of models."""


class EndpointClient:
    """Posts JSON to paths below a base URL such as http://127.0.0.1:8000/v1. Thread-safe.

    Args:
        url: the base URL.
        key_env: environment variable with the key. If it is set, the key is sent as a bearer token.
            The key is never logged or saved.
        timeout: seconds for one try.
        retries: more tries after a failed connection or status 408, 429 or 5xx, with growing waits.

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
        """The JSON object of the response.

        Raises:
            RemoteServiceError: no response after all tries, a status other than 200, or a response
                that is not a JSON object.
        """
        for attempt in range(self._retries + 1):
            problem, wait = "", min(0.5 * 2**attempt, LONGEST_WAIT)
            try:
                response = self._client.post(f"{self.url}{path}", json=body)
            except httpx.TransportError as error:
                timed_out = isinstance(error, httpx.TimeoutException)
                problem = "no response in time" if timed_out else str(error) or type(error).__name__
            else:
                if response.status_code == 200:
                    return self._object(path, response)
                problem = f"status {response.status_code}: {' '.join(response.text.split())[:300]}"
                if response.status_code not in (408, 429) and response.status_code < 500:
                    break
                retry_after = response.headers.get("retry-after", "")
                wait = min(float(retry_after), LONGEST_WAIT) if retry_after.isdigit() else wait
            if attempt < self._retries:
                time.sleep(wait * random.uniform(0.5, 1.0))
        raise RemoteServiceError(f"endpoint {self.url}{path}: {problem}")

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

    def _object(self, path: str, response: httpx.Response) -> dict[str, Any]:
        try:
            content = response.json()
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise RemoteServiceError(
                f"endpoint {self.url}{path}: expected a JSON object, got {response.text[:200]!r}"
            )
        return content


def first_choice(response: dict[str, Any], url: str) -> dict[str, Any]:
    """The first of the response's `choices`. Raises RemoteServiceError if there is none."""
    choices = response.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise RemoteServiceError(
            f'endpoint {url}: expected "choices" in the response, got {str(response)[:200]}'
        )
    return choices[0]

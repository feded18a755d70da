"""An HTTP client of OpenAI-compatible servers, with retries."""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass
from typing import Any

import httpx

from tspo_cli.config.urls import below, check_url, shown_url
from tspo_cli.errors import InvalidInputError, RemoteServiceError
from tspo_cli.retrieval.remote.answer_body import ACCEPTED, read_body
from tspo_cli.retrieval.remote.patience import Notices
from tspo_cli.retrieval.remote.timed_transport import (
    end_requests_at,
    heed_deadlines,
    no_cookies,
    usable_proxies,
)
from tspo_cli.rollout.engines.endpoint.request_fields import RequestFields
from tspo_cli.text.foreign_json import parse_foreign
from tspo_cli.text.repeated_keys import RepeatedKeyError
from tspo_cli.text.secrets import EXPECTED_VARIABLE, is_variable, key_of, without_secrets

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
_EXCERPT_BYTES = 1 << 16


class RequestRefusedError(RemoteServiceError):
    """The server refuses this request and may answer others.

    `reason` is the server's message. `hint` is the setting that helps if it refuses a field.
    """

    def __init__(self, where: str, reason: str, hint: str = "") -> None:
        super().__init__(f"{where}: {reason}{hint}")
        self.reason, self.hint = reason, hint


class UnansweredError(RemoteServiceError):
    """The server gave no response in time, or status 5xx, after all tries. It may answer others."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a server sent. `content` is its JSON, None where it is none; `text` what it looks like.
    `unread` says why a body could not be read.
    """

    status: int
    content: Any
    text: str
    retry_after: float = 0.0
    unread: str = ""


class EndpointClient:
    """Posts JSON to paths below a base URL such as http://127.0.0.1:8000/v1. Thread-safe.

    Args:
        url: the base URL.
        key_env: environment variable with the key. If it is set, the key is sent as a bearer token.
            The key is never logged or saved.
        timeout: seconds for one try, to the last byte of its response.
        retries: more tries after a failed connection, a response that is not a JSON object, or
            status 408, 429 or 5xx, with growing waits. A Retry-After header is waited for in full.
        fields: names of request fields that differ on this server, and the section of an experiment
            file that sets it, which errors name.

    Raises:
        InvalidInputError: the URL is not http(s), or the key cannot be one, or the name of its
            variable, or of a proxy that the environment names.
        MissingResourceError: no package for such a proxy.
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
        self._fields = fields or RequestFields()
        check_url(url, self._fields.section, "http://127.0.0.1:8000/v1")
        self.url = below(url, "")
        self._retries = retries
        if key_env and not is_variable(key_env):
            raise InvalidInputError(f"{self._fields.section}.key_env: {EXPECTED_VARIABLE}")
        key = key_of(key_env)
        self._key_hint = _key_hint(f"{self._fields.section}.key_env", key_env, bool(key))
        headers = ACCEPTED | ({"Authorization": f"Bearer {key}"} if key else {})
        self._timeout = timeout
        # Of one request with all its attempts, and the waits between them.
        self._longest = timeout * (retries + 1) + sum(map(_pause, range(retries)))
        self._notices = Notices()
        limits = httpx.Limits(max_connections=512)
        with usable_proxies():
            client = httpx.Client(headers=headers, limits=limits, cookies=no_cookies())
        self._client = heed_deadlines(client)

    def post(
        self, path: str, body: dict[str, Any], *, retries: int | None = None
    ) -> dict[str, Any]:
        """The JSON object of the response. `retries`: other than those of the client.

        Raises:
            RequestRefusedError: the server refuses this request (a status of REFUSED).
            UnansweredError: no response in time, or status 5xx, after all tries.
            RemoteServiceError: no JSON object after all tries, or another status than 200.
        """
        where = f"{self._fields.section} {shown_url(self.url).rstrip('/')}{path}"
        where += f" (model {body['model']})" if body.get("model") else ""
        retries = self._retries if retries is None else retries
        for attempt in range(retries + 1):
            problem, wait = "", _pause(attempt) * random.uniform(0.5, 1.0)
            of_request = False
            try:
                with self._notices.asking(where, self._longest):
                    answer = self._answer("POST", path, self._timeout, self._fields.apply(body))
            except httpx.TransportError as error:
                timed_out = isinstance(error, httpx.TimeoutException)
                reason = "no response in time" if timed_out else _line(str(error))
                problem = f"{reason or type(error).__name__}; is the server running?"
                of_request = timed_out
            else:
                status = _status(answer)
                message = answer.unread or _message(answer)
                problem = f"status {status}: {message}"
                if status == 200:
                    if isinstance(answer.content, dict):
                        self._notices.answered(where)
                        return answer.content
                    problem = answer.unread or f"expected a JSON object, got {answer.text[:200]!r}"
                if status in REFUSED:
                    raise RequestRefusedError(where, problem, self._fields.hint(message, body))
                if status in (401, 403):
                    problem += self._key_hint
                if status == 404 and not shown_url(self.url).endswith("/v1"):
                    problem += "; the address of most servers ends in /v1"
                if 300 <= status < 400:
                    problem += "; a redirect is not followed"
                if status not in (200, 408, 429) and status < 500:
                    break
                if answer.retry_after > LONGEST_RETRY_AFTER:
                    problem += f" (it asks to wait {answer.retry_after:g} s)"
                    break
                of_request = status >= 500
                wait = max(wait, answer.retry_after)
            if attempt < retries:
                self._notices.failed(f"{where}: {problem}", self._longest)
                time.sleep(wait)
        raise (UnansweredError if of_request else RemoteServiceError)(f"{where}: {problem}")

    def is_vllm(self) -> bool:
        """Whether the server's list of models says that vLLM serves them."""
        try:
            answer = self._answer("GET", "/models", PROBE_TIMEOUT)
        except httpx.TransportError:
            return False
        listed = answer.content if answer.status == 200 else None
        models = listed.get("data") if isinstance(listed, dict) else None
        return isinstance(models, list) and any(
            isinstance(model, dict) and model.get("owned_by") == "vllm" for model in models
        )

    def _answer(
        self, method: str, path: str, timeout: float, body: dict[str, Any] | None = None
    ) -> _Answer:
        """One request. Raises httpx.TransportError: no whole response within `timeout` seconds."""
        end_requests_at(time.monotonic() + timeout)
        address = below(self.url, path)
        content, unread = b"", ""
        with self._client.stream(method, address, json=body, timeout=timeout) as response:
            try:
                content = read_body(response)
            except httpx.DecodingError as error:
                unread = f"cannot decode its response ({_line(str(error))})"
            except RemoteServiceError as error:
                unread = str(error)
        try:
            value = parse_foreign(content)
        except RepeatedKeyError as error:
            value, unread = None, f'its JSON has the key "{error}" twice'
        except ValueError:
            value = None
        text = _line(content[:_EXCERPT_BYTES].decode("utf-8", "replace"))
        return _Answer(response.status_code, value, text, _retry_after(response), unread)

    def close(self) -> None:
        """Close all connections."""
        self._client.close()


def _pause(attempt: int) -> float:
    """The longest wait after the attempt of this number, from 0."""
    return min(0.5 * 2 ** min(attempt, 30), LONGEST_WAIT)


def _status(answer: _Answer) -> int:
    """The status, also where a gateway sends 200 with `{"error": {"code": 429}}`, or with the error
    in place of a choice.
    """
    error = _error(answer.content)
    if answer.status != 200 or not error:
        return answer.status
    code = error.get("code") if isinstance(error, dict) else None
    told = (status for status in range(400, 600) if code in (status, str(status)))
    return next(told, answer.status if answer.content.get("choices") else 400)


def _error(content: Any) -> Any:
    """The error in a response, or in its first choice; None without one."""
    if not isinstance(content, dict):
        return None
    choices = content.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    return content.get("error") or (choice.get("error") if isinstance(choice, dict) else None)


def _key_hint(setting: str, variable: str, is_set: bool) -> str:
    """What to do where the server wants a key, or another one."""
    if is_set:
        return f"; the key is that of the environment variable {variable} ({setting})"
    named = f" ({setting} names {variable}, which is not set)" if variable else ""
    return f"; no key was sent{named}: set {setting} to the environment variable that has it"


def _message(answer: _Answer) -> str:
    """The server's message in one line: of OpenAI's error object, or the body."""
    error = _error(answer.content)
    message = error.get("message") if isinstance(error, dict) else error
    text = _line(message) if isinstance(message, str) and message else answer.text
    return text[:_MESSAGE_CHARACTERS]


def _line(text: str) -> str:
    return " ".join(without_secrets(text).split())


def _retry_after(response: httpx.Response) -> float:
    """The Retry-After header in seconds; 0 if it is missing or a date."""
    try:
        seconds = float(response.headers.get("retry-after", ""))
    except ValueError:
        return 0.0
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0

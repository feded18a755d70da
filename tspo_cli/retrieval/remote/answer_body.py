"""The body of a stranger's answer: not larger than an answer can be, nor of more parts, nor packed
several times.
"""

from __future__ import annotations

import httpx

from tspo_cli.errors import RemoteServiceError
from tspo_cli.retrieval.remote.read_answer import MalformedAnswerError, excerpt

MAX_ANSWER = 64 << 20
"""Bytes of one answer. 256 queries with 100 passages of a kilobyte are 25 MB."""
MAX_PARTS = 4_000_000
"""Commas of one answer. Of empty lists alone, 64 MiB of JSON would take 1.7 GB of memory."""
ACCEPTED = {"Accept-Encoding": "gzip, deflate"}
"""The header of a request whose answer `read_body` reads."""
_ENCODINGS = {"", "identity", "gzip", "deflate"}


def read_body(response: httpx.Response) -> bytes:
    """The decoded body.

    Raises:
        MalformedAnswerError, RemoteServiceError: it is encoded more than once, which may be a bomb,
            or too large.
        httpx.HTTPError: it did not arrive, or cannot be decoded.
    """
    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding not in _ENCODINGS:
        raise MalformedAnswerError(f"its answer has the encoding {excerpt(encoding)!r}")
    chunks, size = [], 0
    for chunk in response.iter_bytes():
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_ANSWER:
            raise RemoteServiceError(f"its answer has more than {MAX_ANSWER >> 20} MiB")
    body = b"".join(chunks)
    if body.count(b",") > MAX_PARTS:
        raise RemoteServiceError(f"its answer has more than {MAX_PARTS:,} parts")
    return body

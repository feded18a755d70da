"""What a client makes of a server that misbehaves: it waits, or the search has failed with a
reason. It never crashes, and nothing malformed becomes a passage.
"""

from __future__ import annotations

import re
import time

import pytest

from tests.retrieval.remote.faulty_server import MODES, Mode, answer, faulty
from tspo_cli.errors import RemoteServiceError
from tspo_cli.retrieval.remote.http_client import HttpRetriever
from tspo_cli.retrieval.remote.patience import Notices, ServiceUnavailableError
from tspo_cli.retrieval.types import SearchResult

BY_NAME = {mode.name: mode for mode in MODES}


def client(url: str, **options: float) -> HttpRetriever:
    settings = {"timeout": 5, "deadline": 20, "first_wait": 0.01} | options
    return HttpRetriever([url], **settings)  # type: ignore[arg-type]


def patience(mode: Mode) -> float:
    """Seconds for one attempt: few where the server makes its client wait."""
    return 0.15 if mode.name in ("hang", "drip in the head", "100 for ever") else 5


def modes(*outcomes: str) -> pytest.MarkDecorator:
    chosen = [mode for mode in MODES if mode.outcome in outcomes]
    return pytest.mark.parametrize("mode", chosen, ids=lambda mode: mode.name)


@modes("answer")
def test_what_is_right_is_read(mode: Mode) -> None:
    with faulty(mode) as server:
        (result,) = client(server.url).search(["bridge"], 2)
    assert result.error is None
    assert len(result.hits) <= 2
    assert server.requests == 1


@modes("failed")
def test_a_malformed_answer_is_a_failed_search_with_a_reason(mode: Mode) -> None:
    with faulty(mode) as server:
        (result,) = client(server.url).search(["bridge"], 2)
    assert result.hits == ()
    assert (result.error or "").startswith(f"retriever {server.url}/retrieve: ")
    assert mode.reason in (result.error or "")
    assert "\n" not in (result.error or "")
    assert server.requests == 1, "another attempt would get the same"


@modes("waits", "malformed")
def test_what_may_pass_is_asked_again(mode: Mode) -> None:
    with faulty(mode, faults=1) as server:
        start = time.monotonic()
        (result,) = client(server.url, timeout=patience(mode)).search(["bridge"], 2)
    assert [hit.id for hit in result.hits] == ["p1"]
    assert time.monotonic() - start < 5
    assert server.requests == 2


@modes("waits")
def test_a_server_that_never_answers_is_an_outage(mode: Mode) -> None:
    with faulty(mode) as server:
        start = time.monotonic()
        with pytest.raises(ServiceUnavailableError) as raised:
            client(server.url, deadline=0.3, timeout=patience(mode)).search(["bridge"], 2)
        waited = time.monotonic() - start
    message = str(raised.value)
    assert message.startswith(f"retriever {server.url}/retrieve: ")
    assert mode.reason in message
    assert "waited" in message
    assert message.endswith("start the server, then go on with --resume")
    assert 0.25 < waited < 2
    assert server.requests >= 2


@modes("malformed")
def test_an_answer_that_stays_malformed_is_a_failed_search(mode: Mode) -> None:
    with faulty(mode) as server:
        (result,) = client(server.url, retries=2).search(["bridge"], 2)
    assert result.hits == ()
    assert mode.reason in (result.error or "")
    assert server.requests == 3


@modes("locked")
def test_a_wrong_token_is_not_tried_again(mode: Mode) -> None:
    with faulty(mode) as server:
        with pytest.raises(ServiceUnavailableError, match=f"{mode.reason}.*token_file"):
            client(server.url).search(["bridge"], 2)
        assert server.requests == 1


def test_one_malformed_list_fails_its_query_alone() -> None:
    lists = {"result": [[{"contents": "a"}], [{"contents": None}], []]}
    with faulty(Mode("mixed", "answer", answer(lists))) as server:
        first, second, third = client(server.url).search(["a", "b", "c"], 2)
    assert [hit.contents for hit in first.hits] == ["a"]
    assert (second.hits, third) == ((), SearchResult())
    assert "got null" in (second.error or "")


def test_a_query_that_breaks_a_sound_server_is_a_failed_search() -> None:
    """A run that ends at such a query would end there again with --resume."""
    for name in ("500", "hang"):
        with faulty(BY_NAME[name], faults=2) as server:
            retriever = client(server.url, timeout=patience(BY_NAME[name]), retries=1)
            (result,) = retriever.search(["bridge"], 2)
        assert BY_NAME[name].reason in (result.error or "")
        assert server.requests == 3, "the third asks for another query"


def test_a_large_passage_is_allowed_where_the_limit_says_so() -> None:
    with faulty(BY_NAME["a passage of 10 MB"]) as server:
        (result,) = client(server.url, max_passage_chars=10_000_000).search(["bridge"], 2)
    assert len(result.hits[0].contents) == 10_000_000


@modes("failed", "malformed", "locked", "waits")
def test_a_start_with_such_a_server_is_one_clear_line(mode: Mode) -> None:
    with faulty(mode) as server, pytest.raises(RemoteServiceError) as raised:
        client(server.url, timeout=patience(mode), deadline=0.3).check()
    assert str(raised.value).startswith(f"retriever {server.url}/retrieve: ")
    assert "\n" not in str(raised.value)


def test_a_server_that_opens_its_index_is_waited_for_at_the_start() -> None:
    with faulty(BY_NAME["503"], faults=3) as server:
        client(server.url).check()
    assert server.requests == 4


def test_users_and_passwords_of_a_url_are_not_shown() -> None:
    with faulty(BY_NAME["503"]) as server:
        retriever = client(server.url.replace("://", "://ada:secret@"), retries=1)
        with pytest.raises(RemoteServiceError, match="status 503") as raised:
            retriever.check()
        with pytest.raises(RemoteServiceError, match="status 503") as waited:
            retriever.search(["bridge"], 1)
    for error in (raised, waited):
        assert "secret" not in str(error.value)
        assert "ada" not in str(error.value)


def test_waiting_is_said_every_few_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tspo_cli.retrieval.remote.patience._NOTICE_AFTER", 0.05)
    monkeypatch.setattr("tspo_cli.retrieval.remote.patience._NOTICE_EVERY", 0.15)
    with faulty(BY_NAME["503"], faults=5) as server:
        client(server.url, first_wait=0.05).search(["bridge"], 1)
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 4
    said = re.compile(r"status 503; asked again for [0-3] s now, up to 20 s$")
    assert all(said.search(line) for line in lines[:-1])
    assert lines[-1].startswith(f"retriever {server.url}/retrieve: answers again after ")


def test_waiting_beyond_one_search_is_said_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    """Malformed answers fail a search, and the next one waits again: no wait is above its limit."""
    notices = Notices(failing_since=time.monotonic() - 47)
    notices.failed("retriever: expected JSON", 10)
    line = capsys.readouterr().err
    assert line == (
        "retriever: expected JSON; no right answer for 47 s now, each request waits up to 10 s\n"
    )


@pytest.mark.parametrize("name", ["500", "hang", "HTML", "a list too few", "400", "422"])
@pytest.mark.parametrize("wrong", [{"q3"}, {"q0", "q7"}])
def test_a_query_that_a_server_fails_at_fails_no_other(name: str, wrong: set[str]) -> None:
    """Searches of many rollouts share a request."""
    queries = [f"q{number}" for number in range(8)]
    with faulty(BY_NAME[name], only=wrong) as server:
        retriever = client(server.url, timeout=patience(BY_NAME[name]))
        results = retriever.search(queries, 2)
    failed = {
        query for query, result in zip(queries, results, strict=True) if result.error is not None
    }
    assert failed == wrong
    errors = [result.error for result in results if result.error is not None]
    assert all(BY_NAME[name].reason in error for error in errors)


def test_a_server_that_fails_at_everything_is_not_asked_for_every_query() -> None:
    for name in ("500", "HTML"):
        with faulty(BY_NAME[name]) as server:
            retriever = client(server.url, retries=2)
            if name == "500":
                with pytest.raises(ServiceUnavailableError):
                    retriever.search([f"q{number}" for number in range(64)], 2)
            else:
                results = retriever.search([f"q{number}" for number in range(64)], 2)
                assert all(result.error for result in results)
        assert server.requests <= 6

"""The server keeps to its own OpenAPI document, whatever it is sent."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.retrieval.server.live_server import serving, small_searcher

MAX_K, MAX_QUERIES = 7, 5
quick = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    searcher = small_searcher(tmp_path_factory.mktemp("interface"))
    with (
        serving(searcher, max_k=MAX_K, max_queries=MAX_QUERIES) as url,
        httpx.Client(base_url=url, trust_env=False) as opened,
    ):
        yield opened


@pytest.fixture(scope="module")
def document(client: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/openapi.json").json()
    return found


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


def allowed(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that a schema of the document allows. It fails for a form that it does not know."""
    if "anyOf" in schema:
        return st.one_of([allowed(part) for part in schema["anyOf"]])
    kind = schema["type"]
    if kind == "array":
        return st.lists(allowed(schema["items"]), max_size=MAX_QUERIES + 2)
    if kind == "integer":
        return st.integers(min_value=schema.get("minimum"), max_value=2 * MAX_K)
    simple = {"null": st.none(), "boolean": st.booleans(), "string": st.text(max_size=30)}
    return simple[kind]


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a value is one that the schema allows."""
    if "anyOf" in schema:
        return any(fits(value, part) for part in schema["anyOf"])
    kinds = {"null": type(None), "boolean": bool, "string": str, "array": list, "integer": int}
    if not isinstance(value, kinds[schema["type"]]):
        return False
    if schema["type"] == "integer":
        return not isinstance(value, bool) and value >= schema.get("minimum", value)
    items = schema.get("items") if schema["type"] == "array" else None
    return items is None or all(fits(part, items) for part in value)


def matches(body: dict[str, Any], form: dict[str, Any]) -> bool:
    """Whether a body has what one of the forms of a request requires."""
    return all(name in body for name in form["required"]) and all(
        fits(body[name], part) for name, part in form["properties"].items()
    )


def request_schema(document: dict[str, Any]) -> dict[str, Any]:
    operation = document["paths"]["/retrieve"]["post"]
    found: dict[str, Any] = operation["requestBody"]["content"]["application/json"]["schema"]
    return found


def check_answer(answer: httpx.Response, document: dict[str, Any], queries: int | None) -> None:
    assert str(answer.status_code) in document["paths"]["/retrieve"]["post"]["responses"]
    body = answer.json()
    if answer.status_code != 200:
        assert answer.status_code < 500
        assert list(body) == ["detail"]
        assert isinstance(body["detail"], str)
        return
    assert body.keys() <= {"result", "errors"}
    assert all(isinstance(hits, list) and len(hits) <= MAX_K for hits in body["result"])
    assert queries is None or len(body["result"]) == queries
    assert len(body.get("errors", body["result"])) == len(body["result"])


@quick
@given(data=st.data())
def test_what_the_document_allows_is_answered(
    client: httpx.Client, document: dict[str, Any], data: st.DataObject
) -> None:
    schema = request_schema(document)
    fields = {name: allowed(part) for name, part in schema["properties"].items()}
    body = data.draw(st.fixed_dictionaries({}, optional=fields))
    answer = client.post("/retrieve", json=body)
    queries = body.get("queries") if body.get("queries") is not None else body.get("query")
    count = len(queries) if isinstance(queries, list) else 1
    check_answer(answer, document, count)
    counts = {body[name] for name in ("topk", "k", "top_k") if body.get(name) is not None}
    one_form = sum(matches(body, form) for form in schema["oneOf"]) == 1
    within = count <= MAX_QUERIES and len(counts) <= 1 and all(k <= MAX_K for k in counts)
    assert (answer.status_code == 200) == (one_form and within), body


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan, [math.inf], {"a": math.nan}])
@pytest.mark.parametrize("name", ["queries", "query", "topk", "k", "top_k", "return_scores"])
def test_a_number_that_json_does_not_have_is_refused(
    client: httpx.Client, document: dict[str, Any], name: str, number: object
) -> None:
    answer = client.post("/retrieve", content=json.dumps({name: number}).encode())
    check_answer(answer, document, None)
    assert answer.status_code == 422, answer.text


@quick
@given(data=st.data())
def test_what_the_document_forbids_is_refused(
    client: httpx.Client, document: dict[str, Any], data: st.DataObject
) -> None:
    properties = request_schema(document)["properties"]
    name = data.draw(st.sampled_from(sorted(properties)))
    value = data.draw(anything.filter(lambda value: not fits(value, properties[name])))
    # `json.dumps` writes NaN and Infinity. httpx does not send them, other clients do.
    body = json.dumps({"query": "lake", name: value}).encode()
    answer = client.post("/retrieve", content=body)
    check_answer(answer, document, None)
    text_or_number = isinstance(value, str | int | float) and not isinstance(value, bool)
    if not (text_or_number and name in ("topk", "k", "top_k", "return_scores")):
        assert answer.status_code == 422, (name, value)


@quick
@given(raw=st.binary(max_size=60) | anything.map(lambda value: json.dumps(value).encode()))
def test_no_body_is_a_failure_of_the_server(
    client: httpx.Client, document: dict[str, Any], raw: bytes
) -> None:
    check_answer(client.post("/retrieve", content=raw), document, None)


@quick
@given(
    method=st.sampled_from(["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"]),
    path=st.sampled_from(["/retrieve", "/healthz", "/readyz", "/metrics", "/openapi.json", "/no"])
    | st.text(max_size=20).map(lambda text: "/" + text),
)
def test_no_path_or_method_is_a_failure_of_the_server(
    client: httpx.Client, method: str, path: str
) -> None:
    try:
        answer = client.request(method, client.base_url.copy_with(path=path))
    except httpx.InvalidURL:
        answer = client.request(method, "/no")
    assert answer.status_code < 500

"""The forms of records in run directories and indexes, checked where they are read: a directory may
come from anybody.

A form says which keys a record must have and what every key that is read may be. Keys that it does
not name are left alone: other versions write others. A record is returned as it was read.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, NotRequired, Required

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    InstanceOf,
    TypeAdapter,
    ValidationError,
    with_config,
)
from typing_extensions import TypedDict

from tspo_cli.console import counted
from tspo_cli.errors import InvalidInputError

# Not `str`: pydantic refuses half of a surrogate pair, which a model can write.
Text = InstanceOf[str]
Count = Annotated[int, Field(ge=0, lt=2**53)]
Share = Annotated[float, Field(ge=0, le=1)]
Measure = Annotated[float, Field(allow_inf_nan=False)]
_STRICT = with_config(ConfigDict(strict=True))


@_STRICT
class _Sampled(TypedDict, total=False):
    questions_per_step: Count
    group_size: Count


@_STRICT
class _Trained(TypedDict, total=False):
    steps: Count
    processes: Count


@_STRICT
class _Optimised(TypedDict, total=False):
    lr: Measure | list[Measure]


@_STRICT
class _Configured(TypedDict, total=False):
    kind: Text
    seed: int
    model: Required[dict[Text, Any]]
    rollout: _Sampled
    train: _Trained
    optimizer: _Optimised
    credit: dict[Text, Any]
    retriever: dict[Text, Any]
    eval: dict[Text, Any]


@_STRICT
class _Status(TypedDict, total=False):
    state: Required[Text]
    step: Required[Count]
    attempt: Count
    warnings: list[Text]
    stopped_early: Text | None


@_STRICT
class _Environment(TypedDict, total=False):
    versions: dict[Text, Text | None]
    python: Text
    platform: Text
    cpu_count: Count | None
    gpus: list[Text]
    git: Text | None


@_STRICT
class _Step(TypedDict, total=False):
    step: Required[Count]


@_STRICT
class _Scores(TypedDict, total=False):
    dataset: Required[Text]
    method: Text
    n: Required[Count]
    k: Count | None
    em: Required[Share | None]
    em_low: Share | None
    em_high: Share | None
    f1: Share | None
    sub_em: Share | None
    answer_in_retrieved: Share | None
    gold_recall: Share | None
    searches: Measure | None
    invalid_share: Share | None
    no_answer_share: Share | None
    failed: Count
    served_models: dict[Text, Count]
    benchmark_size: Count | None
    signature: Text | None
    answer: Text
    digests: dict[Text, Text | None] | None


@_STRICT
class _Summary(TypedDict, total=False):
    results: Required[list[_Scores]]
    method: Text
    model: Text
    command: Text
    config: _Configured | None
    environment: _Environment | None


@_STRICT
class _Passage(TypedDict, total=False):
    id: Required[Text]
    contents: Required[Text]
    score: float | None


@_STRICT
class _Turn(TypedDict, total=False):
    kind: Required[Text]
    text: Required[Text]
    query: Text | None
    answer: Text | None
    tokens: Count
    logprob: float | None
    passages: list[_Passage]
    feedback: Text
    feedback_tokens: Count
    search_error: Text | None
    call_error: Text
    ignored_calls: Count
    thought: Text
    served_as: Text


_Class = TypedDict("_Class", {"class": Text | None}, total=False)


@_STRICT
class _Branch(TypedDict, total=False):
    parent: Required[Count]
    turns: Required[Count]
    rank: Required[Annotated[int, Field(ge=0, le=10**6)]]
    candidates: Required[Annotated[int, Field(ge=0, le=10**6)]]
    uncertainty: Required[Annotated[float, Field(ge=-1e6, le=1e6)]]


def _ranked(branch: _Branch) -> _Branch:
    if branch["rank"] > branch["candidates"]:
        raise ValueError(
            f"rank {branch['rank']} of {counted(branch['candidates'], 'candidate')}; expected 1 to "
            "their number, or 0 for a turn that was drawn at random"
        )
    return branch


@_STRICT
class _Rollout(_Class, total=False):
    turns: Required[list[_Turn]]
    sample: Count
    path: list[Count]
    branch: Annotated[_Branch, AfterValidator(_ranked)]
    answer: Text | None
    failed: bool
    refused: Text
    unanswered: Text
    judge: Share | None
    judge_error: Text
    prompt_tokens: Count
    outcome: Measure | None
    f1: Share | None
    first_occurrence: Count | None
    turn_rewards: list[float] | None
    advantages: list[float] | None
    gold_logprobs: list[float] | None


@_STRICT
class _Group(TypedDict, total=False):
    step: Count
    group: Required[Annotated[list[Text | int], Field(min_length=3, max_length=3)]]
    type: Text
    question: Required[Text]
    golden_answers: Required[list[Text]]
    supporting_ids: list[Text]
    group_class: Text | None
    trajectories: Required[list[_Rollout]]
    failed: list[_Rollout]


@_STRICT
class _Item(TypedDict, total=False):
    id: Required[Text | int]
    question: Required[Text]
    golden_answers: Required[list[Text]]
    supporting_ids: list[Text] | None
    gold_kind: Text
    em: Required[Share]
    f1: Share | None
    sub_em: Share | None
    trajectory: Required[_Rollout]


@_STRICT
class _Answered(_Item, total=False):
    key: Required[Text]
    data_source: Required[Text]
    type: Required[Text]
    supporting_ids: Required[list[Text]]  # type: ignore[misc]
    gold_kind: Required[Text]  # type: ignore[misc]
    answer: Required[Text | None]
    f1: Required[Share]  # type: ignore[misc]
    sub_em: Required[Share]  # type: ignore[misc]
    answer_in_retrieved: Required[Share | None]
    answer_in_shown: Share | None
    gold_recall: Required[Share | None]
    gold_precision: Required[Share | None]
    first_occurrence: Required[Count | None]
    question_answer_in_retrieved: Required[Share | None]
    question_gold_recall: Required[Share | None]
    searches: Required[Count]
    cut_observations: Count
    turns: Required[Count]
    model_turns: Count
    invalid_turns: Required[Count]
    invalid_calls: Count
    response_tokens: Required[Count]
    failed: Required[bool]
    refused: Text
    unanswered: Text
    judge: Share | None
    judge_reply: Text | None


@_STRICT
class _Verdict(TypedDict):
    reply: Text
    problem: Text
    served_as: NotRequired[Text]


@_STRICT
class _Reply(_Verdict):
    judge: Text
    key: Text


@_STRICT
class _Finished(TypedDict):
    key: Text
    record: dict[Text, Any]
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]


@_STRICT
class _Latency(TypedDict):
    mean: Measure
    p50: Measure
    p95: Measure
    sum: Measure
    items: dict[Text, Measure]


_Name = Annotated[list[Text], Field(min_length=2, max_length=2)]
_From = TypedDict("_From", {"from": Text})


@_STRICT
class _Drawn(_From):
    question: _Name
    draw: Count
    rollouts: Count
    right: Count
    signal: bool


@_STRICT
class _Questions(TypedDict):
    step: Count
    position: Count
    skipped: list[_Name]
    drawn: list[_Drawn]


@_STRICT
class _Cell(TypedDict, total=False):
    name: Required[Text]
    arm: Required[Text]
    place: Required[dict[Text, Text]]
    seed: Required[int]


@_STRICT
class _Sweep(TypedDict, total=False):
    baseline: Required[Text | None]
    grid: Required[list[Text]]
    cells: Required[list[_Cell]]


@_STRICT
class _File(TypedDict):
    bytes: Count
    sha256: Text


@_STRICT
class _Corpus(TypedDict, total=False):
    path: Required[Text]
    sha256: Required[Text]
    files: Annotated[list[Text], Field(min_length=1)]


@_STRICT
class _Manifest(TypedDict, total=False):
    kind: Required[Text]
    passages: Required[Annotated[int, Field(ge=1, lt=2**48)]]
    corpus: Required[_Corpus]
    parameters: Required[dict[Text, bool | int | Measure | Text | None]]
    encoder: Required[Text]
    encoder_sha256: Text | None
    files: Required[dict[Text, _File]]
    lines: Text
    vectors: Annotated[list[Text], Field(min_length=1)]


MANIFEST = TypeAdapter(_Manifest)
CONFIG = TypeAdapter(_Configured)
STATUS = TypeAdapter(_Status)
ENVIRONMENT = TypeAdapter(_Environment)
INPUTS = TypeAdapter(dict[Text, Text])
SCORES = TypeAdapter(_Scores)
SUMMARY = TypeAdapter(_Summary)
GROUP = TypeAdapter(_Group)
ITEM = TypeAdapter(_Item)
ANSWERED = TypeAdapter(_Answered)
VERDICT = TypeAdapter(_Verdict)
REPLY = TypeAdapter(_Reply)
FINISHED = TypeAdapter(_Finished)
EVAL_TIMINGS = TypeAdapter(dict[Text, _Latency])
QUESTIONS = TypeAdapter(_Questions)
SWEEP = TypeAdapter(_Sweep)
_STEP = TypeAdapter(_Step)
Summable = Annotated[float, Field(ge=-1e300, le=1e300)]  # so that a sum of millions has a form
_NUMBERS = TypeAdapter(dict[str, Summable | None], config=ConfigDict(strict=True))


def checked(form: TypeAdapter[Any], record: Any, where: str) -> Any:
    """`record` itself, if it has this form. `where` names the file, and the line if it has several.

    Raises:
        InvalidInputError: it does not; the message names the first wrong key.
    """
    try:
        form.validate_python(record)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        key = ".".join(str(part) for part in first["loc"] if not _is_branch(part))
        if not key and not isinstance(record, dict):
            found = type(record).__name__
            raise InvalidInputError(f"{where}: expected a JSON object, found {found}") from None
        got = f", got {first['input']!r:.40}" if isinstance(first["input"], int | float) else ""
        problem = f"{key}: {first['msg']}{got}" if key else first["msg"]
        raise InvalidInputError(f"{where}: not a record of tspo: {problem}") from None
    return record


def checked_step(record: dict[str, Any], where: str) -> dict[str, Any]:
    """A line of metrics or timings: a step, and numbers (None: not measured, which NaN and infinity
    of earlier versions become).

    Raises:
        InvalidInputError: it is none.
    """
    checked(_STEP, record, where)
    known = {name: None if _is_odd(value) else value for name, value in record.items()}
    checked(_NUMBERS, known, where)
    return known


def _is_odd(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _is_branch(part: str | int) -> bool:
    """True for what pydantic adds to the place of a value that may have several types."""
    return isinstance(part, str) and (
        part in {"float", "int", "list", "dict"} or part[:1] in "_[" or "-" in part or "[" in part
    )

"""Read passages and questions in the formats of other projects.

Passages: see `parse_passage`. Questions: those of this package, of FlashRAG and Search-R1, and the
original files of the benchmarks (see `accepted_answers`). Files: JSONL, JSON arrays, CSV, TSV,
parquet; all but parquet may be gzipped.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from tspo_cli.console import agreeing, say
from tspo_cli.data.benchmarks import benchmarks
from tspo_cli.data.corpus.passage_forms import field_names, has_text, numbered, parse_passage
from tspo_cli.data.formats.answers import (
    FIELDS,
    UNANSWERABLE,
    accepted_answers,
    is_unanswerable,
    supporting_titles,
)
from tspo_cli.data.formats.record_checks import (
    RepeatedIds,
    Row,
    ScannedRow,
    half_found,
    has_half,
    invalid,
    text_id,
    type_name,
)
from tspo_cli.data.formats.zipped import MARK, is_member
from tspo_cli.data.hub import ID_FIELDS, PREFIX, hub_name
from tspo_cli.data.question import Passage, Question
from tspo_cli.data.rows import read_rows, require_intact, scan_rows, valid_rows
from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.plain_files import made_by, require_plain, why_missing

GOLD_KINDS = ("full", "positive", "none")
QUESTION_FILES = ("questions.jsonl", "questions.jsonl.gz", "questions.parquet")
DATA_VARIABLE = "TSPO_DATA"
_MOST_COMPARED = 100
"""Names of fields that are compared with the one that is missing."""
_SPLIT_NAMES = {"questions", "train", "test", "dev", "validation", "val"}
_OWN_FIELDS = {
    "id", "question", "golden_answers", "data_source", "supporting_ids", "gold_kind", "type",
}  # fmt: skip


def read_passages(path: Path, *, distinct: bool = True) -> Iterator[Passage]:
    """Stream the passages of a corpus file in file order.

    Args:
        distinct: leave out passages that are identical to an earlier one, which is said, and
            refuse other passages with its id. This keeps all ids in memory that are not
            consecutive numbers.

    Raises:
        MissingResourceError: the file does not exist (raised by the call itself).
        InvalidInputError: a record is malformed, passages with the same id differ (the error has
            both lines), or there is no passage.
    """
    return _passages(path, numbered(path, read_rows(path)), distinct)


def _passages(path: Path, rows: Iterator[Row], distinct: bool) -> Iterator[Passage]:
    repeated = RepeatedIds()
    number = 0
    for number, record in rows:
        passage = parse_passage(path, number, record)
        earlier = repeated.earlier(passage.id, number, passage) if distinct else None
        if earlier is None:
            yield passage
        elif not earlier[1]:
            raise _duplicate(path, number, passage.id, earlier[0])
    repeated.announce(path, "passage")
    if number == 0:
        raise InvalidInputError(
            f"{path}: expected passages, got an empty file; fix: name a corpus file"
        )


def read_questions(path: Path, *, limit: int = 0, source: str = "") -> list[Question]:
    """The first `limit` questions of a file (0: all), in file order. Questions that are identical
    to an earlier one are left out, which is said. A packed file is read to its end, where its
    checksum is.

    `data_source` is that of the record, else `source`, else the name of the file, or of its folder
    for names like test.jsonl.

    Raises:
        MissingResourceError: the file does not exist.
        InvalidInputError: a record is malformed, a question has no answer, questions of a data
            source with the same id differ (the error has both lines), or there is no question.
    """
    repeated = RepeatedIds()
    questions: list[Question] = []
    for number, question in question_rows(path, source):
        earlier = repeated.earlier(question.key, number, question)
        if earlier is not None:
            if not earlier[1]:
                raise _duplicate(path, number, question.id, earlier[0])
            continue
        questions.append(question)
        if len(questions) == limit:
            require_intact(path)
            break
    repeated.announce(path, "question")
    if not questions:
        raise InvalidInputError(
            f"{path}: expected questions with an answer, got none; fix: name a question file"
        )
    return questions


def question_rows(path: Path, source: str = "") -> Iterator[tuple[int, Question]]:
    """Stream (line, question) of a file; ids may be equal. Raises as `read_questions`."""
    default_source = source or default_data_source(path)
    for number, record in valid_rows(numbered_questions(path, scan_rows(path))):
        yield number, parse_question(path, number, record, default_source)


def numbered_questions(path: Path, rows: Iterator[ScannedRow]) -> Iterator[ScannedRow]:
    """The records of a question file without those that are unanswerable, whose number is said at
    the end. If the first has no id, all get their position, from 0, which is said once; a later
    record with an id is then an error.
    """
    number_them = False
    unanswerable = 0
    for position, (number, record) in enumerate(rows):
        if isinstance(record, dict) and (number_them or position == 0):
            has_id = _identifier(record, _object(record.get("extra_info"))) is not None
            if position == 0 and not has_id:
                number_them = True
                say(f"{path}: questions have no id; their positions from 0 are their ids")
            if number_them and has_id:
                fix = "give every record an id, or none"
                yield number, invalid(path, number, "no id, as in the first record", "an id", fix)
                continue
            if number_them:
                record["id"] = _Position(position)
        if isinstance(record, dict) and is_unanswerable(record):
            unanswerable += 1
            continue
        yield number, record
    if unanswerable:
        were = agreeing(unanswerable, "question was", "questions were")
        say(f"{path}: {were} left out: {UNANSWERABLE}")


class _Position(int):
    """An id that its file does not have."""


def _fields(record: dict[str, Any]) -> str:
    return field_names(
        {name: value for name, value in record.items() if not isinstance(value, _Position)}
    )


def stem_of(path: Path) -> str:
    """The name of a file without its ending (.gz is none), nor the dots of a hidden one: dev.v2 for
    dev.v2.jsonl.gz. It is never empty.
    """
    name = path.name.lstrip(".")
    return Path(name[:-3] if name.lower().endswith(".gz") else name).stem or path.name


def default_data_source(path: Path) -> str:
    """The name of a data set whose records have none: `nq` for nq.jsonl.gz and for
    nq/test.parquet. Raises InvalidInputError for a name of the hub without a split.
    """
    if str(path).startswith(PREFIX):
        name, config, _ = hub_name(str(path))
        return (config or name).rpartition("/")[2]
    stem = stem_of(path)
    is_split = stem.partition(".")[0] in _SPLIT_NAMES
    return path.resolve().parent.name if is_split else stem


def parse_question(
    path: Path, number: int, record: dict[str, Any], default_source: str
) -> Question:
    """The question of a record in any supported format. Raises InvalidInputError."""
    extra_info = _object(record.get("extra_info"))
    question = record.get("question") or extra_info.get("question") or record.get("Question")
    given = question if question is not None else record.get("question")
    if isinstance(given, str) and not given.strip():
        raise InvalidInputError(f'{path}:{number}: "question" is empty; fix: write the question')
    if not isinstance(question, str):
        got = type_name(question) if "question" in record else f"fields {_fields(record)}"
        is_passage = "question" not in record and has_text(record)
        fix = "write the question" if not is_passage else "name a question file; this is a corpus"
        raise invalid(path, number, '"question" to be a string', got, fix)
    supporting = _string_list(
        path, number, "supporting_ids", record.get("supporting_ids"), numbers=True
    )
    gold_kind = record.get("gold_kind") or ("full" if supporting else "none")
    if gold_kind not in GOLD_KINDS:
        raise invalid(
            path,
            number,
            f'"gold_kind" to be one of {", ".join(GOLD_KINDS)}',
            repr(gold_kind),
            "correct the value",
        )
    extra = {name: value for name, value in record.items() if name not in _OWN_FIELDS}
    if titles := supporting_titles(record):
        extra["supporting_titles"] = titles
    return Question(
        id=text_id(path, number, _identifier(record, extra_info)),
        question=question,
        golden_answers=_golden_answers(path, number, record),
        data_source=_optional_text(path, number, record, "data_source").removeprefix("searchR1_")
        or default_source,
        supporting_ids=supporting,
        gold_kind=gold_kind,
        type=_optional_text(path, number, record, "type")
        or str(_object(record.get("metadata")).get("type") or ""),
        extra=extra,
    )


def _golden_answers(path: Path, number: int, record: dict[str, Any]) -> tuple[str, ...]:
    found = accepted_answers(record)
    if found is None:
        empty = next((name for name in FIELDS if name in record), None)
        names = map(str, islice(record, _MOST_COMPARED))
        near = difflib.get_close_matches("golden_answers", names, n=1)
        raise invalid(
            path,
            number,
            f'"{empty or "golden_answers"}" to hold an answer',
            "none" if empty else f"fields {_fields(record)}",
            f"rename {near[0]}" if near and not empty else "give at least one accepted answer",
        )
    answers = _string_list(path, number, "golden_answers", found)
    if not any(map(str.strip, answers)):
        raise invalid(
            path,
            number,
            '"golden_answers" to hold an answer',
            "none",
            "give at least one accepted answer",
        )
    return answers


def _string_list(
    path: Path, number: int, name: str, value: Any, *, numbers: bool = False
) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise invalid(
            path, number, f'"{name}" to be a list of strings', type_name(value), "write a list"
        )
    if numbers:
        return tuple(text_id(path, number, item, name) for item in value)
    if {*map(type, value)} <= {str} and not has_half("".join(value)):
        return tuple(value)
    for item in value:
        if not isinstance(item, str):
            raise invalid(
                path,
                number,
                f'"{name}" to be a list of strings',
                f"{type_name(item)} in it",
                "quote it",
            )
        if has_half(item):
            raise half_found(path, number)
    return tuple(value)


def _optional_text(path: Path, number: int, record: dict[str, Any], name: str) -> str:
    value = record.get(name)
    if value is not None and not isinstance(value, str):
        raise invalid(
            path, number, f'"{name}" to be a string', type_name(value), "quote it or leave it out"
        )
    return value or ""


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _identifier(record: dict[str, Any], extra_info: dict[str, Any]) -> Any:
    """`id`, `_id` (HotpotQA) or `question_id` (TriviaQA), else split and index, as in verl's
    version of the Search-R1 files.
    """
    for name in ID_FIELDS:
        if record.get(name) is not None:
            return record[name]
    index = extra_info.get("index")
    return None if index is None else f"{extra_info.get('split') or 'row'}_{index}"


def _duplicate(path: Path, number: int, identifier: str, earlier: int) -> InvalidInputError:
    return invalid(
        path,
        number,
        "ids that differ",
        f"{identifier!r} as on line {earlier}",
        "rename or remove one",
    )


def data_roots() -> list[Path]:
    """The folders with data sets: `data/` of the working directory, and $TSPO_DATA."""
    return [Path("data")] + [Path(root) for root in (os.environ.get(DATA_VARIABLE),) if root]


def resolve_data(name_or_path: str) -> Path:
    """The question file of a path or name: a file, a folder with questions.jsonl(.gz), the name of
    such a folder, a benchmark of the registry, or `hf:NAME[:CONFIG]:SPLIT`.

    A name is searched in `data/` of the working directory, in $TSPO_DATA, then in the registry.

    Raises:
        MissingResourceError: there is no such data set. The message has the nearest name.
        InvalidInputError: a registry is malformed, or the path is that of a pipe, socket or device,
            or of a file in an archive.
    """
    if name_or_path.startswith(PREFIX):
        return Path(name_or_path)
    roots = data_roots()
    path = Path(name_or_path)
    for candidate in [path, *(root / name_or_path for root in roots)]:
        if candidate.is_file():
            return candidate
        for name in QUESTION_FILES:
            if (candidate / name).is_file():
                return candidate / name
    known = benchmarks(roots)
    if name_or_path in known:
        return known[name_or_path].location
    if path.is_dir():
        inside = ", ".join(sorted(child.name for child in path.iterdir())[:8]) or "nothing"
        raise MissingResourceError(
            f"{path}: no {QUESTION_FILES[0]}(.gz) in this folder (it holds {inside}); name a file"
        )
    if is_member(path):
        raise InvalidInputError(
            f"{path}: questions in an archive are not read here; unpack them: "
            f"tspo data convert {path} --out {stem_of(path).rpartition(MARK)[2]}.jsonl"
        )
    require_plain(path, "name a file")
    if path.is_symlink():
        raise MissingResourceError(f"{path}: {why_missing(path)}; name a file")
    names_in = {folder: _children(folder) for folder in (path.parent, *roots)}
    names_in[Path("registry")] = list(known)
    near = [
        str(folder / name) if folder == path.parent else name
        for folder, names in names_in.items()
        for name in difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
    ]
    maker = made_by(path)
    hint = (
        f"did you mean {near[0]}?"
        if near
        else f"{maker} makes it"
        if maker
        else f"name a file, or set {DATA_VARIABLE} to a folder of data sets"
    )
    raise MissingResourceError(f"{name_or_path}: no such question file or data set; {hint}")


def _children(folder: Path) -> list[str]:
    return sorted(child.name for child in folder.iterdir()) if folder.is_dir() else []

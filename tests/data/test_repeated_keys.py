"""A key that is given twice is refused with its place by all readers: parsers keep the last."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from tspo_cli.data.readers import read_passages, read_questions
from tspo_cli.errors import InvalidInputError
from tspo_cli.runs import read_json, read_jsonl, read_jsonl_gz

GOOD = '{"id": "1", "question": "q", "golden_answers": ["Ada"]}'
TWICE = {
    "id": '{"id": "2", "id": "3", "question": "q", "golden_answers": ["Ada"]}',
    "id between": '{"id": "2", "question": "q", "golden_answers": ["Ada"], "id": "3"}',
    "note.level": GOOD.replace('"1"', '"2"')[:-1] + ', "note": {"level": 1, "level": 2}}',
    "with an escape": '{"id": "2", "\\u0069d": "3", "question": "q", "golden_answers": ["Ada"]}',
    "with blanks": '{"id" : "2", "id"\t: ": ", "question": "\\": :", "golden_answers": ["Ada"]}',
    "as many quotes as keys": '{"id" :"2", "id" :":", "question":"::", "golden_answers":[":"]}',
}
"""By what is told: keys, or signs that look like the end of a key."""
ONCE = (
    '{"id" : "2", "question": "\\": \\" : why: ", "golden_answers": [": ", "\\":"], "id2": ":"}',
    '{"id": "2", "question": "a: b", "golden_answers": ["Ada"], "a": {"id": 1}, "b": [{"id": 2}]}',
)


def _questions(path: Path) -> list[str]:
    return [question.id for question in read_questions(path)]


@pytest.mark.parametrize("line", TWICE.values(), ids=TWICE)
def test_a_line_of_a_question_file(tmp_path: Path, line: str) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(f"{GOOD}\n\n{line}\n{GOOD}\n")
    with pytest.raises(InvalidInputError, match=r'questions.jsonl:3: .*once.*"(id|level)" twice'):
        _questions(path)


@pytest.mark.parametrize("line", ONCE)
def test_colons_and_quotes_in_texts_and_equal_keys_of_other_objects_are_none(
    tmp_path: Path, line: str
) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(f"{GOOD}\n{line}\n")
    assert _questions(path) == ["1", "2"]
    path.write_text(f"[{GOOD},{line}]")
    assert _questions(path) == ["1", "2"]
    path.write_text(f"{line}\n")
    assert read_jsonl(path) == [read_json(path)] == [json.loads(line)]


def _zipped(path: Path, line: str) -> Path:
    with zipfile.ZipFile(path / "a.zip", "w") as archive:
        archive.writestr("q.jsonl", f"{GOOD}\n{line}\n")
    return path / "a.zip::q.jsonl"


def _file(name: str, form: str) -> Callable[[Path, str], Path]:
    def write(folder: Path, line: str) -> Path:
        content = form.format(good=GOOD, line=line).encode()
        (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return folder / name

    return write


READERS: dict[str, tuple[Callable[[Path, str], Path], Callable[[Path], Iterable[object]]]] = {
    "an array": (_file("q.json", "[{good}, {line}]"), read_questions),
    "one object": (_file("q.json", '{{"data": [{good}, {line}]}}'), read_questions),
    "gzip": (_file("q.jsonl.gz", "{good}\n{line}\n"), read_questions),
    "zip": (_zipped, read_questions),
    "metrics": (_file("metrics.jsonl", "{good}\n{line}\n"), read_jsonl),
    "items": (_file("nq.items.jsonl.gz", "{good}\n{line}\n"), read_jsonl_gz),
    "a record": (_file("eval.json", "{line}"), read_json),
}


@pytest.mark.parametrize("name", READERS)
def test_other_files(tmp_path: Path, name: str) -> None:
    write, read = READERS[name]
    path = write(tmp_path, TWICE["id"])
    place = "" if name == "a record" else ":2"
    with pytest.raises(InvalidInputError) as caught:
        list(read(path))
    assert str(caught.value).startswith(f'{path}{place}: expected each key once, got "id" twice; ')


def test_a_passage_of_a_corpus(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"id": "1", "contents": "a", "contents": "b"}\n')
    with pytest.raises(InvalidInputError, match=r'corpus.jsonl:1: .*"contents" twice'):
        list(read_passages(corpus))


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_columns_of_a_table(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"q.{suffix}"
    names = ["id", "question", "golden_answers", "question"]
    if suffix == "parquet":
        table = pyarrow.Table.from_arrays([pyarrow.array(["1"])] * 4, names=names)
        pyarrow.parquet.write_table(table, path)
    else:
        path.write_text(("," if suffix == "csv" else "\t").join(names) + "\n")
    with pytest.raises(InvalidInputError, match=r":1: expected columns .*'question' twice"):
        read_questions(path)


def test_columns_without_a_name_may_be_several(tmp_path: Path) -> None:
    path = tmp_path / "q.csv"
    path.write_text("id,question,golden_answers,,\n1,q,Ada,,\n")
    assert _questions(path) == ["1"]

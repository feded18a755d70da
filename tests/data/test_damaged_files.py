"""A damaged line names its file and itself in one line; a strange line end is a character."""

from __future__ import annotations

import bz2
import contextlib
import csv
import datetime
import decimal
import gc
import gzip
import itertools
import json
import lzma
import zipfile
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tspo_cli.data.check import check
from tspo_cli.data.corpus.chunks import WHOLE
from tspo_cli.data.corpus.corpus_files import CorpusFacts, read_corpus
from tspo_cli.data.formats.delimited import array_rows
from tspo_cli.data.formats.nested import nested_rows
from tspo_cli.data.readers import read_passages, read_questions, resolve_data
from tspo_cli.data.rows import count_rows, read_rows, scan_rows
from tspo_cli.data.writers import write_questions
from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.runs import append_jsonl, read_jsonl, read_jsonl_gz, write_json, write_jsonl_gz
from tspo_cli.work_limits import at_most

GOOD = '{"id": "1", "question": "q", "golden_answers": ["Ada"]}'
ENDS = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\r"
"""What `str.splitlines` takes for ends of lines, besides the real one."""
DAMAGED = {
    "cut": GOOD[:30],
    "binary": b"\x00\x01\xfe\xff",
    "deep": '{"id": ' + "[" * 50_000,
    "deep objects": '{"a":' * 50_000,
    "huge integer": '{"id": ' + "1" * 6_000 + "}",
    "NaN": GOOD.replace('"1"', "NaN"),
    "Infinity in another field": GOOD[:-1] + ', "score": -Infinity}',
    "high half": GOOD.replace('"q"', r'"q \ud83d"'),
    "low half in an answer": GOOD.replace('"Ada"', r'"\udc00"'),
    "half in another field": GOOD[:-1] + r', "note": {"\uDBFF": 1}}',
    "half in packed answers": json.dumps(
        {"id": 2, "question": "q", "possible_answers": r'["\ud800"]'}
    ),
    "deep packed answers": json.dumps({"id": 2, "question": "q", "golden_answers": [["["]]}),
    "a list": "[1]",
    "two records": GOOD + GOOD,
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_line_names_its_file_and_itself(tmp_path: Path, name: str) -> None:
    damaged = DAMAGED[name]
    line = damaged if isinstance(damaged, bytes) else damaged.encode()
    path = tmp_path / "questions.jsonl"
    path.write_bytes(GOOD.replace("1", "9").encode() + b"\n" + line + b"\n" + GOOD.encode() + b"\n")
    with pytest.raises(InvalidInputError) as caught:
        read_questions(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:2: ")
    assert "\n" not in message
    assert len(message) < 400
    [problem] = check(path).problems
    assert problem.line == 2


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            "c.jsonl.bz2",
            bz2.compress(GOOD.encode()),
            "got bzip2; fix: unpack it, or pack it with gz",
        ),
        (
            "c.jsonl.xz",
            lzma.compress(GOOD.encode()),
            "got xz; fix: unpack it, or pack it with gzip",
        ),
        (
            "c.zip",
            b"PK\x03\x04x",
            r"got zip; fix: name a file in it as .*c\.zip::NAME, or unpack it",
        ),
        (
            "c.jsonl",
            b"version https://git-lfs.github.com/spec/v1\n",
            "Git LFS pointer to it; run `g",
        ),
        ("c.parquet", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer to it"),
        ("c.md", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer to it"),
    ],
)
def test_a_file_that_must_be_unpacked_or_fetched_says_so(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(InvalidInputError, match=message):
        list(read_corpus([path], WHOLE, CorpusFacts()))
    if not name.endswith(".md"):
        with pytest.raises(InvalidInputError, match=message):
            read_questions(path)


@pytest.mark.parametrize("name", ["q.csv", "q.tsv"])
def test_bytes_that_are_no_text_in_a_table_are_named_with_their_line(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    mark = "," if name == "q.csv" else "\t"
    path.write_bytes(f"question{mark}answer\nWho?{mark}Ren\u00e9\n".encode("latin-1"))
    (problem,) = check(path).problems
    assert (problem.line, str(problem).count(str(path))) == (2, 1)
    with pytest.raises(InvalidInputError) as caught:
        read_questions(path)
    assert str(caught.value).startswith(f"{path}:2: expected UTF-8 text, got byte")
    assert str(caught.value).count(str(path)) == 1


def test_a_string_without_an_end_starts_at_one_place(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(GOOD[:40])
    (problem,) = check(path).problems
    assert "Unterminated string starting at column" in problem.message


def test_a_record_that_is_cut_off_has_the_column_of_its_end(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    cut = '{"id": "1", "question": "Who?"'
    path.write_text(f"{cut}\n{GOOD}\n")
    problem = check(path).problems[0]
    assert (problem.line, f"at column {len(cut) + 1};" in problem.message) == (1, True), problem
    assert "at column 2;" in _first_problem(path, "{\n")
    assert "at column 5;" in _first_problem(path, '{"a"\n')
    assert "at column 9;" in _first_problem(path, '{"a": 1,\r\n')


def _first_problem(path: Path, text: str) -> str:
    path.write_text(text)
    return check(path).problems[0].message


def test_packed_answers_that_are_too_deep_are_an_answer(tmp_path: Path) -> None:
    path = tmp_path / "popqa.jsonl"
    record = {"id": 1, "question": "q", "possible_answers": "[" * 50_000}
    path.write_text(json.dumps(record) + "\n")
    assert read_questions(path)[0].golden_answers == ("[" * 50_000,)


@pytest.mark.parametrize("name", ["high half", "NaN", "deep"])
def test_records_of_an_array_are_checked_as_lines_are(tmp_path: Path, name: str) -> None:
    path = tmp_path / "questions.json"
    path.write_text(f"[{GOOD.replace('1', '9')}, {DAMAGED[name]}]")
    with pytest.raises(InvalidInputError, match=f"{path}:2: "):
        read_questions(path)


def test_a_table_with_damaged_lines(tmp_path: Path) -> None:
    head = b"id\tquestion\tgolden_answers\n"
    for number, cell in enumerate([rb'["\udfff"]', b"\xff\xfe"]):
        path = tmp_path / f"{number}.tsv"
        path.write_bytes(head + b"1\tq\ta\n" * 1 + b"2\tq\t" + cell + b"\n")
        with pytest.raises(InvalidInputError, match=f"{path}:3: "):
            read_questions(path)


def test_a_parquet_file_with_bytes_that_are_no_text(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet as parquet

    data = pyarrow.array([b"1", b"\xff\xfe"], pyarrow.binary()).cast(pyarrow.string(), safe=False)
    path = tmp_path / "q.parquet"
    parquet.write_table(pyarrow.table({"id": data, "question": data, "answer": data}), path)
    with pytest.raises(InvalidInputError, match="UTF-8"):
        read_questions(path)


@pytest.mark.parametrize("suffix", ["jsonl", "tsv", "json"])
def test_other_line_ends_are_characters_of_a_passage(tmp_path: Path, suffix: str) -> None:
    text = f"one{ENDS}two"
    path = tmp_path / f"corpus.{suffix}"
    record = {"id": "7", "title": "t", "text": text}
    if suffix == "tsv":
        content = f"id\ttitle\ttext\n7\tt\t{text}\n"
    else:
        content = json.dumps(record, ensure_ascii=False) + "\n"
        content = f"[{content}]" if suffix == "json" else content
    path.write_text(content, encoding="utf-8", newline="")
    assert [passage.text for passage in read_passages(path)] == [text]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answers=st.lists(st.text(max_size=6), min_size=1, max_size=4))
def test_lists_in_cells_are_what_was_printed(tmp_path: Path, answers: list[str]) -> None:
    answers = [*answers, 'it\'s "so"']
    for cell in (json.dumps(answers), json.dumps(answers, ensure_ascii=False), repr(answers)):
        with open(tmp_path / "q.csv", "w", encoding="utf-8", newline="") as handle:
            csv.writer(handle).writerows([["question", "answers"], ["q", cell]])
        (question,) = read_questions(tmp_path / "q.csv")
        assert question.golden_answers == tuple(answers)


@pytest.mark.parametrize("between", [" ", "\n "])
def test_a_list_in_a_cell_may_be_as_numpy_prints_it(tmp_path: Path, between: str) -> None:
    answers = ("Paris", "City of Paris", "it's", "d\\e", "['a' 'b']", "é")
    with open(tmp_path / "q.csv", "w", encoding="utf-8", newline="") as handle:
        cell = f"[{between.join(map(repr, answers))}]"
        csv.writer(handle).writerows([["question", "answers"], ["q", cell]])
    (question,) = read_questions(tmp_path / "q.csv")
    assert question.golden_answers == answers


def _values_without_json(pyarrow: Any) -> dict[str, tuple[Any, Any]]:
    day = datetime.datetime(2026, 1, 31, 8, 30)
    return {
        "date": (pyarrow.array([day.date()]), "2026-01-31"),
        "moment": (pyarrow.array([day]), "2026-01-31 08:30:00"),
        "nanoseconds": (pyarrow.array([0], pyarrow.timestamp("ns")), "1970-01-01 00:00:00"),
        "time": (pyarrow.array([day.time()]), "08:30:00"),
        "decimal": (pyarrow.array([decimal.Decimal("1.50")]), "1.50"),
        "bytes": (pyarrow.array(["é".encode()]), "é"),
        "image": (pyarrow.array([b"\x89PNG"]), None),
        "nested": (pyarrow.array([[{"at": day.date(), "n": 1}]]), [{"at": "2026-01-31", "n": 1}]),
        "coded": (pyarrow.array([b"x"]).dictionary_encode(), "x"),
    }


def test_values_of_parquet_that_json_lacks_are_written_in_words(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    columns = _values_without_json(pyarrow)
    table = {"id": ["1"], "question": ["q"], "golden_answers": [["Ada"]]}
    table |= {name: column for name, (column, _) in columns.items()}
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table(table), tmp_path / "q.parquet")
    write_questions(tmp_path / "q.jsonl", read_questions(tmp_path / "q.parquet"))
    record = json.loads((tmp_path / "q.jsonl").read_text(encoding="utf-8"))
    assert {name: record[name] for name in columns} == {name: v for name, (_, v) in columns.items()}


@pytest.mark.parametrize("name", ["date", "fields"])
def test_values_of_parquet_that_python_cannot_have_are_refused(tmp_path: Path, name: str) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    one = pyarrow.array([1])
    column = (
        pyarrow.array([2**30], pyarrow.int32()).cast(pyarrow.date32())
        if name == "date"
        else pyarrow.StructArray.from_arrays([one, one], names=["a", "a"])
    )
    table = pyarrow.table({"question": ["q"], "answer": ["Ada"], "x": column})
    pytest.importorskip("pyarrow.parquet").write_table(table, tmp_path / "q.parquet")
    with pytest.raises(InvalidInputError, match=r"q\.parquet:1: expected values that can be read"):
        read_questions(tmp_path / "q.parquet")


@pytest.mark.parametrize("packing", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, zipfile.ZIP_DEFLATED])
def test_any_damage_of_an_archive_is_one_line(tmp_path: Path, packing: int) -> None:
    path, text = tmp_path / "d.zip", gzip.decompress(_PACKED)
    with zipfile.ZipFile(path, "w", packing) as archive:
        archive.writestr("é.jsonl", text)
    sound, random = path.read_bytes(), Random(3)
    damaged = [sound.replace("é".encode(), b"\xff\xfe")]
    for _ in range(200):
        place = random.randrange(len(sound))
        damaged.append(sound[:place] + bytes([random.randrange(256)]) + sound[place + 1 :])
    for data in damaged:
        path.write_bytes(data)
        with contextlib.suppress(InvalidInputError, MissingResourceError):
            read = list(read_rows(Path(f"{path}::é.jsonl")))
            assert len(read) == text.count(b"\n")


def test_questions_in_an_archive_are_to_be_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        archive.writestr("dev.jsonl", GOOD)
    with pytest.raises(
        InvalidInputError, match=r"tspo data convert .*d\.zip::dev\.jsonl --out dev"
    ):
        resolve_data(f"{tmp_path / 'd.zip'}::dev.jsonl")


@pytest.mark.parametrize("cells", [1, 60_000])
def test_a_table_with_very_many_columns(tmp_path: Path, cells: int) -> None:
    names = [f"c{number}" for number in range(60_000)]
    rows = ["x" + "," * (cells - 1)] * (2_000 if cells == 1 else 2)
    (tmp_path / "q.csv").write_text("\n".join([",".join(names), *rows]))
    with at_most(30):  # it took more than a minute
        assert len(list(scan_rows(tmp_path / "q.csv"))) == len(rows)


def test_our_own_records_come_back_with_any_character(tmp_path: Path) -> None:
    record = {"text": f"a{ENDS}b \x7f \x9b \u202e \ud800 😀"}
    for _ in range(2):
        append_jsonl(tmp_path / "a.jsonl", record)
    assert read_jsonl(tmp_path / "a.jsonl") == [record, record]
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 2
    write_jsonl_gz(tmp_path / "a.jsonl.gz", [record])
    assert list(read_jsonl_gz(tmp_path / "a.jsonl.gz")) == [record]


def test_our_own_files_are_strict_json(tmp_path: Path) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    record = {"a": float("nan"), "b": [float("inf"), {"c": (1.5, float("-inf"))}]}
    write_json(tmp_path / "a.json", record)
    append_jsonl(tmp_path / "a.jsonl", record)
    write_jsonl_gz(tmp_path / "a.jsonl.gz", [record])
    for text in (
        (tmp_path / "a.json").read_text(),
        (tmp_path / "a.jsonl").read_text(),
        gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes()).decode(),
    ):
        assert json.loads(text, parse_constant=refuse) == {
            "a": None,
            "b": [None, {"c": [1.5, None]}],
        }


@pytest.mark.parametrize(
    "line", [b'{"step": 2', b"\xff", b"[" * 9_000, b'{"step": ' + b"1" * 6_000 + b"}", b"5"]
)
def test_a_damaged_line_of_our_own_names_itself(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 3}\n')
    with pytest.raises(InvalidInputError, match=f"{path}:2: "):
        read_jsonl(path)


_LINE = b'{"id": "%d", "question": "q", "golden_answers": ["a"], "text": "t", "title": "x"}\n'
_PACKED = gzip.compress(b"".join(_LINE % number for number in range(900)))
CUT = {
    "half": _PACKED[: len(_PACKED) // 2],
    "no checksum": _PACKED[:-8],
    "no size": _PACKED[:-4],
    "one byte less": _PACKED[:-1],
    "another checksum": _PACKED[:-8] + bytes(4) + _PACKED[-4:],
    "a second member without checksum": _PACKED + gzip.compress(b"")[:-8],
    "one byte of a second member": _PACKED + _PACKED[:1],
    "the head of a second member": _PACKED + _PACKED[:10],
    "other bytes behind": _PACKED + b"junk",
}


@pytest.mark.parametrize("name", CUT)
@pytest.mark.parametrize(
    "read",
    [
        read_questions,
        lambda path: read_questions(path, limit=3),
        count_rows,
        lambda path: list(read_passages(path)),
        lambda path: list(read_jsonl_gz(path)),
        lambda path: list(read_corpus([path], WHOLE, CorpusFacts())),
    ],
    ids=["questions", "first questions", "count", "passages", "records", "corpus"],
)
def test_a_packed_file_that_is_cut_or_lacks_its_checksum_is_refused(
    tmp_path: Path, name: str, read: Callable[[Path], Any]
) -> None:
    path = tmp_path / "data.jsonl.gz"
    path.write_bytes(CUT[name])
    with pytest.raises(InvalidInputError, match=f"^{path}.*gzip"):
        read(path)
    path.write_bytes(_PACKED + bytes(20))  # zeros behind a member are no damage
    read(path)


def test_the_first_questions_of_a_damaged_archive(tmp_path: Path) -> None:
    path, text = tmp_path / "data.zip", gzip.decompress(_PACKED)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("q.jsonl", text)
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"899"', b'"898"'))
    with pytest.raises(InvalidInputError, match="intact zip data, got Bad CRC-32"):
        read_questions(Path(f"{path}::q.jsonl"), limit=3)


@pytest.mark.parametrize("text", ['[{"id": "1", "text": "a"}, 5]', '{"id": "1", "text": "a"}\n5\n'])
def test_a_refused_file_is_closed_at_once(tmp_path: Path, text: str) -> None:
    """And not when the garbage collector runs, which may be deep in a recursion of another file."""
    opened, path = Path("/proc/self/fd"), tmp_path / "c.json"
    if not opened.is_dir():
        pytest.skip("needs Linux's list of open files")
    path.write_text(text)
    gc.disable()
    try:
        with pytest.raises(InvalidInputError):
            list(read_rows(path))
        assert path not in [link.resolve() for link in opened.iterdir()]
    finally:
        gc.enable()


@pytest.mark.parametrize("name", ["q.jsonl", "q.jsonl.gz", "q.csv", "q.tsv", "q.json", "c.csv"])
def test_a_line_without_an_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As at the end of a file with a hole of many gigabytes."""
    for module in ("tspo_cli.data.rows", "tspo_cli.data.formats.delimited"):
        monkeypatch.setattr(f"{module}.LONGEST_LINE", 4000)
    head = '{"id": "1", "question": "Who?", "golden_answers": ["Ada"]}\n'
    starts = {"json": f"[{head},", "csv": "id,question,answer\n1,Who?,Ada\n"}
    starts["tsv"] = starts["csv"].replace(",", "\t")
    start = starts.get(name.rpartition(".")[2], head)
    # An open quote goes on over all lines.
    rest = '"' + "a" * 50 + "\n" if name == "c.csv" else "\0"
    data = (start + rest * (3_000_000 // len(rest))).encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    for read in (read_questions, lambda path: list(read_passages(path))):
        with pytest.raises(InvalidInputError) as refused:
            read(path)
        assert str(path) in str(refused.value)
        assert len(str(refused.value)) < 400
    assert check(path).problem_count >= 1


@pytest.mark.parametrize("start", ["[", '{"data": ['])
def test_no_more_of_a_list_is_read_than_a_record_may_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    longest = 1 << 21
    monkeypatch.setattr("tspo_cli.data.formats.delimited.LONGEST_LINE", longest)
    read = nested_rows if start[0] == "{" else array_rows
    record = '{"id": "1", "question": "Who?", "answer": "%s"}'

    def rows(size: int) -> tuple[list[Any], int]:
        wide = record % ("a" * (size - len(record) + 2))
        text = StringIO(start + record + "," + wide + "," + record * 1000)
        return list(itertools.islice(read(tmp_path / "q.json", text), 3)), text.tell()

    found, _ = rows(longest)
    assert [number for number, _ in found] == [1, 2, 3]
    assert all(isinstance(value, dict) for _, value in found)
    for size in (longest + 1, longest * 2, longest * 8):
        (_, (number, refused), *_), end = rows(size)
        assert number == 2
        assert f"a record of at most {longest:,} characters, got a longer one" in str(refused)
        # With the record before it.
        assert end <= longest + 1024

"""Corpora as people have them: other names of fields, tables, folders, several files, chunks."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tspo_cli.data.convert import convert
from tspo_cli.data.corpus.chunks import Chunking, chunks, document_id, found_of
from tspo_cli.data.corpus.corpus_files import CorpusFacts, read_corpus
from tspo_cli.data.question import Passage
from tspo_cli.data.readers import read_passages
from tspo_cli.data.rows import count_rows
from tspo_cli.errors import InvalidInputError, MissingResourceError

WHOLE = Chunking()


def jsonl(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def passages(*paths: Path, how: Chunking = WHOLE) -> list[Passage]:
    return [passage for _, _, passage in read_corpus(paths, how, CorpusFacts())]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (
            {"_id": "d1", "title": "Tea", "text": "Leaves.", "x": 1},
            ("d1", "Tea", "Leaves."),
        ),
        ({"docid": 8, "text": "No title."}, ("8", "", "No title.")),
        ({"doc_id": "z", "title": None, "body": "Body."}, ("z", "", "Body.")),
        ({"pid": "p", "passage": "Passage."}, ("p", "", "Passage.")),
        # MS MARCO: passages of version 2, and segments of 2.1
        ({"pid": "p", "passage": "P.", "spans": "(0,2)", "docid": "d"}, ("p", "", "P.")),
        ({"docid": "d#0", "title": "T", "segment": "S.", "url": "u"}, ("d#0", "T", "S.")),
        ({"ID": "i", "Title": "Tea", "Text": "Leaves."}, ("i", "Tea", "Leaves.")),
        ({"docId": 5, "CONTENTS": "Tea\nLeaves."}, ("5", "Tea", "Leaves.")),
        ({"id": "b", "text": "text wins", "Text": "other"}, ("b", "", "text wins")),
        ({"id": "c", "title": "T", "content": "Content."}, ("c", "T", "Content.")),
        ({"id": "e", "contents": ""}, ("e", "", "")),
        ({"id": "b", "text": "text wins", "body": "other"}, ("b", "", "text wins")),
        ({"id": "1", "_id": "2", "contents": '"T"\nt'}, ("1", "T", "t")),
    ],
)
def test_names_of_fields(tmp_path: Path, record: dict[str, Any], expected: Any) -> None:
    assert list(read_passages(jsonl(tmp_path / "c.jsonl", record))) == [Passage(*expected)]


def test_records_without_an_id_are_numbered_over_all_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = jsonl(tmp_path / "a.jsonl", {"text": "x"}, {"text": "y"})
    second = jsonl(tmp_path / "b.jsonl", {"contents": "z"})
    assert [passage.id for passage in passages(first, second)] == ["0", "1", "2"]
    assert capsys.readouterr().err.count("have no id") == 2
    mixed = jsonl(tmp_path / "m.jsonl", {"id": "a", "text": "x"}, {"text": "y"})
    with pytest.raises(InvalidInputError, match=r"m\.jsonl:2: .*give every record an id"):
        passages(mixed)


DPR = 'id\ttext\ttitle\n1\t"Aaron ( or ; """"Ahärôn"""") is a prophet"\tAaron\n2\tSaid "no" he\tX\n'


@pytest.mark.parametrize("name", ["w100.tsv", "w100.tsv.gz"])
def test_dpr_tsv(tmp_path: Path, name: str) -> None:
    payload = DPR.encode()
    (tmp_path / name).write_bytes(gzip.compress(payload) if name.endswith("gz") else payload)
    assert list(read_passages(tmp_path / name)) == [
        Passage("1", "Aaron", 'Aaron ( or ; ""Ahärôn"") is a prophet'),
        Passage("2", "X", 'Said "no" he'),
    ]
    assert count_rows(tmp_path / name) == 2


def test_two_names_that_differ_in_case_alone_are_no_text(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "c.jsonl", {"id": "1", "Text": "a", "TEXT": "b"})
    with pytest.raises(InvalidInputError, match=r'expected "contents".* got fields id, Text, TEXT'):
        passages(path)


def test_a_table_with_capital_names_is_a_corpus(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.csv").write_text("ID,Title,Text\n7,Tea,Leaves.\n")
    assert convert(tmp_path / "c.csv", tmp_path / "c.jsonl") == ("passages", 1)
    assert passages(tmp_path / "c.csv") == [Passage("7", "Tea", "Leaves.")]
    assert "have no id" not in capsys.readouterr().err


def test_csv_with_line_breaks_and_a_json_array(tmp_path: Path) -> None:
    with open(tmp_path / "c.csv", "w", newline="") as handle:
        csv.writer(handle).writerows([["docid", "title", "text"], ["a", "T", 'two\n"lines"']])
    assert list(read_passages(tmp_path / "c.csv")) == [Passage("a", "T", 'two\n"lines"')]
    records = [{"_id": str(n), "text": "long " * 9000} for n in range(60)]
    (tmp_path / "c.json").write_text(json.dumps(records, indent=1))  # several reads of a block
    assert [passage.id for passage in read_passages(tmp_path / "c.json")] == [
        str(n) for n in range(60)
    ]
    assert count_rows(tmp_path / "c.json") == 60


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.tsv", "7\tthe first text\n8\tanother\n", "a.tsv:1: expected the names of the columns"),
        (
            "a.csv",
            'p1,"A flat text.",T\np2,x,y\n',
            "names of the columns, got 'p1', 'A flat text.'",
        ),
        ("a.tsv", "who is it?\t['Ada']\nwho\t['Bo']\n", "names of the columns, got 'who is it"),
        ("b.tsv", "id\ttext\n1\tone\textra\n", r"b\.tsv:2: expected 2 cells \(id, text\), got 3"),
        ("b.csv", "id,text\n1,one, two\n", r'b\.csv:2: .* fix: put quotes \("\) around a cell'),
        ("b.csv", "id,text\n1\n", r"b\.csv:2: expected 2 cells .* fix: correct the line"),
        (
            "s.csv",
            "id;title;text\n1;A;one, two\n",
            "s.csv:1: expected the names of the columns with commas between them, got 'id;title",
        ),
        ("s.csv", "id\ttext\n1\tone\n", r"with commas between them, got 'id\\ttext'; fix: save"),
        ("s.tsv", "id,text\n1,one\n", "with tabs between them, got 'id,text'; fix: save"),
        ("c.csv", 'id,text\n1,"open\n', r"c\.csv:2: expected a CSV row"),
        ("d.json", '[{"id": 1, "text": "a"}, {"id"', r"d\.json:2: expected an array of JSON"),
        ("e.json", '[{"id": 1, "text": "a"}, 5]', r"e\.json:2: .* got a number"),
        ("f.jsonl", '{"id": 1, "words": "a"}\n', 'expected "contents", or "title" and "text"'),
    ],
)
def test_unclear_files_are_one_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidInputError, match=message) as caught:
        list(read_passages(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_a_folder_of_documents(tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    (folder / "sub").mkdir(parents=True)
    (folder / "b.txt").write_text("Plain text.\n")
    (folder / "sub" / "a.md").write_text("---\nauthor: me\n---\n# The heading\n\nBody # 1.\n")
    (folder / "c.md").write_text("No heading.")
    (folder / ".hidden.md").write_text("not read")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    assert passages(folder) == [
        Passage("b.txt", "b", "Plain text."),
        Passage("c.md", "c", "No heading."),
        Passage("sub/a.md", "The heading", "Body # 1."),
    ]
    assert passages(folder / "b.txt") == [Passage("b.txt", "b", "Plain text.")]
    (folder / "bad.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InvalidInputError, match=r"bad\.txt:1: expected UTF-8 text"):
        passages(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingResourceError, match=r"no \.txt or .md file in this folder"):
        passages(tmp_path / "empty")


def test_facts_count_empty_and_title_only_passages(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "c.jsonl",
        {"id": "1", "title": "", "text": "  "},
        {"id": "2", "title": "T", "text": ""},
        {"id": "3", "title": "Tea", "text": " Tea"},
        {"id": "4", "title": "Tea", "text": "Teas"},
        {"id": "5", "contents": '"Only a title"\n'},
    )
    facts = CorpusFacts()
    assert len(list(read_corpus([path], WHOLE, facts))) == 5
    assert (facts.passages, facts.empty, facts.title_only) == (5, 1, 3)
    assert [*facts.remarks()] == [
        "1 of 5 passages is empty",
        "3 of 5 passages have a title and no text",
    ]


def test_remarks_on_one_document_agree_with_it() -> None:
    facts = CorpusFacts(documents=1, cut=1, passages=1, empty=1, title_only=1, long=1)
    empty, title_only, long, cut = facts.remarks()
    assert empty == "1 of 1 passage is empty"
    assert title_only == "1 of 1 passage has a title and no text"
    assert long.startswith("1 of 1 document has more than 1,000 words, ")
    assert cut == "1 of 1 document was cut; 1 passage"


def test_chunks_cover_the_document_in_order() -> None:
    words = [f"w{n}" for n in range(23)]
    document = Passage("doc", "Title", "  ".join(words))
    cut = list(chunks(document, Chunking(10, 2)))
    assert [piece.id for piece in cut] == ["doc#0", "doc#1", "doc#2"]
    assert {piece.title for piece in cut} == {"Title"}
    assert [piece.text.split() for piece in cut] == [words[:10], words[8:18], words[16:]]
    assert "".join(piece.text for piece in chunks(document, Chunking(23))) == document.text
    assert [piece.id for piece in chunks(document, Chunking(23))] == ["doc"]


@pytest.mark.parametrize("text", ["东京是日本的首都", "กรุงเทพเป็นเมือง", "東京 and 京都", "ພາສາລາວ"])
def test_letters_count_as_words_where_there_are_no_spaces(text: str) -> None:
    pieces = [piece.text for piece in chunks(Passage("d", "", text), Chunking(3))]
    assert len(pieces) > 1
    assert "".join(pieces).replace(" ", "") == text.replace(" ", "")


def test_a_gold_document_is_found_by_its_chunk() -> None:
    assert document_id("a#b#12") == "a#b"
    assert found_of({"doc", "other#1", "x"}, {"doc#3", "other#1", "x#"}) == {"doc", "other#1"}

"""Question sets that cannot become a corpus are refused in one line that says where and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.data.invented_sets import (
    HOTPOTQA,
    MUSIQUE,
    TWOWIKI,
    Record,
    as_hub,
    put_array,
    put_lines,
    put_zip,
)
from tspo_cli.commands.data import app
from tspo_cli.data.convert import convert
from tspo_cli.data.corpus.made_corpus import Options, make_corpus
from tspo_cli.errors import InvalidInputError, MissingResourceError

ALL = Options()


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TSPO_DATA", raising=False)


def hotpotqa(**fields: Any) -> Record:
    return HOTPOTQA[0] | fields


def musique(**fields: Any) -> Record:
    return MUSIQUE[0] | fields


def hub(**fields: Any) -> Record:
    return as_hub(HOTPOTQA[0]) | fields


BAD: dict[str, tuple[Record, str]] = {
    "another set": (
        {"id": "1", "question": "Who?", "answer": "Ada"},
        r'"context" or "paragraphs"\), got fields id, question, answer',
    ),
    "a passage": ({"id": "1", "contents": "text"}, '"context" or "paragraphs"'),
    "no paragraph": (hotpotqa(context=[]), 'paragraphs in "context", got none'),
    "no paragraph of MuSiQue": (musique(paragraphs=[]), 'paragraphs in "paragraphs", got none'),
    "FlashRAG's record without its paragraphs": (
        {
            "id": "1",
            "question": "Who?",
            "golden_answers": ["Ada"],
            "metadata": {"context": {"title": [], "sentences": []}},
        },
        'paragraphs in "context", got none',
    ),
    "a context that is text": (hotpotqa(context="Selm is a town."), "pairs .* got a string"),
    "a context of texts": (hotpotqa(context=["Selm is a town."]), "pairs .* got a string"),
    "a pair of three": (hotpotqa(context=[["Selm", ["A town."], 3]]), "pairs .* got a list"),
    "sentences that are one text": (
        hotpotqa(context=[["Selm", "Selm is a town."]]),
        "sentences of every paragraph as a list of strings, got a string under 'Selm'",
    ),
    "a sentence that is a number": (
        hotpotqa(context=[["Selm", ["A town.", 5]]]),
        "sentences of every paragraph as a list of strings, got other values in it",
    ),
    "sentences that are null": (hub(context={"title": ["Selm"], "sentences": None}), "pairs"),
    "fewer sentences than titles": (
        hub(context={"title": ["Selm", "Orla"], "sentences": [["A town."]]}),
        "as many titles as lists of sentences, got 2 titles and 1 list of",
    ),
    "a supporting title that is missing": (
        hotpotqa(context=[["Selm", ["A town."]]]),
        "every supporting title among .* got 'Orla Mill'.*distractor",
    ),
    "supporting facts that are text": (
        hotpotqa(supporting_facts="Selm"),
        '"supporting_facts" to be pairs .* got a string',
    ),
    "supporting facts without sentences": (
        hub(supporting_facts={"title": ["Selm"]}),
        '"supporting_facts" to be pairs .* got an object',
    ),
    "more titles than sentence numbers": (
        hub(supporting_facts={"title": ["Selm", "Orla"], "sent_id": [0]}),
        '"supporting_facts" to be pairs',
    ),
    "a sentence number that is text": (
        hotpotqa(supporting_facts=[["Selm", "0"]]),
        '"supporting_facts" to be pairs',
    ),
    "an empty answer": (hotpotqa(answer=" "), "an answer, got none; .* train or dev"),
    "a test split of the hub": (hub(answer=None), "an answer, got none; .* train or dev"),
    "MuSiQue's test split": (
        {key: value for key, value in MUSIQUE[0].items() if "answer" not in key},
        "an answer, got none; .* train or dev",
    ),
    "2WikiMultihopQA's test split": (
        TWOWIKI[0] | {"answer": "", "supporting_facts": [], "evidences": []},
        "an answer, got none; .* train or dev",
    ),
    "an answer that is a number": (hotpotqa(answer=1902), '"golden_answers" to be a list of str'),
    "no question": (hotpotqa(question=None), '"question" to be a string'),
    "no id": (hotpotqa(_id=None), '"id" to be a string'),
    "a paragraph of MuSiQue without text": (
        musique(paragraphs=[{"idx": 0, "title": "Selm"}]),
        'with "title", "paragraph_text" and "is_supporting", got an object',
    ),
    "a paragraph of MuSiQue that is a pair": (
        musique(paragraphs=[["Selm", "A town."]]),
        'with "title", "paragraph_text" and "is_supporting", got a list',
    ),
    "a flag that is text": (
        musique(paragraphs=[{"title": "", "paragraph_text": "x", "is_supporting": "True"}]),
        'with "title", "paragraph_text" and "is_supporting"',
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_is_one_line_with_its_place(name: str) -> None:
    record, message = BAD[name]
    good = MUSIQUE[1] if "paragraphs" in record else HOTPOTQA[1]
    path = put_lines(Path("dev.jsonl"), [good, record])
    with pytest.raises(InvalidInputError, match=message) as caught:
        make_corpus([str(path)], Path("made"), ALL)
    text = str(caught.value)
    assert text.startswith("dev.jsonl:2: expected ")
    assert "\n" not in text
    assert len(text) < 400
    assert text.endswith("; --skip-invalid leaves such questions out")
    assert [entry.name for entry in Path().iterdir()] == ["dev.jsonl"], "nothing is left behind"
    summary = make_corpus([str(path)], Path("made"), Options(skip_invalid=True))
    assert summary.questions == 1
    ((reason, count),) = summary.left_out.items()
    assert count == 1
    assert reason.startswith("malformed: expected ")
    assert reason in Path("made/README.md").read_text("utf-8")


def test_malformed_questions_are_counted_by_reason() -> None:
    """A file without a valid question is refused, also where malformed ones may be left out."""
    missing = [hotpotqa(_id=str(at), context=[[f"Title {at}", ["x"]]]) for at in range(3)]
    path = put_array(Path("dev.json"), [*missing, *HOTPOTQA, hotpotqa(_id="x", answer="")])
    done = CliRunner().invoke(
        app, ["make-corpus", str(path), "--out", "made", "--skip-invalid", "--json"]
    )
    assert json.loads(done.stdout)["left_out"] == {
        "malformed: expected every supporting title among the titles of its paragraphs": 3,
        "malformed: expected an answer": 1,
    }
    put_array(path, missing)
    for options in (ALL, Options(skip_invalid=True)):
        with pytest.raises(InvalidInputError, match=r"dev\.json:1: expected every sup.*distractor"):
            make_corpus([str(path)], Path("other"), options)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("cut.json", lambda text: text[: len(text) // 2], r"cut\.json:2: expected an array"),
        ("cut.json", lambda text: text[:-1], r"cut\.json:4: expected an array"),
        ("cut.json", lambda text: text[1:], r"cut\.json:1: expected one JSON object per line"),
        ("cut.json", lambda text: "[]", r"cut\.json: expected questions with answers, got none"),
        ("cut.json", lambda text: "", r"cut\.json: expected questions with answers, got none"),
        ("cut.json", lambda text: "[1]", r"cut\.json:1: expected an array of JSON objects"),
        ("cut.json", lambda text: f'{{"rows": {text}}}', r"cut\.json:1: .* got fields rows"),
        ("hotpot_dev_fullwiki_v1.json", str, "expected HotpotQA's distractor form, got the full"),
    ],
)
def test_a_damaged_file(name: str, damage: Any, message: str) -> None:
    """Also with --skip-invalid, which is about questions."""
    Path(name).write_text(damage(json.dumps(HOTPOTQA)))
    for options in (ALL, Options(skip_invalid=True)):
        with pytest.raises(InvalidInputError, match=message):
            make_corpus([name], Path("made"), options)
    assert not Path("made").exists()


def test_a_data_set_of_the_hub_that_is_cut_off() -> None:
    """Whatever a reader inside `datasets` raises is one line."""
    path = put_array(Path("hub/validation.json"), [as_hub(one) for one in HOTPOTQA])
    path.write_bytes(path.read_bytes()[:-100])
    message = r"^hf:\./hub:validation: cannot be read after record 0: .*; check the connection"
    with pytest.raises(MissingResourceError, match=message) as caught:
        make_corpus(["hf:./hub:validation"], Path("made"), Options(skip_invalid=True))
    assert "\n" not in str(caught.value)
    assert not Path("made").exists()


def test_ids_that_differ() -> None:
    put_lines(Path("dev.jsonl"), [*HOTPOTQA, hotpotqa(question="Another one?")])
    with pytest.raises(InvalidInputError, match=r"dev\.jsonl:4: .* '5a01' as in dev\.jsonl:1"):
        make_corpus(["dev.jsonl"], Path("made"), ALL)


def test_archives() -> None:
    texts = {"dev_json": json.dumps(HOTPOTQA), "train_json": json.dumps(TWOWIKI)}
    archive = put_zip(Path("sets.zip"), **texts)
    with pytest.raises(
        InvalidInputError,
        match=r"got data/dev\.json, data/train\.json; fix: .* sets\.zip::data/dev",
    ):
        make_corpus([str(archive)], Path("made"), ALL)
    with pytest.raises(MissingResourceError, match="no such file in the archive; it holds data"):
        make_corpus(["sets.zip::data/test.json"], Path("made"), ALL)
    with pytest.raises(MissingResourceError, match=r"none\.zip: no such file"):
        make_corpus(["none.zip::dev.json"], Path("made"), ALL)
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidInputError, match=r"sets\.zip: expected an intact zip archive"):
        make_corpus(["sets.zip::dev.json"], Path("made"), ALL)
    at = whole.index(b"dev.json") + 60
    archive.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
    with pytest.raises(
        InvalidInputError, match=r"sets\.zip::dev\.json:1: expected intact zip data"
    ):
        make_corpus(["sets.zip::dev.json"], Path("made"), ALL)


def test_other_commands_read_archives_too() -> None:
    put_zip(Path("sets.zip"), dev_json=json.dumps(HOTPOTQA))
    assert convert(Path("sets.zip::dev.json"), Path("out.jsonl")) == ("questions", 3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.json", r"none\.json: no such file or folder.*hotpotqa, 2wikimultihopqa, musique"),
        ("nq", "nq: no such file or folder, and no benchmark that brings paragraphs"),
        ("folder", r"folder: expected questions\.jsonl\(\.gz\), .* got notes\.txt"),
    ],
)
def test_sources_that_are_not_there(name: str, message: str) -> None:
    Path("folder").mkdir()
    Path("folder/notes.txt").touch()
    with pytest.raises(MissingResourceError, match=message):
        make_corpus([name], Path("made"), ALL)

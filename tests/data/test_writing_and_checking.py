"""Writers, conversion, the check of a question file against its corpus, and the list of data
sets.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.data.invented_sets import HOTPOTQA
from tspo_cli.commands.app import app
from tspo_cli.data.catalog import find_data_sets
from tspo_cli.data.check import check
from tspo_cli.data.convert import convert, guess_kind
from tspo_cli.data.question import Passage, Question
from tspo_cli.data.readers import read_passages, read_questions, resolve_data
from tspo_cli.data.writers import write_passages, write_questions
from tspo_cli.errors import InvalidInputError, MissingResourceError

QUESTION = {"id": "q1", "question": "Who?", "golden_answers": ["Ada"]}
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
words = texts.filter(lambda text: bool(text.strip()))
titles = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=20)
questions = st.builds(
    Question,
    id=texts,
    question=words,
    golden_answers=st.lists(words, min_size=1, max_size=3).map(tuple),
    data_source=words.filter(lambda text: not text.startswith("searchR1_")),
    supporting_ids=st.lists(texts, max_size=2).map(tuple),
    gold_kind=st.sampled_from(["full", "positive", "none"]),
    type=st.sampled_from(["", "bridge"]),
    extra=st.dictionaries(st.sampled_from(["level", "note"]), st.integers() | texts),
)
passages = st.builds(
    Passage, id=texts, title=titles, text=st.text(st.characters(exclude_categories=["Cs"]))
)


def jsonl(path: Path, *records: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@given(
    st.lists(questions, min_size=1, max_size=4, unique_by=lambda question: question.id),
    st.sampled_from(["", ".gz"]),
)
def test_questions_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, written: list[Question], suffix: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"questions.jsonl{suffix}"
    assert write_questions(path, written) == len(written)
    found = read_questions(path)
    assert found == written
    assert [question.extra for question in found] == [question.extra for question in written]


@given(st.lists(passages, min_size=1, max_size=4, unique_by=lambda passage: passage.id))
def test_passages_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, written: list[Passage]
) -> None:
    path = tmp_path_factory.getbasetemp() / "corpus.jsonl"
    write_passages(path, written)
    assert list(read_passages(path)) == written


def test_equal_records_give_equal_gzip_bytes(tmp_path: Path) -> None:
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        write_passages(tmp_path / name, [Passage("1", "T", "text")])
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    source = jsonl(
        tmp_path / "in.jsonl", {"id": "1", "contents": "a"}, {"id": "1", "contents": "b"}
    )
    target = jsonl(tmp_path / "out.jsonl", "old")
    with pytest.raises(InvalidInputError, match="ids that differ"):
        convert(source, target, overwrite=True)
    assert target.read_text() == "old\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_converting_search_r1_parquet(tmp_path: Path) -> None:
    record = QUESTION | {"data_source": "nq", "extra_info": {"index": 1, "split": "test"}}
    pandas.DataFrame([record]).to_parquet(tmp_path / "test.parquet")
    assert convert(tmp_path / "test.parquet", tmp_path / "q.jsonl.gz") == ("questions", 1)
    with gzip.open(tmp_path / "q.jsonl.gz", "rt") as handle:
        first = json.loads(handle.readline())
    assert list(first)[:4] == ["id", "question", "golden_answers", "data_source"]
    assert first["extra_info"] == {"index": 1, "split": "test"}


def test_converting_a_corpus(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "in.jsonl", {"id": 1, "title": "Rome", "text": "Capital."})
    assert convert(source, tmp_path / "new" / "out.jsonl", "passages") == ("passages", 1)
    assert json.loads((tmp_path / "new" / "out.jsonl").read_text()) == {
        "id": "1",
        "contents": '"Rome"\nCapital.',
    }


def test_what_cannot_be_converted(tmp_path: Path) -> None:
    corpus = jsonl(tmp_path / "c.jsonl", {"id": "1", "contents": "a"})
    with pytest.raises(InvalidInputError, match=r"ends in \.jsonl"):
        convert(corpus, tmp_path / "out.parquet")
    with pytest.raises(InvalidInputError, match=r"c\.jsonl:1: .*question"):
        convert(corpus, tmp_path / "out.jsonl", "questions")
    with pytest.raises(InvalidInputError, match="a question or a passage, got fields a"):
        guess_kind(jsonl(tmp_path / "x.jsonl", {"a": 1}))
    with pytest.raises(InvalidInputError, match="empty file"):
        guess_kind(jsonl(tmp_path / "y.jsonl"))


def test_a_sound_file_has_no_problems(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "q.jsonl",
        QUESTION | {"supporting_ids": ["p1"], "type": "bridge"},
        QUESTION | {"id": "q2", "golden_answers": ["Charles Babbage"]},
    )
    corpus = jsonl(
        tmp_path / "c.jsonl", {"id": "p1", "contents": '"Engine"\nBy Ada, for Charles  BABBAGE!'}
    )
    report = check(path, corpus)
    assert report.problems == ()
    assert (report.questions, report.passages, report.with_answer_in_corpus) == (2, 1, 2)
    assert (report.data_sources, report.types, report.with_supporting_ids) == (
        {"q": 2},
        {"bridge": 1},
        1,
    )
    assert check(path).passages is None


def test_every_problem_is_found_with_its_line(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "q.jsonl",
        QUESTION,
        "not JSON",
        QUESTION | {"question": "And who else?"},
        {"id": "q3", "question": "Who?"},
        QUESTION | {"id": "q4", "golden_answers": ["---", "Ada"]},
        QUESTION | {"id": "q5", "supporting_ids": ["p1", "p9"]},
        QUESTION | {"id": "q6", "gold_kind": "full"},
        QUESTION | {"id": "q7", "golden_answers": ["Adam"]},
    )
    corpus = jsonl(
        tmp_path / "c.jsonl",
        {"id": "p1", "contents": "Ada"},
        {"id": "p1", "contents": "again"},
        {"id": "p2"},
    )
    report = check(path, corpus)
    found = [(problem.file.name, problem.line, problem.message) for problem in report.problems]
    expected = [
        ("q.jsonl", 2, "one JSON object per line"),
        ("q.jsonl", 3, "'q1' as on line 1"),
        ("q.jsonl", 4, '"golden_answers" to hold an answer'),
        ("q.jsonl", 5, "'---' is empty after normalisation"),
        ("q.jsonl", 6, "'p9' is not in"),
        ("q.jsonl", 7, '"supporting_ids" is empty'),
        ("c.jsonl", 2, "'p1' as on line 1"),
        ("c.jsonl", 3, '"contents", or "title" and "text"'),
    ]
    assert [problem[:2] for problem in found] == [problem[:2] for problem in expected]
    assert all(
        part in message for (_, _, message), (_, _, part) in zip(found, expected, strict=True)
    )
    assert report.questions == 6
    assert report.with_answer_in_corpus == 5
    assert str(report.problems[0]).startswith(f"{path}:2: expected one JSON object")


RECORDS: dict[str, list[dict[str, Any]]] = {
    "questions": [QUESTION, QUESTION, QUESTION | {"id": "q2"}, QUESTION | {"split": "dev"}],
    "passages": [
        {"id": "p", "contents": '"T"\nx'},
        {"id": "p", "title": "T", "text": "x"},
        {"id": "r", "contents": '"T"\nx'},
        {"id": "p", "contents": '"T"\nx'},
    ],
    "numbered passages": [{"id": str(n), "contents": "x"} for n in (4, 5, 6, 5, 7, 6)],
}


@pytest.mark.parametrize(("name", "kept", "left"), [
    ("questions", 2, 2), ("passages", 2, 2), ("numbered passages", 4, 2),
])  # fmt: skip
def test_identical_records_are_left_out_and_counted_everywhere(
    name: str, kept: int, left: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = jsonl(tmp_path / "in.jsonl", *RECORDS[name])
    kind = "questions" if name == "questions" else "passages"
    assert convert(path, tmp_path / "out.jsonl") == (kind, kept)
    said = " ".join(capsys.readouterr().err.split())
    assert f"{left} {kind} are identical to an earlier one and were left out" in said
    one = jsonl(tmp_path / "q.jsonl", QUESTION)
    report = check(path) if kind == "questions" else check(one, path)
    assert report.problems == ()
    if kind == "questions":
        assert (report.questions, report.identical_questions) == (kept, left)
        assert report.identical_passages is None
    else:
        assert (report.passages, report.identical_passages) == (kept, left)
    again = check(tmp_path / "out.jsonl") if kind == "questions" else None
    assert again is None or again.identical_questions == 0


@pytest.mark.parametrize(
    "records",
    [
        [QUESTION, QUESTION | {"golden_answers": ["Eve"]}],
        [QUESTION, QUESTION, QUESTION | {"question": "Who is Ada?"}],
        [QUESTION, QUESTION | {"supporting_ids": ["p"]}],
        [{"id": "p", "contents": '"T"\nx'}, {"id": "p", "contents": '"U"\nx'}],
        [{"id": str(n), "contents": text} for n, text in ((1, "a"), (2, "b"), (1, "b"))],
    ],
)
def test_other_content_under_one_id_is_a_problem_everywhere(
    records: list[dict[str, Any]], tmp_path: Path
) -> None:
    path = jsonl(tmp_path / "in.jsonl", *records)
    with pytest.raises(InvalidInputError, match=f":{len(records)}: expected ids that differ"):
        convert(path, tmp_path / "out.jsonl")
    one = jsonl(tmp_path / "q.jsonl", QUESTION)
    report = check(path) if "question" in records[0] else check(one, path)
    (problem,) = report.problems
    assert problem.line == len(records)
    assert "with other content" in problem.message


def test_empty_and_absent_files(tmp_path: Path) -> None:
    empty = jsonl(tmp_path / "q.jsonl")
    assert [str(problem) for problem in check(empty, empty).problems] == [
        f"{empty}: no questions",
        f"{empty}: no passages",
    ]
    with pytest.raises(MissingResourceError):
        check(tmp_path / "absent.jsonl")


def test_data_sets_are_listed_under_names_that_resolve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "sets"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TSPO_DATA", str(root))
    jsonl(root / "nq" / "questions.jsonl", QUESTION, QUESTION | {"id": "q2"})
    jsonl(root / "nq" / "corpus.jsonl", {"id": "p", "contents": "x"})
    jsonl(root / "world" / "test.jsonl", QUESTION)
    jsonl(root / "loose.jsonl", QUESTION)
    jsonl(root / "broken.jsonl", "nonsense")
    jsonl(root / "empty.jsonl", "")
    found = find_data_sets([tmp_path / "data", root])
    assert [(data_set.name, data_set.questions) for data_set in found] == [
        ("loose.jsonl", 1),
        ("nq", 2),
        ("world/test.jsonl", 1),
    ]
    assert [data_set.corpus for data_set in found] == [None, root / "nq" / "corpus.jsonl", None]
    assert [resolve_data(data_set.name) for data_set in found] == [
        data_set.path for data_set in found
    ]


@pytest.mark.parametrize("name", ["popqa", "bamboogle"])
def test_answers_are_found_where_the_sets_say_so(real_data: Path, name: str) -> None:
    """The sets used SQuAD's form alone; either form of a word finds a few more."""
    path = real_data / name / "questions.jsonl.gz"
    report = check(path, real_data / name / "corpus.jsonl.gz")
    assert report.problems == ()
    said = sum(question.extra["answer_in_corpus"] is True for question in read_questions(path))
    assert report.with_answer_in_corpus is not None
    assert said <= report.with_answer_in_corpus <= 1.01 * said


def test_converting_what_the_datasets_library_loads(tmp_path: Path) -> None:
    """`hf:FOLDER:SPLIT` goes through `datasets`, as a hub name would."""
    folder = tmp_path / "collection"
    folder.mkdir()
    lines = [
        json.dumps({"id": f"q{n}", "question": f"who {n}?", "golden_answers": ["x"]})
        for n in range(3)
    ]
    (folder / "test.jsonl").write_text("\n".join(lines) + "\n")
    target = tmp_path / "out.jsonl"
    assert convert(Path(f"hf:{folder}:test"), target) == ("questions", 3)
    questions = read_questions(target)
    assert [question.id for question in questions] == ["q0", "q1", "q2"]
    assert {question.data_source for question in questions} == {"collection"}
    with pytest.raises(InvalidInputError, match="expected hf:NAME:SPLIT"):
        convert(Path("hf:nowhere"), tmp_path / "new.jsonl")
    with pytest.raises(MissingResourceError, match="cannot be loaded"):
        convert(Path(f"hf:{tmp_path / 'none'}:test"), tmp_path / "new.jsonl")


@pytest.mark.parametrize(
    ("record", "fix"),
    [
        ({"question": "Who?", "golden_answer": ["Ada"]}, "fix: rename golden_answer"),
        ({"question": "Who?", "gold": "Ada"}, "got fields id, question, gold; fix: give at least"),
        ({"title": "Ada", "text": "A mathematician."}, "name a question file; this is a corpus"),
    ],
)
def test_the_usual_mistakes_of_a_question_file_have_their_cure(
    record: dict[str, Any], fix: str, tmp_path: Path
) -> None:
    path = jsonl(tmp_path / "q.jsonl", *({"id": str(n)} | record for n in range(30)))
    done = CliRunner().invoke(app, ["data", "check", str(path)])
    first, second, *_ = done.stdout.splitlines()
    assert fix in first
    assert first.endswith(" (29 more such lines)")
    assert second.startswith("questions  ")
    assert str(done.exception).endswith("30 problems; correct them and check again")
    listed = json.loads(CliRunner().invoke(app, ["data", "check", str(path), "--json"]).stdout)
    assert len(listed["problems"]) == 30


def test_problems_beyond_the_first_are_counted_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("tspo_cli.data.check", "tspo_cli.training.sft.demonstration_check"):
        monkeypatch.setattr(f"{module}.MOST_PROBLEMS", 7)
    bad = jsonl(tmp_path / "q.jsonl", *({"id": str(n), "question": "Who?"} for n in range(30)))
    corpus = jsonl(tmp_path / "c.jsonl", *({"id": str(n)} for n in range(5)))
    good = {"question": "Who?", "turns": [{"text": "<answer> a </answer>"}]}
    demos = jsonl(tmp_path / "d.jsonl", good, *({"turns": n} for n in range(20)))
    for words, count in (([bad], 30), ([bad, "--corpus", corpus], 35), ([demos], 20)):
        command = ["data", "check", *map(str, words)]
        done = CliRunner().invoke(app, command)
        assert f"... and {count - 7} more problems, counted and not listed" in done.stdout
        assert f": {count} problems; correct them" in str(done.exception)
        listed = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
        assert (len(listed["problems"]), listed["problem_count"]) == (7, count)


@pytest.mark.parametrize("name", ["hf:owner/set", "hf:", "hf:set", "hf:::", "hf:a/b:c:d:e"])
def test_a_name_of_the_hub_without_a_split_is_refused(name: str) -> None:
    for read in (check, read_questions, read_passages):
        with pytest.raises(InvalidInputError, match="expected hf:NAME:SPLIT or hf:NAME:CONFIG"):
            read(Path(name))


def test_different_problems_have_a_line_each_up_to_twenty(tmp_path: Path) -> None:
    golds = ["!" * (1 + n // 2) for n in range(50)]  # each twice
    records = (
        {"id": str(n), "question": "Who?", "golden_answers": [gold]} for n, gold in enumerate(golds)
    )
    path = jsonl(tmp_path / "q.jsonl", *records)
    lines = CliRunner().invoke(app, ["data", "check", str(path)]).stdout.splitlines()
    assert lines[1].startswith(f"{path}:3: golden answer '!!' is empty")
    assert lines[1].endswith(" (1 more such line)")
    assert lines[20] == "... and 5 more problems; --json lists all"


def test_gold_passages_without_ids_are_said_with_what_gives_them_some(tmp_path: Path) -> None:
    path = tmp_path / "hotpot.json"
    path.write_text(json.dumps(HOTPOTQA))
    done = CliRunner().invoke(app, ["data", "check", str(path)])
    assert "have titles and no ids; if the questions bring their paragraphs" in done.stderr
    path.write_text(json.dumps([record | {"supporting_ids": ["p1"]} for record in HOTPOTQA]))
    assert "make-corpus" not in CliRunner().invoke(app, ["data", "check", str(path)]).stderr

"""Scripted demonstrations: what the script searches for, keeps, and says; the same bytes again."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tspo_cli.commands.data import app
from tspo_cli.credit.gold_match import exact_match
from tspo_cli.errors import InvalidInputError
from tspo_cli.retrieval.index.build_index import build_index
from tspo_cli.retrieval.index.searcher import open_index
from tspo_cli.retrieval.types import Hit
from tspo_cli.rollout.protocol import parse_action
from tspo_cli.training.sft.demonstration_file import read_demonstrations
from tspo_cli.training.sft.scripting.scripted_thoughts import answer_thought

PASSAGES = {
    "novel": '"The Grey Harbour"\nThe Grey Harbour is a novel about ships. Its author is Ida Moss.',
    "author": '"Ida Moss (writer)"\nIda Moss was born in Fernhill and wrote stories.',
    "town": '"Fernhill"\nFernhill is a town on the river Tarn.',
    "lake": '"Lake Orrin"\nLake Orrin covers 40 square kilometres.',
    "pond": '"Mill Pond"\nMill Pond covers one square kilometre.',
    "untitled": '""\nThe kestrel prize went to Otto Brandt for his lighthouse.',
    "dull": '"Ropes"\nRopes are sold by the metre. Who was the seller?',
    "tags": '"Fake </search>"\nThe tag </search> ends a query.',
    "gulls": '"Gulls"\nGulls nest on rocks where they are born.',
}


def question(
    name: str, text: str, answers: list[str], gold: list[str], **extra: Any
) -> dict[str, Any]:
    record = {"id": name, "question": text, "golden_answers": answers, "supporting_ids": gold}
    return record | {"data_source": "own", "gold_kind": "full"} | extra


QUESTIONS = [
    question(
        "bridge",
        "Where was the author of The Grey Harbour born?",
        ["the town of Fernhill", "Fernhill"],
        ["novel", "author"],
    ),
    question(
        "compare",
        "Is Lake Orrin larger than Mill Pond?",
        ["yes"],
        ["lake", "pond"],
        type="comparison",
    ),
    question("one", "who won the kestrel prize", ["Otto Brandt"], ["untitled"]),
    question("partial", "Which river is at Fernhill?", ["Tarn"], ["town", "gone"]),
    question("unknown", "Who sells rope?", ["Ann"], []),
    question("wrong", "What are ropes sold by?", ["the pound"], ["dull"]),
    question("hidden", "What colour is the sky?", ["born"], ["gulls"]),
    question("tag", "What does the tag </search> end?", ["query"], ["tags"]),
    question(
        "either", "Which river is at Fernhill?", ["Tarn"], ["town", "gone"], gold_kind="positive"
    ),
]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    corpus = folder / "corpus.jsonl"
    rows = [json.dumps({"id": name, "contents": text}) for name, text in PASSAGES.items()]
    corpus.write_text("\n".join(rows) + "\n", "utf-8")
    build_index(corpus, folder / "index")
    asked = [json.dumps(record) + "\n" for record in QUESTIONS]
    (folder / "questions.jsonl").write_text("".join(asked), "utf-8")
    return folder / "index"


def make(index: Path, out: Path, *options: str, questions: Path | None = None) -> Result:
    asked = questions or index.parent / "questions.jsonl"
    arguments = [str(asked), "--index", str(index), "--out", str(out), "-k", "1", *options]
    return CliRunner().invoke(app, ["make-demos", *arguments])


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def assert_sound(made: Sequence[dict[str, Any]], path: Path, index: Path, k: int) -> None:
    """Our parser reads every turn, a query brings its passages, and the end is a golden answer."""
    assert len(read_demonstrations(path)) == len(made)
    searcher = open_index(index)
    for record in made:
        turns, seen = record["turns"], set()
        for turn in turns[:-1]:
            action = parse_action(turn["text"], finish_reason="stop", may_search=True)
            hits = searcher.search([action.content], k)[0].hits
            assert action.kind == "search"
            assert [(hit.id, hit.contents) for hit in hits] == [
                (passage["id"], passage["contents"]) for passage in turn["passages"]
            ]
            seen |= {hit.id for hit in hits}
        action = parse_action(turns[-1]["text"], finish_reason="stop", may_search=True)
        is_early = record.get("imperfect") == "early_answer"
        assert action.kind == "answer"
        assert exact_match(action.content, record["golden_answers"]) is not is_early
        assert set(record["supporting_ids"]) <= seen or is_early or record["id"] == "either"
        for turn in turns:
            assert turn["text"].startswith("<think> ")
            assert len(turn["text"].partition("</think>")[0].split()) - 1 <= 60


@pytest.mark.parametrize(
    ("text", "answer", "quote"),
    [
        ("A port. Ida Moss was born in Fernhill. It rained.", "Fernhill", " was born in Fernhill."),
        (
            "Fernhill fell. Ida Moss, born in Fernhill, sang.",
            "Fernhill",
            ", born in Fernhill, sang.",
        ),
        ("Dr. Ida Moss was born in St. Agnes, 1923. So.", "1923", " was born in St. Agnes, 1923."),
        ("Ida Moss \u2028 was born in\nthe  Ferns.", "the Ferns", " was born in the Ferns."),
    ],
)
def test_the_sentence_that_answers_the_question_is_quoted(
    text: str, answer: str, quote: str
) -> None:
    hits = [Hit("a", f'"Title"\n{text}', 1.0), Hit("b", '"Fernhill"\nA town.', 0.5)]
    thought = answer_thought(Random(0), hits[1], hits, "Where was Ida Moss born?", answer)
    assert thought.endswith(f" Ida Moss{quote}")
    assert "passage on Title" in thought


def test_a_sentence_of_unusual_length_is_not_quoted() -> None:
    hits = [Hit("a", '"Title"\nBorn ' + "so " * 40 + "in Fernhill.", 1.0)]
    assert "so so" not in answer_thought(Random(0), hits[0], hits, "Where?", "Fernhill")


def test_gold_passages_are_found_by_what_question_and_passages_name(
    index: Path, tmp_path: Path
) -> None:
    out = tmp_path / "demos.jsonl"
    done = make(index, out, "--json")
    assert done.exit_code == 0, done.stderr
    summary = json.loads(done.stdout)
    made = records(out)
    assert_sound(made, out, index, 1)
    assert [record["id"] for record in made] == ["bridge", "compare", "one", "either"]
    assert (summary["questions"], summary["kept"]) == (9, 4)
    assert summary["not_kept"] == {
        "no_supporting_ids": 1,
        "gold_not_in_index": 1,
        "gold_not_retrieved": 1,
        "answer_not_in_passages": 1,
        "tags_in_text": 1,
    }
    bridge, compare = made[0]["turns"], made[1]["turns"]
    assert bridge[1]["text"].endswith("<search> Ida Moss writer </search>")
    assert "Grey Harbour" in bridge[1]["text"].partition("</think>")[0]
    assert bridge[2]["text"].endswith("<answer> Fernhill </answer>"), "the shortest answer"
    assert "Ida Moss was born in Fernhill and wrote stories." in bridge[2]["text"]
    assert {turn["text"].partition("<search>")[2] for turn in compare[:2]} == {
        " Lake Orrin </search>",
        " Mill Pond </search>",
    }


def test_the_same_seed_gives_the_same_bytes_and_limits_do_not_matter(
    index: Path, tmp_path: Path
) -> None:
    paths = [tmp_path / name for name in ("a.jsonl", "b.jsonl", "c.jsonl", "d.jsonl")]
    for path, options in zip(paths, ([], [], ["--limit", "2"], ["--seed", "5"]), strict=True):
        assert make(index, path, "--imperfect", "0.5", *options).exit_code == 0
    first, again, two, other = [path.read_bytes() for path in paths]
    assert first == again
    assert first.startswith(two)
    assert first != other


def test_the_last_thought_can_begin_with_the_question(index: Path, tmp_path: Path) -> None:
    plain, restated = tmp_path / "plain.jsonl", tmp_path / "restated.jsonl"
    assert make(index, plain).exit_code == 0
    assert make(index, restated, "--restate").exit_code == 0
    for before, after in zip(records(plain), records(restated), strict=True):
        question = " ".join(before["question"].split())
        start = f"<think> The question is: {question} "
        last = before["turns"].pop()["text"]
        assert after["turns"].pop()["text"] == last.replace("<think> ", start, 1)
        assert before == after
    assert_sound(records(restated), restated, index, 1)


def test_the_last_thought_can_name_its_passage_without_a_quotation(
    index: Path, tmp_path: Path
) -> None:
    quoted, named = tmp_path / "quoted.jsonl", tmp_path / "named.jsonl"
    assert make(index, quoted).exit_code == 0
    assert make(index, named, "--no-quote").exit_code == 0
    assert_sound(records(named), named, index, 1)
    for before, after in zip(records(quoted), records(named), strict=True):
        last, without = before["turns"].pop()["text"], after["turns"].pop()["text"]
        assert len(without) <= len(last)
        assert before == after
    bridge = records(named)[0]["turns"][-1]["text"]
    assert "was born in Fernhill" in records(quoted)[0]["turns"][-1]["text"]
    assert "was born in Fernhill" not in bridge
    assert "Ida Moss" in bridge


def test_the_question_can_be_asked_first_and_then_what_is_left_of_it(
    index: Path, tmp_path: Path
) -> None:
    asked = tmp_path / "questions.jsonl"
    rows = [
        QUESTIONS[1],
        question(
            "rest",
            "Is Fernhill on the Fernhill line famous for a prize?",
            ["yes"],
            ["town", "untitled"],
        ),
        question("same", "Who is Ida Moss of Fernhill?", ["Fernhill"], ["author", "town"]),
    ]
    asked.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    for seed in range(3):
        out = tmp_path / f"{seed}.jsonl"
        options = ("--question-first", "--seed", str(seed))
        assert make(index, out, *options, questions=asked).exit_code == 0
        made = records(out)
        assert_sound(made, out, index, 1)
        queries = [
            [
                parse_action(turn["text"], finish_reason="stop", may_search=True).content
                for turn in record["turns"][:-1]
            ]
            for record in made
        ]
        assert queries[0][0] == "Is Lake Orrin larger than Mill Pond"
        assert queries[1] == [
            "Is Fernhill on the Fernhill line famous for a prize",
            "Is on the line famous for a prize",
        ]
        assert made[1]["turns"][1]["text"].startswith(("<think> Fernhill", "<think> I have read"))
        assert queries[2][0] == "Who is Ida Moss of Fernhill"


def test_a_passage_with_the_answer_stands_for_gold_passages_that_are_not_named(
    index: Path, tmp_path: Path
) -> None:
    rows = [
        question("found", "Who wrote of ships in The Grey Harbour?", ["Ida Moss"], []),
        question("chance", "Is there a town on the river Tarn?", ["yes"], []),
        question("given", "Was Ida Moss born in Fernhill?", ["Ida Moss"], []),
        question("absent", "Who sells rope?", ["Ann"], []),
        QUESTIONS[0],
    ]
    asked, out = tmp_path / "questions.jsonl", tmp_path / "demos.jsonl"
    asked.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    done = make(index, out, "--distant", "--json", questions=asked)
    assert done.exit_code == 0, done.exception
    assert json.loads(done.stdout)["not_kept"] == {"no_passage_with_answer": 3}
    made = records(out)
    assert_sound(made, out, index, 1)
    assert [(record["id"], len(record["turns"])) for record in made] == [
        ("found", 2),
        ("bridge", 3),
    ]
    assert made[0]["supporting_ids"] == [], "nobody said that this passage is gold"
    assert made[0]["turns"][0]["passages"][0]["id"] == "novel"
    gold = tmp_path / "gold.jsonl"
    assert make(index, gold).exit_code == 0
    assert made[1] == records(gold)[0], "named gold passages are used"


def test_gold_passages_of_another_corpus_are_as_good_as_none(index: Path, tmp_path: Path) -> None:
    rows = [
        question("found", "Who wrote of ships in The Grey Harbour?", ["Ida Moss"], ["wiki18_7"]),
        question("absent", "Who sells rope?", ["Ann"], ["wiki18_8", "wiki18_9"]),
    ]
    asked, out = tmp_path / "questions.jsonl", tmp_path / "demos.jsonl"
    asked.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    refused = make(index, out, questions=asked)
    assert isinstance(refused.exception, InvalidInputError)
    assert "(2 with gold passages that the index lacks (index the corpus they are of))" in str(
        refused.exception
    )
    assert "add --distant" in str(refused.exception)

    asked.write_text(
        "".join(json.dumps(row) + "\n" for row in [*rows, QUESTIONS[0], QUESTIONS[3]]), "utf-8"
    )
    done = make(index, out, "--distant", "--json", questions=asked)
    assert done.exit_code == 0, done.exception
    not_kept = {"no_passage_with_answer": 1, "gold_not_in_index": 1}
    assert json.loads(done.stdout)["not_kept"] == not_kept
    made = records(out)
    assert [record["id"] for record in made] == ["found", "bridge"]
    assert made[0]["supporting_ids"] == ["wiki18_7"], "as the question says"
    assert made[0]["turns"][0]["passages"][0]["id"] == "novel"


def test_demonstrations_of_too_many_words_are_left_out_and_counted(
    index: Path, tmp_path: Path
) -> None:
    every, short = tmp_path / "every.jsonl", tmp_path / "short.jsonl"
    assert make(index, every).exit_code == 0
    lengths = [
        sum(
            len(text.split())
            for turn in record["turns"]
            for text in (turn["text"], *(hit["contents"] for hit in turn.get("passages", ())))
        )
        for record in records(every)
    ]
    limit = sorted(lengths)[len(lengths) // 2]
    done = json.loads(make(index, short, "--max-words", str(limit), "--json").stdout)
    kept = [
        record for record, length in zip(records(every), lengths, strict=True) if length <= limit
    ]
    assert 0 < len(kept) < len(lengths)
    assert records(short) == kept
    assert done["not_kept"]["too_long"] == len(lengths) - len(kept)
    assert done["most_words"] == limit


def test_deliberate_mistakes_are_marked(index: Path, tmp_path: Path) -> None:
    kinds = set()
    for seed in range(4):
        out = tmp_path / f"{seed}.jsonl"
        done = make(index, out, "--imperfect", "1", "--seed", str(seed), "--json")
        made = records(out)
        assert_sound(made, out, index, 1)
        marked = [record["imperfect"] for record in made if "imperfect" in record]
        assert sum(json.loads(done.stdout)["imperfect"].values()) == len(marked) > 0
        kinds |= set(marked)
        for record in made:
            if record.get("imperfect") == "poor_query":
                first = record["turns"][0]["passages"]
                assert not {passage["id"] for passage in first} & set(record["supporting_ids"])
    assert kinds == {"poor_query", "early_answer"}


def test_refusals_come_before_the_work_and_leave_nothing(index: Path, tmp_path: Path) -> None:
    out = tmp_path / "demos.jsonl"
    bare = tmp_path / "bare.jsonl"
    bare.write_text(json.dumps(QUESTIONS[4]) + "\n", "utf-8")
    assert "no question has supporting_ids" in str(make(index, out, questions=bare).exception)
    titled = tmp_path / "hotpot.json"  # HotpotQA's own form
    paragraphs = {"supporting_facts": [["Rex", 0]], "context": [["Rex", ["Rex lived in Rome."]]]}
    titled.write_text(
        json.dumps([{"_id": "1", "question": "Where?", "answer": "Rome"} | paragraphs]), "utf-8"
    )
    assert "`tspo data make-corpus` makes" in str(make(index, out, questions=titled).exception)
    bare.write_text(json.dumps(QUESTIONS[5]) + "\n", "utf-8")
    assert "(1 with answers that the passages read do not hold)" in str(
        make(index, out, questions=bare).exception
    )
    assert not out.exists()
    assert "ends in .jsonl" in str(make(index, tmp_path / "demos.txt").exception)
    one = make(index, out, "--max-searches", "1", "--json")
    assert json.loads(one.stdout)["not_kept"]["too_many_searches"] == 2
    before = out.read_bytes()
    assert "add --overwrite" in str(make(index, out).exception)
    assert out.read_bytes() == before
    assert make(index, out, "--overwrite").exit_code == 0
    assert out.read_bytes() != before
    folder = tmp_path / "folder.jsonl"
    folder.mkdir()
    assert "got a directory" in str(make(index, folder, "--overwrite").exception)


def test_only_demonstrations_are_replaced(index: Path, tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"step": 1}\n', "utf-8")
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps(QUESTIONS[4]) + "\n", "utf-8")
    damaged = tmp_path / "damaged.jsonl.gz"
    damaged.write_bytes(b"no gzip")
    conversation = tmp_path / "conversation.jsonl"
    conversation.write_text('{"messages": []}\n', "utf-8")
    for path in (metrics, questions, damaged, conversation, index / "passages.jsonl"):
        before = path.read_bytes()
        assert "so it is not replaced" in str(make(index, path, "--overwrite").exception)
        assert path.read_bytes() == before
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    assert make(index, empty, "--overwrite").exit_code == 0


@pytest.mark.parametrize("name", ["hotpotqa", "2wikimultihopqa", "musique", "nq"])
def test_real_questions(name: str, real_data: Path, tmp_path: Path) -> None:
    with gzip.open(real_data / name / "questions.jsonl.gz", "rt", encoding="utf-8") as lines:
        asked = [json.loads(line) for line in lines]
    asked = [record for record in asked if record["supporting_ids"]][:40]
    gold = {one for record in asked for one in record["supporting_ids"]}
    with gzip.open(real_data / name / "corpus.jsonl.gz", "rt", encoding="utf-8") as lines:
        passages = [json.loads(line) for line in lines]
    some = [row for place, row in enumerate(passages) if row["id"] in gold or place % 40 == 0]
    for path, rows in (("corpus.jsonl", some), ("questions.jsonl", asked)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / path).write_text(text, "utf-8")
    build_index(tmp_path / "corpus.jsonl", tmp_path / "index")
    out = tmp_path / "demos.jsonl"
    done = make(tmp_path / "index", out, "--imperfect", "0.3", "-k", "3", "--json")
    assert done.exit_code == 0, done.exception
    assert json.loads(done.stdout)["kept"] >= 20
    assert_sound(records(out), out, tmp_path / "index", 3)


def test_a_script_can_search_on_when_it_has_found_its_passages(index: Path, tmp_path: Path) -> None:
    out = tmp_path / "demos.jsonl"
    assert make(index, out, "--min-searches", "2").exit_code == 0
    made = records(out)
    assert_sound(made, out, index, 1)
    searches = {record["id"]: len(record["turns"]) - 1 for record in made}
    assert searches == {"bridge": 2, "compare": 2, "one": 2, "either": 2}
    refused = make(index, out, "--min-searches", "5", "--overwrite").exception
    assert str(refused) == "--min-searches 5: --max-searches is 4"


def test_a_search_can_leave_out_what_was_read(tmp_path: Path) -> None:
    passages = {
        "often": '"Record"\nIn Orrin, Orrin and Orrin the mayor was born, says Orrin.',
        "town": '"Orrin"\nA town far from the sea, on the river Tarn, which floods in spring.',
    }
    rows = [json.dumps({"id": name, "contents": text}) for name, text in passages.items()]
    (tmp_path / "corpus.jsonl").write_text("\n".join(rows) + "\n", "utf-8")
    index = tmp_path / "index"
    build_index(tmp_path / "corpus.jsonl", index)
    asked = tmp_path / "questions.jsonl"
    row = question("twice", "On which river was the mayor of Orrin born?", ["Tarn"], [*passages])
    asked.write_text(json.dumps(row) + "\n", "utf-8")
    out = tmp_path / "demos.jsonl"
    assert "(1 with gold passages that no search finds)" in str(
        make(index, out, questions=asked).exception
    )
    done = make(index, out, "--exclude-seen", "--imperfect", "0.5", questions=asked)
    assert done.exit_code == 0, done.exception
    (made,) = records(out)
    read = [passage["id"] for turn in made["turns"][:-1] for passage in turn["passages"]]
    assert read == ["often", "town"]

"""The registry of benchmarks, a user's own entries, hub names through `datasets`, and the audit of
a corpus.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tspo_cli.commands.data import app
from tspo_cli.data.benchmarks import benchmarks
from tspo_cli.data.readers import data_roots, read_questions, resolve_data
from tspo_cli.errors import InvalidInputError, MissingResourceError, UsageError
from tspo_cli.evaluation.sets import read_eval_sets

SEVEN = ("nq", "triviaqa", "popqa", "hotpotqa", "2wikimultihopqa", "musique", "bamboogle")
ROWS = [
    {
        "id": f"test_{i}",
        "question": f"who {i}?",
        "golden_answers": [f"answer {i}"],
        "metadata": {"hops": 1},
    }
    for i in range(3)
]


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TSPO_DATA", raising=False)


def put(path: str, rows: list[dict[str, object]]) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Path(path)


def test_the_seven_sets() -> None:
    known = benchmarks([])
    assert tuple(known) == SEVEN
    assert sum(entry.size for entry in known.values()) == 51_713
    assert all(
        entry.licence and entry.source and entry.paper and entry.split and entry.title
        for entry in known.values()
    )
    assert str(resolve_data("nq")) == "hf:RUC-NLPIR/FlashRAG_datasets:nq:test"


def test_every_set_has_a_card() -> None:
    cards = Path(__file__).resolve().parents[2] / "data" / "cards"
    for name, one in benchmarks([]).items():
        text = (cards / f"{name}.md").read_text("utf-8")
        for fact in (one.title, one.hub, f"{one.size:,}", one.licence, one.source):
            assert fact in text, (name, fact)


def test_local_files_win_over_the_hub() -> None:
    path = put("data/nq/questions.jsonl", ROWS)
    assert resolve_data("nq") == path


def test_an_entry_of_ones_own() -> None:
    put("data/mine/dev.jsonl", ROWS)
    Path("data/benchmarks.toml").write_text(
        '[films]\npath = "mine/dev.jsonl"\nsize = 5\nlicence = "CC0"\n'
    )
    (questions,) = read_eval_sets(["films"], 0).values()
    assert [question.key for question in questions] == [
        "films/test_0",
        "films/test_1",
        "films/test_2",
    ]
    listed = CliRunner().invoke(app, ["list"]).stdout
    assert "films" in listed
    assert "CC0" in listed
    entries = json.loads(CliRunner().invoke(app, ["list", "--json"]).stdout)["benchmarks"]
    assert [entry["name"] for entry in entries] == [*SEVEN, "films"]
    assert entries[-1]["local"]
    assert not entries[0]["local"]
    assert "3 of the benchmark's 5 questions" in CliRunner().invoke(app, ["check", "films"]).stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a]\nsize = 3", 'expected "path" or "hub"'),
        ('[a]\npath = "x"\nlicense = "MIT"', "license"),
        ("[a", "not valid TOML"),
        ('a = "b"', "expected a table"),
        ('[a]\npath = "x"\nsize = "3"', "size"),
    ],
)
def test_a_malformed_registry(text: str, message: str) -> None:
    Path("data").mkdir()
    Path("data/benchmarks.toml").write_text(text)
    with pytest.raises(InvalidInputError, match=message):
        benchmarks(data_roots())


def test_hub_names_are_read_through_datasets() -> None:
    """A folder of the hub's shape, with a configuration and a split, as FlashRAG's is."""
    put("hub/nq/test.jsonl", ROWS)
    Path("hub/README.md").write_text(
        "---\nconfigs:\n- config_name: nq\n  data_files:\n  - split: test\n    path: "
        "nq/test.jsonl\n---\n"
    )
    Path("data").mkdir()
    Path("data/benchmarks.toml").write_text('[nq]\nhub = "hf:./hub:nq:test"\nsize = 3\n')
    (questions,) = read_eval_sets(["nq"], 0).values()
    assert [question.id for question in questions] == ["test_0", "test_1", "test_2"], (
        "nothing dropped, order kept"
    )
    assert {question.data_source for question in questions} == {"nq"}
    assert read_questions(resolve_data("hf:./hub:nq:test"), limit=2) == questions[:2]


def test_ids_are_unique_over_sets() -> None:
    for name in ("nq", "popqa"):
        put(f"data/{name}/questions.jsonl", ROWS)
    sets = read_eval_sets(["nq", "popqa"], 0)
    keys = [question.key for questions in sets.values() for question in questions]
    assert len(set(keys)) == len(keys) == 6


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    with pytest.raises(MissingResourceError, match="did you mean hotpotqa"):
        resolve_data("hotpot_qa")


def audit_world() -> tuple[Path, Path]:
    corpus = put(
        "corpus.jsonl",
        [
            {"id": "p1", "title": "Ada", "text": "Ada lives in Rome."},
            {"id": "p2", "title": "Bob", "text": "Bob knows Ada and Carl."},
            {"id": "p3", "title": "Carl", "text": "nothing"},
        ],
    )  # fmt: skip
    questions = put(
        "q.jsonl",
        [
            {
                "id": "1",
                "question": "where lives Ada",
                "golden_answers": ["Rome"],
                "supporting_ids": ["p1"],
            },
            {
                "id": "2",
                "question": "where lives Carl",
                "golden_answers": ["Oslo"],
                "supporting_ids": ["p3", "gone"],
            },
            {"id": "3", "question": "is Bob there", "golden_answers": ["yes"]},
        ],
    )
    return questions, corpus


def test_audit_of_a_corpus_and_of_an_index() -> None:
    from tspo_cli.retrieval.index.build_index import build_index

    questions, corpus = audit_world()
    build_index(corpus, Path("index"))
    done = CliRunner().invoke(
        app, ["audit", str(questions), "--index", "index", "-k", "1", "-k", "3", "--json"]
    )
    (row,) = json.loads(done.stdout)["results"]
    assert row["n"] == 3
    assert row["answer_in_corpus"] == 0.5, "the yes/no question is left out"
    assert (row["gold_in_corpus"], row["all_gold_in_corpus"]) == (0.75, 0.5)
    assert [(at_k["k"], at_k["gold_recall"]) for at_k in row["search"]] == [(1, 0.5), (3, 0.75)]
    plain = CliRunner().invoke(app, ["audit", str(questions), "--corpus", str(corpus)])
    assert plain.stdout.split()[-4:] == ["q", "3", "50.0", "75.0"]
    assert "answer in corpus %" in plain.stdout, "the unit stands in the heading"
    assert "no question was found in a passage, or twice in its file" in plain.stderr
    neither = CliRunner().invoke(app, ["audit", str(questions)])
    assert isinstance(neither.exception, UsageError)


def test_audit_of_real_data(real_data: Path) -> None:
    """The share of answers in the corpus is the one that the records themselves state."""
    for name in ("bamboogle", "musique"):
        path = real_data / name / "questions.jsonl.gz"
        options = [
            "audit",
            str(path),
            "--corpus",
            str(real_data / name / "corpus.jsonl.gz"),
            "--json",
        ]
        (row,) = json.loads(CliRunner().invoke(app, options).stdout)["results"]
        known = [question.extra["answer_in_corpus"] for question in read_questions(path)]
        stated = [value for value in known if value is not None]
        assert row["answer_in_corpus"] == pytest.approx(sum(stated) / len(stated), abs=0.003)


# One record of each original set as the hub has it (texts invented), the id and the answers that
# are read from it.
ORIGINALS = {
    "nq_open": (
        {"question": "who wrote it", "answer": ["Ada", "A. L."]},
        "validation_0",
        ("Ada", "A. L."),
    ),
    "trivia_qa": (
        {
            "question": "Who?",
            "question_id": "tc_2",
            "question_source": "x",
            "entity_pages": {"title": []},
            "answer": {
                "value": "Ada",
                "aliases": ["Ada", "A. L."],
                "normalized_aliases": ["ada", "a l"],
                "type": "W",
            },
        },
        "tc_2",
        ("Ada", "A. L."),
    ),
    "popqa": (
        {
            "id": 4222362,
            "subj": "Ada",
            "prop": "role",
            "question": "What?",
            "possible_answers": '["poet", "bard"]',
        },
        "4222362",
        ("poet", "bard"),
    ),
    "hotpot_qa": (
        {
            "id": "5a7a",
            "question": "Is it?",
            "answer": "yes",
            "type": "comparison",
            "level": "hard",
            "supporting_facts": {"title": ["Ada"], "sent_id": [0]},
        },
        "5a7a",
        ("yes",),
    ),
    "2wiki": (
        {"_id": "8813", "question": "Where?", "answer": "Rome", "type": "inference"},
        "8813",
        ("Rome",),
    ),
    "musique": (
        {
            "id": "2hop__1_2",
            "question": "Where?",
            "answer": "Rome",
            "answer_aliases": ["Roma"],
            "answerable": True,
        },
        "2hop__1_2",
        ("Rome", "Roma"),
    ),
    "bamboogle": ({"Question": "Who came first?", "Answer": "Ada"}, "validation_0", ("Ada",)),
    "squad": (
        {"id": "56be", "question": "Who?", "answers": {"text": ["Ada"], "answer_start": [3]}},
        "56be",
        ("Ada",),
    ),
    "asearcher": (
        {"id": 7, "question": "Who?", "answer": "Ada", "aug_answer": ["Ada", "AL"]},
        "7",
        ("Ada", "AL"),
    ),
}


@pytest.mark.parametrize("name", ORIGINALS)
def test_the_original_sets_of_the_hub(name: str) -> None:
    """Parquet, as the hub serves them, through `datasets` and from a file."""
    import pandas

    record, identifier, golds = ORIGINALS[name]
    Path("hub").mkdir()
    pandas.DataFrame([record]).to_parquet("hub/validation-00000.parquet")
    (found,) = read_questions(Path("hf:./hub:validation"), source=name)
    assert (found.id, found.golden_answers, found.data_source) == (identifier, golds, name)
    done = CliRunner().invoke(app, ["convert", "hf:./hub:validation", "out.jsonl", "--json"])
    assert json.loads(done.stdout)["kind"] == "questions"
    (again,) = read_questions(Path("out.jsonl"), source=name)
    assert (again.question, again.golden_answers, again.type) == (found.question, golds, found.type)


def test_a_set_of_the_hub_is_checked_and_audited() -> None:
    put("hub/test.jsonl", [*ROWS, {**ROWS[0], "golden_answers": ["..."]}])
    corpus = put("corpus.jsonl", [{"id": "p1", "contents": "answer 1"}])
    checked = CliRunner().invoke(app, ["check", "hf:./hub:test", "--json"])
    assert [problem["line"] for problem in json.loads(checked.stdout)["problems"]] == [4, 4]
    put("hub/test.jsonl", ROWS)
    Path("data").mkdir()
    Path("data/benchmarks.toml").write_text('[mine]\nhub = "hf:./hub:test"\n')
    audited = CliRunner().invoke(app, ["audit", "mine", "--corpus", str(corpus), "--json"])
    assert json.loads(audited.stdout)["results"][0]["answer_in_corpus"] == pytest.approx(1 / 3)


def test_sets_are_called_by_their_names() -> None:
    plain = [{"id": f"q{n}", "question": f"who {n}?", "golden_answers": ["x"]} for n in range(6)]
    named = [row | {"data_source": f"searchR1_{'nq' if n % 2 else 'popqa'}"}
             for n, row in enumerate(plain)]  # fmt: skip
    put("work/dev.jsonl", plain)
    put("work/merged.jsonl", list(named))
    put("work/one.jsonl", [row | {"data_source": "hotpotqa"} for row in plain])
    put("triviaqa/test.jsonl", plain)
    put("mine/questions.jsonl", plain)
    sets = read_eval_sets(
        ["work/dev.jsonl", "work/merged.jsonl", "work/one.jsonl", "triviaqa/test.jsonl", "mine"], 2
    )
    assert {name: [q.id for q in questions] for name, questions in sets.items()} == {
        "dev": ["q0", "q1"],
        "popqa": ["q0", "q2"],
        "nq": ["q1", "q3"],
        "hotpotqa": ["q0", "q1"],
        "triviaqa": ["q0", "q1"],
        "mine": ["q0", "q1"],
    }
    assert {q.data_source for q in sets["dev"]} == {"dev"}
    assert list(read_eval_sets(["work/one.jsonl", "work/merged.jsonl"], 0, sample=1)) == [
        "hotpotqa", "popqa", "nq",
    ]  # fmt: skip
    put("work/again.jsonl", [row | {"data_source": "hotpotqa"} for row in plain])
    assert list(read_eval_sets(["work/one.jsonl", "work/again.jsonl"], 0)) == [
        "hotpotqa", "hotpotqa_again",
    ]  # fmt: skip

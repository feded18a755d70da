"""A corpus made from questions with paragraphs equals an independent count, whatever the form and
order of its sources, and nothing is lost without a word.
"""

from __future__ import annotations

import fcntl
import gzip
import json
import re
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from tests.data.invented_sets import (
    HOTPOTQA,
    MUSIQUE,
    TWOWIKI,
    Record,
    as_flashrag,
    as_hub,
    as_packed,
    put_array,
    put_lines,
    put_parquet,
    put_zip,
)
from tspo_cli.commands.data import app
from tspo_cli.data.check import check
from tspo_cli.data.corpus.made_corpus import (
    REPEATED,
    WITHOUT_GOLD,
    Options,
    make_corpus,
)
from tspo_cli.data.formats.answers import UNANSWERABLE
from tspo_cli.disk import WriteError
from tspo_cli.errors import InvalidInputError, UsageError

ALL = Options()


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TSPO_DATA", raising=False)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["make-corpus", *map(str, arguments)])


def rows(path: Path) -> list[Record]:
    return [json.loads(line) for line in gzip.open(path, "rt", encoding="utf-8")]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def hotpotqa(name: str = "hotpot_dev_distractor_v1.json") -> Path:
    return put_array(Path(name), HOTPOTQA)


def test_a_hotpotqa_file_equals_an_independent_count() -> None:
    summary = make_corpus([str(hotpotqa())], Path("made"), ALL)
    given = [(title, "".join(sentences)) for one in HOTPOTQA for title, sentences in one["context"]]
    corpus = {row["id"]: (row["title"], row["text"]) for row in rows(Path("made/corpus.jsonl.gz"))}
    assert set(corpus.values()) == set(given)
    assert len(corpus) == len(set(given)) == summary.passages == 5
    assert summary.given == len(given) == 9
    assert list(corpus) == sorted(corpus)
    questions = rows(Path("made/questions.jsonl.gz"))
    assert [question["id"] for question in questions] == ["5a01", "5a02", "5a03"]
    assert [question["golden_answers"] for question in questions] == [["Selm"], ["yes"], ["a ship"]]
    for question, record in zip(questions, HOTPOTQA, strict=True):
        titles = [title for title, _ in record["supporting_facts"]]
        gold = [corpus[identifier] for identifier in question["supporting_ids"]]
        assert [title for title, _ in gold] == list(dict.fromkeys(titles))
        assert set(gold) <= {(title, "".join(parts)) for title, parts in record["context"]}
        named = {name: question[name] for name in ("data_source", "gold_kind", "type", "level")}
        assert named == {
            "data_source": "hotpotqa",
            "gold_kind": "full",
            "type": record["type"],
            "level": record["level"],
        }
    report = check(Path("made/questions.jsonl.gz"), Path("made/corpus.jsonl.gz"))
    assert report.problems == ()
    assert (report.questions, report.passages, report.with_supporting_ids) == (3, 5, 3)


def test_made_twice_gives_the_same_bytes() -> None:
    source = hotpotqa()
    for name in ("one", "two"):
        make_corpus([str(source)], Path(name), ALL)
    assert contents(Path("one")) == contents(Path("two"))
    assert set(contents(Path("one"))) == {"corpus.jsonl.gz", "questions.jsonl.gz", "README.md"}
    header = Path("one/corpus.jsonl.gz").read_bytes()[:10]
    assert header[3:8] == bytes(5), "neither a name nor a time"


HOTPOTQA_FORMS: dict[str, Callable[[], str]] = {
    "lines": lambda: str(put_lines(Path("dev.jsonl"), HOTPOTQA)),
    "hub parquet": lambda: str(
        put_parquet(Path("validation-00000-of-00001.parquet"), [as_hub(one) for one in HOTPOTQA])
    ),
    "FlashRAG": lambda: str(put_lines(Path("dev.jsonl"), [as_flashrag(one) for one in HOTPOTQA])),
    "zip": lambda: str(put_zip(Path("set.zip"), dev_json=json.dumps(HOTPOTQA, indent=1))),
    "zip member": lambda: (
        f"{put_zip(Path('set.zip'), dev_json=json.dumps(HOTPOTQA), train_json='[]')}::dev.json"
    ),
    "objects": lambda: str(
        put_lines(
            Path("dev.jsonl"),
            [
                one | {"context": [{"title": t, "sentences": s} for t, s in one["context"]]}
                for one in HOTPOTQA
            ],
        )
    ),
}


@pytest.mark.parametrize("form", HOTPOTQA_FORMS)
def test_every_form_of_hotpotqa_gives_the_same(form: str) -> None:
    make_corpus([str(hotpotqa())], Path("made"), ALL)
    make_corpus([HOTPOTQA_FORMS[form]()], Path("other"), ALL)
    for name in ("corpus.jsonl.gz", "questions.jsonl.gz"):
        assert contents(Path("made"))[name] == contents(Path("other"))[name]


def test_a_gzipped_file() -> None:
    Path("dev.json.gz").write_bytes(gzip.compress(hotpotqa().read_bytes()))
    make_corpus(["hotpot_dev_distractor_v1.json"], Path("made"), ALL)
    make_corpus(["dev.json.gz"], Path("other"), ALL)
    assert rows(Path("made/corpus.jsonl.gz")) == rows(Path("other/corpus.jsonl.gz"))


def test_2wikimultihopqa_in_both_forms() -> None:
    make_corpus([str(put_array(Path("2wiki/dev.json"), TWOWIKI))], Path("made"), ALL)
    packed = put_parquet(Path("dev.parquet"), [as_packed(one) for one in TWOWIKI])
    make_corpus([str(packed)], Path("other"), ALL)
    questions = rows(Path("made/questions.jsonl.gz"))
    assert questions == rows(Path("other/questions.jsonl.gz"))
    corpus = {row["id"]: row for row in rows(Path("made/corpus.jsonl.gz"))}
    assert list(corpus.values()) == rows(Path("other/corpus.jsonl.gz"))
    assert len(corpus) == 4
    texts = {row["title"]: row["text"] for row in corpus.values()}
    assert texts["Salt Hour"] == "Salt Hour is a film. Its director is Mara Quint."
    assert [[corpus[name]["title"] for name in one["supporting_ids"]] for one in questions] == [
        ["Salt Hour", "Mara Quint"],
        ["Salt Hour", "Grey Hour"],
    ]
    assert {one["data_source"] for one in questions} == {"2wikimultihopqa"}
    assert [one["type"] for one in questions] == ["compositional", "comparison"]


@pytest.mark.parametrize("in_zip", [False, True])
def test_2wikimultihopqa_with_its_file_of_aliases(in_zip: bool) -> None:
    records = [one | {"answer_id": f"Q{at}"} for at, one in enumerate(TWOWIKI)]
    names = [
        {"Q_id": "Q0", "aliases": ["Tenth Oblast"], "demonyms": ["Tenner"]},
        {"Q_id": "Q9", "aliases": ["unused"], "demonyms": []},
    ]
    lines = "".join(json.dumps(name) + "\n" for name in names)
    if in_zip:
        source = put_zip(Path("ids.zip"), dev_json=json.dumps(records), id_aliases_json=lines)
    else:
        source = put_array(Path("ids/dev.json"), records)
        Path("ids/id_aliases.json").write_text(lines)
    summary = make_corpus([str(source)], Path("made"), ALL)
    assert [one["golden_answers"] for one in rows(Path("made/questions.jsonl.gz"))] == [
        ["Oblast Ten", "Tenth Oblast", "Tenner"],
        ["Grey Hour"],
    ]
    named = [name for name, _ in summary.sources[0].files]
    assert named == (["ids.zip"] if in_zip else ["dev.json", "id_aliases.json"])


def test_musique_with_unanswerable_questions() -> None:
    unanswerable = MUSIQUE[0] | {"answerable": False, "paragraphs": MUSIQUE[1]["paragraphs"]}
    source = put_lines(Path("musique_full_v1.0_dev.jsonl"), [unanswerable, *MUSIQUE, MUSIQUE[1]])
    done = run(source, "--out", "made", "--json")
    assert done.exit_code == 0
    shown = json.loads(done.stdout)
    assert shown["left_out"] == {UNANSWERABLE: 1, REPEATED: 1}
    assert f"1 question left out: {UNANSWERABLE}" in done.stderr
    corpus = {row["id"]: row for row in rows(Path("made/corpus.jsonl.gz"))}
    first, second = rows(Path("made/questions.jsonl.gz"))
    assert first["golden_answers"] == ["a light", "a lamp", "a lighthouse"]
    assert [corpus[name]["title"] for name in first["supporting_ids"]] == ["Finn Aas", "Port Ness"]
    assert (first["type"], second["type"]) == ("2hop", "3hop1")
    assert second["supporting_ids"] == first["supporting_ids"][:1], "spaces do not count"
    assert len(corpus) == shown["passages"] == 4
    assert sorted(row["title"] for row in corpus.values()) == [
        "",
        "Finn Aas",
        "Finn Aas",
        "Port Ness",
    ]
    text = Path("made/README.md").read_text("utf-8")
    for said in (UNANSWERABLE, "CC BY 4.0", "2hop 1, 3hop1 1", "do not compare"):
        assert said in text


def test_the_card_has_digests_counts_licence_and_command() -> None:
    import hashlib

    source = hotpotqa()
    run(source, "--out", "made", "--limit", "2")
    text = Path("made/README.md").read_text("utf-8")
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert text.startswith(f"# Corpus of {source.name}\n"), "whatever set its form is of"
    for said in (
        digest,
        "| passages | 5 |",
        "| equal to an earlier one, left out | 2 |",
        "| `questions.jsonl.gz` | 2 | 0 | bridge 1, comparison 1 | easy 1, hard 1 |",
        "CC BY-SA 4.0",
        "tspo data make-corpus hotpot_dev_distractor_v1.json --out DIR --limit 2",
        "No question was left out.",
        "wiki-18",
    ):
        assert said in text, said
    assert str(Path.cwd()) not in text


def test_two_paragraphs_with_one_title_and_places_that_do_not_exist() -> None:
    """The paragraph that has the supporting sentence is gold; HotpotQA names some that it lacks."""
    twice = HOTPOTQA[0] | {
        "_id": "5a09",
        "context": [["Selm", ["A ship."]], ["Selm", ["A town.", " It is old."]], ["Orla", ["It."]]],
        "supporting_facts": [["Selm", 1], ["Orla", 902]],
    }
    make_corpus([str(put_array(Path("dev.json"), [twice]))], Path("made"), ALL)
    corpus = {row["id"]: row["text"] for row in rows(Path("made/corpus.jsonl.gz"))}
    (question,) = rows(Path("made/questions.jsonl.gz"))
    assert [corpus[name] for name in question["supporting_ids"]] == ["A town. It is old.", "It."]


def test_several_sources_are_files_by_split_and_set() -> None:
    train = put_array(Path("hotpot_train_v1.1.json"), HOTPOTQA[:1])
    dev = put_array(Path("hotpot_dev_distractor_v1.json"), HOTPOTQA[1:])
    make_corpus([str(train), str(dev)], Path("a"), ALL)
    assert [row["id"] for row in rows(Path("a/train.jsonl.gz"))] == ["5a01"]
    assert [row["id"] for row in rows(Path("a/dev.jsonl.gz"))] == ["5a02", "5a03"]
    make_corpus([str(dev), str(train)], Path("b"), ALL)
    assert contents(Path("a"))["corpus.jsonl.gz"] == contents(Path("b"))["corpus.jsonl.gz"]
    musique = put_lines(Path("musique_ans_v1.0_dev.jsonl"), MUSIQUE)
    make_corpus([str(dev), str(musique)], Path("c"), ALL)
    assert {"hotpotqa-dev.jsonl.gz", "musique-dev.jsonl.gz"} <= set(contents(Path("c")))
    shards = [
        put_parquet(Path(f"train-0000{at}-of-00002.parquet"), [as_hub(HOTPOTQA[at])])
        for at in range(2)
    ]
    make_corpus([str(shard) for shard in shards], Path("d"), ALL)
    assert [row["id"] for row in rows(Path("d/questions.jsonl.gz"))] == ["5a01", "5a02"]


def test_the_hub_by_place_and_by_name() -> None:
    put_parquet(Path("hub/validation.parquet"), [as_hub(one) for one in HOTPOTQA])
    put_parquet(Path("hub/train.parquet"), [as_hub(HOTPOTQA[0])])
    Path("hub/README.md").write_text(
        "---\nconfigs:\n- config_name: distractor\n  data_files:\n"
        "  - split: train\n    path: train.parquet\n"
        "  - split: validation\n    path: validation.parquet\n---\n"
    )
    Path("data").mkdir()
    Path("data/benchmarks.toml").write_text(
        '[hotpotqa]\nhub = "hf:none:dev"\nparagraphs = "hf:./hub:distractor"\nsplit = "dev"\n'
        'licence = "a licence"\n'
    )
    make_corpus([str(hotpotqa())], Path("made"), ALL)
    make_corpus(["hf:./hub:distractor:validation"], Path("place"), ALL)
    make_corpus(["hotpotqa", "hotpotqa:train"], Path("named"), ALL)
    corpus = contents(Path("made"))["corpus.jsonl.gz"]
    assert contents(Path("place"))["corpus.jsonl.gz"] == corpus
    assert contents(Path("named"))["corpus.jsonl.gz"] == corpus
    assert len(rows(Path("named/dev.jsonl.gz"))) == 3
    assert len(rows(Path("named/train.jsonl.gz"))) == 1
    assert "| hotpotqa | a licence |" in Path("named/README.md").read_text("utf-8")


def test_a_made_folder_gives_itself_and_can_be_split() -> None:
    make_corpus([str(hotpotqa())], Path("made"), ALL)
    make_corpus(["made"], Path("again"), ALL)
    for name in ("corpus.jsonl.gz", "questions.jsonl.gz"):
        assert contents(Path("made"))[name] == contents(Path("again"))[name]
    make_corpus(["made"], Path("split"), Options(held_out=1))
    command = "tspo data make-corpus made/ --out DIR --held-out 1\n"
    assert command in Path("split/README.md").read_text("utf-8"), "a name alone may be of the hub"
    assert contents(Path("split"))["corpus.jsonl.gz"] == contents(Path("made"))["corpus.jsonl.gz"]
    train, dev = (rows(Path(f"split/{name}.jsonl.gz")) for name in ("train", "dev"))
    assert (len(train), len(dev)) == (2, 1)
    both = sorted([*train, *dev], key=lambda row: str(row["id"]))
    assert both == rows(Path("made/questions.jsonl.gz"))
    make_corpus(["split"], Path("split again"), ALL)
    for name in ("corpus.jsonl.gz", "train.jsonl.gz", "dev.jsonl.gz"):
        assert contents(Path("split"))[name] == contents(Path("split again"))[name]


def test_a_folder_with_ids_of_its_own() -> None:
    """Its fields stay, its ids become ours, and its passages meet those of a set."""
    passage = {"id": "p7", "contents": '"Tarn Bridge"\nTarn Bridge is a bridge of 1902.'}
    more = {"id": "p8", "title": "Alone", "text": "No question names it."}
    question = {
        "id": "1",
        "question": "What is it?",
        "golden_answers": ["a bridge"],
        "supporting_ids": ["p7"],
        "gold_kind": "positive",
        "note": 5,
    }
    put_lines(Path("data/mine/corpus.jsonl"), [passage, more])
    put_lines(Path("data/mine/questions.jsonl"), [question])
    summary = make_corpus(["mine", str(hotpotqa())], Path("made"), ALL)
    assert summary.passages == 6, "the five of the set and one more"
    (ours,) = rows(Path("made/mine-questions.jsonl.gz"))
    theirs = rows(Path("made/hotpotqa-dev.jsonl.gz"))[1]
    assert ours["supporting_ids"][0] == theirs["supporting_ids"][1]
    assert (ours["note"], ours["gold_kind"]) == (5, "positive")
    put_lines(Path("data/mine/questions.jsonl"), [question | {"supporting_ids": ["p9"]}])
    with pytest.raises(InvalidInputError, match=r"questions.jsonl:1: .* got 'p9'"):
        make_corpus(["mine"], Path("other"), ALL)


NO_GOLD: dict[str, Any] = {"supporting_facts": []}


def texts_of(path: Path) -> set[str]:
    return {" ".join(row["question"].lower().split()) for row in rows(path)}


def test_questions_are_held_out() -> None:
    """By the digests of ids, whatever their order, and never with their words on both sides."""
    records = [
        HOTPOTQA[0]
        | {
            "_id": f"id{at}",
            "question": f"QUESTION  {at // 3}" if at % 2 else f"question {at // 3}",
        }
        for at in range(60)
    ]
    put_array(Path("train.json"), records)
    put_array(Path("turned/train.json"), records[::-1])
    for name, source in (("a", "train.json"), ("b", "turned/train.json")):
        make_corpus([source], Path(name), Options(held_out=12))
    train, dev = Path("a/train.jsonl.gz"), Path("a/dev.jsonl.gz")
    assert (len(rows(train)), len(rows(dev))) == (48, 12)
    assert texts_of(train) & texts_of(dev) == set()
    assert texts_of(dev) == texts_of(Path("b/dev.jsonl.gz"))
    make_corpus(["train.json"], Path("c"), Options(held_out=30))
    assert texts_of(dev) < texts_of(Path("c/dev.jsonl.gz")), "more held out has all of fewer"
    for count, message in ((60, "too few"), (61, "too few"), (1, "too few")):
        with pytest.raises(InvalidInputError, match=message):
            make_corpus(["train.json"], Path("d"), Options(held_out=count))
    assert not Path("d").exists()
    with pytest.raises(UsageError, match="hotpotqa train and musique dev"):
        make_corpus(
            ["train.json", str(put_lines(Path("dev.jsonl"), MUSIQUE))],
            Path("d"),
            Options(held_out=2),
        )


def test_questions_with_gold_passages_are_held_out_first() -> None:
    records = [
        HOTPOTQA[0] | {"_id": f"id{at}", "question": f"question {at}"} | ({} if at % 4 else NO_GOLD)
        for at in range(40)
    ]
    source = str(put_array(Path("dev.json"), records))
    make_corpus([source], Path("some"), Options(held_out=25))
    assert all(row["supporting_ids"] for row in rows(Path("some/dev.jsonl.gz")))
    make_corpus([source], Path("more"), Options(held_out=35))
    assert all(row["supporting_ids"] == [] for row in rows(Path("more/train.jsonl.gz")))


def test_a_limit_takes_the_first_of_each_split() -> None:
    train = put_array(Path("train.json"), HOTPOTQA)
    more = put_array(Path("more/train.json"), [HOTPOTQA[0] | {"_id": "other"}])
    dev = put_array(Path("dev.json"), HOTPOTQA)
    make_corpus([str(train), str(more), str(dev)], Path("made"), Options(limit=2))
    for name in ("train", "dev"):
        assert [row["id"] for row in rows(Path(f"made/{name}.jsonl.gz"))] == ["5a01", "5a02"]
    make_corpus([str(hotpotqa())], Path("whole"), ALL)
    make_corpus(["whole"], Path("few"), Options(limit=1))
    assert len(rows(Path("few/questions.jsonl.gz"))) == 1
    assert contents(Path("few"))["corpus.jsonl.gz"] == contents(Path("whole"))["corpus.jsonl.gz"]


def test_the_old_corpus_stays_until_the_new_one_is_whole() -> None:
    source = str(hotpotqa())
    make_corpus([source], Path("made"), ALL)
    before = contents(Path("made"))
    with pytest.raises(InvalidInputError, match="--overwrite"):
        make_corpus([source], Path("made"), ALL)
    torn = put_array(Path("torn.json"), [*HOTPOTQA, {"_id": "x"}])
    with pytest.raises(InvalidInputError, match=r"torn\.json:4"):
        make_corpus([str(torn)], Path("made"), ALL, overwrite=True)
    assert contents(Path("made")) == before
    shutil.copytree("made", ".made.new")  # of a process that was killed
    Path(".made.new/made").mkdir()
    Path(".made.new/.lock").touch()
    make_corpus([source], Path("made"), Options(limit=1), overwrite=True)
    assert len(rows(Path("made/questions.jsonl.gz"))) == 1
    make_corpus([source], Path("made"), Options(held_out=1), overwrite=True)
    assert set(contents(Path("made"))) == {
        "corpus.jsonl.gz", "train.jsonl.gz", "dev.jsonl.gz", "README.md",
    }  # fmt: skip
    assert {path.name for path in Path().iterdir()} == {Path(source).name, "torn.json", "made"}


@pytest.mark.parametrize(("size", "name"), [(200, "passages"), (1200, "README.md")])
def test_a_full_disk_names_the_file_and_leaves_nothing(size: int, name: str) -> None:
    source = str(hotpotqa())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        with pytest.raises(WriteError) as caught:
            make_corpus([source], Path("made"), ALL)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert Path(str(caught.value.filename)).name == name
    assert [path.name for path in Path().iterdir()] == [source]


def test_only_questions_with_gold_passages() -> None:
    records = [HOTPOTQA[0], HOTPOTQA[1] | NO_GOLD]
    source = put_array(Path("dev.json"), records)
    assert make_corpus([str(source)], Path("all"), ALL).files[0].without_gold == 1
    summary = make_corpus([str(source)], Path("made"), Options(gold_only=True))
    assert summary.left_out == {WITHOUT_GOLD: 1}
    assert [row["id"] for row in rows(Path("made/questions.jsonl.gz"))] == ["5a01"]
    assert summary.passages == 4, "without the paragraphs of the other"
    folder = make_corpus(["all"], Path("again"), Options(gold_only=True))
    assert (folder.questions, folder.passages) == (1, 5), "a ready corpus stays whole"


def test_one_writer_and_no_other_directory() -> None:
    source = str(hotpotqa())
    for name in ("corpus.jsonl.gz", "README.md", "mine.txt"):
        put_lines(Path("other") / name, [])
    with pytest.raises(InvalidInputError, match=r"no made corpus \(mine.txt\)"):
        make_corpus([source], Path("other"), ALL, overwrite=True)
    Path("other/mine.txt").unlink()
    Path("other/corpus.jsonl.gz").unlink()
    with pytest.raises(InvalidInputError, match="no card"):
        make_corpus([source], Path("other"), ALL, overwrite=True)
    with pytest.raises(InvalidInputError, match="no directory"):
        make_corpus([source], Path(source), ALL, overwrite=True)
    Path(".made.new").mkdir()
    with open(".made.new/.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InvalidInputError, match="another process is making"):
            make_corpus([source], Path("made"), ALL)
    assert not Path("made").exists()


def test_list_and_audit_know_a_made_folder() -> None:
    source = str(hotpotqa())
    make_corpus([source], Path("data/hotpot"), ALL)
    make_corpus([source], Path("data/halves"), Options(held_out=1))
    listed = CliRunner().invoke(app, ["list"]).stdout
    assert [line.split()[:2] for line in listed.splitlines()[:3]] == [
        ["halves/dev.jsonl.gz", "1"],
        ["halves/train.jsonl.gz", "2"],
        ["hotpot", "3"],
    ]
    assert "corpus data/hotpot/corpus.jsonl.gz" in listed
    options = ["audit", "hotpot", "--corpus", "data/hotpot/corpus.jsonl.gz", "--json"]
    (row,) = json.loads(CliRunner().invoke(app, options).stdout)["results"]
    assert (row["gold_in_corpus"], row["answer_in_corpus"]) == (1.0, 1.0)


TITLES = st.sampled_from(["Ada", "Bo", " Bo ", "Caf\u00e9", "Cafe\u0301", "", "Delta  Works"])
TEXTS = st.sampled_from(["", "One.", "Two.", "Two. ", "Three\n four.", "Three four."])


@st.composite
def sets(draw: st.DrawFn) -> list[Record]:
    """HotpotQA records with few titles and texts, so that many paragraphs are equal."""
    records = []
    for number in range(draw(st.integers(1, 6))):
        titles = draw(st.lists(TITLES, min_size=1, max_size=4))
        context = [[title, [draw(TEXTS)]] for title in titles]
        facts = [[title, 0] for title in draw(st.lists(st.sampled_from(titles), max_size=3))]
        records.append(
            HOTPOTQA[0] | {"_id": f"q{number}", "context": context, "supporting_facts": facts}
        )
    return records


def plain(text: str) -> str:
    """An independent normal form: composed, no repeated spaces."""
    import unicodedata

    return re.sub(r"\s+", " ", unicodedata.normalize("NFC", text)).strip()


@settings(max_examples=25)
@given(records=sets(), order=st.randoms())
def test_laws_of_made_corpora(records: list[Record], order: Any) -> None:
    """One passage for each title and text; ids do not depend on order or subset; gold ids exist."""
    with TemporaryDirectory() as folder:
        base = Path(folder)
        put_array(base / "dev.json", records)
        make_corpus([str(base / "dev.json")], base / "made", ALL)
        corpus = {
            row["id"]: (row["title"], row["text"]) for row in rows(base / "made/corpus.jsonl.gz")
        }
        given_pairs = {(plain(t), plain(s[0])) for one in records for t, s in one["context"]}
        assert sorted(corpus.values()) == sorted(given_pairs)
        questions = rows(base / "made/questions.jsonl.gz")
        for question, record in zip(questions, records, strict=True):
            gold = [corpus[name] for name in question["supporting_ids"]]
            assert {title for title, _ in gold} == {plain(t) for t, _ in record["supporting_facts"]}
            assert set(gold) <= {(plain(t), plain(s[0])) for t, s in record["context"]}
            assert question["gold_kind"] == ("full" if gold else "none")
        turned = list(records)
        order.shuffle(turned)
        put_array(base / "turned/dev.json", turned)
        make_corpus([str(base / "turned/dev.json")], base / "again", ALL)
        assert (
            contents(base / "again")["corpus.jsonl.gz"]
            == contents(base / "made")["corpus.jsonl.gz"]
        )
        put_array(base / "part/dev.json", records[:1])
        make_corpus([str(base / "part/dev.json")], base / "less", ALL)
        less = {
            row["id"]: (row["title"], row["text"]) for row in rows(base / "less/corpus.jsonl.gz")
        }
        assert less.items() <= corpus.items()
        assert rows(base / "less/questions.jsonl.gz") == questions[:1]

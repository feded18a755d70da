from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tspo_cli.config.schema import DemonstrationConfig
from tspo_cli.credit.gold_match import contains_answer
from tspo_cli.data.question import Passage, Question
from tspo_cli.data.readers import read_passages, read_questions
from tspo_cli.data.world.demonstrate import Demonstration, Demonstrator
from tspo_cli.data.world.generate import World, load_world, make_world, world_words
from tspo_cli.data.world.names import SYLLABLES
from tspo_cli.data.world.relations import RELATIONS
from tspo_cli.data.world.world_config import WorldConfig
from tspo_cli.errors import InvalidInputError, MissingResourceError

SMALL = WorldConfig(
    seed=3,
    entities=120,
    test_entities=80,
    train_questions=200,
    test_questions=60,
    comparison_share=0.1,
)
NAME = re.compile(r"\b[A-Z][a-z]+ [A-Z][a-z]+\b")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("worlds") / "small"
    make_world(SMALL, path)
    return path


@pytest.fixture(scope="module")
def world(directory: Path) -> World:
    return load_world(directory)


@pytest.fixture(scope="module")
def corpus(directory: Path) -> dict[str, Passage]:
    return {passage.id: passage for passage in read_passages(directory / "corpus.jsonl")}


@pytest.fixture(scope="module")
def questions(directory: Path) -> dict[str, list[Question]]:
    return {split: read_questions(directory / f"{split}.jsonl") for split in ("train", "test")}


def files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())}


def test_same_configuration_same_bytes(directory: Path, tmp_path: Path) -> None:
    counts = make_world(SMALL, tmp_path / "again")
    assert files(tmp_path / "again") == files(directory)
    assert counts["train_questions"] == 200
    make_world(SMALL.model_copy(update={"seed": 4}), tmp_path / "other")
    assert files(tmp_path / "other")["corpus.jsonl"] != files(directory)["corpus.jsonl"]


def test_existing_directories(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="not empty"):
        make_world(SMALL, directory)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InvalidInputError, match="other files"):
        make_world(SMALL, tmp_path, overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(InvalidInputError, match="got a file"):
        make_world(SMALL, tmp_path / "notes.txt", overwrite=True)
    with pytest.raises(MissingResourceError, match=r"world\.json"):
        load_world(tmp_path)


def test_overwrite_replaces_a_world(tmp_path: Path) -> None:
    make_world(SMALL.model_copy(update={"seed": 1}), tmp_path)
    make_world(SMALL, tmp_path, overwrite=True)
    assert load_world(tmp_path).config.seed == SMALL.seed


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_questions": 10**6}, "request fewer"),
        ({"two_hop_share": 0.9, "comparison_share": 0.2}, "at most 1"),
    ],
)
def test_impossible_worlds_are_refused_before_anything_is_written(
    changes: dict[str, float], words: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInputError, match=words):
        make_world(SMALL.model_copy(update=changes), tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_ids_and_texts_are_unique(
    corpus: dict[str, Passage], questions: dict[str, list[Question]]
) -> None:
    every = [question for split in questions.values() for question in split]
    assert len({question.id for question in every}) == len(every)
    assert len({question.question for question in every if question.type != "comparison"}) == len(
        [question for question in every if question.type != "comparison"]
    )
    assert {question.data_source for question in every} == {"world"}


def test_test_entities_are_new(
    questions: dict[str, list[Question]], corpus: dict[str, Passage]
) -> None:
    def words(split: str) -> set[str]:
        texts = [f"{q.question} . {' . '.join(q.golden_answers)}" for q in questions[split]]
        texts += [
            f"{corpus[i].title} . {corpus[i].text}"
            for question in questions[split]
            for i in question.supporting_ids
        ]
        return {word for text in texts for name in NAME.findall(text) for word in name.split()}

    assert words("train")
    assert not words("train") & words("test")


def test_kinds_of_questions(questions: dict[str, list[Question]]) -> None:
    kinds = [question.type for question in questions["train"]]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "one_hop": 80,
        "bridge": 100,
        "comparison": 20,
    }
    comparisons = [
        question.golden_answers for question in questions["train"] if question.type == "comparison"
    ]
    assert 8 <= comparisons.count(("yes",)) <= 12


def test_supporting_passages_answer_the_question(
    questions: dict[str, list[Question]], corpus: dict[str, Passage]
) -> None:
    for question in questions["train"] + questions["test"]:
        support = [corpus[identifier] for identifier in question.supporting_ids]
        assert question.gold_kind == "full"
        if question.type == "comparison":
            assert all(passage.title in question.question for passage in support)
            continue
        assert len(support) == {"one_hop": 1, "bridge": 2}[question.type]
        assert support[0].title in question.question
        assert contains_answer(support[-1].text, question.golden_answers)
        assert not contains_answer(question.question, question.golden_answers)
        if question.type == "bridge":
            assert support[1].title in support[0].text


def test_questions_and_passages_use_other_words(corpus: dict[str, Passage]) -> None:
    asked = {r.asked for r in RELATIONS}
    told = {r.passage_word for r in RELATIONS}
    assert not asked & told
    for relation in RELATIONS:
        assert all(
            relation.passage_word in re.findall(r"\w+", sentence) for sentence in relation.sentences
        )
    for passage in corpus.values():
        assert len(NAME.findall(passage.text)) >= 1
        for sentence in re.split(r"(?<=[.]) ", passage.text):
            words = set(re.findall(r"\w+", sentence))
            assert not (words & asked and words & told)


def test_every_text_is_made_of_the_words_and_syllables_of_the_world(
    world: World, corpus: dict[str, Passage]
) -> None:
    name_words = {word for name in world.names for word in name.split()}
    assert world.syllables == SYLLABLES
    assert not {word.lower() for word in name_words} & set(world.words)
    pairs = {(a + b).capitalize() for a in SYLLABLES for b in SYLLABLES}
    assert name_words <= pairs
    assert len(pairs) == len(SYLLABLES) ** 2, "two syllable pairs spell the same word"
    for text in [p.text for p in corpus.values()] + [plan.question for plan in world.plans]:
        assert set(re.findall(r"\w+|[^\w\s]", text)) <= set(world.words) | name_words
    assert list(world.words) == world_words()


def test_facts_may_share_passages(tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"facts_per_passage": 2, "bait_share": 0.0})
    make_world(config, tmp_path)
    passages = list(read_passages(tmp_path / "corpus.jsonl"))
    assert {passage.text.count(".") for passage in passages} == {2}
    by_id = {passage.id: passage for passage in passages}
    for question in read_questions(tmp_path / "test.jsonl"):
        if question.type != "comparison":
            assert contains_answer(by_id[question.supporting_ids[-1]].text, question.golden_answers)


def searcher(corpus: dict[str, Passage]):  # type: ignore[no-untyped-def]
    """Ranks by the number of shared words: enough of a search engine for a small world."""
    bags = [
        (passage, set(re.findall(r"\w+", passage.contents.lower()))) for passage in corpus.values()
    ]

    def search(queries: Sequence[str], k: int) -> list[list[Passage]]:
        results = []
        for query in queries:
            words = set(query.lower().split())
            ranked = sorted(bags, key=lambda bag: (-len(words & bag[1]), bag[0].id))
            results.append([passage for passage, _ in ranked[:k]])
        return results

    return search


def demonstrator(
    world: World,
    corpus: dict[str, Passage],
    config: DemonstrationConfig,
    *,
    rename: bool = True,
    max_searches: int = 3,
) -> Demonstrator:
    return Demonstrator(
        world, searcher(corpus), config, k=2, max_searches=max_searches, rename=rename
    )


PERFECT = DemonstrationConfig(
    query_good=1,
    query_question_word=0,
    answer_correct=1,
    answer_distractor=0,
    early_stop=0,
    retry=1,
)


def draws(source: Demonstrator, count: int = 200) -> list[Demonstration]:
    rng = np.random.default_rng(0)
    return [source.draw(rng) for _ in range(count)]


def test_perfect_demonstrations_are_right(world: World, corpus: dict[str, Passage]) -> None:
    answers = {plan.question: plan.answer for plan in world.plans}
    right = [
        answers[d.question] == d.turns[-1].answer
        for d in draws(demonstrator(world, corpus, PERFECT, rename=False))
    ]
    assert np.mean(right) > 0.85  # the toy search may miss a passage


@pytest.mark.parametrize("max_searches", [0, 1, 3])
def test_form_of_demonstrations(
    world: World, corpus: dict[str, Passage], max_searches: int
) -> None:
    source = demonstrator(world, corpus, DemonstrationConfig(), max_searches=max_searches)
    for demonstration in draws(source):
        *searches, last = demonstration.turns
        assert len(searches) <= max_searches
        assert last.answer
        assert last.query is None
        assert not last.passages
        for turn in searches:
            assert turn.query
            assert turn.answer is None
            assert len(turn.passages) == 2
        assert all(turn.think for turn in demonstration.turns)


def test_imperfection_follows_its_configuration(world: World, corpus: dict[str, Passage]) -> None:
    told = {relation.passage_word for relation in RELATIONS}

    def share_of_good_queries(config: DemonstrationConfig) -> float:
        first = [d.turns[0].query or "" for d in draws(demonstrator(world, corpus, config))]
        return float(np.mean([query.split()[-1] in told for query in first]))

    assert share_of_good_queries(PERFECT) == 1
    assert 0.05 < share_of_good_queries(DemonstrationConfig(query_good=0.15)) < 0.3
    assert share_of_good_queries(DemonstrationConfig(query_good=0, query_question_word=1)) == 0
    answers = {plan.question: plan.answer for plan in world.plans if plan.type != "comparison"}
    never = demonstrator(
        world, corpus, DemonstrationConfig(answer_correct=0, answer_distractor=1), rename=False
    )
    assert all(answers.get(d.question) != d.turns[-1].answer for d in draws(never))


def test_renaming_is_consistent_within_and_fresh_between_demonstrations(
    world: World, corpus: dict[str, Passage]
) -> None:
    plain = draws(demonstrator(world, corpus, DemonstrationConfig(), rename=False), 1)[0]
    renamed = draws(demonstrator(world, corpus, DemonstrationConfig(), rename=True), 1)[0]

    def texts(demonstration: Demonstration) -> list[str]:
        parts = [demonstration.question]
        for turn in demonstration.turns:
            parts += [turn.think, turn.query or "", turn.answer or ""]
            parts += [f"{passage.title} | {passage.text}" for passage in turn.passages]
        return parts

    mapping: dict[str, str] = {}
    for before, after in zip(texts(plain), texts(renamed), strict=True):
        old, new = re.findall(r"\w+|\W", before), re.findall(r"\w+|\W", after)
        assert len(old) == len(new)
        for a, b in zip(old, new, strict=True):
            assert mapping.setdefault(a, b) == b
            assert (a == b) == (not a[0].isupper())
    assert len(set(mapping.values())) == len(mapping)
    assert [p.id for t in plain.turns for p in t.passages] == [
        p.id for t in renamed.turns for p in t.passages
    ]

    drawn = draws(demonstrator(world, corpus, DemonstrationConfig()), 100)
    names = [name for d in drawn for name in set(NAME.findall(d.question))]
    assert len(set(names)) == len(names)


def test_demonstrations_depend_on_the_generator_alone(
    world: World, corpus: dict[str, Passage]
) -> None:
    source = demonstrator(world, corpus, DemonstrationConfig())
    assert draws(source, 20) == draws(source, 20)

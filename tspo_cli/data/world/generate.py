"""Make a synthetic world from a seed: corpus, questions and the plans of its demonstrations."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tspo_cli.data.world import relations as wording
from tspo_cli.data.world.facts import Entities, Fact, draw_entities, draw_facts
from tspo_cli.data.world.names import SYLLABLES
from tspo_cli.data.world.questions import Draft, write_questions
from tspo_cli.data.world.world_config import WorldConfig
from tspo_cli.data.world.world_passages import number_passages, write_passages
from tspo_cli.disk import atomic_write_text, new_directory
from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.overwriting import require_own
from tspo_cli.plain_files import made_by
from tspo_cli.runs import read_json, write_json
from tspo_cli.text.strict_json import json_text

CORPUS, TRAIN, TEST, DESCRIPTION = "corpus.jsonl", "train.jsonl", "test.jsonl", "world.json"
SOURCE = "world"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Hop:
    """A look-up of a question: the fact and the passage that states it."""

    subject: str
    relation: wording.Relation
    object: str
    passage_id: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The look-ups that answer a training question."""

    type: str
    question: str
    answer: str
    hops: tuple[Hop, ...]


@dataclass(frozen=True, slots=True)
class World:
    """A world on disk. Its texts consist of `words` and of names made of `syllables`; `names` are
    all its entities.
    """

    directory: Path
    config: WorldConfig
    words: tuple[str, ...]
    syllables: tuple[str, ...]
    names: frozenset[str]
    plans: tuple[Plan, ...]


def make_world(config: WorldConfig, out: Path, overwrite: bool = False) -> dict[str, Any]:
    """Write a world to the directory `out` and return its counts. The same configuration gives the
    same bytes.

    Raises:
        InvalidInputError: `out` is not empty and `overwrite` is not set, or it holds files that
            are not of a world; the world is too small for
            its questions, or another process makes it.
    """
    with new_directory(out, "making this world", partial(_check_out, out, overwrite)) as folder:
        return _write_world(config, folder)


def _check_out(out: Path, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise InvalidInputError(
            f"{out}: expected a directory for the world, got a file; choose another"
        )
    if out.is_dir() and any(out.iterdir()):
        if not overwrite:
            raise InvalidInputError(
                f"{out}: the directory is not empty; give --overwrite or another directory"
            )
        if not (out / DESCRIPTION).is_file():
            raise InvalidInputError(
                f"{out}: has other files than a world; choose another directory"
            )
        require_own(out, (DESCRIPTION, CORPUS, TRAIN, TEST), "a world")


def _write_world(config: WorldConfig, folder: Path) -> dict[str, Any]:
    rng = random.Random(f"world {config.seed}")
    relations = wording.RELATIONS[: config.relations]
    taken = set(world_words())
    entities = draw_entities(rng, config.entities, relations, config.sharing, taken)
    test_entities = draw_entities(rng, config.test_entities, relations, config.sharing, taken)
    facts, test_facts = (
        draw_facts(rng, entities, relations),
        draw_facts(rng, test_entities, relations),
    )
    drafts = [
        draft
        for split_facts, split_entities in ((facts, entities), (test_facts, test_entities))
        for draft in write_passages(
            rng, split_facts, split_entities, config.facts_per_passage, config.bait_share
        )
    ]
    passages, stated = number_passages(rng, drafts)
    shares = (config.two_hop_share, config.comparison_share)
    train = write_questions(rng, facts, config.train_questions, *shares, "train")
    test = write_questions(rng, test_facts, config.test_questions, *shares, "test")

    counts = {
        "passages": len(passages),
        "entities": sum(map(len, entities.values())),
        "test_entities": sum(map(len, test_entities.values())),
        "train_questions": len(train),
        "test_questions": len(test),
    }
    description = _description(config, counts, (entities, test_entities), train, stated)
    texts = ({"id": p.id, "title": p.title, "text": p.text} for p in passages)
    _write_jsonl(folder / CORPUS, texts)
    _write_jsonl(folder / TRAIN, _question_records("train", train, stated))
    _write_jsonl(folder / TEST, _question_records("test", test, stated))
    write_json(folder / DESCRIPTION, description)
    return counts


def world_words() -> list[str]:
    """All words and punctuation of a world's texts except the names, sorted."""
    relation_texts = [
        text for r in wording.RELATIONS for text in (r.asked, r.passage_word, *r.sentences)
    ]
    templates = (*wording.BAITS, *wording.ONE_HOP, *wording.BRIDGE, *wording.COMPARISON)
    thoughts = (wording.FOUND, wording.NOT_FOUND, wording.GUESS, wording.GOAL)
    texts = [*relation_texts, *templates, *thoughts, wording.YES, wording.NO, "who what"]
    plain = (re.sub(r"\{\w+\}", " ", text) for text in texts)
    return sorted({word for text in plain for word in re.findall(r"\w+|[^\w\s]", text)})


def world_file(directory: Path) -> Path:
    """The file that describes the world in `directory`.

    Raises:
        MissingResourceError: the directory has no world.
    """
    path = directory / DESCRIPTION
    if not path.is_file():
        maker = made_by(directory)
        advice = f"{maker} makes one" if maker else "make a world with `tspo data make-world`"
        raise MissingResourceError(f"{directory}: no {DESCRIPTION} in it; {advice}")
    return path


def load_world(directory: Path) -> World:
    """The world in `directory`.

    Raises:
        MissingResourceError: the directory has no world.
        InvalidInputError: the world has a format of another version.
    """
    path = world_file(directory)
    record = read_json(path)
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise InvalidInputError(
            f"{path}: expected a world of format {FORMAT}; make it again with this version"
        )
    known = {relation.name: relation for relation in wording.RELATIONS}
    plans = tuple(
        Plan(
            plan["type"],
            plan["question"],
            plan["answer"],
            tuple(
                Hop(subject, known[relation], obj, passage)
                for subject, relation, obj, passage in plan["hops"]
            ),
        )
        for plan in record["plans"]
    )
    names = frozenset(
        name for split in record["entities"].values() for group in split.values() for name in group
    )
    config = WorldConfig.model_validate(record["config"])
    return World(
        directory, config, tuple(record["words"]), tuple(record["syllables"]), names, plans
    )


def _description(
    config: WorldConfig,
    counts: Mapping[str, int],
    entities: tuple[Entities, Entities],
    train: Sequence[Draft],
    stated: Mapping[Fact, str],
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "config": config.model_dump(mode="json"),
        "counts": counts,
        "words": world_words(),
        "syllables": SYLLABLES,
        "entities": {"train": entities[0], "test": entities[1]},
        "plans": [
            {
                "type": draft.type,
                "question": draft.text,
                "answer": draft.answer,
                "hops": [
                    [fact.subject, fact.relation.name, fact.object, stated[fact]]
                    for fact in draft.facts
                ],
            }
            for draft in train
        ],
    }


def _question_records(
    split: str, drafts: Sequence[Draft], stated: Mapping[Fact, str]
) -> Iterable[dict[str, Any]]:
    width = len(str(len(drafts)))
    for number, draft in enumerate(drafts, start=1):
        yield {
            "id": f"{split}-{number:0{width}}",
            "question": draft.text,
            "golden_answers": [draft.answer],
            "data_source": SOURCE,
            "type": draft.type,
            "supporting_ids": list(dict.fromkeys(stated[fact] for fact in draft.facts)),
            "gold_kind": "full",
        }


def _write_jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    atomic_write_text(path, "".join(json_text(record) + "\n" for record in records))

"""Entity types and their relations. Questions and passages use different words for a relation."""

from __future__ import annotations

from dataclasses import dataclass

TYPE_SHARES = {"person": 0.42, "film": 0.23, "city": 0.155, "company": 0.155, "country": 0.04}
"""Share of each type among the entities."""


@dataclass(frozen=True, slots=True)
class Relation:
    """A kind of fact: one object for each subject.

    `asked` is the noun of the questions, `passage_word` the word of the passages. The two
    `sentences` state the same fact; {o} is the object, {d} another entity of its type. The subject
    is the title of the passage.
    """

    name: str
    subject: str
    object: str
    asked: str
    passage_word: str
    sentences: tuple[str, str]


# The first relations form chains, so that a world with few relations has bridge questions too.
RELATIONS = (
    Relation(
        "director",
        "film",
        "person",
        "director",
        "helmed",
        ("it was helmed by {o} and not by {d}.", "{d} declined, {o} helmed it."),
    ),
    Relation(
        "mentor",
        "person",
        "person",
        "mentor",
        "coached",
        ("{o} coached this artist, not {d}.", "not {d} but {o} coached this artist."),
    ),
    Relation(
        "birthplace",
        "person",
        "city",
        "birthplace",
        "born",
        ("born in {o}, raised in {d}.", "raised in {d} but born in {o}."),
    ),
    Relation(
        "mayor",
        "city",
        "person",
        "mayor",
        "governs",
        ("{o} governs it, not {d}.", "it is not {d} but {o} that governs it."),
    ),
    Relation(
        "writer",
        "film",
        "person",
        "writer",
        "penned",
        ("{o} penned it for {d}.", "for {d} it was penned by {o}."),
    ),
    Relation(
        "composer",
        "film",
        "person",
        "composer",
        "tunes",
        ("the tunes are by {o}, not by {d}.", "{d} sang, the tunes are by {o}."),
    ),
    Relation(
        "studio",
        "film",
        "company",
        "studio",
        "financed",
        ("{o} financed it, {d} refused.", "{d} refused, {o} financed it."),
    ),
    Relation(
        "employer",
        "person",
        "company",
        "employer",
        "works",
        ("works at {o}, not at {d}.", "left {d} and works at {o}."),
    ),
    Relation(
        "founder",
        "company",
        "person",
        "founder",
        "launched",
        ("{o} launched it, {d} joined.", "{d} joined, {o} launched it."),
    ),
    Relation(
        "boss",
        "company",
        "person",
        "boss",
        "chairs",
        ("{o} chairs it for {d}.", "for {d} it is {o} that chairs it."),
    ),
    Relation(
        "seat",
        "company",
        "city",
        "seat",
        "offices",
        ("the offices are in {o}, the shop in {d}.", "the shop is in {d}, the offices in {o}."),
    ),
    Relation(
        "nation",
        "city",
        "country",
        "nation",
        "lies",
        ("it lies in {o}, not in {d}.", "not in {d} but in {o} it lies."),
    ),
    Relation(
        "ruler",
        "country",
        "person",
        "ruler",
        "crowned",
        ("{o} was crowned, not {d}.", "not {d} but {o} was crowned."),
    ),
    Relation(
        "capital",
        "country",
        "city",
        "capital",
        "parliament",
        (
            "the parliament is in {o}, the court in {d}.",
            "the court is in {d}, the parliament in {o}.",
        ),
    ),
)

BAITS = ("rumours once named {d} as the {asked}.", "many confuse the {asked} with {d}.")
"""Distractors: sentences with the word of the question and a wrong entity."""

ONE_HOP = ("{wh} is the {asked} of {s}?", "tell me the {asked} of {s}.")
BRIDGE = ("{wh} is the {asked} of the {via} of {s}?", "tell me the {asked} of the {via} of {s}.")
COMPARISON = (
    "do {s} and {t} have the same {asked}?",
    "is the {asked} of {s} the same as that of {t}?",
)
FOUND, NOT_FOUND, GUESS, GOAL = "it is found", "it is not found", "guess", "find {asked} of {s}"
"""Thoughts of the demonstrations."""
YES, NO = "yes", "no"


def question_word(relation: Relation) -> str:
    """`who` for a person, else `what`."""
    return "who" if relation.object == "person" else "what"

"""Entity types and the facts about them: the word of the question is never the word of the corpus."""

from __future__ import annotations

from dataclasses import dataclass

TYPE_SHARES = {"person": 0.42, "film": 0.23, "city": 0.155, "company": 0.155, "country": 0.04}
"""Types and the share of entities that each has."""


@dataclass(frozen=True, slots=True)
class Relation:
    """A kind of fact: one object for each subject.

    `asked` is the noun that questions use, `told` the word that passages use. Both `sentences` state the same fact in
    another order; {o} is the object, {d} another entity of its type. The subject is the passage's title.
    """

    name: str
    subject: str
    object: str
    asked: str
    told: str
    sentences: tuple[str, str]


# In this order the first ones already form chains, so that a small world has bridge questions too.
RELATIONS = (
    Relation(
        "director",
        "film",
        "person",
        "director",
        "helmed",
        ("after {d} declined, {o} helmed it.", "it was helmed by {o} and not by {d}."),
    ),
    Relation(
        "mentor",
        "person",
        "person",
        "mentor",
        "coached",
        ("{o} coached this artist long before {d}.", "before meeting {d} this artist was coached by {o}."),
    ),
    Relation(
        "birthplace",
        "person",
        "city",
        "birthplace",
        "born",
        ("born in {o}, raised near {d}.", "raised near {d} but born in {o}."),
    ),
    Relation(
        "mayor",
        "city",
        "person",
        "mayor",
        "governs",
        ("{o} governs here since {d} left.", "since {d} left, {o} governs here."),
    ),
    Relation(
        "writer",
        "film",
        "person",
        "writer",
        "penned",
        ("{o} penned it while {d} was ill.", "while {d} was ill it was penned by {o}."),
    ),
    Relation(
        "composer",
        "film",
        "person",
        "composer",
        "tunes",
        ("the tunes are by {o}, {d} only sang.", "{d} only sang, the tunes are by {o}."),
    ),
    Relation(
        "studio",
        "film",
        "company",
        "studio",
        "financed",
        ("{o} financed it, {d} had refused.", "{d} had refused, so {o} financed it."),
    ),
    Relation(
        "employer",
        "person",
        "company",
        "employer",
        "works",
        ("works at {o} and once left {d}.", "once left {d} and now works at {o}."),
    ),
    Relation(
        "founder",
        "company",
        "person",
        "founder",
        "launched",
        ("{o} launched it, {d} joined later.", "{d} joined later, it was launched by {o}."),
    ),
    Relation(
        "boss",
        "company",
        "person",
        "boss",
        "chairs",
        ("{o} chairs it in place of {d}.", "in place of {d} now {o} chairs it."),
    ),
    Relation(
        "seat",
        "company",
        "city",
        "seat",
        "offices",
        ("its offices are in {o}, a shop is in {d}.", "a shop is in {d}, its offices are in {o}."),
    ),
    Relation(
        "nation", "city", "country", "nation", "lies", ("it lies in {o} close to {d}.", "close to {d} it lies in {o}.")
    ),
    Relation(
        "ruler",
        "country",
        "person",
        "ruler",
        "crowned",
        ("{o} was crowned after {d} died.", "after {d} died they crowned {o}."),
    ),
    Relation(
        "capital",
        "country",
        "city",
        "capital",
        "parliament",
        ("its parliament meets in {o}, its court in {d}.", "its court meets in {d}, its parliament in {o}."),
    ),
)

BAITS = ("rumours once named {d} as the {asked}.", "many confuse the {asked} with {d}.")
"""Passages with the question's word and a wrong entity, without the answer."""

ONE_HOP = ("{wh} is the {asked} of {s}?", "tell me the {asked} of {s}.")
BRIDGE = ("{wh} is the {asked} of the {via} of {s}?", "tell me the {asked} of the {via} of {s}.")
COMPARISON = ("do {s} and {t} have the same {asked}?", "is the {asked} of {s} the same as that of {t}?")
FOUND, NOT_FOUND, GUESS, GOAL = "it is found", "it is not found", "guess", "find {asked} of {s}"
"""What demonstrations think."""
YES, NO = "yes", "no"


def question_word(relation: Relation) -> str:
    """who for people, what for the rest."""
    return "who" if relation.object == "person" else "what"

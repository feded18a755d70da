"""Make a corpus from question sets that bring their own paragraphs, and questions that name their
gold passages in it.
"""

from __future__ import annotations

import gzip
import re
import shlex
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tspo_cli.console import agreeing, say, track
from tspo_cli.data.benchmarks import benchmarks
from tspo_cli.data.corpus.corpus_card import FileFacts, SourceFacts, Summary, card
from tspo_cli.data.corpus.hold_out import hold_out
from tspo_cli.data.corpus.paragraph_sets import (
    Paragraph,
    one_line_text,
    own_paragraphs,
)
from tspo_cli.data.corpus.passage_pool import PassagePool, passage_id
from tspo_cli.data.corpus.set_sources import Source, find_sources
from tspo_cli.data.formats.answers import UNANSWERABLE, is_unanswerable
from tspo_cli.data.formats.record_checks import invalid, text_id
from tspo_cli.data.question import Question
from tspo_cli.data.readers import data_roots, question_rows, read_passages
from tspo_cli.data.rows import read_rows
from tspo_cli.data.writers import question_record
from tspo_cli.digests import file_digest
from tspo_cli.disk import (
    LOCK_NAME,
    atomic_write_text,
    delete_work,
    flush_to_disk,
    one_writer,
    place_to_replace,
    replace_directory,
    writing,
)
from tspo_cli.errors import InvalidInputError, UsageError
from tspo_cli.overwriting import require_outside, require_own
from tspo_cli.plain_files import read_plain_text
from tspo_cli.runs import dataset_file_name, write_jsonl_gz

CORPUS, CARD = "corpus.jsonl.gz", "README.md"
REPEATED = "identical to an earlier one"
WITHOUT_GOLD = "no gold passage is named (--gold-only)"
_LEVEL = 5
_EXPECTED = re.compile(r": expected (.*?), got ")
Key = tuple[str, str]
"""Set and split of questions. Those of one key share a file."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a corpus is made.

    `limit`: most questions of each set and split, 0 for all. `held_out`: how many questions become
    dev.jsonl.gz, the others train.jsonl.gz; 0 keeps them together. `skip_invalid`: leave malformed
    questions out. `gold_only`: leave questions out that name no gold passage.
    """

    limit: int = 0
    held_out: int = 0
    skip_invalid: bool = False
    gold_only: bool = False


@dataclass(frozen=True, slots=True)
class _Found:
    """A question that a source has, with the passages that came with it."""

    number: int
    question: Question
    paragraphs: tuple[Paragraph, ...] = ()


@dataclass
class _Collected:
    pool: PassagePool
    questions: dict[Key, dict[str, Question]] = field(default_factory=lambda: defaultdict(dict))
    places: dict[tuple[Key, str], str] = field(default_factory=dict)
    """Where each question stands, for errors."""
    left_out: Counter[str] = field(default_factory=Counter)
    our_ids: dict[Path, dict[str, str]] = field(default_factory=dict)
    """Of each ready corpus: from its ids to ours."""


def make_corpus(
    names: Sequence[str], out: Path, options: Options, *, overwrite: bool = False
) -> Summary:
    """Write corpus, questions and card to the directory `out`. The same sources give the same
    bytes, and the corpus does not depend on their order.

    Args:
        names: see `find_sources`.

    Raises:
        MissingResourceError: there is no such source.
        InvalidInputError: a source is damaged or brings no paragraphs, a record is malformed,
            questions with one id differ, too few are there to hold some out, another process makes
            this corpus, or `out` is not empty. `overwrite` replaces a made corpus, never another
            directory.
        UsageError: questions of several sets or splits were to be held out.
    """
    place = place_to_replace(out)
    sources = find_sources(names)
    files = [file for source in sources for file in source.files]
    _check_target(place, overwrite, files)
    work = place.with_name(f".{place.name}.new")
    with one_writer(work, "making this corpus", out):
        try:
            summary = _make(sources, work, options)
            _check_target(place, overwrite, files)
            replace_directory(work / "made", place)
        finally:
            delete_work(work)
    return summary


def _check_target(out: Path, overwrite: bool, sources: Sequence[Path]) -> None:
    if out.exists() and not out.is_dir():
        raise InvalidInputError(f"{out}: exists and is no directory; choose another --out")
    inside = {path.name for path in out.iterdir()} - {LOCK_NAME} if out.is_dir() else set()
    if not inside:
        return
    if not overwrite:
        raise InvalidInputError(
            f"{out}: the directory is not empty; give --overwrite or another --out"
        )
    foreign = sorted(name for name in inside - {CARD} if not name.endswith(".jsonl.gz"))
    if foreign or not {CORPUS, CARD} <= inside:
        raise InvalidInputError(
            f"{out}: is no made corpus ({', '.join(foreign[:3]) or 'no card'}); choose another "
            "--out"
        )
    require_outside(out, *sources)
    written = read_plain_text(out / CARD).replace("\\|", "|")
    require_own(out, {CARD, *(name for name in inside if f"`{name}`" in written)}, "its card")


def _make(sources: Sequence[Source], work: Path, options: Options) -> Summary:
    made, spool = work / "made", work / "passages"
    shutil.rmtree(made, ignore_errors=True)  # of a process that was killed
    made.mkdir()
    with writing(spool), open(spool, "wb") as passages:
        found = _Collected(PassagePool(passages))
        facts = tuple(_read(source, found, options) for source in sources)
    files = _question_files(found, options)
    with open(spool, "rb") as passages:
        lines = track(found.pool.lines(passages), "writing passages", len(found.pool))
        _write_corpus(made / CORPUS, lines)
    for name, questions in files.items():
        write_jsonl_gz(made / name, map(question_record, questions))
    summary = _summary(sources, found, facts, files, options)
    atomic_write_text(made / CARD, card(summary))
    return summary


def _write_corpus(path: Path, lines: Iterable[bytes]) -> None:
    # No name and no clock in the header: equal passages give equal bytes.
    with (
        writing(path),
        open(path, "wb") as raw,
        gzip.GzipFile("", "wb", _LEVEL, raw, mtime=0) as packed,
    ):
        packed.writelines(lines)
    flush_to_disk(path)


def _read(source: Source, found: _Collected, options: Options) -> SourceFacts:
    """Take the questions and passages of a source."""
    kept_here = 0
    read = _ready(source, found) if source.corpus else _own(source, found, options)
    for one in track(read, f"reading {source.name}"):
        key = (one.question.data_source, source.split)
        questions = found.questions[key]
        _require_one_key(found.questions, options)
        if options.limit and len(questions) >= options.limit:
            if source.corpus:
                continue
            break
        place = (key, one.question.id)
        if options.gold_only and not one.question.supporting_ids:
            found.left_out[WITHOUT_GOLD] += 1
        elif one.question == questions.get(one.question.id):
            found.left_out[REPEATED] += 1
        elif place in found.places:
            raise invalid(
                source.rows,
                one.number,
                "ids that differ",
                f"{one.question.id!r} as in {found.places[place]}, with other content",
                "remove one of them",
            )
        else:
            questions[one.question.id] = one.question
            found.places[place] = f"{source.rows}:{one.number}"
            for paragraph in one.paragraphs:
                found.pool.add(paragraph)
            kept_here += 1
    digests = tuple((path.name, file_digest(path)) for path in source.files)
    return SourceFacts(source.name, kept_here, digests)


def _require_one_key(questions: Mapping[Key, object], options: Options) -> None:
    if options.held_out and len(questions) > 1:
        several = " and ".join(" ".join(filter(None, key)) for key in questions)
        raise UsageError(
            f"--held-out: expected questions of one set and split, got {several}; make a corpus of "
            "each, or leave the option out"
        )


def _own(source: Source, found: _Collected, options: Options) -> Iterator[_Found]:
    """The questions of a set whose questions bring their own paragraphs."""
    aliases: dict[str, list[str]] = {}
    if source.aliases:
        aliases = _aliases(source.aliases)
        say(f"{source.name}: answers get the further names in {source.aliases}")
    good = 0
    error: InvalidInputError | None = None
    for number, record in read_rows(source.rows):
        if is_unanswerable(record):
            found.left_out[UNANSWERABLE] += 1
            continue
        try:
            own = own_paragraphs(source.rows, number, record, aliases)
        except InvalidInputError as malformed:
            error = error or malformed
            if not options.skip_invalid:
                hint = "; --skip-invalid leaves such questions out" if good else ""
                raise InvalidInputError(f"{malformed}{hint}") from None
            wrong = _EXPECTED.search(str(malformed))
            found.left_out[f"malformed: expected {wrong[1]}" if wrong else "malformed"] += 1
            continue
        good += 1
        gold = (passage_id(own.paragraphs[at]) for at in own.gold)
        question = replace(own.question, supporting_ids=tuple(dict.fromkeys(gold)))
        yield _Found(number, question, own.paragraphs)
    if good == 0:
        raise error or InvalidInputError(
            f"{source.rows}: expected questions with answers, got none; fix: name another file"
        )


def _ready(source: Source, found: _Collected) -> Iterator[_Found]:
    """The questions of a folder with a corpus, and all passages of that corpus."""
    corpus = source.corpus or Path()
    if corpus not in found.our_ids:
        passages = track(read_passages(corpus), f"reading {corpus}")
        found.our_ids[corpus] = {
            passage.id: found.pool.add(
                Paragraph(one_line_text(passage.title), one_line_text(passage.text))
            )
            for passage in passages
        }
    ids = found.our_ids[corpus]
    for number, question in question_rows(source.rows):
        for identifier in question.supporting_ids:
            if identifier not in ids:
                raise invalid(
                    source.rows,
                    number,
                    f'"supporting_ids" to name passages of {corpus}',
                    repr(identifier),
                    "correct the id",
                )
        ours = dict.fromkeys(ids[identifier] for identifier in question.supporting_ids)
        yield _Found(number, replace(question, supporting_ids=tuple(ours)))


def _aliases(path: Path) -> dict[str, list[str]]:
    """Further names of each entity, by its id."""
    names: dict[str, list[str]] = {}
    for number, record in read_rows(path):
        given: list[Any] = [
            *(record.get("aliases") or ()),
            *(record.get("demonyms") or ()),
        ]
        if not all(isinstance(name, str) for name in given):
            raise invalid(
                path,
                number,
                '"aliases" and "demonyms" to be lists of strings',
                "other values",
                "correct the line",
            )
        names[text_id(path, number, record.get("Q_id"), "Q_id")] = given
    return names


def _question_files(found: _Collected, options: Options) -> dict[str, list[Question]]:
    """The files of questions by their names."""
    keys = [key for key, questions in found.questions.items() if questions]
    if not keys:
        raise InvalidInputError("expected questions in the sources, got none; name other files")
    if options.held_out:
        questions = list(found.questions[keys[0]].values())
        parts = hold_out(questions, options.held_out)
        if parts is None:
            raise InvalidInputError(
                f"--held-out {options.held_out}: "
                f"{agreeing(len(questions), 'question is', 'questions are')} too few to hold out "
                "so many and train on others (questions with the same words stay together)"
            )
        return {"train.jsonl.gz": parts[0], "dev.jsonl.gz": parts[1]}
    splits = [split for _, split in keys]
    names = {
        (name, split): "questions"
        if len(keys) == 1
        else split
        if all(splits) and len(set(splits)) == len(splits)
        else f"{dataset_file_name(name)}-{split or 'questions'}"
        for name, split in keys
    }
    if len(set(names.values())) < len(keys):
        several = ", ".join(repr(name) for name, _ in keys)
        raise InvalidInputError(f"names of sets that differ in more than signs, got {several}")
    return {f"{names[key]}.jsonl.gz": list(found.questions[key].values()) for key in keys}


def _summary(
    sources: Sequence[Source],
    found: _Collected,
    facts: tuple[SourceFacts, ...],
    files: Mapping[str, Sequence[Question]],
    options: Options,
) -> Summary:
    # A folder may have the name of a set of the hub.
    names = dict.fromkeys(f"{source.given}{'/' * bool(source.corpus)}" for source in sources)
    command = ["tspo", "data", "make-corpus", *names]
    command += ["--out", "DIR"]
    command += ["--limit", str(options.limit)] * bool(options.limit)
    command += ["--held-out", str(options.held_out)] * bool(options.held_out)
    command += ["--skip-invalid"] * options.skip_invalid
    command += ["--gold-only"] * options.gold_only
    known = benchmarks(data_roots())
    names = dict.fromkeys(name for name, _ in found.questions)
    return Summary(
        command=shlex.join(command),
        sources=facts,
        passages=len(found.pool),
        given=found.pool.given,
        title_only=found.pool.title_only,
        files=tuple(_file_facts(name, questions) for name, questions in files.items()),
        left_out=dict(found.left_out.most_common()),
        sets={
            name: (known[name].licence if name in known else "") or "unknown: see its source"
            for name in names
        },
    )


def _file_facts(name: str, questions: Sequence[Question]) -> FileFacts:
    levels = (question.extra.get("level") for question in questions)
    return FileFacts(
        name=name,
        questions=len(questions),
        without_gold=sum(not question.supporting_ids for question in questions),
        types=dict(Counter(question.type for question in questions if question.type)),
        levels=dict(Counter(level for level in levels if isinstance(level, str) and level)),
    )

"""Evaluated items as TREC files, so that trec_eval, ir_measures and ranx can score what an agent
retrieved.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tspo_cli.data.corpus.chunks import document_id
from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.text.printable import printable


def trec_run(groups: Sequence[dict[str, Any]], tag: str) -> list[str]:
    """Lines `question Q0 document rank score tag`: what all searches of the first trajectory found.

    The documents stand in the order in which the agent first saw them, each once. A chunk of a
    document counts as the document (`doc` for `doc#3`), at the place of its best chunk, unless gold
    passages are named in that form themselves. Scores fall with the rank: those of different
    queries do not compare, and the tools sort by score. A question without passages has no line.

    Raises:
        InvalidInputError: an id is empty or holds white space or half of a surrogate pair, which
            the format cannot carry.
    """
    gold = [str(name) for group in groups for name in group.get("supporting_ids") or []]
    whole = any(document_id(name) != name for name in gold)
    lines = []
    for group in groups:
        question = _word(str(group["group"][1]))
        turns = group["trajectories"][0]["turns"]
        found = [str(passage["id"]) for turn in turns for passage in turn.get("passages") or []]
        seen = dict.fromkeys(found if whole else map(document_id, found))
        for rank, document in enumerate(seen, start=1):
            lines.append(
                f"{question} Q0 {_word(document)} {rank} {len(seen) - rank + 1} "
                f"{'_'.join(printable(tag).split()) or '-'}"
            )
    return lines


def trec_qrels(groups: Iterable[dict[str, Any]]) -> list[str]:
    """Lines `question 0 passage 1`: the gold passages of every question that names some.

    Raises:
        InvalidInputError: as `trec_run`.
        MissingResourceError: no question names its gold passages.
    """
    lines = [
        f"{_word(str(group['group'][1]))} 0 {_word(str(passage))} 1"
        for group in groups
        for passage in dict.fromkeys(group.get("supporting_ids") or [])
    ]
    if not lines:
        raise MissingResourceError(
            "--qrels: no question here names its gold passages (supporting_ids)"
        )
    return lines


def _word(value: str) -> str:
    if not value or value.split() != [value]:
        raise InvalidInputError(f"id {value!r}: TREC files cannot carry an empty id or white space")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise InvalidInputError(f"id {value!r}: TREC files cannot carry half of a surrogate pair")
    return value

"""Small question sets of invented text in the exact forms of HotpotQA, 2WikiMultihopQA and MuSiQue,
as their authors and the hub publish them.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

Record = dict[str, Any]

MILL = ["Orla Mill", ["Orla Mill is a mill on the Tarn.", " It was built by Ivo Brandt."]]
BRANDT = ["Ivo Brandt", ["Ivo Brandt was a builder.", " He was born in Selm.", " He had a dog."]]
SELM = ["Selm", ["Selm is a town.", " It lies at a café."]]
BRIDGE = ["Tarn Bridge", ["Tarn Bridge is a bridge of 1902."]]
OTHER_SELM = ["Selm", ["Selm is a ship."]]

HOTPOTQA: list[Record] = [
    {
        "_id": "5a01",
        "answer": "Selm",
        "question": "Where was the builder of Orla Mill born?",
        "supporting_facts": [["Orla Mill", 1], ["Ivo Brandt", 1], ["Ivo Brandt", 0]],
        "context": [SELM, BRANDT, BRIDGE, MILL],
        "type": "bridge",
        "level": "hard",
    },
    {
        "_id": "5a02",
        "answer": "yes",
        "question": "Are Orla Mill and Tarn Bridge on one river?",
        "supporting_facts": [["Orla Mill", 0], ["Tarn Bridge", 0]],
        "context": [MILL, OTHER_SELM, BRIDGE],
        "type": "comparison",
        "level": "easy",
    },
    {
        "_id": "5a03",
        "answer": "a ship",
        "question": "What is the Selm without a café?",
        "supporting_facts": [["Selm", 0]],
        "context": [OTHER_SELM, BRANDT],
        "type": "bridge",
        "level": "hard",
    },
]

TWOWIKI: list[Record] = [
    {
        "_id": "13f5",
        "type": "compositional",
        "question": "What is the place of birth of the director of film Salt Hour?",
        "context": [
            ["Salt Hour", ["Salt Hour is a film.", "Its director is Mara Quint."]],
            ["Mara Quint", ["Mara Quint was born in Oblast Ten."]],
            ["Oblast Ten", ["Oblast Ten is a place."]],
        ],
        "supporting_facts": [["Salt Hour", 1], ["Mara Quint", 0]],
        "evidences": [
            ["Salt Hour", "director", "Mara Quint"],
            ["Mara Quint", "place of birth", "Oblast Ten"],
        ],
        "answer": "Oblast Ten",
    },
    {
        "_id": "24b0",
        "type": "comparison",
        "question": "Which film is older, Salt Hour or Grey Hour?",
        "context": [
            ["Grey Hour", ["Grey Hour is a film of 1950."]],
            ["Salt Hour", ["Salt Hour is a film.", "Its director is Mara Quint."]],
        ],
        "supporting_facts": [["Salt Hour", 0], ["Grey Hour", 0]],
        "evidences": [["Grey Hour", "publication date", "1950"]],
        "answer": "Grey Hour",
    },
]

MUSIQUE: list[Record] = [
    {
        "id": "2hop__11_22",
        "paragraphs": [
            {
                "idx": 0,
                "title": "Port Ness",
                "paragraph_text": "Port Ness has a light.",
                "is_supporting": True,
            },
            {
                "idx": 1,
                "title": "",
                "paragraph_text": "A page without a title.",
                "is_supporting": False,
            },
            {
                "idx": 2,
                "title": "Finn Aas",
                "paragraph_text": "Finn Aas lives in  Port Ness.",
                "is_supporting": True,
            },
        ],
        "question": "What does the town of Finn Aas have?",
        "question_decomposition": [
            {
                "id": 11,
                "question": "Finn Aas >> town",
                "answer": "Port Ness",
                "paragraph_support_idx": 2,
            },
            {
                "id": 22,
                "question": "#1 >> has",
                "answer": "a light",
                "paragraph_support_idx": 0,
            },
        ],
        "answer": "a light",
        "answer_aliases": ["a lamp", "a lighthouse"],
        "answerable": True,
    },
    {
        "id": "3hop1__11_22_33",
        "paragraphs": [
            {
                "idx": 0,
                "title": "Finn Aas",
                "paragraph_text": "Finn Aas lives in Port Ness.",
                "is_supporting": True,
            },
            {
                "idx": 1,
                "title": "Finn Aas",
                "paragraph_text": "Finn Aas has a boat.",
                "is_supporting": False,
            },
        ],
        "question": "Who lives where?",
        "question_decomposition": [],
        "answer": "Finn Aas",
        "answer_aliases": [],
        "answerable": True,
    },
]


def as_hub(record: Record) -> Record:
    """A record of HotpotQA as the hub has it."""
    facts, context = record["supporting_facts"], record["context"]
    return {
        "id": record["_id"],
        **{name: record[name] for name in ("question", "answer", "type", "level")},
        "supporting_facts": {
            "title": [title for title, _ in facts],
            "sent_id": [place for _, place in facts],
        },
        "context": {
            "title": [title for title, _ in context],
            "sentences": [sentences for _, sentences in context],
        },
    }


def as_flashrag(record: Record) -> Record:
    """A record of HotpotQA as FlashRAG has it."""
    hub = as_hub(record)
    inside = ("type", "level", "supporting_facts", "context")
    return {
        "id": hub["id"],
        "question": hub["question"],
        "golden_answers": [hub["answer"]],
        "metadata": {name: hub[name] for name in inside},
    }


def as_packed(record: Record) -> Record:
    """A record of 2WikiMultihopQA with JSON in strings."""
    packed = ("context", "supporting_facts", "evidences")
    return {name: json.dumps(value) if name in packed else value for name, value in record.items()}


def put_array(path: Path, records: list[Record]) -> Path:
    """A JSON array on one line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def put_lines(path: Path, records: list[Record]) -> Path:
    """JSONL."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def put_parquet(path: Path, records: list[Record]) -> Path:
    """A parquet file."""
    import pyarrow
    import pyarrow.parquet as parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(records), path)
    return path


def put_zip(path: Path, **texts: str) -> Path:
    """A zip archive with the texts in its folder `data`; the first underscore of a name is a
    point.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in texts.items():
            archive.writestr(f"data/{name[::-1].replace('_', '.', 1)[::-1]}", text)
    return path

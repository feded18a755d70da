"""A corpus: files of passages, or folders of text documents, read one after the other."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tspo_cli.console import counted, part_of
from tspo_cli.data.corpus.chunks import WHOLE, Chunking, chunks, has_more_words
from tspo_cli.data.corpus.passage_forms import numbered, parse_passage
from tspo_cli.data.formats.record_checks import invalid
from tspo_cli.data.question import Passage
from tspo_cli.data.rows import count_rows, read_rows
from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.plain_files import files_below, refuse_pointer, why_missing

DOCUMENT_SUFFIXES = (".txt", ".md")
CORPUS_NAMES = ("corpus.jsonl", "corpus.jsonl.gz")
"""The file of passages in the folder of a data set."""
LONG_DOCUMENT = 1_000
"""Words. More are several times what `rollout.max_observation_tokens` usually holds."""
_FRONT_MATTER = "---"


@dataclass
class CorpusFacts:
    """What was found while a corpus was read."""

    documents: int = 0
    """Records, or documents of a folder."""
    cut: int = 0
    """Documents that became several chunks."""
    passages: int = 0
    empty: int = 0
    """Passages without any text and title."""
    title_only: int = 0
    """Passages whose text is missing or only repeats the title."""
    long: int = 0
    """Documents that stay whole and have more than `LONG_DOCUMENT` words."""

    def count(self, passage: Passage) -> None:
        """Count one passage."""
        self.passages += 1
        text = passage.text
        if len(text) <= len(passage.title) + 2 or text.isspace():
            text = text.strip()
            if not text and not passage.title.strip():
                self.empty += 1
            elif text in ("", passage.title.strip()):
                self.title_only += 1

    def remarks(self) -> Iterator[str]:
        """Sentences for a person, about what a corpus usually does not have."""
        if self.empty:
            yield part_of(self.empty, self.passages, "passage", "is empty", "are empty")
        if self.title_only:
            has = part_of(self.title_only, self.passages, "passage", "has", "have")
            yield f"{has} a title and no text"
        if 2 * self.long > self.documents:
            has = part_of(self.long, self.documents, "document", "has", "have")
            yield (
                f"{has} more than {LONG_DOCUMENT:,} words, and an agent reads only the beginning "
                "of a long passage; --set chunk_tokens=100 cuts them into passages of 100 words"
            )
        if self.cut:
            were_cut = part_of(self.cut, self.documents, "document", "was cut", "were cut")
            yield f"{were_cut}; {counted(self.passages, 'passage')}"


def read_corpus(
    paths: Sequence[Path], chunking: Chunking, facts: CorpusFacts
) -> Iterator[tuple[Path, int, Passage]]:
    """Stream (file, line, passage) of all files and folders in their order; counts into `facts`.

    Ids may be equal: see `write_passages`. Records without an id are numbered over all files.

    Raises:
        MissingResourceError: there is no such file, or a folder without documents.
        InvalidInputError: a record is malformed, or a file has no passage.
    """
    for file, number, document in read_documents(paths, facts):
        for passage in passages_of(document, chunking, facts):
            yield file, number, passage


def passages_of(document: Passage, chunking: Chunking, facts: CorpusFacts) -> Iterator[Passage]:
    """The passages of a document: itself, or its chunks; counts into `facts`."""
    parts = 0
    facts.long += chunking == WHOLE and has_more_words(document.text, LONG_DOCUMENT)
    for passage in chunks(document, chunking):
        parts += 1
        facts.count(passage)
        yield passage
    facts.cut += parts > 1


def read_documents(
    paths: Sequence[Path], facts: CorpusFacts
) -> Iterator[tuple[Path, int, Passage]]:
    """Stream (file, line, document) as `read_corpus`, before documents are cut."""
    for path in paths:
        before = facts.documents
        for file, number, document in _documents(path, before):
            facts.documents += 1
            yield file, number, document
        if facts.documents == before:
            raise InvalidInputError(
                f"{path}: expected passages, got an empty file; fix: name a corpus file"
            )


def check_corpus(paths: Sequence[Path]) -> None:
    """Raises MissingResourceError if a file does not exist, or a folder has no documents."""
    for path in paths:
        if not path.exists():
            raise MissingResourceError(
                f"{path}: {why_missing(path)}; name a corpus file or a folder of documents (hub: "
                "tspo data convert it first)"
            )
        document_files(path)


def _documents(path: Path, first: int) -> Iterator[tuple[Path, int, Passage]]:
    if path.is_dir() or is_document(path):
        for file in document_files(path):
            name = file.relative_to(path).as_posix() if path.is_dir() else file.name
            yield file, 1, read_document(file, name)
        return
    for number, record in numbered(path, read_rows(path), first):
        yield path, number, parse_passage(path, number, record)


def is_document(path: Path) -> bool:
    """Whether a file is one document, by its name, and not JSONL that is called .txt."""
    if path.suffix.lower() not in DOCUMENT_SUFFIXES or not path.is_file():
        return False
    with open(path, "rb") as handle:
        return not handle.read(256).lstrip().startswith(b"{")


def document_files(path: Path) -> list[Path]:
    """The .txt and .md files below a folder by their relative names, without hidden ones; a file is
    itself.

    Raises:
        MissingResourceError: the folder has none.
        InvalidInputError: it is a data set like those of BEIR, with its corpus in a file, or one of
            its folders may not be listed.
    """
    if not path.is_dir():
        return [path]
    for name in CORPUS_NAMES:
        if (path / name).is_file():
            raise InvalidInputError(
                f"{path}: a data set with a corpus of its own; name the file {path / name}"
            )
    files = [
        file
        for file in files_below(path)
        if file.suffix.lower() in DOCUMENT_SUFFIXES and file.is_file()
    ]
    if not files:
        inside = ", ".join(sorted(child.name for child in path.iterdir())[:8]) or "nothing"
        raise MissingResourceError(
            f"{path}: no .txt or .md file in this folder (it holds {inside}); name a corpus file, "
            "or a folder of documents"
        )
    return files


def read_document(path: Path, identifier: str) -> Passage:
    """The document in a .txt or .md file.

    Its title is its first heading if the document begins with one, else the name of the file.

    Raises:
        InvalidInputError: the file is not UTF-8, or a pointer of Git LFS.
    """
    refuse_pointer(path)
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        got = f"byte {error.start} that is not"
        raise invalid(path, 1, "UTF-8 text", got, "re-encode the file") from None
    title = ""
    if path.suffix.lower() == ".md":
        text = _without_front_matter(text).lstrip()
        line, _, rest = text.partition("\n")
        if line.startswith("#") and line.lstrip("#").startswith((" ", "\t")):
            title, text = line.strip("# \t\r"), rest
    return Passage(identifier, title or path.stem, text.strip())


def _without_front_matter(text: str) -> str:
    """Markdown without the block of settings between two lines `---` at its start."""
    first, _, rest = text.partition("\n")
    if first.rstrip() != _FRONT_MATTER:
        return text
    _, end, body = rest.partition(f"\n{_FRONT_MATTER}")
    return body.partition("\n")[2] if end else text


def count_documents(paths: Sequence[Path]) -> int:
    """Records and documents of a corpus. Raises as `read_corpus`, if a file is damaged."""
    return sum(
        len(document_files(path)) if path.is_dir() or is_document(path) else count_rows(path)
        for path in paths
    )


def corpus_digest(paths: Sequence[Path], digest_of: Callable[[Path], str]) -> str:
    """SHA-256 of a corpus: that of its file, or of the digests of all its files in their order."""
    if len(paths) == 1 and not paths[0].is_dir():
        return digest_of(paths[0])
    digest = hashlib.sha256()
    for path in paths:
        for file in document_files(path):
            name = file.relative_to(path).as_posix() if path.is_dir() else ""
            digest.update(f"{name}\0{digest_of(file)}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()

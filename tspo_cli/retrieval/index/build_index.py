"""Building an index directory: whole or not at all, and a dense build goes on where it was killed.

While a build runs, and after it was killed, its files lie beside the target in `.NAME.build/`:

state.json     corpus, encoder and encoding; a build that differs in it starts again
index/         the files of the index so far
shards/        vectors, some thousand passages in each file
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tspo_cli.data.readers import read_passages
from tspo_cli.data.rows import count_rows
from tspo_cli.errors import InvalidInputError, MissingResourceError, TspoError
from tspo_cli.retrieval.dense.presets import resolve_preset
from tspo_cli.retrieval.manifest import (
    MANIFEST_NAME,
    file_digest,
    file_facts,
    is_index,
    make_manifest,
    read_manifest,
)
from tspo_cli.retrieval.passages import OFFSETS_NAME, PASSAGES_NAME, PassageStore, write_passages
from tspo_cli.retrieval.search_settings import IndexSettings, index_settings, vector_settings
from tspo_cli.runs import read_json, write_json


@dataclass(frozen=True)
class Plan:
    """What is to be built."""

    corpus: Path
    kind: str
    settings: IndexSettings
    encoder: str
    """Directory (absolute) or name; empty for BM25."""


def build_index(
    corpus: Path,
    out: Path,
    *,
    kind: str = "bm25",
    encoder: str = "",
    settings: Mapping[str, object] | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Build the index directory `out` from a corpus file and return its manifest.

    The same corpus and settings give the same bytes, also when a dense build was killed and started
    again: it keeps the shards that were finished. So does one that failed, say because the corpus
    is too small for its `factory`, when it is given with another. A build that fails leaves `out`
    as it was.

    Raises:
        MissingResourceError: no such corpus or encoder, or not enough room on the disk.
        InvalidInputError: a malformed corpus, an unknown kind or setting, an encoder for BM25,
        `out` is taken
            (`overwrite` replaces an index, never another directory), an unfinished build of
            something else lies beside it (`overwrite` removes it), or another process is building
            it.
    """
    plan = make_plan(corpus, kind, encoder, settings or {})
    # A build that was killed after its last step but one left only this trace.
    cut_off = (
        not overwrite and _work_path(out).is_dir() and not (_work_path(out) / "index").exists()
    )
    if not cut_off:
        check_target(out, overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    with _work_directory(out) as work:
        target = work / "index"
        identity = _identity(plan)
        if cut_off and is_index(out) and _was_built(out, identity):
            return read_manifest(out)
        check_target(out, overwrite)
        _resume_or_start(work, identity, plan, overwrite)
        if not (target / OFFSETS_NAME).is_file():
            write_passages(corpus, target)
        store = PassageStore(target)
        if plan.settings.bm25 is not None:
            from tspo_cli.retrieval.bm25.bm25_build import build_bm25

            build_bm25(store, target, work, plan.settings.bm25)
        if plan.settings.dense is not None:
            from tspo_cli.retrieval.dense.dense_build import build_dense

            build_dense(store, target, work / "shards", plan.settings.dense, plan.encoder)
        manifest = make_manifest(
            kind=kind,
            passages=len(store),
            corpus={"path": str(corpus.resolve()), "sha256": identity["corpus"]},
            settings=plan.settings,
            encoder=plan.encoder,
            encoder_sha256=identity["encoder_sha256"],
            files={
                path.name: file_facts(path)
                for path in sorted(target.iterdir())
                if path.name != MANIFEST_NAME
            },
        )
        write_json(target / MANIFEST_NAME, manifest)
        replace_directory(target, out)
    return manifest


def make_plan(corpus: Path, kind: str, encoder: str, given: Mapping[str, object]) -> Plan:
    """Check what was asked for. Raises as `build_index`."""
    if not corpus.is_file():
        got = "is a directory" if corpus.is_dir() else "no such file"
        raise MissingResourceError(
            f"{corpus}: {got}; name a JSONL or parquet file (hub: tspo data convert it first)"
        )
    if kind == "bm25" and encoder:
        raise InvalidInputError(
            "an encoder is of no use to a bm25 index; add --kind dense or leave it out"
        )
    settings = index_settings(
        kind, resolve_preset(encoder, given) if kind in ("dense", "hybrid") else given
    )
    if kind != "bm25" and not encoder:
        raise InvalidInputError(
            f"a {kind} index needs an encoder; give --encoder NAME_OR_DIRECTORY"
        )
    return Plan(
        corpus,
        kind,
        settings,
        str(Path(encoder).resolve()) if encoder and Path(encoder).is_dir() else encoder,
    )


def check_target(out: Path, overwrite: bool) -> None:
    """Raises InvalidInputError where an index may not be written to `out`."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not is_index(out):
        raise InvalidInputError(f"{out}: exists and is not an index; choose another --out")
    if not overwrite:
        raise InvalidInputError(f"{out}: already holds an index; add --overwrite to replace it")


def replace_directory(work: Path, out: Path) -> None:
    """Put `work` in the place of `out`; what stood there is deleted only afterwards."""
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.replace(out, old)
    os.replace(work, out)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _work_directory(out: Path) -> Iterator[Path]:
    """`.NAME.build` beside `out`, for one process at a time; kept only where something is worth
    going on from.
    """
    work = _work_path(out)
    work.mkdir(exist_ok=True)
    with open(work / "lock", "w") as lock:
        try:
            # The system lets go of it when the process ends, however it ends.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidInputError(
                f"{out}: another process is building this index; wait for it to end"
            ) from None
        try:
            yield work
        except TspoError:
            if not any(work.glob("shards/*.npy")):
                shutil.rmtree(work)
            raise
        shutil.rmtree(work)


def _work_path(out: Path) -> Path:
    return out.with_name(f".{out.name}.build")


def _identity(plan: Plan) -> dict[str, Any]:
    """What an index was made from, and how."""
    from tspo_cli.retrieval.dense.encoder import encoder_digest

    return {
        "corpus": file_digest(plan.corpus),
        "kind": plan.kind,
        "settings": plan.settings.flat(),
        "encoder": plan.encoder,
        "encoder_sha256": encoder_digest(plan.encoder) if plan.encoder else None,
    }


def _was_built(out: Path, identity: dict[str, Any]) -> bool:
    manifest = read_manifest(out)
    return identity == {
        "corpus": manifest["corpus"]["sha256"],
        "kind": manifest["kind"],
        "settings": manifest["parameters"],
        "encoder": manifest["encoder"],
        "encoder_sha256": manifest["encoder_sha256"],
    }


def _resume_or_start(work: Path, identity: dict[str, Any], plan: Plan, overwrite: bool) -> None:
    """Leave in `work` what this build can go on from: the passages of its corpus, and vectors
    encoded as it would.
    """
    state, target = work / "state.json", work / "index"
    shared = {name: identity[name] for name in ("corpus", "encoder", "encoder_sha256")}
    shared["vectors"] = (
        vector_settings(plan.settings.dense) if plan.settings.dense is not None else None
    )
    if state.is_file() and read_json(state) == shared:
        target.mkdir(exist_ok=True)
        for path in target.iterdir():
            if path.name not in (PASSAGES_NAME, OFFSETS_NAME):
                path.unlink()
        return
    if any(work.glob("shards/*.npy")) and not overwrite:
        raise InvalidInputError(
            f"{work}: holds an unfinished build of another corpus or encoder, or vectors encoded "
            "otherwise; "
            "give the same to go on with it, or --overwrite to remove it"
        )
    for folder in (target, work / "shards"):
        shutil.rmtree(folder, ignore_errors=True)
    target.mkdir()
    write_json(state, shared)


def estimate_build(
    corpus: Path, *, kind: str, encoder: str = "", settings: Mapping[str, object] | None = None
) -> dict[str, Any]:
    """What `build_index` would take, from its first passages: passages, seconds, bytes on disk and
    in memory.

    Raises:
        MissingResourceError, InvalidInputError: as `build_index`; only the first passages are
        looked at.
    """
    plan = make_plan(corpus, kind, encoder, settings or {})
    passages = count_rows(corpus)
    probe = [passage.contents for passage in islice(read_passages(corpus), 2_000)]
    found: dict[str, Any] = {"kind": kind, "passages": passages}
    found["passages_bytes"] = (
        passages * sum(len(text.encode("utf-8", "replace")) + 40 for text in probe) // len(probe)
    )
    if plan.settings.bm25 is not None:
        from tspo_cli.retrieval.bm25.bm25_build import estimate_bm25

        lexical = estimate_bm25(passages, probe, plan.settings.bm25)
        found |= {f"bm25_{name}": value for name, value in asdict(lexical).items()}
    if plan.settings.dense is not None:
        from tspo_cli.retrieval.dense.dense_build import estimate
        from tspo_cli.retrieval.dense.encoder import Encoder

        dense = estimate(
            passages, probe[:64], Encoder(plan.encoder, plan.settings.dense), plan.settings.dense
        )
        found |= {
            f"dense_{name}": value for name, value in asdict(dense).items() if name != "passages"
        }
    return found

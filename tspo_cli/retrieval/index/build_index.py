"""Building an index directory. It appears when it is complete; a killed dense build is resumed.

During a build, and after it was killed, its files are in `.NAME.build/` next to the target:

state.json     corpus, encoder and encoding; a build with another state starts from the beginning
index/         the files of the index so far
shards/        vectors, some thousand passages in each file
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from tspo_cli.config.sections.index_settings import ChunkSettings
from tspo_cli.data.corpus.corpus_files import (
    CorpusFacts,
    check_corpus,
    corpus_digest,
    count_documents,
    read_corpus,
)
from tspo_cli.disk import delete_work, one_writer, place_to_replace, replace_directory
from tspo_cli.errors import InvalidInputError, TspoError
from tspo_cli.overwriting import require_outside, require_own
from tspo_cli.retrieval.dense.presets import resolve_preset
from tspo_cli.retrieval.manifest import (
    MANIFEST_NAME,
    file_digest,
    file_facts,
    is_index,
    make_manifest,
    own_names,
    read_manifest,
)
from tspo_cli.retrieval.passages import (
    OFFSETS_NAME,
    PASSAGES_NAME,
    PassageStore,
    passage_bytes,
    write_passages,
)
from tspo_cli.retrieval.search_settings import IndexSettings, index_settings, vector_settings
from tspo_cli.runs import read_json, write_json

_PROBE = 2_000
"""Passages that an estimate looks at."""
_SAMPLED = 200_000
"""Passages at the start of the corpus that they come from."""


@dataclass(frozen=True)
class BuildPlan:
    """The index to build."""

    corpus: tuple[Path, ...]
    kind: str
    settings: IndexSettings
    encoder: str
    """Directory (absolute) or name; empty for BM25."""


def build_index(
    corpus: Path | Sequence[Path],
    out: Path,
    *,
    kind: str = "bm25",
    encoder: str = "",
    settings: Mapping[str, object] | None = None,
    overwrite: bool = False,
    skip_duplicates: bool = False,
) -> dict[str, Any]:
    """Build the index directory `out` from a corpus and return its manifest.

    A corpus is a file of passages or a folder of .txt and .md documents, or several of them.
    `skip_duplicates` keeps the first of the passages that have the same id and other texts.

    The same corpus and settings give the same bytes, also if a dense build was killed and started
    again: the finished shards are kept. They are kept as well if the build fails, for example
    because the corpus is too small for its `factory`, and is started again with another one. A
    failed build leaves `out` unchanged.

    Raises:
        MissingResourceError: no such corpus or encoder, or not enough disk space.
        InvalidInputError: a malformed corpus; an unknown kind or setting; an encoder for BM25;
            `out` exists (`overwrite` replaces an index, never another directory, and none that
            holds the corpus or files of the user's); an unfinished build of another index
            is next to it (`overwrite` removes it); or another process is building it.
    """
    plan = make_plan(corpus, kind, encoder, settings or {})
    # A build that was killed just before its last step left only an empty work directory.
    almost_done = (
        not overwrite and _work_path(out).is_dir() and not (_work_path(out) / "index").exists()
    )
    if not almost_done:
        check_target(out, overwrite, *plan.corpus, plan.encoder)
    out.parent.mkdir(parents=True, exist_ok=True)
    with _work_directory(out) as work:
        target = work / "index"
        identity = _identity(plan) | ({"skip_duplicates": True} if skip_duplicates else {})
        if almost_done and is_index(out) and _was_built(out, identity):
            return read_manifest(out)
        check_target(out, overwrite, *plan.corpus, plan.encoder)
        _resume_or_start(work, identity, plan, overwrite)
        if not (target / OFFSETS_NAME).is_file():
            write_passages(
                plan.corpus, target, plan.settings.chunking, skip_duplicates=skip_duplicates
            )
        store = PassageStore(target)
        chosen = plan.settings
        if chosen.bm25 is not None:
            from tspo_cli.retrieval.bm25.bm25_build import build_bm25

            chosen = replace(chosen, bm25=build_bm25(store, target, work, chosen.bm25))
        if plan.settings.dense is not None:
            from tspo_cli.retrieval.dense.dense_build import build_dense

            build_dense(store, target, work / "shards", plan.settings.dense, plan.encoder)
        manifest = make_manifest(
            kind=kind,
            passages=len(store),
            corpus=_corpus_facts(plan.corpus, identity["corpus"]),
            settings=chosen,
            encoder=plan.encoder,
            encoder_sha256=identity["encoder_sha256"],
            files={
                path.name: file_facts(path)
                for path in sorted(target.iterdir())
                if path.name != MANIFEST_NAME
            },
        )
        write_json(target / MANIFEST_NAME, manifest)
        # Again: somebody may have begun something else there during the work.
        check_target(out, overwrite, *plan.corpus, plan.encoder)
        replace_directory(target, place_to_replace(out))
    return manifest


def _corpus_facts(corpus: Sequence[Path], digest: str) -> dict[str, Any]:
    paths = [str(path.resolve()) for path in corpus]
    several = {"files": paths} if len(paths) > 1 else {}
    return {"path": ", ".join(paths), "sha256": digest, **several}


def make_plan(
    corpus: Path | Sequence[Path], kind: str, encoder: str, given: Mapping[str, object]
) -> BuildPlan:
    """Check the arguments of `build_index`. Raises as it does."""
    paths = (corpus,) if isinstance(corpus, Path) else tuple(corpus)
    check_corpus(paths)
    if kind == "bm25" and encoder:
        raise InvalidInputError(
            "a bm25 index uses no encoder; add --kind dense or remove --encoder"
        )
    settings = index_settings(
        kind, resolve_preset(encoder, given) if kind in ("dense", "hybrid") else given
    )
    if kind != "bm25" and not encoder:
        raise InvalidInputError(
            f"a {kind} index needs an encoder; give --encoder NAME_OR_DIRECTORY"
        )
    return BuildPlan(
        paths,
        kind,
        settings,
        str(Path(encoder).resolve()) if encoder and Path(encoder).is_dir() else encoder,
    )


def check_target(out: Path, overwrite: bool, *inputs: Path | str) -> None:
    """Raises InvalidInputError if an index may not be written to `out`: also where it holds one of
    the `inputs` of the new index, or files that are not of the old one.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not is_index(out):
        raise InvalidInputError(f"{out}: exists and is not an index; choose another --out")
    if not overwrite:
        raise InvalidInputError(f"{out}: already holds an index; add --overwrite to replace it")
    require_outside(out, *inputs)
    require_own(out, own_names(out), "an index")


@contextmanager
def _work_directory(out: Path) -> Iterator[Path]:
    """`.NAME.build` next to the place of `out`, for one process at a time.

    It is kept after a failure if it has vectors that the next build can use.
    """
    work = _work_path(out)
    with one_writer(work, "building this index", out):
        try:
            yield work
        except (TspoError, OSError):
            shutil.rmtree(work / "index", ignore_errors=True)  # it may be what is damaged
            if not any(work.glob("shards/*.npy")):
                delete_work(work)
            raise
        delete_work(work)


def _work_path(out: Path) -> Path:
    place = place_to_replace(out)  # its disk is the one that the index must fit on
    return place.with_name(f".{place.name}.build")


def _identity(plan: BuildPlan) -> dict[str, Any]:
    """The corpus, encoder and settings of an index."""
    from tspo_cli.retrieval.dense.encoder import encoder_digest

    return {
        "corpus": corpus_digest(plan.corpus, file_digest),
        "kind": plan.kind,
        "settings": plan.settings.flat(),
        "encoder": plan.encoder,
        "encoder_sha256": encoder_digest(plan.encoder) if plan.encoder else None,
    }


def _was_built(out: Path, identity: dict[str, Any]) -> bool:
    manifest = read_manifest(out)
    parameters = manifest["parameters"]
    if identity["settings"].get("tokens") == "auto":
        # The same corpus decides the same.
        parameters = {**parameters, "tokens": "auto"}
    return identity == {
        "corpus": manifest["corpus"]["sha256"],
        "kind": manifest["kind"],
        "settings": parameters,
        "encoder": manifest["encoder"],
        "encoder_sha256": manifest["encoder_sha256"],
    }


def _resume_or_start(
    work: Path, identity: dict[str, Any], plan: BuildPlan, overwrite: bool
) -> None:
    """Keep in `work` what this build can reuse: the passages of its corpus, and fitting vectors."""
    state, target = work / "state.json", work / "index"
    reusable = {name: identity[name] for name in ("corpus", "encoder", "encoder_sha256")}
    if plan.settings.chunks != ChunkSettings():
        reusable["chunks"] = plan.settings.chunks.model_dump()
    if "skip_duplicates" in identity:
        reusable["skip_duplicates"] = True
    reusable["vectors"] = (
        vector_settings(plan.settings.dense) if plan.settings.dense is not None else None
    )
    if _kept_state(state) == reusable:
        target.mkdir(exist_ok=True)
        for path in target.iterdir():
            if path.name not in (PASSAGES_NAME, OFFSETS_NAME):
                path.unlink()
        return
    if any(work.glob("shards/*.npy")) and not overwrite:
        raise InvalidInputError(
            f"{work}: holds an unfinished build with another corpus, encoder or encoding; give "
            "the same ones to continue it, or --overwrite to remove it"
        )
    for folder in (target, work / "shards"):
        shutil.rmtree(folder, ignore_errors=True)
    target.mkdir()
    write_json(state, reusable)


def _kept_state(path: Path) -> Any:
    """What the build before could reuse; None where nobody knows."""
    with suppress(InvalidInputError):
        return read_json(path) if path.is_file() else None
    return None


def estimate_build(
    corpus: Path | Sequence[Path],
    *,
    kind: str,
    encoder: str = "",
    settings: Mapping[str, object] | None = None,
) -> dict[str, Any]:
    """Estimate the seconds, disk space and memory of `build_index` from a sample of the passages.

    Raises:
        MissingResourceError, InvalidInputError: as `build_index`; only the passages of the sample
            are checked.
    """
    plan = make_plan(corpus, kind, encoder, settings or {})
    documents = count_documents(plan.corpus)
    facts = CorpusFacts()
    step = max(1, min(documents, _SAMPLED) // _PROBE)
    sample = islice(read_corpus(plan.corpus, plan.settings.chunking, facts), 0, _SAMPLED, step)
    probe = [passage.contents for _, _, passage in sample]
    passages = documents * facts.passages // facts.documents
    estimate: dict[str, Any] = {"kind": kind, "passages": passages}
    estimate["passages_bytes"] = passages * sum(map(passage_bytes, probe)) // len(probe)
    if plan.settings.bm25 is not None:
        from tspo_cli.retrieval.bm25.bm25_build import estimate_bm25

        lexical = estimate_bm25(passages, probe, plan.settings.bm25)
        estimate |= {f"bm25_{name}": value for name, value in asdict(lexical).items()}
    if plan.settings.dense is not None:
        from tspo_cli.retrieval.dense.dense_build import estimate_dense
        from tspo_cli.retrieval.dense.encoder import Encoder

        dense = estimate_dense(
            passages, probe[:64], Encoder(plan.encoder, plan.settings.dense), plan.settings.dense
        )
        estimate |= {
            f"dense_{name}": value for name, value in asdict(dense).items() if name != "passages"
        }
    return estimate

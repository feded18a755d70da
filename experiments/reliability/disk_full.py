"""Every kind of write on a disk that is too small: what is said, what is left, what goes on?

    python experiments/reliability/disk_full.py [--only KIND]... [--json]

Each command writes on a small tmpfs of its own (which needs root, or `unshare -rm` before the
command). It succeeds once. Then another file fills the disk up to a few sizes, one after the
other, and the command, which replaces what lies there, is run again. A row of the table counts how
often it did not fit, and how often then (1) the exit code was 1, or 4 where the room was checked
first, and one line on stderr named a file and the room, without a traceback; (2) what lay there was
the same, byte for byte; (3) after room was made the same command succeeded, with the same bytes. A
training is resumed instead: (2) is that its checkpoints are whole and its status is `failed`, (3)
that it ends with the files of the undisturbed run. A sweep is its training in a cell; the same
command goes on. A demo meets a full disk in each of its stages, and the same command goes on: (2)
is that the stages before are the same and its runs as above. The room for a dense index and for a
model is checked before the work, so the size of files is limited there.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from experiments.benchmarks.common import machine, make_corpus, make_encoder
from experiments.reliability.kills import contents, forked, prepare_world, settings, tspo
from tests.models.tiny_gguf import write_gguf
from tspo_cli.console import set_quiet
from tspo_cli.record_digests import DIGESTS_NAME
from tspo_cli.runs import checkpoint_folders, read_status
from tspo_cli.training.core.checkpoints.checkpoint import find_checkpoint

SHARES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
"""Free room, as a share of what the command writes."""
DISK = 96 * 2**20
DEMO_STAGES = (("world",), ("index",), ("warmstart",), ("grpo", "tspo"), ("baselines",), ("page",))
"""The folders that each stage of a demo writes; the page is a file."""
_OF_DEMO = re.compile(r"ended with exit code \d+$")
"""What a demo says after its command has said what is wrong."""


@dataclass(frozen=True, slots=True)
class Write:
    """A command that writes `out`, and the words that it needs when `out` is there."""

    kind: str
    command: tuple[str, ...]
    out: Path
    again: tuple[str, ...] = ()
    limits_files: bool = False


@dataclass(frozen=True, slots=True)
class Training:
    """A command that trains one run, `run` below its --out. `resumes`: it needs a flag to go on."""

    kind: str
    command: tuple[str, ...]
    run: str = "."
    resumes: bool = True


@dataclass
class Row:
    """How often a command did not fit, and of these how often what is promised was so."""

    kind: str
    full: int = 0
    one_line: int = 0
    whole: int = 0
    went_on: int = 0
    problems: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        return 0 < self.full == self.one_line == self.whole == self.went_on


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """An empty tmpfs at `folder`."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path, free: int) -> None:
    """Write a file that leaves about `free` bytes of the disk."""
    with open(folder / ".filler", "wb") as handle:
        left = shutil.disk_usage(folder).free - free
        while left > 0:
            left -= handle.write(b"\0" * min(left, 2**20))


def shown(path: Path) -> dict[str, bytes]:
    """The bytes of a file, or of every file in a directory that a user sees, without clock readings
    and their digests.
    """
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    named = {str(file.relative_to(path.parent)): file for file in files if file.is_file()}
    return {
        name: file.read_bytes()
        for name, file in named.items()
        if "/." not in name and file.name not in ("timings.json", DIGESTS_NAME)
    }


def says_it(log: Path, code: int) -> bool:
    """One line that names a file and the room, and no traceback."""
    lines = log.read_text().splitlines()
    errors = [line for line in lines if line.startswith("error: ") and not _OF_DEMO.search(line)]
    told = [*errors, *(line for line in lines if ": exit code " in line)]  # of the cell of a sweep
    full = [line for line in told if "are free" in line or "ulimit" in line or "are needed" in line]
    return code in (1, 4) and len(errors) == len(full) == 1 and "Traceback" not in "".join(lines)


def try_write(write: Write, disk: Path, log: Path, row: Row) -> None:
    """Run the command with several sizes of the disk."""
    tspo([*write.command], log)
    command = [*write.command, *write.again]
    tspo(command, log)  # an evaluation records its command
    before = shown(write.out)
    size = sum(map(len, before.values()))
    for share in SHARES:
        room = int(share * (max(map(len, before.values())) if write.limits_files else size))
        prepare: Callable[[], object] = lambda: None  # noqa: E731
        if write.limits_files:
            prepare = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (room + 600, room + 600))
        else:
            fill(disk, room)
        log.unlink(missing_ok=True)
        code, _ = forked(prepare, command, log)
        (disk / ".filler").unlink(missing_ok=True)
        if code == 0:
            continue
        row.full += 1
        said, whole = says_it(log, code), shown(write.out) == before
        message = f"exit {code} with {room} bytes: {log.read_text()[-300:]}"
        again, _ = forked(lambda: None, command, log)
        went_on = again == 0 and shown(write.out) == before
        row.one_line += said
        row.whole += whole
        row.went_on += went_on
        if not (said and whole and went_on):
            row.problems += (f"said {said}, whole {whole}, went on {went_on}: {message}",)


def try_training(training: Training, disk: Path, expected: Path, log: Path, row: Row) -> None:
    """Train with several sizes of the disk, then go on."""
    want = contents(expected)
    size = sum(file.stat().st_size for file in expected.rglob("*") if file.is_file())
    for share in (0.02, 0.1, 0.2, 0.35, 0.5, 0.8):
        out = disk / "out"
        run = out / training.run
        command = [*training.command, "--out", str(out)]
        fill(disk, int(share * size))
        log.unlink(missing_ok=True)
        code, _ = forked(lambda: None, command, log)
        if code == 0:
            shutil.rmtree(out)
            (disk / ".filler").unlink()
            continue
        row.full += 1
        said = says_it(log, code)
        started = (run / "status.json").exists()
        whole = not started or (
            read_status(run)["state"] == "failed" and not find_checkpoint(run).damaged
        )
        found = len(checkpoint_folders(run)) if run.exists() else 0
        message = f"exit {code} at {share} ({found} checkpoints): {log.read_text()[-300:]}"
        (disk / ".filler").unlink()
        resume = ["--resume" if found else "--overwrite"] if training.resumes else []
        again, _ = forked(lambda: None, [*command, *resume], log)
        went_on = again == 0 and contents(run) == want
        row.one_line += said
        row.whole += whole
        row.went_on += went_on
        if not (said and whole and went_on):
            row.problems += (f"said {said}, whole {whole}, went on {went_on}: {message}",)
        shutil.rmtree(out)


def made_by(out: Path, stage: Sequence[str]) -> dict[str, bytes]:
    """The files of a stage of a demo that are the same in every demo with its options."""
    return {
        f"{name}/{key}": value
        for name in stage
        for key, value in (
            contents(out / name) if (out / name / "status.json").exists() else shown(out / name)
        ).items()
    }


def room_of(out: Path) -> int:
    """Bytes of the disk that the files below a folder take."""
    return sum(path.stat().st_blocks * 512 for path in out.rglob("*"))


def try_demo(disk: Path, log: Path, row: Row) -> None:
    """Fill the disk in every stage of a demo. What goes on meets it in the next stage, and in the
    end everything is compared with the demo that had room.
    """
    out = disk / "out"
    command, page = ["demo", "--quick", "--out", str(out)], out / "report.html"
    tspo(command, log)
    wanted = [made_by(out, stage) for stage in DEMO_STAGES]
    rooms = [sum(room_of(out / name) for name in stage) for stage in DEMO_STAGES]
    rooms[-1] = page.stat().st_blocks * 512
    shutil.rmtree(out)
    pending = 0

    def finish() -> None:
        nonlocal pending
        code, _ = forked(lambda: None, command, log)
        same = code == 0 and wanted == [made_by(out, stage) for stage in DEMO_STAGES]
        row.went_on += pending if same and page.exists() else 0
        pending = 0

    for number, stage in enumerate(DEMO_STAGES):
        if stage in (("baselines",), ("page",)):  # smaller than what the trainings need on the way
            finish()
            page.unlink()
            shutil.rmtree(out / "baselines") if stage == ("baselines",) else None
        there = room_of(out) if out.exists() else 0
        fill(disk, max(0, sum(rooms[:number]) + rooms[number] // 2 - there))
        log.unlink(missing_ok=True)
        code, _ = forked(lambda: None, command, log)
        (disk / ".filler").unlink()
        if code == 0:
            continue
        pending += 1
        row.full += 1
        said = says_it(log, code)
        runs = [out / name for name in ("warmstart", "grpo", "tspo")]
        begun = [run for run in runs if (run / "status.json").exists()]
        whole = wanted[:number] == [made_by(out, done) for done in DEMO_STAGES[:number]] and all(
            read_status(run)["state"] != "running" and not find_checkpoint(run).damaged
            for run in begun
        )
        row.one_line += said
        row.whole += whole
        if not (said and whole):
            text = log.read_text()[-900:]
            row.problems += (f"{stage}: said {said}, whole {whole}, exit {code}: {text}",)
    finish()


def writes(work: Path, disk: Path) -> Iterator[Write]:
    """The commands other than training."""
    world, index, run = work / "world", work / "index", work / "undisturbed"
    corpus, encoder = work / "corpus.jsonl", work / "encoder"
    make_corpus(corpus, 3_000, 40)
    overwrite = ("--overwrite",)
    yield Write(
        "data convert",
        ("data", "convert", str(corpus), f"{disk}/c.jsonl"),
        disk / "c.jsonl",
        overwrite,
    )
    yield Write(
        "data make-world", ("data", "make-world", "--out", f"{disk}/w"), disk / "w", overwrite
    )
    build = ("index", "build", str(corpus), "--out")
    yield Write("index build (bm25)", (*build, f"{disk}/bm25"), disk / "bm25", overwrite)
    make_encoder(encoder)
    dense = ("--kind", "dense", "--encoder", str(encoder), "--set", "factory=HNSW16")
    yield Write(
        "index build (dense)",
        (*build, f"{disk}/d", *dense),
        disk / "d",
        overwrite,
        limits_files=True,
    )
    evaluate = ("eval", str(run / "model"), "--data", str(world / "train.jsonl"), "--index")
    gguf = work / "tiny.gguf"
    write_gguf(gguf)
    yield Write(
        "model convert",
        ("model", "convert", str(gguf), "--out", f"{disk}/m"),
        disk / "m",
        overwrite,
        limits_files=True,
    )
    yield Write("eval", (*evaluate, str(index), "--out", f"{disk}/e"), disk / "e", overwrite)
    page = disk / "page.html"
    yield Write("report --html", ("report", str(run), "--html", str(page)), page)
    for suffix in ("svg", "png"):  # a PDF has the time in it
        figure = disk / f"curves.{suffix}"
        command = ("report", str(run), "--figure", str(figure))
        yield Write(f"report --figure {suffix}", command, figure)


def trainings(work: Path, log: Path) -> Iterator[Training]:
    """The commands that train."""
    train = [*prepare_world(work, log), *settings({"train.steps": 6})]
    words = tuple(train[2:])
    yield Training("train", tuple(train))
    yield Training("train, LoRA", (*train, *settings({"lora.rank": 4})))
    yield Training("train, 2 processes", (*train, *settings({"train.processes": 2})))
    grid = work / "grid.sweep.toml"
    grid.write_text('base = ["tiny/tspo"]\nseeds = [0]\n\n[arms.tspo]\n')
    yield Training("sweep", ("sweep", str(grid), *words), "tspo/seed0", resumes=False)


def try_all(work: Path, only: Sequence[str]) -> list[Row]:
    """A row for every kind of write."""
    work.mkdir(parents=True, exist_ok=True)
    log, rows = work / "log.txt", []
    commands = [*trainings(work, log)]
    tspo([*commands[0].command, "--out", str(work / "undisturbed")], log)
    disk = work / "disk"

    def attempt(kind: str, run: Callable[[Row], None]) -> None:
        if only and kind not in only:
            return
        rows.append(Row(kind))
        with small_disk(disk):
            run(rows[-1])
        print(rows[-1], file=sys.stderr, flush=True)
        disk.rmdir()

    for write in writes(work, disk):
        attempt(write.kind, partial(try_write, write, disk, log))
    attempt("demo", partial(try_demo, disk, log))
    for training in commands:
        if only and training.kind not in only:
            continue
        expected = work / "undisturbed"
        if training.kind not in ("train", "sweep"):  # the cell of the sweep is that training
            expected = work / training.kind
            tspo([*training.command, "--out", str(expected)], log)
        attempt(training.kind, partial(try_training, training, disk, expected, log))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", default=[], metavar="KIND")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    set_quiet(True)
    with tempfile.TemporaryDirectory() as scratch:
        rows = try_all(Path(scratch) / "work", options.only)
    if options.json:
        print(json.dumps([row.__dict__ for row in rows], indent=2))
    else:
        print(f"{machine()}\n{'':24}  full  one line  whole  went on")
        for row in rows:
            numbers = f"{row.full:6}{row.one_line:10}{row.whole:7}{row.went_on:9}"
            print(f"{row.kind:<24}{numbers}", *row.problems, sep="\n  ")
    sys.exit(0 if all(row.holds for row in rows) else 1)


if __name__ == "__main__":
    main()

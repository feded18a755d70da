"""Digests of records follow their files through writes, kills and readers at any moment."""

from __future__ import annotations

import itertools
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from threading import Barrier, Thread

import pytest

from tspo_cli import disk, record_digests, runs
from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.record_digests import (
    DIGESTS_NAME,
    changing,
    check_complete,
    check_digest,
    delete_folder,
    digests_in,
    forget_digests,
    note_digests,
    read_checked,
)


def written(path: Path, text: str) -> Path:
    with changing(path):
        disk.atomic_write_text(path, text)
    return path


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", "1\n")
    assert read_checked(path) == b"1\n"
    check_digest(path)
    written(path, "22\n")
    assert read_checked(path) == b"22\n"


@pytest.mark.parametrize("has_digest", [True, False])
@pytest.mark.parametrize("read", [runs.read_json, lambda path: [*runs.read_jsonl_gz(path)]])
def test_what_another_command_has_deleted_is_a_missing_resource(
    tmp_path: Path, has_digest: bool, read: Callable[[Path], object]
) -> None:
    """It listed the files of a run that is replaced, and reads them."""
    path = tmp_path / "step_000001.jsonl.gz"
    runs.write_jsonl_gz(path, [{"step": 1}])
    if has_digest:
        note_digests(path)
    path.unlink()
    with pytest.raises(MissingResourceError, match=r"step_000001\.jsonl\.gz: no such file"):
        read(path)
    assert runs.read_jsonl(path) == []


@pytest.mark.parametrize("text", ["2\n", "1", "1\n\n", "", "1 "])
@pytest.mark.parametrize("read", [read_checked, check_digest, runs.read_json])
def test_another_content_is_refused(
    tmp_path: Path, text: str, read: Callable[[Path], object]
) -> None:
    path = written(tmp_path / "a.json", "1\n")
    path.write_text(text)
    with pytest.raises(InvalidInputError, match=r"a\.json: differs from its digest: one of them"):
        read(path)
    forget_digests(path)
    assert read_checked(path) == text.encode()


def test_lines_that_grow_may_have_more_but_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    runs.append_jsonl(path, {"step": 1})
    note_digests(path, grows=True)
    runs.append_jsonl(path, {"step": 2})
    assert len(runs.read_jsonl(path)) == 2
    check_digest(path)
    whole = path.read_bytes()
    for changed in (b"", whole[:5], whole.replace(b"1", b"3"), whole[3:]):
        path.write_bytes(changed)
        with pytest.raises(InvalidInputError, match="differs"):
            runs.read_jsonl(path)
    path.write_bytes(whole)
    note_digests(path)
    path.write_bytes(whole + b'{"step": 3}\n')
    with pytest.raises(InvalidInputError, match="differs"):
        runs.read_jsonl(path)


class Killed(BaseException):
    """In the place of a SIGKILL."""


def test_a_kill_between_any_two_operations_leaves_no_wrong_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write, an append and the deletion of a file, killed before each rename, deletion and
    append, leave a folder that is read without an error.
    """
    for last in itertools.count():
        folder = tmp_path / str(last)
        folder.mkdir()
        one, lines, gone = (folder / name for name in ("a.json", "b.jsonl", "c.json"))
        written(one, "1\n")
        written(gone, "1\n")
        runs.append_jsonl(lines, {"step": 1})
        note_digests(lines)
        left = last

        def before(function: Callable[..., object]) -> Callable[..., object]:
            def counted(*arguments: object, **options: object) -> object:
                nonlocal left
                left -= 1
                if left < 0:
                    raise Killed
                return function(*arguments, **options)

            return counted

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", before(os.replace))
            patch.setattr(Path, "unlink", before(Path.unlink))
            patch.setattr(record_digests, "_append", before(record_digests._append))
            try:
                written(one, "2\n")
                with changing(lines, grows=True):
                    disk.atomic_write_text(lines, '{"step": 2}\n')
                forget_digests(gone)
                gone.unlink()
            except Killed:
                pass
        check_complete(folder)
        for path in (one, lines, gone):
            if path.exists():
                read_checked(path)
        if left >= 0:
            break
    assert last > 5
    assert not gone.exists()
    assert set(digests_in(folder)) == {"a.json", "b.jsonl"}


def test_a_torn_line_is_left_out_and_overwritten(tmp_path: Path) -> None:
    first, second = written(tmp_path / "a", "1"), tmp_path / "b"
    with open(tmp_path / DIGESTS_NAME, "a") as handle:
        handle.write('{"file": "b", "byt')
    assert list(digests_in(tmp_path)) == ["a"]
    written(second, "2")
    assert list(digests_in(tmp_path)) == ["a", "b"]
    check_complete(tmp_path)
    first.unlink()
    with pytest.raises(InvalidInputError, match=r"a: is missing"):
        check_complete(tmp_path)
    delete_folder(tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "{",
        '{"file": "a", "bytes": "1", "sha256": "' + 64 * "0" + '"}',
        '{"file": "a", "bytes": 1, "sha256": "0"}',
        '{"file": "../a", "bytes": 1, "sha256": "' + 64 * "0" + '"}',
        '{"file": "x\\ud800", "bytes": 1, "sha256": "' + 64 * "0" + '"}',
        '{"file": "x\\u0000", "bytes": 1, "sha256": "' + 64 * "0" + '"}',
        '{"file": "a", "bytes": 1.0, "sha256": "' + 64 * "0" + '"}',
        '{"bytes": 1, "sha256": "' + 64 * "0" + '"}',
        "\xff",
    ],
)
def test_damaged_digests_name_their_line(tmp_path: Path, line: str) -> None:
    path = written(tmp_path / "a", "1")
    with open(tmp_path / DIGESTS_NAME, "a", encoding="latin-1") as handle:
        handle.write(line + "\n")
    with pytest.raises(InvalidInputError, match=rf"{DIGESTS_NAME}:2: "):
        read_checked(path)


@pytest.mark.parametrize("name", ["..", "", "a\x00b", "x\ud800", "name" * 100])
def test_no_name_in_a_digest_can_do_harm(tmp_path: Path, name: str) -> None:
    record = {"file": name, "bytes": 1, "sha256": 64 * "0"}
    runs.append_jsonl(tmp_path / DIGESTS_NAME, record)
    with pytest.raises(InvalidInputError, match=r"is missing|expected"):
        check_complete(tmp_path)


def test_digests_that_cannot_be_opened_are_refused(tmp_path: Path) -> None:
    (tmp_path / DIGESTS_NAME).symlink_to(DIGESTS_NAME)
    with pytest.raises(InvalidInputError, match=r"digests\.jsonl: cannot be read \(Too many"):
        read_checked(tmp_path / "a.json")


def test_a_reader_beside_a_writer_never_sees_a_difference(tmp_path: Path) -> None:
    """A reader is interrupted between its steps by a writer that changes the file legally."""
    path, draw = written(tmp_path / "a", "start"), random.Random(0)
    loaded = record_digests.digests_in
    writes, is_writing = 0, False
    for _ in range(50):
        writes = draw.randrange(3)

        def interrupted(folder: Path) -> dict[str, record_digests.Digest]:
            nonlocal writes, is_writing
            found = loaded(folder)
            if writes and not is_writing:
                writes, is_writing = writes - 1, True
                text = str(draw.random())
                if draw.random() < 0.5:
                    written(path, text)
                else:
                    forget_digests(path)
                    path.write_text(text)
                is_writing = False
            return found

        record_digests.digests_in = interrupted
        try:
            read_checked(path)
            check_digest(path)
            check_complete(tmp_path)
        finally:
            record_digests.digests_in = loaded


def test_two_threads_that_end_a_run_leave_one_status_and_its_digest(tmp_path: Path) -> None:
    """The thread that watches the other processes says "failed" while the main thread does."""
    others = [written(tmp_path / f"{number}.json", "1") for number in range(3)]
    for attempt in range(20):
        start, failures = Barrier(2), []

        def end(changed: Path | None) -> None:
            start.wait()  # noqa: B023
            try:
                for _ in range(10):
                    runs.set_status(tmp_path, "failed", 1, attempt)  # noqa: B023
                    runs.seal_run(tmp_path)
                    if changed is not None:
                        written(changed, "2")
            except Exception as error:  # a thread of its own has nobody to tell
                failures.append(error)  # noqa: B023

        threads = [Thread(target=end, args=(changed,)) for changed in (None, others[0])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert runs.read_status(tmp_path)["attempt"] == attempt
        assert sorted(digests_in(tmp_path)) == ["0.json", "1.json", "2.json", "status.json"]
        check_complete(tmp_path)


def test_a_copy_of_a_folder_is_as_good(tmp_path: Path) -> None:
    written(tmp_path / "one" / "a", "1")
    copy = Path(shutil.copytree(tmp_path / "one", tmp_path / "two"))
    assert read_checked(copy / "a") == b"1"

"""A file is there whole or not at all: under exceptions, full disks, kills, and readers meanwhile."""

import errno
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from glassgate.errors import GlassgateError
from glassgate.folder.files import replacing, reporting_disk_errors, write_atomically
from glassgate.folder.weights import load_weights, save_weights

OLD, NEW = b"old" * 1000, b"new" * 2000
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture(params=["absent", "there"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "file"
    if request.param == "there":
        path.write_bytes(OLD)
    return path


def contents(path: Path) -> bytes | None:
    """Return what ``path`` holds; nothing else may lie in its folder."""
    left = [entry.name for entry in path.parent.iterdir()]
    assert left in ([], [path.name])
    return path.read_bytes() if left else None


def failing(call: Callable[..., object], at: int, error: BaseException) -> Callable[..., object]:
    """Let a call fail the ``at``-th time, counted from 1."""
    calls = 0

    def replacement(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == at:
            raise error
        return call(*arguments, **options)

    return replacement


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let the kernel refuse larger files: a write that fails half-way, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("content", [NEW, NEW.decode(), b"", "", "é\n\r\n\0"])
def test_writes_what_it_is_given(path: Path, content: bytes | str) -> None:
    write_atomically(path, content)
    assert contents(path) == (content.encode() if isinstance(content, str) else content)


# Each step of a write, by what the operating system is asked to do, and the time it is asked.
@pytest.mark.parametrize(
    ("name", "at"),
    [("open", 1), ("stat", 1), ("chmod", 1), ("open", 2), ("fsync", 1), ("replace", 1)],
)
@pytest.mark.parametrize(
    "error", [FULL, KeyboardInterrupt(), MemoryError()], ids=["full", "ctrl-c", "memory"]
)
def test_a_failure_before_the_rename_leaves_the_old_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, name: str, at: int, error: BaseException
) -> None:
    before = contents(path)
    with monkeypatch.context() as patch:
        patch.setattr(os, name, failing(getattr(os, name), at, error))
        expected = GlassgateError if error is FULL else type(error)
        with pytest.raises(expected) as raised:
            write_atomically(path, NEW)
    assert contents(path) == before
    if error is FULL:
        assert str(raised.value) == f"{path}: cannot be written: No space left on device"


@pytest.mark.parametrize(("name", "at"), [("open", 3), ("fsync", 2)])
def test_a_failure_after_the_rename_is_told_and_leaves_the_new_file_whole(
    path: Path, monkeypatch: pytest.MonkeyPatch, name: str, at: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, name, failing(getattr(os, name), at, FULL))
        with pytest.raises(GlassgateError, match="No space left on device"):
            write_atomically(path, NEW)
    assert contents(path) == NEW


def test_every_step_of_a_write_was_made_to_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The two tests above name steps by their number; this one notices when there are others.
    steps: list[str] = []
    with monkeypatch.context() as patch:
        for name in ("open", "chmod", "fsync", "replace", "rename", "stat"):

            def noting(
                *arguments: object, name: str = name, call: Callable[..., object], **o: object
            ) -> object:
                steps.append(name)
                return call(*arguments, **o)

            call = getattr(os, name)
            patch.setattr(os, name, lambda *a, n=name, c=call, f=noting, **o: f(*a, name=n, call=c, **o))
        write_atomically(tmp_path / "file", NEW)
    assert steps == ["open", "stat", "chmod", "open", "fsync", "replace", "open", "fsync"]


def test_the_file_is_synced_before_it_is_renamed_and_the_folder_after(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[object] = []
    fsync, replace = os.fsync, os.replace

    def sync(descriptor: int) -> None:
        done.append(stat.S_ISDIR(os.fstat(descriptor).st_mode) or os.fstat(descriptor).st_size)
        fsync(descriptor)

    def rename(source: Path, target: Path) -> None:
        done.append((source.parent == target.parent, target))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", rename)
    write_atomically(path, NEW)
    assert done == [len(NEW), (True, path), True]


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt(), GlassgateError("x: bad")])
def test_an_exception_in_the_block_passes_through(path: Path, error: BaseException) -> None:
    before = contents(path)

    def write() -> None:
        with replacing(path) as temporary:
            temporary.write_bytes(NEW)
            raise error

    with pytest.raises(type(error)) as raised:
        write()
    assert raised.value is error
    assert contents(path) == before


def test_a_block_that_removes_its_file_is_told(path: Path) -> None:
    before = contents(path)
    with pytest.raises(GlassgateError, match="cannot be written: No such file"), replacing(path) as temporary:
        temporary.unlink()
    assert contents(path) == before


def test_a_disk_that_fills_up_while_it_is_written(path: Path) -> None:
    before = contents(path)
    with largest_file(4096), pytest.raises(GlassgateError, match=r"file: cannot be written: File too large$"):
        write_atomically(path, bytes(1 << 20))
    assert contents(path) == before


def test_a_disk_that_fills_up_while_weights_are_written(path: Path) -> None:
    # Here it is the safetensors library that writes, with an error of its own.
    before = contents(path)
    with largest_file(4096), pytest.raises(GlassgateError) as raised:
        save_weights(path, {"b": np.zeros(1 << 18, np.float32)})
    assert str(raised.value).startswith(f"{path}: cannot be written: ")
    assert "\n" not in str(raised.value)
    assert contents(path) == before


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002, 0o000])
@pytest.mark.parametrize("write", [write_atomically, lambda path, _: save_weights(path, {"b": np.ones(1)})])
def test_the_mode_follows_the_umask(path: Path, mask: int, write: Callable[[Path, bytes], None]) -> None:
    if path.exists():
        path.chmod(0o600)
    former = os.umask(mask)
    try:
        write(path, NEW)
        assert os.umask(mask) == mask, "the umask belongs to the process: writing leaves it alone"
    finally:
        os.umask(former)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_the_umask_is_never_touched(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Setting it, even for a moment, would open the files that other threads make meanwhile.
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the umask was set"))
    write_atomically(path, NEW)


def test_folders_that_cannot_hold_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "folder").mkdir()
    for target, reason in [
        (tmp_path / "missing" / "a", "No such file or directory"),
        (tmp_path / "file" / "a", "Not a directory"),
        (tmp_path / "folder", "Is a directory"),
        (tmp_path / ("x" * 250), "File name too long"),
    ]:
        with pytest.raises(GlassgateError) as raised:
            write_atomically(target, NEW)
        assert str(raised.value) == f"{target}: cannot be written: {reason}"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
    assert not list((tmp_path / "folder").iterdir())


def test_an_error_without_a_text_of_the_system_is_told_too() -> None:
    with pytest.raises(GlassgateError) as raised, reporting_disk_errors(Path("a")):
        raise OSError("the library's own words")
    assert str(raised.value) == "a: cannot be written: the library's own words"


def test_a_reader_never_sees_a_part(tmp_path: Path) -> None:
    path = tmp_path / "file"
    wholes = [bytes([n]) * 100_000 for n in range(40)]
    write_atomically(path, wholes[0])
    seen, done = set(), threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for whole in wholes:
            write_atomically(path, whole)
    finally:
        done.set()
        reader.join()
    assert seen <= set(wholes)
    assert seen


KILLED = """
import os, signal, sys
from pathlib import Path
from glassgate.folder.files import replacing

def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)

step, path = sys.argv[1], Path(sys.argv[2])
replace, fsync = os.replace, os.fsync
if step == "sync":
    os.fsync = die
if step == "rename":
    os.replace = die
if step == "renamed":
    os.replace = lambda source, target: (replace(source, target), die())
with replacing(path) as temporary, temporary.open("wb", buffering=0) as file:
    file.write(b"new" * 1000)
    if step == "write":
        die()
    file.write(b"new" * 1000)
"""


@pytest.mark.parametrize(("step", "left"), [("write", OLD), ("sync", OLD), ("rename", OLD), ("renamed", NEW)])
def test_a_kill_at_any_step_leaves_a_whole_file(tmp_path: Path, step: str, left: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)
    ended = subprocess.run([sys.executable, "-c", KILLED, step, str(path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert path.read_bytes() == left


def test_weights_come_back_as_they_were(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    weights = {"a": random.normal(size=(7, 5)).astype(np.float32), "b": np.zeros(0, np.float32)}
    weights["a.T"] = weights["a"].T  # not contiguous
    save_weights(tmp_path / "w", weights, {"progress": "{}"})
    loaded = load_weights(tmp_path / "w", {name: values.shape for name, values in weights.items()})
    assert loaded.keys() == weights.keys()
    for name, values in weights.items():
        np.testing.assert_array_equal(loaded[name], values)

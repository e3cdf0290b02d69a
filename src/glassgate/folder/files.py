"""Files that are there whole or not at all."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_IMODE
from typing import Any

from glassgate.errors import GlassgateError

__all__ = ["read_bytes", "read_json", "replacing", "reporting_disk_errors", "write_atomically"]


@contextmanager
def reporting_disk_errors(path: Path) -> Iterator[None]:
    """Turn an operating-system error (a full disk, no permission) into one clear line about ``path``.

    Parameters
    ----------
    path
        The file or folder that is being written; named in the message.

    Raises
    ------
    GlassgateError
        When the block raises ``OSError``.

    Examples
    --------
    >>> with reporting_disk_errors(Path("model/config.json")):
    ...     raise OSError(28, "No space left on device")
    Traceback (most recent call last):
    glassgate.errors.GlassgateError: model/config.json: cannot be written: No space left on device
    """
    try:
        yield
    except OSError as error:
        raise GlassgateError(f"{path}: cannot be written: {error.strerror or error}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Hand out a temporary path that takes the place of ``path`` when the block ends well.

    The new file is synced, renamed over ``path``, and its folder is synced: after a crash at any
    moment ``path`` holds the old bytes or the new ones, never a part of either. When the block
    raises, the temporary file is removed and ``path`` stays as it was.

    Parameters
    ----------
    path
        The file to write or replace.

    Yields
    ------
    Path
        A temporary file in the same folder, to be written by the block.

    Raises
    ------
    GlassgateError
        When the file system refuses (a full disk, no permission).

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with replacing(folder / "a.txt") as temporary:
    ...     _ = temporary.write_text("whole")
    >>> (folder / "a.txt").read_text()
    'whole'
    """
    with reporting_disk_errors(path):
        # As secrets.token_hex, whose module would lengthen every start by the import of hashlib and random.
        temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}.tmp")
        temporary.touch(exist_ok=False)
        try:
            mode = temporary.stat().st_mode  # as the umask has it, which no thread has to change to see
            yield temporary
            temporary.chmod(S_IMODE(mode))  # a library may have put a private file in its place
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write ``content`` to ``path`` so that the file is there whole or not at all.

    Parameters
    ----------
    path
        The file to write or replace.
    content
        Its bytes; a string is encoded as UTF-8.

    Raises
    ------
    GlassgateError
        When the file system refuses (a full disk, no permission).

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "config.json"
    >>> write_atomically(path, '{"hidden": 20}')
    >>> path.read_text()
    '{"hidden": 20}'
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_bytes(path: Path) -> bytes:
    """Return what a file holds.

    Raises
    ------
    GlassgateError
        When it cannot be read.

    Examples
    --------
    >>> read_bytes(Path("no-such-file"))
    Traceback (most recent call last):
    glassgate.errors.GlassgateError: no-such-file: cannot be read: No such file or directory
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise GlassgateError(f"{path}: cannot be read: {error.strerror}") from error


def read_json(path: Path, largest: int, kind: str) -> Any:
    """Read a JSON file of one's own that may have been damaged or exchanged.

    Parameters
    ----------
    path
        The file.
    largest
        How many bytes are accepted.
    kind
        What it should be, for messages.

    Returns
    -------
    object
        What it holds.

    Raises
    ------
    GlassgateError
        When the file is missing or too large, is no JSON, or names a key twice.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "config.json"
    >>> _ = path.write_text('{"hidden": 20}')
    >>> read_json(path, 100, "configuration")
    {'hidden': 20}
    """
    try:
        size = path.stat().st_size
        if size > largest:
            raise GlassgateError(
                f"{path}: is too large for a {kind}: expected at most {largest:,} bytes, got {size:,}"
            )
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_with_keys_once)
    except OSError as error:
        raise GlassgateError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise GlassgateError(f"{path}: is damaged or no {kind}: {error}") from error


def _with_keys_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands there twice")
    return table

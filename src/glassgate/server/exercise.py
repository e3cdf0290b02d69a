"""The notes' exercise, served where no model is named: trained once, kept in the user's cache."""

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from secrets import token_hex
from shutil import rmtree

from glassgate import __version__
from glassgate.errors import GlassgateError
from glassgate.folder.files import reporting_disk_errors
from glassgate.folder.model import read_folder

__all__ = ["exercise_folder"]


def exercise_folder(tell: Callable[[str], None]) -> Path:
    """Return the folder of the trained exercise; the first time it is trained, which takes some seconds.

    The training runs in a process of its own, so that this one stays without torch.

    Parameters
    ----------
    tell
        Called with a line, where there is something to wait for.

    Raises
    ------
    GlassgateError
        When it is not there yet and torch, which trains it, is missing; or the cache cannot be written.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "glassgate" / __version__
    folder = cache / "exercise"
    if folder.is_dir():
        try:
            read_folder(folder)
            return folder
        except GlassgateError:  # damaged: it is trained again
            rmtree(folder, ignore_errors=True)
    if find_spec("torch") is None:
        raise GlassgateError(
            "DIR: without it the notes' exercise is served, which torch trains once: give a model folder,"
            " or pip install 'glassgate[train]'"
        )
    tell("glassgate: training the notes' exercise, once: some seconds")
    temporary = cache / f".exercise-{token_hex(8)}"
    with reporting_disk_errors(folder):
        cache.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "glassgate", "demo", "--out", str(temporary)]
        try:
            ended = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            if ended.returncode:
                line = (ended.stderr.strip().splitlines() or ["no message"])[-1]
                raise GlassgateError(f"{folder}: the training failed: {line}")
            try:
                temporary.rename(folder)
            except OSError:
                if not folder.is_dir():  # else another process was first, with the same model
                    raise
        finally:
            rmtree(temporary, ignore_errors=True)
    return folder

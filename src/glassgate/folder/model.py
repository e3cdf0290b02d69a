"""A model folder as a whole: what is read from it, and how it is made."""

from pathlib import Path
from stat import S_ISDIR, S_ISREG

from glassgate.errors import GlassgateError
from glassgate.folder.config import ModelConfig
from glassgate.folder.files import reporting_disk_errors
from glassgate.folder.vocabulary import Vocabulary

__all__ = [
    "CARD",
    "CONFIG",
    "METRICS",
    "PICTURE",
    "TOKENIZER",
    "WEIGHTS",
    "check_files",
    "make_folder",
    "read_folder",
]

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.json"
CARD = "README.md"
METRICS = "metrics.jsonl"
PICTURE = "loss.png"


def check_files(folder: Path, *names: str) -> None:
    """Check that a model folder is there, and its config.json and files besides.

    Raises
    ------
    GlassgateError
        When one is missing, or may not be looked at.

    Examples
    --------
    >>> check_files(Path("no-such-folder"), WEIGHTS)
    Traceback (most recent call last):
    glassgate.errors.GlassgateError: no-such-folder: no such model folder
    """
    if not S_ISDIR(_mode(folder)):
        raise GlassgateError(f"{folder}: no such model folder")
    if not S_ISREG(_mode(folder / CONFIG)):
        raise GlassgateError(f"{folder}: is no model folder: {CONFIG} is missing")
    for name in names:
        if not S_ISREG(_mode(folder / name)):
            raise GlassgateError(f"{folder}: {name} is missing: the model is not whole")


def _mode(path: Path) -> int:
    """Return what stands at a path, as `os.stat` tells it; 0: nothing."""
    try:
        return path.stat().st_mode
    except PermissionError as error:
        raise GlassgateError(f"{path}: cannot be read: {error.strerror}") from error
    except (OSError, ValueError):  # also a name too long, or one with a NUL
        return 0


def read_folder(folder: Path) -> tuple[ModelConfig, Vocabulary]:
    """Read what a model is and which words it knows; its weights are left on disk.

    Parameters
    ----------
    folder
        A model folder.

    Returns
    -------
    tuple of ModelConfig and Vocabulary
        Checked against each other.

    Raises
    ------
    GlassgateError
        When the folder or a file of it is missing, damaged or foreign.

    Examples
    --------
    >>> read_folder(Path("no-such-folder"))
    Traceback (most recent call last):
    glassgate.errors.GlassgateError: no-such-folder: no such model folder
    """
    check_files(folder, TOKENIZER, WEIGHTS)
    config = ModelConfig.load(folder / CONFIG)
    vocabulary = Vocabulary.load(folder / TOKENIZER)
    if len(vocabulary) != config.vocabulary:
        raise GlassgateError(
            f"{folder}: {CONFIG} tells of {config.vocabulary:,} words, {TOKENIZER} has {len(vocabulary):,}"
        )
    if config.eos != "none" and vocabulary.eos is None:  # the other way round, a text may spell it out
        raise GlassgateError(f"{folder}: {CONFIG} lets <eos> end a {config.eos}, {TOKENIZER} has none")
    return config, vocabulary


def make_folder(folder: Path) -> None:
    """Make a folder for a new model.

    Raises
    ------
    GlassgateError
        When something is there already: nothing is ever overwritten.
    """
    with reporting_disk_errors(folder):
        if folder.exists() and not folder.is_dir():
            raise GlassgateError(f"{folder}: is a file: expected a folder to make")
        if folder.is_dir() and any(folder.iterdir()):
            raise GlassgateError(
                f"{folder}: is not empty: give another folder, or --resume to go on with a training"
            )
        folder.mkdir(parents=True, exist_ok=True)

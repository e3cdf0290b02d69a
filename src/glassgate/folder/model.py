"""A model folder as a whole: what is read from it, and how it is made."""

from os.path import isdir, isfile
from pathlib import Path

from glassgate.errors import GlassgateError
from glassgate.folder.config import ModelConfig
from glassgate.folder.files import reporting_disk_errors
from glassgate.folder.vocabulary import Vocabulary

__all__ = ["CARD", "CONFIG", "METRICS", "PICTURE", "TOKENIZER", "WEIGHTS", "make_folder", "read_folder"]

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.json"
CARD = "README.md"
METRICS = "metrics.jsonl"
PICTURE = "loss.png"


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
    if not isdir(folder):  # unlike a path's own method it answers for a name too long as well
        raise GlassgateError(f"{folder}: no such model folder")
    if not isfile(folder / CONFIG):
        raise GlassgateError(f"{folder}: is no model folder: {CONFIG} is missing")
    for name in (TOKENIZER, WEIGHTS):
        if not isfile(folder / name):
            raise GlassgateError(f"{folder}: {name} is missing: the model is not whole")
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

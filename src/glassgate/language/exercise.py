"""The notes' exercise: 20 nodes, 1,000 words of which 100 are unique, 4,400 weights."""

import tempfile
from importlib.resources import files
from pathlib import Path

from rich.console import Console

from glassgate.language.options import TrainOptions
from glassgate.language.trainer import Outcome
from glassgate.language.training import train

__all__ = ["OPTIONS", "sample_text", "train_exercise"]

TRAINED = 900  # words; the rest is held out

OPTIONS = TrainOptions(
    cell="lstm",
    hidden=20,
    embedding=10,
    bias=False,
    tied=False,
    output="full",
    dropout=0.1,
    epochs=150,
    batch=6,
    unroll=25,
    learning_rate=0.03,
    threads=1,  # of matrices this small a second thread would only wait for the first
    tokens="spaces",
    eos="none",
    closed_vocabulary=True,
)
"""The exercise as the notes set it; the numbers of the training are what suits 4,400 weights."""


def sample_text() -> str:
    """Return the sample corpus: exactly 1,000 words, exactly 100 of them unique.

    Examples
    --------
    >>> words = sample_text().split()
    >>> len(words), len(set(words))
    (1000, 100)
    """
    return files("glassgate.language").joinpath("sample.txt").read_text(encoding="utf-8")


def train_exercise(out: Path, console: Console) -> Outcome:
    """Train the exercise on the first 900 words of the sample; the last 100 validate.

    Parameters
    ----------
    out
        The model folder to make.
    console
        Where progress is shown.

    Returns
    -------
    Outcome
        Its perplexity on the held-out words, where a guess among 100 words has 100.

    Raises
    ------
    KeyboardInterrupt
        When it was interrupted: what follows needs a model that is trained.
    """
    words = sample_text().split()
    with tempfile.TemporaryDirectory() as folder:
        texts = Path(folder) / "sample.txt", Path(folder) / "held-out.txt"
        texts[0].write_text(" ".join(words[:TRAINED]))
        texts[1].write_text(" ".join(words[TRAINED:]))
        outcome = train([texts[0]], out, OPTIONS, valid=[texts[1]], console=console)
    if not outcome.finished:
        raise KeyboardInterrupt
    return outcome

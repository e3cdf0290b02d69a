"""The text that the page opens with."""

from collections.abc import Sequence

from glassgate.runtime import Model

__all__ = ["opening"]

FIRST = "the"
WORDS = 8  # that are put behind the first
CANDIDATES = 64  # of which the first that every model knows is taken


def opening(models: Sequence[Model]) -> str:
    """Return a text of words that all models know, each the one that the first model finds most probable.

    Where the models have no word in common, the text is the first model's own.

    Parameters
    ----------
    models
        Those that are to read it.

    Examples
    --------
    >>> import numpy as np
    >>> from glassgate.folder.config import ModelConfig
    >>> from glassgate.folder.vocabulary import Vocabulary
    >>> vocabulary = Vocabulary.build(["gate opens"], tokens="spaces")
    >>> config = ModelConfig(cell="lstm", vocabulary=len(vocabulary), embedding=2, hidden=2)
    >>> weights = {name: np.zeros(shape, np.float32) for name, shape in config.tensors().items()}
    >>> opening([Model(config, vocabulary, weights)])
    'gate'
    """
    own = [word for word in models[0].vocabulary.words if not word.startswith("<")]
    known = set(own).intersection(*(model.vocabulary.words for model in models)) or set(own)
    first = FIRST if FIRST in known else next(filter(known.__contains__, own), "")
    session, words = models[0].session(), [first] if first else []
    for _ in range(WORDS if words else 0):
        session.feed(words[-1])
        best = (word for word, _ in session.predict(CANDIDATES))
        word = next((word for word in best if word in known or word.startswith("<")), "<")
        if word.startswith("<"):  # the line ends, or nothing is known
            break
        words.append(word)
    return " ".join(words)

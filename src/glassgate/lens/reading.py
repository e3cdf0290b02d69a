"""A corpus read by a model, with every gate in view: a block at a time, in constant memory."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from glassgate.language.corpus import encode_segments
from glassgate.language.text import find_files, read_segments
from glassgate.runtime import Model
from glassgate.runtime.matrix import Numbers
from glassgate.trace import LayerTrace, Trace

__all__ = ["Block", "read", "tokens"]

STEPS = 256  # words that are read at once, as `glassgate evaluate` reads them


class Block(NamedTuple):
    """Some words of a corpus and what the model did with them."""

    numbers: Numbers  #: [T] the words that were read
    layers: Trace  #: each gate and state [T, 1, H]


def tokens(model: Model, texts: Sequence[Path]) -> Iterator[npt.NDArray[np.unsignedinteger[Any]]]:
    """Turn texts into word numbers as `glassgate evaluate` does, piece by piece.

    Parameters
    ----------
    model
        Whose vocabulary and ends of lines.
    texts
        Files and folders.

    Yields
    ------
    array of unsigned int
        The next words; unknown ones are ``<unk>``.

    Raises
    ------
    GlassgateError
        A text cannot be read.
    """
    yield from encode_segments(read_segments(find_files(texts), model.config.eos), model.vocabulary)


def read(model: Model, pieces: Iterable[npt.NDArray[np.integer[Any]]]) -> Iterator[Block]:
    """Read word numbers as one stream, the state carried from the first to the last.

    Where the model knows ``<eos>``, it is read before the first word, and is in the first block.

    Parameters
    ----------
    model
        From `glassgate.load`.
    pieces
        The words, in pieces of any length: from `tokens`, or ``[numbers]``.

    Yields
    ------
    Block
        256 words; the last one fewer. What came before is not kept.

    Examples
    --------
    >>> from glassgate.folder.config import ModelConfig
    >>> from glassgate.folder.vocabulary import Vocabulary
    >>> vocabulary = Vocabulary.build(["the gate"], tokens="spaces", closed=True, eos=False)
    >>> config = ModelConfig(cell="lstm", vocabulary=2, embedding=2, hidden=2)
    >>> model = Model(config, vocabulary, {name: np.zeros(s) for name, s in config.tensors().items()})
    >>> [(b.numbers.tolist(), b.layers.forget.shape) for b in read(model, [np.array([0]), np.array([1, 0])])]
    [([0, 1, 0], (3, 1, 2))]
    """
    state = model.network.initial_state(1)
    eos = model.vocabulary.eos
    waiting = np.array([] if eos is None else [eos], np.int64)
    for piece in pieces:
        waiting = np.concatenate([waiting, piece.astype(np.int64)])
        whole = len(waiting) // STEPS * STEPS
        for start in range(0, whole, STEPS):
            yield _block(model, waiting[start : start + STEPS], state)
        waiting = waiting[whole:]
    if len(waiting):
        yield _block(model, waiting, state)


def _block(model: Model, numbers: Numbers, state: Any) -> Block:
    network = model.network
    traces = {name: LayerTrace(name, target.cell) for name, target in network.targets.items()}
    network.run(numbers[:, None], state, traces=traces)
    return Block(numbers, Trace(traces))

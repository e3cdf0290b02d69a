"""Contextual decomposition: which part of a word's logit comes from a phrase, for LSTM and both GRUs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from glassgate.equations import from_torch_layout, sigmoid
from glassgate.errors import GlassgateError
from glassgate.folder.compact import Stored
from glassgate.folder.config import ModelConfig
from glassgate.runtime.word_matrix import WordMatrix

__all__ = ["Decomposition", "decompose", "word_scores"]

Array: TypeAlias = npt.NDArray[np.floating[Any]]
Step: TypeAlias = "Callable[[Parts, State, Array], State]"


@dataclass(frozen=True)
class Decomposition:
    """A logit in parts: ``relevant + rest + bias`` is the logit, up to rounding.

    Attributes
    ----------
    relevant, rest : array [spans, words]
        What each span did for each word's logit, and what all else did: the words outside and what both
        do together.
    bias : array [words]
        c, the output's own.
    """

    relevant: Array
    rest: Array
    bias: Array

    @property
    def logits(self) -> Array:
        """The sums of the parts, [spans, words]."""
        return self.relevant + self.rest + self.bias


class Parts(NamedTuple):
    """A vector in two parts, [spans, n] each: of the phrase, and of the rest."""

    phrase: Array
    rest: Array

    @property
    def whole(self) -> Array:
        return self.phrase + self.rest


class State(NamedTuple):
    """What runs through time, in parts; a GRU's cell is not read."""

    h: Parts
    C: Parts


class Split(NamedTuple):
    """An activation in three parts."""

    phrase: Array
    rest: Array
    bias: Array


def decompose(
    config: ModelConfig,
    weights: Mapping[str, Array],
    numbers: Sequence[int],
    spans: Sequence[tuple[int, int]],
    words: Sequence[int],
) -> Decomposition:
    """Split the logits of next words into what phrases of the text did for them and the rest.

    Every vector is a phrase's part and a rest, and each equation of the cell is split: an activation of
    phrase p, rest r and bias b into Shapley values, with the bias always first ::

        p -> (s(p + b) - s(b) + s(p + r + b) - s(r + b)) / 2,   r likewise,   b -> s(b)

    and a product i * g into the phrase's ``i_p (g_p + g_b) + i_b g_p``, the rest's all else, where
    ``i_b g_b`` is the phrase's at the steps of the phrase. The output gate is not split. For the GRU the
    same is done with r, u and 1 - u; r * h, or r * (W_g h + b), is a product like the others.

    Parameters
    ----------
    config, weights
        A model, as its folder holds it. In float64 the parts sum to the logit to 1e-10.
    numbers
        The text, from the initial state on; where the model knows ``<eos>``, it should stand first.
    spans
        Phrases: from a step to before a step.
    words
        The next words whose logits V_w h + c_w are split, by number.

    Returns
    -------
    Decomposition

    Raises
    ------
    GlassgateError
        There is no text, a span does not lie in it, or a word is not in the vocabulary.

    References
    ----------
    Murdoch, Liu and Yu, Beyond word importance: contextual decomposition to extract interactions from LSTMs,
    2018.

    Examples
    --------
    >>> config = ModelConfig(cell="gru", vocabulary=4, embedding=3, hidden=2, bias=False, tied=False)
    >>> generator = np.random.default_rng(1)
    >>> weights = {name: generator.normal(size=shape) for name, shape in config.tensors().items()}
    >>> parts = decompose(config, weights, [1, 2, 3], spans=[(0, 3), (1, 2)], words=[0])
    >>> parts.rest[0]  # without biases the whole text is all there is
    array([0.])
    >>> bool(np.isclose(parts.logits[0, 0], parts.logits[1, 0]))
    True
    """
    T = len(numbers)
    if not T or not spans or any(not 0 <= start < stop <= T for start, stop in spans):
        raise GlassgateError(f"decompose: spans within a text of {T} words expected, got {list(spans)}")
    if any(not 0 <= number < config.vocabulary for number in (*numbers, *words)):
        raise GlassgateError(f"decompose: word numbers from 0 to {config.vocabulary - 1} expected")
    starts, stops = np.array(spans).T
    inside = (starts <= np.arange(T)[:, None]) & (np.arange(T)[:, None] < stops)  # [T, spans]
    embedding = WordMatrix.embedding(config, {name: Stored(values) for name, values in weights.items()})
    x = embedding.rows(np.array(numbers))
    x = np.broadcast_to(x[:, None], (T, len(spans), x.shape[1]))
    own = inside[:, :, None]
    inputs = [Parts(p, r) for p, r in zip(np.where(own, x, 0), np.where(own, 0, x), strict=True)]
    for layer in range(config.layers):
        step = _step(config, weights, layer)
        zeros = np.zeros((len(spans), config.hidden), x.dtype)
        state = State(Parts(zeros, zeros), Parts(zeros, zeros))
        outputs = []
        for t in range(T):
            state = step(inputs[t], state, own[t])
            outputs.append(state.h)
        inputs = outputs
    last = inputs[-1]
    if "projection.weight" in weights:
        last = Parts(*(part @ weights["projection.weight"].T for part in last))
    V = embedding.rows(np.array(words)) if config.tied else weights["output.weight"][list(words)]
    c = weights.get("output.bias", np.zeros(config.vocabulary, V.dtype))[list(words)]
    return Decomposition(last.phrase @ V.T, last.rest @ V.T, c)


def word_scores(
    config: ModelConfig, weights: Mapping[str, Array], numbers: Sequence[int], word: int
) -> Array:
    """Return what each word of a text by itself did for the logit of a next word: [T], by `decompose`."""
    spans = list(pairwise(range(len(numbers) + 1)))
    return decompose(config, weights, numbers, spans, [word]).relevant[:, 0]


def _step(config: ModelConfig, weights: Mapping[str, Array], layer: int) -> Step:
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    w_ih, w_hh, b_ih, b_hh = (weights.get(f"rnn.{name}_l{layer}") for name in names)
    if w_ih is None or w_hh is None:
        raise GlassgateError(f"decompose: weights of layer {layer} expected, got {', '.join(weights)}")
    letters = from_torch_layout(w_ih, w_hh, b_ih, b_hh, config.reset)
    W, U, b = letters["W"], letters["U"], letters["b"] or dict.fromkeys("fiogru", np.array(0.0))

    def linear(k: str, x: Parts, h: Parts) -> Parts:
        return Parts(x.phrase @ U[k].T + h.phrase @ W[k].T, x.rest @ U[k].T + h.rest @ W[k].T)

    def lstm(x: Parts, state: State, inside: Array) -> State:
        h, C = state
        f, i, g = (
            _activate(act, linear(k, x, h), b[k])
            for k, act in (("f", sigmoid), ("i", sigmoid), ("g", np.tanh))
        )
        o = sigmoid(linear("o", x, h).whole + b["o"])
        kept, new = _times(f, C), _both(i, g, inside)
        C = Parts(kept.phrase + new.phrase, kept.rest + new.rest)
        shown = _activate(np.tanh, C, np.array(0.0))
        return State(Parts(o * shown.phrase, o * shown.rest), C)

    def gru(x: Parts, state: State, inside: Array) -> State:
        h = state.h
        r, u = (_activate(sigmoid, linear(k, x, h), b[k]) for k in "ru")
        if config.reset == "before":
            seen = _times(r, h)
            g = _activate(np.tanh, linear("g", x, seen), b["g"])
        else:
            seen = _times(r, Parts(h.phrase @ W["g"].T, h.rest @ W["g"].T))
            after = 0.0 if letters["b_after"] is None else letters["b_after"]
            inner = Parts(
                x.phrase @ U["g"].T + seen.phrase + r.phrase * after,
                x.rest @ U["g"].T + seen.rest + r.rest * after,
            )
            g = _activate(np.tanh, inner, b["g"] + r.bias * after)
        kept, new = _times(Split(-u.phrase, -u.rest, 1 - u.bias), h), _both(u, g, inside)
        return State(Parts(kept.phrase + new.phrase, kept.rest + new.rest), state.C)

    return lstm if config.cell == "lstm" else gru


def _activate(act: Callable[[Array], Array], a: Parts, bias: Array) -> Split:
    """Split an activation of two parts and a bias: the mean over both orders of the parts, bias first."""
    alone, whole = act(bias), act(a.whole + bias)
    phrase, rest = act(a.phrase + bias), act(a.rest + bias)
    return Split((phrase - alone + whole - rest) / 2, (rest - alone + whole - phrase) / 2, alone)


def _times(gate: Split, v: Parts) -> Parts:
    """Split gate * v: the phrase's is what involves no rest."""
    return Parts(
        (gate.phrase + gate.bias) * v.phrase,
        (gate.phrase + gate.rest + gate.bias) * v.rest + gate.rest * v.phrase,
    )


def _both(i: Split, g: Split, inside: Array) -> Parts:
    """Split i * g; the biases' own product is the phrase's at its steps."""
    constant = i.bias * g.bias
    return Parts(
        i.phrase * (g.phrase + g.bias) + i.bias * g.phrase + np.where(inside, constant, 0),
        i.rest * (g.phrase + g.rest + g.bias) + (i.phrase + i.bias) * g.rest + np.where(inside, 0, constant),
    )

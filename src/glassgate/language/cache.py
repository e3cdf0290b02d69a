"""The neural cache: words of the recent past, the more probable the more the network feels as it did then."""

from dataclasses import dataclass
from math import isfinite

import numpy as np
import numpy.typing as npt

from glassgate.errors import GlassgateError
from glassgate.runtime.matrix import Array, Numbers

__all__ = ["Cache", "CacheOptions"]

SHARPNESS = 9.0  # theta times the mean of h . h, where theta is not given


@dataclass(frozen=True, kw_only=True)
class CacheOptions:
    """How a cache is mixed with a model.

    Attributes
    ----------
    window
        How many words back it looks, at least 1.
    theta
        How sharply it tells one hidden state from another, at least 0; 0: all count alike. By default 9 over
        the mean of h . h so far, as the scale of h is each model's own.
    share
        The cache's share of the probability, lambda, at least 0 and below 1.
    """

    window: int = 2000
    theta: float | None = None
    share: float = 0.2

    def __post_init__(self) -> None:
        if self.window < 1:
            raise GlassgateError(f"--cache-window: must be at least 1, got {self.window}")
        if self.theta is not None and not (isfinite(self.theta) and self.theta >= 0):
            raise GlassgateError(f"--cache-theta: must be at least 0, got {self.theta}")
        if not 0 <= self.share < 1:
            raise GlassgateError(f"--cache-lambda: must be at least 0 and below 1, got {self.share}")


class Cache:
    r"""A continuous cache over one stream of text, read block by block.

    .. code-block:: text

        p(w)       = (1 - lambda) p_model(w) + lambda p_cache(w)
        p_cache(w) = sum of exp(theta h_t . h_i) over the past i with x_(i+1) = w
                     / sum of exp(theta h_t . h_i) over the past i

    where h is what V multiplies and the past are the last ``window`` words before t, each with the h that
    met it. Before the first of them p is the model's. Nothing is trained: the text that is read is the cache.

    Parameters
    ----------
    options
        Window, theta and lambda.

    References
    ----------
    Grave, Joulin and Usunier 2017, "Improving neural language models with a continuous cache",
    arXiv:1612.04426.

    Examples
    --------
    The word 7 came after a state like this one, so half of p is its:

    >>> cache = Cache(CacheOptions(share=0.5))
    >>> h, quarter = np.ones((2, 4)), np.log([0.25, 0.25])
    >>> np.exp(cache.read(h, np.array([7, 7]), quarter)).round(4)
    array([0.25 , 0.625])
    """

    def __init__(self, options: CacheOptions) -> None:
        self.options = options
        self.keys: Array | None = None  # h [past, width]
        self.words: Numbers = np.empty(0, np.int64)  # that followed them
        self.squares, self.count = 0.0, 0  # of h . h so far

    def read(self, h: Array, targets: Numbers, logs: Array) -> npt.NDArray[np.float64]:
        """Mix the next words of the text with those of the past, and remember them.

        Parameters
        ----------
        h : array [T, width]
            What V multiplies, at the next T words of the stream.
        targets : array of int [T]
            The words that follow.
        logs : array [T]
            log p_model of them.

        Returns
        -------
        array of float64 [T]
            log p of them.
        """
        window, share = self.options.window, self.options.share
        keys = h if self.keys is None else np.concatenate((self.keys, h))
        words = np.concatenate((self.words, targets))
        past, rows = len(words) - len(targets), np.arange(len(targets))[:, None]
        scores = h @ keys.T
        # Row t sees the words from past + t - window to past + t - 1: it never sees its own answer.
        back = past + rows - np.arange(len(words))
        scores[(back < 1) | (back > window)] = -np.inf
        first = int(past == 0)  # the first word of all has no past
        mixed = logs.astype(np.float64)
        scores = scores[first:]
        # Sharpened only now: no product is too large, and a difference beyond the largest float is none.
        scores -= scores.max(1, keepdims=True)
        with np.errstate(over="ignore"):
            scores *= self._theta(h)[first:]
        np.exp(scores, out=scores)
        total = scores.sum(1, dtype=np.float64)
        scores[words != targets[first:, None]] = 0
        with np.errstate(divide="ignore"):  # log 0: a word that is not in the cache, or a share of 0
            cached = np.log(scores.sum(1, dtype=np.float64) / total)
            mixed[first:] = np.logaddexp(np.log1p(-share) + mixed[first:], np.log(share) + cached)
        self.keys, self.words = keys[-window:].copy(), words[-window:].copy()
        return mixed

    def _theta(self, h: Array) -> Array:
        """Return theta for each of the next words, [T, 1]: a finite number above 0, for -inf times it."""
        if self.options.theta is not None:
            theta = np.full(len(h), self.options.theta)
        else:
            squares = self.squares + np.cumsum(np.square(h).sum(1), dtype=np.float64)
            counts = self.count + 1 + np.arange(len(h))
            self.squares, self.count = float(squares[-1]), int(counts[-1])
            with np.errstate(divide="ignore"):  # states of zeros are alike for any theta
                theta = SHARPNESS * counts / squares
        limits = np.finfo(h.dtype)
        return theta.clip(limits.tiny, limits.max).astype(h.dtype)[:, None]

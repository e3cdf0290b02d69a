"""Words drawn by their probabilities."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from glassgate.errors import GlassgateError

__all__ = ["Sampling"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a word is drawn.

    Attributes
    ----------
    temperature
        Probabilities are taken to the power of 1 / temperature: below 1 the probable words win,
        0 takes the most probable one always.
    top_k
        If above 0, only so many most probable words may be drawn.
    top_p
        Only the fewest words may be drawn whose probabilities reach this sum, at least one.
    seed
        The same seed draws the same words.

    Raises
    ------
    GlassgateError
        When one is out of bounds.

    Examples
    --------
    >>> Sampling(temperature=0.01).draw(np.array([0.5, 0.3, 0.2]), np.random.default_rng(1))
    0
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 1

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise GlassgateError(f"temperature: must be at least 0, got {self.temperature}")
        if self.top_k < 0:
            raise GlassgateError(f"top_k: must be at least 0 (all words), got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise GlassgateError(f"top_p: must be above 0 and at most 1, got {self.top_p}")
        if not 0 <= self.seed < 2**31:
            raise GlassgateError(f"seed: must be at least 0 and below 2^31, got {self.seed}")

    def candidates(self, words: int) -> int:
        """Return how many of the most probable words of a vocabulary have to be known."""
        return 1 if self.temperature == 0 else self.top_k or words

    def draw(self, y: npt.NDArray[np.float64], generator: "np.random.Generator") -> int:
        """Return the place of the word drawn, given the probabilities of the candidates, falling."""
        logs = np.log(np.maximum(y, np.finfo(np.float64).tiny))
        with np.errstate(over="ignore"):  # next to 0 all but the best end at exp(-inf), as at 0 itself
            weights = np.exp((logs - logs[0]) / (self.temperature or 1.0))
        sums = np.cumsum(weights / weights.sum())
        kept = int(np.searchsorted(sums, self.top_p)) + 1 if self.top_p < 1 else len(sums)
        sums = sums[:kept]
        place = np.searchsorted(sums, generator.random() * sums[-1], side="right")
        return min(int(place), len(sums) - 1)

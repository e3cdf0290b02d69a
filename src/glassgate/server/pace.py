"""How much work is let in while there is more of it than can be done."""

import sys
from collections.abc import Mapping
from math import inf
from time import monotonic

__all__ = ["Pace"]

SLOWER = 1.6  # how much slower than alone those who are in may become: twice, less what varies
USUAL = 1.15  # how many times as long as its steps a text alone stays
GRACE = 0.0003  # seconds that do not matter
LEAST_MORE = 0.05  # of a step: what a further text takes beside its steps is not counted
LEAST = 1  # text; how much another would take is not seen then until the crowd has gone
CALM = 1.0  # seconds without a refusal after which bursts are let in again
SHARE = 0.05  # of a new value in a running mean
STEP_SHARE = 0.01  # of a step with several texts in one


class Pace:
    """Lets bursts in, up to the limit; where they do not end, only as much as slows each down a little.

    A refusal is a sign that they do not end; a second without one is a sign that they did. In between, as
    many texts may be in as keep each at most 1.6 times as long as one alone would stay, and a little more.

    How many these are follows from what steps take. Steps are told apart by what is wanted after them (their
    kind); alone(kind) is the time of one with a single text. Each further text makes a step longer by the
    share

        more = sum of (seconds - alone(kind)) / sum of (texts - 1) alone(kind)

    over the last steps with several texts, and between steps the loop does other work, so that texts stay

        beside = sum of seconds stayed / sum of seconds computed meanwhile

    times as long as their steps; without a crowd 1.15 times. So that ``texts`` stay
    (1 + (texts - 1) more) beside / 1.15 times as long as one alone. All of these are times of the processor:
    where others have it too, one text alone is slower as well.

    Attributes
    ----------
    step
        How many seconds a step takes now; large, as long as that is not known.

    Examples
    --------
    >>> pace = Pace()
    >>> for texts, seconds in ((1, 0.001), (11, 0.002)):  # each further text takes a tenth
    ...     pace.note(texts, 0, seconds)
    >>> pace.room(128, now=0.0)
    128
    >>> pace.leave(1.0, 1.0)
    >>> pace.refuse(now=0.0)
    >>> pace.room(128, now=0.5), pace.room(128, now=1.5)  # 1 + (1.6 * 1.15 - 1) / 0.1
    (9, 128)
    """

    def __init__(self) -> None:
        self.step = 1.0
        self._alone: dict[int, tuple[float, int]] = {}  # seconds, and the mean of how many
        self._longer = self._base = 0.0
        self._stayed = self._computed = self._left = 0.0
        self._refused = -inf
        self._bound = sys.maxsize

    def note(self, texts: int, kind: int, seconds: float, now: float | None = None) -> None:
        """Take in how long a step of some kind took, with so many texts.

        What one text alone takes is learned while there is no crowd: refusals between steps slow them down.
        """
        self.step = seconds if self.step == 1.0 else self.step + SHARE * (seconds - self.step)
        alone, count = self._alone.get(kind, (seconds, 0))
        if texts == 1 and not (count and self.crowded(now)):
            seconds, count = min(seconds, 2 * alone), count + 1
            self._alone[kind] = alone + max(SHARE, 1 / count) * (seconds - alone), count
        elif texts > 1 and count:
            longer = min(max(seconds / alone - 1, 0.0), texts - 1.0) * alone  # never more than one by one
            self._longer += longer - STEP_SHARE * self._longer
            self._base += (texts - 1) * alone - STEP_SHARE * self._base

    def seconds(self, texts: int, steps: Mapping[int, int]) -> float:
        """Estimate how long so many texts take together, by themselves: so many steps of each kind."""
        if not self._alone:
            return 0.0
        more = self._longer / self._base if self._base else 1.0
        known = {kind: min(self._alone, key=lambda other: abs(other - kind)) for kind in steps}
        alone = sum(count * self._alone[known[kind]][0] for kind, count in steps.items())
        return alone * (1 + (texts - 1) * more)

    def leave(self, stayed: float, computed: float) -> None:
        """Take in how long a text stayed, and for how much of that steps were computed."""
        self._stayed += max(stayed, computed) - SHARE * self._stayed
        self._computed += computed - SHARE * self._computed
        self._left += 1 - SHARE * self._left
        self._bound = self._most()

    def room(self, limit: int, now: float | None = None) -> int:
        """Return how many texts may be in."""
        return min(limit, self._bound) if self.crowded(now) else limit

    def crowded(self, now: float | None = None) -> bool:
        """Tell whether there is more work than can be done."""
        return (monotonic() if now is None else now) - self._refused < CALM

    def refuse(self, now: float | None = None) -> None:
        """Take in that a request was refused."""
        self._refused = monotonic() if now is None else now

    def _most(self) -> int:
        """Return for how many texts (1 + (texts - 1) more) beside is what it may be."""
        if not (self._stayed and self._longer):
            return self._bound
        spare = (SLOWER * USUAL * self._computed + GRACE * self._left) / self._stayed - 1
        return max(LEAST, 1 + int(spare / max(self._longer / self._base, LEAST_MORE)))

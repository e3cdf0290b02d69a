"""How much work is let in while there is more of it than can be done."""

from time import monotonic

__all__ = ["Pace"]

SLOWER = 1.6  # how much slower a step may become for those who are in
TURN = 0.1  # seconds between two changes
CALM = 1.0  # seconds without a refusal after which more is let in again
SHORT = 0.02  # seconds: texts that stay for less are in nobody's way
LEAST = 4
SHARE = 0.05  # of a new step in a running mean


class Pace:
    """Lets bursts in, up to the limit; where they do not end, only as much as slows each down a little.

    Each refusal is a sign that the bound is reached. While signs come, the bound is halved every 0.1 s, as
    long as a step takes more than 1.6 times what it takes for one text alone and texts stay for long; from a
    second after the last sign on it doubles. One thread notes, another asks and refuses.

    Attributes
    ----------
    bound
        How many texts are let in; None: as many as the limit allows.
    step
        How many seconds a step takes now; large, as long as that is not known.

    Examples
    --------
    >>> pace = Pace()
    >>> for texts, seconds in ((1, 0.001), (64, 0.01)):
    ...     pace.note(texts, True, seconds)
    >>> pace.leave(10.0)
    >>> pace.refuse(128, now=0.0)
    >>> pace.refuse(128, now=0.2)
    >>> pace.room(128, now=0.3), pace.room(128, now=1.3), pace.room(128, now=1.5)
    (32, 64, 128)
    """

    def __init__(self) -> None:
        self.bound: int | None = None
        self.step = 1.0
        self._alone: dict[bool, float] = {}  # seconds of a step, with and without an answer
        self._now: dict[bool, float] = {}
        self._stay = 0.0
        self._refused = self._changed = -CALM

    def note(self, texts: int, answered: bool, seconds: float) -> None:
        """Take in how long a step took."""
        self.step = seconds if self.step == 1.0 else self.step + SHARE * (seconds - self.step)
        means = self._alone if texts == 1 else self._now
        mean = means.get(answered, seconds)
        means[answered] = mean + SHARE * (seconds - mean)

    def leave(self, seconds: float) -> None:
        """Take in how long a text stayed."""
        self._stay += SHARE * (seconds - self._stay) if self._stay else seconds

    def room(self, limit: int, now: float | None = None) -> int:
        """Return how many texts may be in."""
        if self.bound is None:
            return limit
        now = monotonic() if now is None else now
        if now - max(self._refused, self._changed - CALM + TURN) > CALM:
            self.bound, self._changed = 2 * self.bound, now
            if self.bound >= limit:
                self.bound = None
                return limit
        return self.bound

    def refuse(self, limit: int, now: float | None = None) -> None:
        """Take in that one was refused."""
        self._refused = now = monotonic() if now is None else now
        pairs = [(self._now.get(kind), self._alone.get(kind)) for kind in (False, True)]
        slower = max((many / alone for many, alone in pairs if many and alone), default=1.0)
        if now - self._changed > TURN and slower > SLOWER and self._stay > SHORT:
            self.bound, self._changed = max(LEAST, (self.bound or limit) // 2), now

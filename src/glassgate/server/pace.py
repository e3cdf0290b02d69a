"""How much work is let in while there is more of it than can be done."""

from time import monotonic

__all__ = ["Pace"]

SLOWER = 1.6  # how much slower than alone those who are in may become
EASY = 1.3  # below that one more is let in
TURN = 0.1  # seconds between two changes
CALM = 1.0  # seconds without a refusal after which bursts are let in again
SHARE = 0.05  # of a new value in a running mean
USUAL = 1.1  # how many times as long as its steps a text alone stays: it is handed over twice


class Pace:
    """Lets bursts in, up to the limit; where they do not end, only as much as slows each down a little.

    Each refusal is a sign that the bound is reached. While signs come, the bound is changed every 0.1 s so
    that texts stay at most 1.6 times as long as one text alone would, waiting included; from a second after
    the last sign on it doubles until it is the limit again.

    A text's time alone is told from its steps: what a step takes alone, with an answer and without, is known
    from when there was one text.

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
    >>> pace.refuse(64, now=0.0)
    >>> pace.room(128, now=0.1)
    8
    >>> pace.room(128, now=1.2), pace.room(128, now=1.4)
    (16, 32)
    """

    def __init__(self) -> None:
        self.bound: int | None = None
        self.step = 1.0
        self._alone: dict[bool, float] = {}  # seconds of a step, with and without an answer
        self._now: dict[bool, float] = {}
        self._stay: float | None = None  # how many times as long as its steps would take alone a text stays
        self._refused = self._changed = -CALM

    def note(self, texts: int, answered: bool, seconds: float) -> None:
        """Take in how long a step took."""
        self.step = seconds if self.step == 1.0 else self.step + SHARE * (seconds - self.step)
        means = self._alone if texts == 1 else self._now
        mean = means.get(answered, seconds)
        means[answered] = mean + SHARE * (seconds - mean)

    def leave(self, seconds: float, quiet: int, answered: int) -> None:
        """Take in how long a text stayed, for so many steps without and with an answer."""
        expected = quiet * self._alone.get(False, 0.0) + answered * self._alone.get(True, 0.0)
        if not expected:
            return
        stay = seconds / expected
        self._stay = stay if self._stay is None else self._stay + SHARE * (stay - self._stay)

    def room(self, limit: int, now: float | None = None) -> int:
        """Return how many texts may be in."""
        if self.bound is None:
            return limit
        now = monotonic() if now is None else now
        if now - max(self._refused, self._changed - CALM + TURN) > CALM:
            self.bound, self._changed, self._stay = 2 * self.bound, now, None
            if self.bound >= limit:
                self.bound = None
                return limit
        return self.bound

    def refuse(self, load: int, now: float | None = None) -> None:
        """Take in that one was refused while so many were in."""
        self._refused = now = monotonic() if now is None else now
        slower = self._slower
        if now - self._changed <= TURN or not slower:
            return
        bound = load if self.bound is None else self.bound
        if slower > SLOWER:
            self.bound = max(1, int(bound * EASY / slower))
        elif self.bound is not None and slower < EASY:
            self.bound += 1
        if self.bound != bound:  # what was seen before says nothing of now
            self._changed, self._stay = now, None
            self._now.clear()

    @property
    def _slower(self) -> float:
        """How many times as long as alone texts stay, or steps take: texts tell late, but of all waiting.

        0, as long as neither is known.
        """
        slower = (self._stay or 0.0) / USUAL
        if self.bound != 1:  # else there are no steps of several
            pairs = [(self._now.get(kind), self._alone.get(kind)) for kind in (False, True)]
            slower = max([slower, *(many / alone for many, alone in pairs if many and alone)])
        return slower

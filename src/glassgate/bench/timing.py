"""Times: in turns, so that what slows the machine slows all; medians; the faster form of a peer counts."""

import gc
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

__all__ = ["HOPELESS", "Call", "Clock", "Timed", "in_turns", "trial"]

BLOCK = 0.002  # seconds; shorter calls are repeated within one measurement
LEAST, MOST = 3, 200  # rounds
SLOW = 0.3  # seconds; what takes longer needs no call to warm up
TRIAL, TRIALS = 0.05, 5  # seconds and calls: the trial of what is fast
HOPELESS = 3.0  # a peer's form that takes so many times its fastest form's time is not measured further

Call = Callable[[], object]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Timed:
    """Seconds of one call: the median of ``rounds`` measurements."""

    seconds: float
    rounds: int


def in_turns(
    ours: Call | None,
    peers: Mapping[str, Call],
    seconds: float,
    clock: Clock = perf_counter,
    beside: Mapping[str, Call] | None = None,
) -> dict[str, Timed]:
    """Time calls in turns: ours, each peer, ours, each peer, and so on.

    Each has a trial first; where all are slow that is the first round. A form of the peer whose trial takes
    more than three times that of its fastest form is left at that.

    Parameters
    ----------
    ours
        What is compared, or None; its time is found under ``"ours"``.
    peers
        The forms of the peer by name.
    seconds
        How long to measure; three rounds at least.
    clock
        Tells the time in seconds.
    beside
        What takes its turns too and is no peer, such as a yardstick.

    Returns
    -------
    dict of str to Timed

    Examples
    --------
    >>> sorted(in_turns(lambda: sum(range(100)), {"peer": lambda: sum(range(200))}, 0.01))
    ['ours', 'peer']
    """
    calls = dict(peers) if ours is None else {"ours": ours, **peers}
    calls |= beside or {}
    with _no_collection():
        first = {name: trial(call, clock) for name, call in calls.items()}
        fastest = min((first[name] for name in peers), default=math.inf)
        kept = [name for name in calls if name not in peers or first[name] <= HOPELESS * fastest]
        slow = all(first[name] >= SLOW for name in kept)
        times: dict[str, list[float]] = {name: [first[name]] if slow else [] for name in kept}
        repeats = {name: max(1, math.ceil(BLOCK / max(first[name], 1e-9))) for name in times}
        end = clock() + seconds
        while not _enough(times, clock() >= end):
            for name, record in times.items():
                call, count = calls[name], repeats[name]
                start = clock()
                for _ in range(count):
                    call()
                record.append((clock() - start) / count)
    found = {name: Timed(median(record), len(record)) for name, record in times.items()}
    return {name: found.get(name, Timed(first[name], 1)) for name in calls}


def trial(call: Call, clock: Clock = perf_counter) -> float:
    """See how long a call takes, in seconds: once to warm up, then a few times, unless it is slow.

    The fastest counts, so that no form is dropped for a disturbance.
    """
    warm = _once(call, clock)
    if warm >= SLOW:
        return warm
    times: list[float] = []
    spent = 0.0
    while not times or (spent < TRIAL and len(times) < TRIALS):
        times.append(_once(call, clock))
        spent += times[-1]
    return min(times)


def _once(call: Call, clock: Clock) -> float:
    start = clock()
    call()
    return clock() - start


def _enough(times: Mapping[str, list[Any]], late: bool) -> bool:
    rounds = min(map(len, times.values()))
    return rounds >= MOST or (rounds >= LEAST and late)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector from running in the middle of a measurement."""
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()

"""What the server counts, as Prometheus reads it."""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Sequence

from glassgate.server.engine import Engine

__all__ = ["Metrics"]

BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # seconds


class Metrics:
    """Requests by path and status, how long they took, and what the engines did.

    Parameters
    ----------
    engines
        Those that compute, one for each model.

    Notes
    -----
    Paths that do not exist are counted as ``other``: who asks for many fills no memory.
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = engines
        self._requests: Counter[tuple[str, int]] = Counter()
        self._seconds: defaultdict[str, list[int]] = defaultdict(lambda: [0] * (len(BOUNDS) + 1))
        self._sums: defaultdict[str, float] = defaultdict(float)

    def count(self, path: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        self._requests[path, status] += 1
        if status == 200:
            self._seconds[path][bisect_left(BOUNDS, seconds)] += 1
            self._sums[path] += seconds

    def text(self) -> str:
        """Return all counts in Prometheus' text format."""
        engines = self._engines
        lines = [
            "# HELP glassgate_requests_total Requests answered.",
            "# TYPE glassgate_requests_total counter",
        ]
        for (path, status), number in sorted(self._requests.items()):
            lines.append(f'glassgate_requests_total{{path="{_label(path)}",status="{status}"}} {number}')
        name = "glassgate_request_seconds"
        lines += [f"# HELP {name} How long answers with status 200 took.", f"# TYPE {name} histogram"]
        for path, counts in sorted(self._seconds.items()):
            label, total = f'path="{_label(path)}"', 0
            for bound, number in zip([*BOUNDS, "+Inf"], counts, strict=True):
                total += number
                lines.append(f'{name}_bucket{{{label},le="{bound}"}} {total}')
            lines.append(f"{name}_sum{{{label}}} {self._sums[path]:.6f}")
            lines.append(f"{name}_count{{{label}}} {total}")
        for name, kind, value, meaning in (
            (
                "glassgate_in_flight",
                "gauge",
                sum(e.load for e in engines),
                "Texts and traces being computed or waiting.",
            ),
            ("glassgate_steps_total", "counter", sum(e.steps for e in engines), "Kernel steps."),
            (
                "glassgate_words_total",
                "counter",
                sum(e.words for e in engines),
                "Words read in them; many texts share a step.",
            ),
        ):
            lines += [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}", f"{name} {value}"]
        return "\n".join(lines) + "\n"


def _label(path: str) -> str:
    """Write a path as Prometheus reads it: a folder's name, which stands in one, may hold any character."""
    return path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

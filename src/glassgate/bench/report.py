"""What was found: rows, means, and what the project aims at, met or not."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import geometric_mean
from typing import Any

from glassgate.bench.timing import Timed
from glassgate.bench.works import LARGE, WORKS, Shape, Work

__all__ = ["Aim", "Report", "Row", "is_large", "line"]

SHARE_BATCH = 16  # the share of the matrix product is asked for from this N on


@dataclass(frozen=True)
class Row:
    """One work on one shape."""

    work: Work
    shape: Shape
    ours: Timed
    peer: str
    """The fastest of ``forms``."""
    forms: dict[str, Timed]
    flops: int
    error: float
    """The largest difference of the results, as a share of an array's largest value."""
    allowed: float
    product: float | None = None
    """GFLOP/s of the machine's own matrix product, which took turns with ours; None: it did not."""

    @property
    def ratio(self) -> float:
        """The peer's time by ours: above 1 we are faster."""
        return self.forms[self.peer].seconds / self.ours.seconds

    @property
    def gflops(self) -> float:
        """Operations of the matrix products by our time."""
        return self.flops / self.ours.seconds / 1e9

    def share(self, sgemm: float) -> float:
        """Return our rate by that of the product in the same turns, or else by ``sgemm`` GFLOP/s."""
        return self.gflops / (self.product or sgemm)

    def as_dict(self, sgemm: float) -> dict[str, Any]:
        """Return everything, for JSON; ``sgemm`` is the rate of the machine's own matrix product, GFLOP/s."""
        return {
            "work": self.work.name,
            "against": self.work.peer,
            "shape": self.shape._asdict(),
            "ms": self.ours.seconds * 1e3,
            "rounds": self.ours.rounds,
            "peer": self.peer,
            "peer_ms": self.forms[self.peer].seconds * 1e3,
            "peer_forms": {
                name: {"ms": timed.seconds * 1e3, "rounds": timed.rounds}
                for name, timed in self.forms.items()
            },
            "ratio": self.ratio,
            "flops": self.flops,
            "gflops": self.gflops,
            "product_gflops": self.product,
            "share_of_sgemm": self.share(sgemm),
            "error": self.error,
            "error_allowed": self.allowed,
        }


@dataclass(frozen=True)
class Aim:
    """A figure that the project aims at, and what was measured."""

    of: str
    measured: float
    asked: float | None
    where: str

    @property
    def met(self) -> bool | None:
        """Whether it is reached; None where nothing is aimed at."""
        return None if self.asked is None else self.measured >= self.asked

    def as_dict(self) -> dict[str, Any]:
        """Return everything, for JSON."""
        found = {"of": self.of, "measured": self.measured, "asked": self.asked}
        return found | {"where": self.where, "met": self.met}


@dataclass
class Report:
    """All of a run."""

    rows: list[Row]
    skipped: list[str]
    environment: dict[str, str]
    threads: int
    sgemm: float
    """GFLOP/s of the machine's own float32 matrix product, at its fastest before the first row."""
    quick: bool
    seconds: float = 0.0

    def head(self) -> Iterator[str]:
        """Tell machine, versions, threads, and what the columns are."""
        places = dict(self.environment)
        yield f"{places.pop('machine')}, {places.pop('instruction set')}, {self.threads} threads"
        yield ", ".join(f"{name} {value}" for name, value in places.items())
        yield f"matrix product, float32: {self.sgemm:.0f} GFLOP/s"
        yield "ratio: the peer's time by ours, above 1 ours is faster; share: our GFLOP/s by the product's"
        yield ""
        yield (
            f"{'work':<20} {'T x N x I x H':<17} {'ours ms':>9} {'GFLOP/s':>8} {'share':>5} "
            f"{'peer ms':>9} {'ratio':>6}  peer, its fastest form"
        )

    def aims(self) -> list[Aim]:
        """Compare geometric means and smallest ratios with what is aimed at."""
        found = []
        for work in WORKS.values():
            rows = [row for row in self.rows if row.work is work]
            if not rows:
                continue
            title, ratios = f"{work.name} / {work.peer}", [row.ratio for row in rows]
            over = f"{len(rows)} shape{'s' * (len(rows) > 1)}"
            found.append(Aim(f"{title}, geometric mean", geometric_mean(ratios), work.mean, over))
            worst = min(rows, key=lambda row: row.ratio)
            found.append(Aim(f"{title}, smallest", worst.ratio, work.least, str(worst.shape)))
            large = [row.share(self.sgemm) for row in rows if is_large(row.shape)]
            if work.share is not None and large:
                over = f"{len(large)} with H >= {LARGE}, N >= {SHARE_BATCH}"
                of = f"{work.name}, share of the matrix product"
                found.append(Aim(of, geometric_mean(large), work.share, over))
        return found

    def tail(self) -> Iterator[str]:
        """Tell losses, and what is aimed at: met or not."""
        losses = sorted((row for row in self.rows if row.ratio < 1), key=lambda row: row.ratio)
        yield ""
        yield f"slower than the peer: {len(losses)} of {len(self.rows)} rows"
        for row in losses:
            yield f"  {row.ratio:.2f}  {row.work.name} {row.shape}, {row.peer}"
        yield ""
        yield f"{'aim':<58} {'measured':>8} {'asked':>6}  {'':<8} over"
        words = {True: "met", False: "NOT MET", None: ""}
        for aim in self.aims():
            asked = "" if aim.asked is None else f"{aim.asked:.2f}"
            yield f"{aim.of:<58} {aim.measured:8.2f} {asked:>6}  {words[aim.met]:<8} {aim.where}"
        yield from self.skipped
        yield f"{self.seconds:.0f} s"

    def as_dict(self) -> dict[str, Any]:
        """Return everything, for JSON."""
        return {
            "environment": self.environment,
            "threads": self.threads,
            "sgemm_gflops": self.sgemm,
            "quick": self.quick,
            "seconds": self.seconds,
            "rows": [row.as_dict(self.sgemm) for row in self.rows],
            "aims": [aim.as_dict() for aim in self.aims()],
            "skipped": self.skipped,
        }


def is_large(shape: Shape) -> bool:
    """Tell whether the share of the matrix product is asked for on a shape."""
    return shape.H >= LARGE and shape.N >= SHARE_BATCH


def line(row: Row, sgemm: float) -> str:
    """Return one row of the table; ``sgemm`` GFLOP/s is the product's rate where it took no turns.

    Examples
    --------
    >>> from glassgate.bench.works import SHAPES
    >>> fast, slow = Timed(0.001, 9), Timed(0.002, 9)
    >>> forms = {"torch fp32": slow}
    >>> row = Row(WORKS["lstm-inference"], SHAPES[0], fast, "torch fp32", forms, 10**8, 0.0, 1e-5)
    >>> print(line(row, 200.0))
    lstm-inference       35x1x10x20           1.000    100.0  0.50     2.000   2.00  torch fp32
    """
    ours, theirs = row.ours.seconds * 1e3, row.forms[row.peer].seconds * 1e3
    return (
        f"{row.work.name:<20} {row.shape!s:<17} {ours:9.3f} {row.gflops:8.1f} {row.share(sgemm):5.2f} "
        f"{theirs:9.3f} {row.ratio:6.2f}  {row.peer}"
    )

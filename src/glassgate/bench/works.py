"""What is measured: the works, their shapes, their operations, and what the project aims at."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from glassgate.errors import GlassgateError

__all__ = ["LARGE", "SHAPES", "STEPS", "WORKS", "Shape", "Work", "parse_shapes", "parse_works"]

Cell: TypeAlias = Literal["lstm", "gru", "gru-before"]
Task: TypeAlias = Literal[
    "training", "inference", "packed", "ragged", "bf16", "recorded", "gates", "step", "layer-step"
]
Peer: TypeAlias = Literal["torch.nn", "Python loop", "ONNX Runtime", "packed torch", "not recorded"]

LARGE = 512
"""From this hidden size on bf16 is measured, and the share of the matrix product aimed at."""


class Shape(NamedTuple):
    """Sizes of a batch: T steps, N sequences, I inputs, H hidden units."""

    T: int
    N: int
    I: int
    H: int

    def __str__(self) -> str:
        return "x".join(map(str, self))


SHAPES = tuple(
    Shape(*sizes)
    for sizes in (
        (35, 1, 10, 20),
        (35, 20, 10, 20),
        (20, 20, 200, 200),
        (35, 20, 200, 200),
        (100, 32, 256, 256),
        (100, 64, 512, 512),
        (35, 20, 650, 650),
        (70, 80, 400, 1150),
        (100, 1, 128, 128),
        (25, 1, 1024, 1024),
        (50, 16, 2048, 2048),
    )
)
"""The notes' exercise first, then networks small and large, batches of one and of many."""

STEPS = (Shape(1, 1, 256, 256), Shape(1, 1, 650, 650))
"""Streaming: one step of one sequence."""

QUICK = 5e9
"""Shapes with more operations in a forward pass are left out by ``--quick``, and where loops show gates."""


@dataclass(frozen=True)
class Work:
    """One kind of work, against one peer.

    Ratios are the peer's time by ours: above 1 we are faster. ``mean`` and ``least`` are what the project
    aims at, as a geometric mean over the shapes and for each of them; ``share`` is that of the machine's own
    matrix product, on large shapes. None where nothing is aimed at.
    """

    name: str
    cell: Cell
    task: Task
    peer: Peer
    mean: float | None = None
    least: float | None = None
    share: float | None = None

    @property
    def training(self) -> bool:
        """Whether a backward pass belongs to it."""
        return self.task in ("training", "ragged", "bf16", "gates")

    @property
    def steps(self) -> bool:
        """Whether it is a single step of one sequence."""
        return self.task in ("step", "layer-step")

    def shapes(self, given: tuple[Shape, ...] | None, quick: bool) -> tuple[Shape, ...]:
        """Return the shapes that fit this work, of those given or of the standard ones.

        Loops that show gates take long, and nothing is aimed at: large standard shapes are left out.
        """
        shapes = given or (STEPS if self.steps else SHAPES)
        return tuple(
            shape
            for shape in shapes
            if (shape.T == shape.N == 1 or not self.steps)
            and (shape.H >= LARGE or self.task != "bf16")
            and (
                given
                or not (quick or self.task == "gates")
                or self.flops(shape, shape.T * shape.N) / self.passes <= QUICK
            )
        )

    @property
    def passes(self) -> int:
        """How many times the products of a forward pass are taken; backward takes two for each."""
        return 3 if self.training else 1

    def flops(self, shape: Shape, steps: int) -> int:
        """Count the floating-point operations of the matrix products, as everyone counts them.

        Each gate multiplies H x I and H x H weights with x and h at each step of each sequence; a product
        and its sum are two operations. Backward needs two products for each of forward: one for the
        gradient on what was multiplied, one for that on the weights.

        Parameters
        ----------
        shape
            The sizes.
        steps
            Steps of all sequences together: T N, or the sum of the lengths.

        Examples
        --------
        >>> WORKS["lstm-inference"].flops(Shape(1, 1, 10, 20), 1)  # twice the notes' 2,400 weights
        4800
        >>> WORKS["gru-training"].flops(Shape(35, 1, 10, 20), 35)
        378000
        """
        gates = 4 if self.cell == "lstm" else 3
        return 2 * self.passes * steps * gates * shape.H * (shape.I + shape.H)


WORKS = {
    work.name: work
    for work in (
        Work("lstm-training", "lstm", "training", "torch.nn", 1.6, 1.0, 0.85),
        Work("gru-training", "gru", "training", "torch.nn", 2.5, 1.3, 0.85),
        Work("gru-before-training", "gru-before", "training", "Python loop", 6.0, 2.5, 0.85),
        Work("lstm-inference", "lstm", "inference", "torch.nn", 1.5, 1.0),
        Work("gru-inference", "gru", "inference", "torch.nn", 2.2, 1.0),
        Work("lstm-inference-ort", "lstm", "inference", "ONNX Runtime", 1.2, 0.9),
        Work("gru-inference-ort", "gru", "inference", "ONNX Runtime", 1.2, 0.9),
        Work("lstm-packed-ort", "lstm", "packed", "ONNX Runtime", 1.2, 0.9),
        Work("gru-packed-ort", "gru", "packed", "ONNX Runtime", 1.2, 0.9),
        Work("lstm-ragged", "lstm", "ragged", "packed torch", 2.5, 1.8),
        Work("lstm-bf16", "lstm", "bf16", "torch.nn", 1.7, 1.3),
        Work("lstm-recorded", "lstm", "recorded", "not recorded", 1 / 1.1),
        Work("lstm-gates", "lstm", "gates", "Python loop"),
        Work("lstm-step-ort", "lstm", "step", "ONNX Runtime", 2.0, 1.5),
        Work("lstm-layer-step-ort", "lstm", "layer-step", "ONNX Runtime", 2.0, 1.5),
        Work("lstm-layer-step", "lstm", "layer-step", "torch.nn"),
    )
}
"""All works by name, in the order in which they are measured."""


def parse_shapes(text: str) -> tuple[Shape, ...]:
    """Read shapes as ``--shapes`` takes them: TxNxIxH, several with commas between.

    Raises
    ------
    GlassgateError
        A shape is not four whole numbers from 1 on.

    Examples
    --------
    >>> parse_shapes("35x20x650x650")
    (Shape(T=35, N=20, I=650, H=650),)
    >>> parse_shapes("35x20")
    Traceback (most recent call last):
    glassgate.errors.GlassgateError: --shapes: expected TxNxIxH, as 35x20x650x650, with commas between \
several; got '35x20'
    """
    shapes = []
    for part in text.split(","):
        sizes = [int(size) for size in part.strip().split("x") if size.isascii() and size.isdigit()]
        if len(sizes) != 4 or part.count("x") != 3 or min(sizes) < 1:
            raise GlassgateError(
                f"--shapes: expected TxNxIxH, as 35x20x650x650, with commas between several; got {part!r}"
            )
        shapes.append(Shape(*sizes))
    return tuple(shapes)


def parse_works(text: str) -> tuple[Work, ...]:
    """Read works as ``--work`` takes them: names, several with commas between.

    Raises
    ------
    GlassgateError
        There is no such work.

    Examples
    --------
    >>> [work.peer for work in parse_works("lstm-training,lstm-ragged")]
    ['torch.nn', 'packed torch']
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in WORKS:
            raise GlassgateError(f"--work: expected some of {', '.join(WORKS)}; got {name!r}")
    return tuple(WORKS[name] for name in names)

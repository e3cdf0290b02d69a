"""``glassgate bench``: the layers beside their peers, on this machine."""

from os.path import isdir
from pathlib import Path
from typing import Annotated

import typer

from glassgate.cli.common import needs


def command(
    work: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="Only these works.  [all; an unknown name lists them]"),
    ] = None,
    shapes: Annotated[
        str | None,
        typer.Option(metavar="TxNxIxH,...", help="Other shapes: steps, batch, inputs, hidden units."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Leave out the largest shapes and measure briefly.")
    ] = False,
    threads: Annotated[int | None, typer.Option(help="Threads of ours and of the peers.  [as torch]")] = None,
    json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all figures to a file as well.")
    ] = None,
) -> None:
    """Time the layers beside torch.nn, Python loops and ONNX Runtime.

    Results are compared first; ours and the peer then take turns. A ratio above 1 means that ours is faster.
    """
    needs("torch", "bench")
    from json import dumps

    from glassgate.bench.measure import measure
    from glassgate.bench.works import WORKS, parse_shapes, parse_works
    from glassgate.errors import GlassgateError
    from glassgate.folder.files import write_atomically

    # Unlike a path's own method isdir answers for a name too long as well.
    if json is not None and (isdir(json) or not isdir(json.absolute().parent)):
        raise GlassgateError(f"--json: expected a file in an existing folder, got {json}")
    report = measure(
        tuple(WORKS.values()) if work is None else parse_works(work),
        None if shapes is None else parse_shapes(shapes),
        threads,
        quick,
        typer.echo,
    )
    for text in report.tail():
        typer.echo(text)
    if json is not None:
        write_atomically(json, dumps(report.as_dict(), indent=1) + "\n")

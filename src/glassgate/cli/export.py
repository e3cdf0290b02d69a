"""``glassgate export``: a model for other programs."""

from pathlib import Path
from typing import Annotated

import typer

from glassgate.cli.common import needs


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A model folder.")],
    file: Annotated[Path, typer.Argument(metavar="FILE.onnx", help="The file to write or replace.")],
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Put out probabilities instead of their logs.")
    ] = False,
) -> None:
    """Write a model as one ONNX graph: words and states in, log-probabilities and states out.

    Words are numbers as tokenizer.json has them, [time, batch], both free.
    """
    needs("onnx", "export")
    from glassgate.errors import GlassgateError
    from glassgate.exchange.to_onnx import export_onnx

    if file.suffix != ".onnx":
        raise GlassgateError(f"{file}: expected a name that ends with .onnx")
    export_onnx(folder, file, probabilities)
    typer.echo(f"{file}: {file.stat().st_size:,} bytes", err=True)

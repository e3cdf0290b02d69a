"""``glassgate compress``: a model in fewer bits."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from glassgate.cli.common import needs, size_of_texts


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A model folder, in float32.")],
    out: Annotated[Path, typer.Option("--out", help="The model folder to make.")],
    dtype: Annotated[
        Literal["bf16", "int8"], typer.Option(help="Half the bytes, or a quarter with a scale for each row.")
    ] = "int8",
    text: Annotated[
        list[Path] | None, typer.Option(help="Measure the perplexity on this text, before and after.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a model folder with smaller weights; all commands read it as any other."""
    needs("rich")
    from json import dumps

    from rich.console import Console

    from glassgate.language.compress import compress
    from glassgate.language.progress import ProgressDisplay

    total = size_of_texts(text or [])
    with ProgressDisplay(Console(stderr=True), "measuring") as display:

        def report(when: str, tokens: int, value: float) -> None:
            share = (0.5 if when == "after" else 0.0) + min(0.49, 2.5 * tokens / max(total, 1))
            display.update(share, f"{when}: {tokens:,} tokens  perplexity {value:,.2f}")

        figures = compress(folder, out, dtype, text or [], report)
    if json:
        typer.echo(dumps(figures))
        return
    for name in ("bytes", "perplexity"):
        if f"{name}_before" in figures:
            before, after = figures[f"{name}_before"], figures[f"{name}_after"]
            form = ",.2f" if name == "perplexity" else ","
            change = f"{after / before - 1:+.2%}".replace("%", " %")
            typer.echo(f"{name:<12} {before:{form}} -> {after:{form}}  ({change})")

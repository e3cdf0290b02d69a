"""``glassgate serve``: a model and its gates in the browser, and behind HTTP."""

from pathlib import Path
from typing import Annotated

import typer

from glassgate.cli.common import needs, use_one_thread


def command(
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="A model folder; by default the notes' exercise.")
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A second model folder, shown beside the first.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="The address to listen at; other than this machine's own: with --token alone.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen at; 0: any that is free.")] = 8000,
    token: Annotated[
        str | None, typer.Option(envvar="GLASSGATE_TOKEN", help="What every request must bring.")
    ] = None,
    origin: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Where a proxy offers the page: https://glass.example.org."),
    ] = None,
) -> None:
    """Serve a model: type a text, see every gate, move one; or ask it over HTTP."""
    for module in ("httptools", "pydantic"):
        needs(module, "serve")
    use_one_thread()
    import logging

    from glassgate.server.exercise import exercise_folder
    from glassgate.server.running import Server

    logging.getLogger("asyncio").setLevel(logging.ERROR)  # its warnings tell of clients that went away
    server = Server(folder or exercise_folder(typer.echo), host, port, token, compare, origin)
    server.run(lambda url: typer.echo(f"glassgate: serving at {url} (Ctrl-C ends it)"))

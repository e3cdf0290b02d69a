"""The command line: thin fronts that parse, call and print.

Every module here imports nothing heavy at its top, so that ``glassgate --help`` answers at once;
what a command needs it imports when it runs.
"""

import errno
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from glassgate import GlassgateError, __version__
from glassgate.cli import bench, compress, count, demo, evaluate, export, look, predict, serve, train

__all__ = ["app", "main"]

# Of its family of usage errors typer makes BadParameter public, but not the base.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="glassgate",
    help="LSTM and GRU with every gate in glass: count, train, predict and look.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("demo")(demo.command)
app.command("count")(count.command)
app.command("train")(train.command)
app.command("evaluate")(evaluate.command)
app.command("predict")(predict.predict)
app.command("generate")(predict.generate)
app.command("look")(look.command)
app.command("serve")(serve.command)
app.command("bench")(bench.command)
app.command("compress")(compress.command)
app.command("export")(export.command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"glassgate {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process: 0 done, 2 bad input or a full output, 130 interrupted.

    Parameters
    ----------
    arguments
        The words after the program's name; by default those of this process.

    Raises
    ------
    SystemExit
        Always; its code is the process's exit code.

    Examples
    --------
    >>> main(["--version"])
    Traceback (most recent call last):
    SystemExit: 0
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = app(args=words or ["--help"], prog_name="glassgate", standalone_mode=False)
        if code == 130:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
    except _UsageError as error:
        # typer would print the usage as well: three lines where one says it all.
        context = getattr(error, "ctx", None)
        where = context.command_path if context is not None else "glassgate"
        message = error.format_message()  # type: ignore[attr-defined]
        print(f"{where}: error: {message}", file=sys.stderr)
        code = 2
    except GlassgateError as error:
        print(f"glassgate: error: {error}", file=sys.stderr)
        code = 2
    except OSError as error:
        # Files are written under `reporting_disk_errors`, so that what finds no room here is the output.
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        print(f"glassgate: error: the output: cannot be written: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left must not be tried again
        code = 2
    except (KeyboardInterrupt, typer.Abort):
        print("glassgate: interrupted", file=sys.stderr)
        code = 130
    sys.exit(code if isinstance(code, int) else 0)

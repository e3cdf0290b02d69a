"""``glassgate look DIR --text FILE``: what a change of a gate does to a model over a text."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from glassgate.language.evaluation import Evaluation

__all__ = ["NOTES", "forget_experiment", "show_experiment"]

NOTES = ("forget=1/2", "forget=1", "forget=0")
"""The notes' experiment: half of the memory, all of it, nothing of it."""

UNCHANGED = "as trained"


def forget_experiment(
    folder: Path, text: Path, settings: Sequence[str] = NOTES, progress: bool = False
) -> "dict[str, Evaluation]":
    """Evaluate a model on a text, as it is and with each of several edits.

    Parameters
    ----------
    folder
        A model folder.
    text
        A text, or a folder of texts, read as one stream.
    settings
        Edits as `glassgate.edits.parse_edit` reads them; several in one setting, with spaces between, are
        made together.
    progress
        Whether to show on the terminal how far it is.

    Returns
    -------
    dict
        The figures by the setting; the first, ``"as trained"``, without any.

    Raises
    ------
    GlassgateError
        When the folder, the text or an edit cannot be read, or an edit names what is not there.
    """
    from rich.console import Console

    from glassgate.edits import Edit, for_layers, parse_edit
    from glassgate.language.evaluation import evaluate
    from glassgate.language.progress import ProgressDisplay
    from glassgate.runtime import load

    parsed: dict[str, list[Edit]] = {UNCHANGED: []}
    for setting in settings:
        parsed[setting] = [parse_edit(part) for part in setting.split()]
    model = load(folder)
    for edits in parsed.values():
        for_layers(edits, model.network.targets)  # before the first text is read
    if not progress:
        return {setting: evaluate(model, [text], edits=edits) for setting, edits in parsed.items()}
    with ProgressDisplay(Console(stderr=True), "reading") as display:
        found = {}
        for number, (setting, edits) in enumerate(parsed.items()):
            display.update(number / len(parsed), setting)
            found[setting] = evaluate(model, [text], edits=edits)
    return found


def show_experiment(folder: Path, text: Path, settings: Sequence[str], json: bool) -> None:
    """Run `forget_experiment` and print a line for each setting, or JSON."""
    from json import dumps

    found = forget_experiment(folder, text, settings or NOTES, progress=True)
    if json:
        typer.echo(dumps({setting: figures.as_dict() for setting, figures in found.items()}))
        return
    width = max(map(len, found)) + 2
    typer.echo(f"{'':<{width}}{'perplexity':>12}{'recall@3':>12}")
    for setting, figures in found.items():
        recall = f"{100 * figures.recall[3]:.2f} %"
        typer.echo(f"{setting:<{width}}{figures.perplexity:>12,.2f}{recall:>12}")

"""``glassgate look``: the gates of a model over a sentence."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glassgate.cli.common import needs, use_one_thread
from glassgate.errors import GlassgateError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from glassgate.lens.blocks import Block

MOST = 32  # units that a terminal shows unless they are named


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A model folder.")],
    sentence: Annotated[
        str | None, typer.Argument(metavar="[SENTENCE]", help="What the model reads.", show_default=False)
    ] = None,
    gate: Annotated[
        list[str] | None, typer.Option("--gate", help="A gate or state; several times for several.")
    ] = None,
    layer: Annotated[str | None, typer.Option(help="A layer, as l0; by default all.")] = None,
    units: Annotated[str | None, typer.Option(help="Units, as 3,7 or 0-19; by default all.")] = None,
    mean: Annotated[bool, typer.Option("--mean", help="The mean over the units.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write a .png, .svg, .pdf or .html, and print nothing.")
    ] = None,
    unknown: Annotated[bool, typer.Option("--unknown", help="Read unknown words as <unk>.")] = False,
    text: Annotated[
        Path | None, typer.Option(help="In place of a sentence a text: how well is it predicted with --set?")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="An edit, as forget=0.5 or 'l0.cell[3,7]*=2'; several times for several."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="With --text: print JSON.")] = False,
) -> None:
    """Show what every gate does over the words of a sentence, or what editing a gate does to a text.

    On a terminal: a row for each word, a coloured cell for each unit. Where there are more than 32 units,
    their mean is shown unless --units names some. A picture needs glassgate[plot]; a page needs nothing.
    With --text the perplexity on that text is measured, as the model is and with each --set, by default the
    notes' forget=1/2, forget=1 and forget=0.
    """
    if (sentence is None) == (text is None):
        raise GlassgateError("look: either a sentence or --text FILE expected")
    needs("rich")
    if text is not None:
        from glassgate.cli.look_edit import show_experiment

        if out is not None or gate or layer or units or mean or unknown:
            raise GlassgateError("look: with --text only --set and --json may stand")
        show_experiment(folder, text, set_ or (), json)
        return
    assert sentence is not None
    if json:
        raise GlassgateError("--json: stands with --text")
    if out is not None and out.suffix.lower() not in (".png", ".svg", ".pdf", ".html"):
        raise GlassgateError(f"--out: must end in .png, .svg, .pdf or .html, got {str(out)!r}")
    if out is not None and out.suffix.lower() != ".html":
        needs("matplotlib", "plot")
    chosen = None if units is None else _numbers(units)
    use_one_thread()
    from rich.console import Console

    from glassgate.edits import parse_edit
    from glassgate.lens.blocks import averaged, blocks
    from glassgate.runtime import load

    edits = [parse_edit(part) for part in set_ or ()]
    traced = load(folder).trace(sentence, edits, unknown)
    names = list(traced.layers) if layer is None else [layer]
    if out is not None and out.suffix.lower() == ".html":
        from glassgate.folder.files import write_atomically
        from glassgate.lens.html import page

        shown = traced.document(names, gates=gate or None, units=chosen, mean=mean)
        write_atomically(out, page(shown, sentence))
        return
    drawn = {name: blocks(traced.layers[name], gate, chosen) for name in names}
    console = Console(highlight=False)
    if out is None and not mean and chosen is None:
        count = drawn[names[0]][0].values.shape[1]
        mean = count > MOST
        if mean:
            console.print(f"The mean over {count} units; --units 0-{MOST - 1} shows some of them.")
    if mean:
        drawn = {name: [averaged(block) for block in found] for name, found in drawn.items()}
    if out is None:
        for name in names:
            _print(console, name, traced.words, drawn[name])
    else:
        from glassgate.lens.blocks import Block
        from glassgate.lens.canvas import save
        from glassgate.lens.figures import gates_over_words

        several = len(names) > 1
        flat = [
            Block(f"{name} {block.name}" if several else block.name, block.values, block.signed, block.units)
            for name in names
            for block in drawn[name]
        ]
        save(gates_over_words(traced.words, flat), out)


def _numbers(units: str) -> list[int]:
    """Read ``3,7`` and ``0-19``."""
    found: dict[int, None] = {}
    for part in units.split(","):
        first, _, last = part.strip().partition("-")
        if not (first.isdecimal() and (last or first).isdecimal() and int(first) <= int(last or first)):
            raise GlassgateError(f"--units: expected 3,7 or 0-19, got {units!r}")
        found.update(dict.fromkeys(range(int(first), min(int(last or first), int(first) + 100_000) + 1)))
    return list(found)


def _print(console: "Console", name: str, words: "Sequence[str]", blocks: "Sequence[Block]") -> None:
    """Print a layer's blocks side by side, as many as the terminal is wide enough for."""
    from glassgate.lens.terminal import draw

    console.print(f"[bold]{name}[/bold]: gates from 0 to 1, candidate and states from -1 over 0 to 1")
    left = console.width - max(map(len, words)) - 2
    band: list[Block] = []
    used = 0
    for block in blocks:
        width = max(block.values.shape[1], len(block.name)) + 2
        if band and used + width > left:
            draw(console, words, band)
            band, used = [], 0
        band.append(block)
        used += width
    draw(console, words, band)

"""``glassgate demo``: the notes' exercise from beginning to end."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glassgate.cli.common import needs

if TYPE_CHECKING:
    from rich.console import Console

GATES = {"forget": "forget f", "input": "input i", "output": "output o"}
SIGNED = {"candidate": "candidate g", "cell": "cell state C", "hidden": "hidden state h"}
LINES_SHOWN, WORDS_SHOWN = 4, 12
PROMPTS = ("warm bread for the", "what do you", "and the gate swung", "by the lamp the keeper thought of the")
NEXT = """\
  glassgate train my.txt --out my-model      ten minutes; --minutes 1 for a first look
  glassgate predict my-model "a few words"   the most probable next words
  glassgate --help                           all commands"""


def command(
    out: Annotated[
        Path | None, typer.Option("--out", help="Keep the model in this folder; else it is thrown away.")
    ] = None,
) -> None:
    """Count, train and look into the notes' exercise: an LSTM of 20 nodes with 4,400 weights."""
    needs("torch", "train")
    needs("rich")
    from tempfile import TemporaryDirectory

    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    with TemporaryDirectory() as temporary:
        folder = out or Path(temporary) / "exercise"
        _show_text(console)
        _show_count()
        console.print("\n[bold]Training[/bold]: words 1 to 900; the last 100 are held out")
        from glassgate.language.exercise import train_exercise

        train_exercise(folder, console)
        console.print("A guess among 100 words has perplexity 100.")
        _show_predictions(folder, console)
        _show_gates(folder, console)
    kept = "" if out is None else f"\n  glassgate generate {out} --prompt {PROMPTS[0]!r}"
    console.print(f"\n[bold]And now a text of your own[/bold]{kept}\n{NEXT}")


def _show_text(console: "Console") -> None:
    from glassgate.language.exercise import sample_text

    console.print("[bold]The text[/bold]: 1,000 words, 100 of them unique")
    for line in sample_text().splitlines()[:LINES_SHOWN]:
        console.print(f"  {line}", style="italic")
    console.print("  ...")


def _show_count() -> None:
    from glassgate.cli import count

    typer.echo("")
    count.command(cell="lstm", input=10, hidden=20, vocabulary=100, bias=False)


def _show_predictions(folder: Path, console: "Console") -> None:
    from glassgate.runtime import load

    model = load(folder)
    console.print("\n[bold]The next word[/bold]")
    width = max(map(len, PROMPTS))
    for prompt in PROMPTS:
        words = ", ".join(f"{word} {share:.0%}" for word, share in model.predict(prompt, 4))
        console.print(f"  {prompt:<{width}} ...  {words}")


def _show_gates(folder: Path, console: "Console") -> None:
    from glassgate.language.exercise import sample_text
    from glassgate.lens.blocks import Block
    from glassgate.lens.terminal import draw
    from glassgate.runtime import load

    seen = load(folder).trace(" ".join(sample_text().split()[:WORDS_SHOWN]))
    gates = seen.layers["l0"]

    def blocks(names: dict[str, str], signed: bool) -> list[Block]:
        return [Block(title, getattr(gates, name)[:, 0], signed) for name, title in names.items()]

    console.print("\n[bold]The gates[/bold] over the first words: a row a word, a cell a unit, from 0 to 1")
    draw(console, seen.words, blocks(GATES, signed=False))
    console.print("\n[bold]Candidate and states[/bold]: from -1 over 0 to 1")
    draw(console, seen.words, blocks(SIGNED, signed=True))

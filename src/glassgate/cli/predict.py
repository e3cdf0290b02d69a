"""``glassgate predict`` and ``glassgate generate``: what comes next."""

from pathlib import Path
from typing import Annotated

import typer

from glassgate.cli.common import naming_options, printable, use_one_thread

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A model folder.")]
Unknown = Annotated[bool, typer.Option("--unknown", help="Read unknown words as <unk>.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def predict(
    folder: Folder,
    text: Annotated[str, typer.Argument(help="What stands before.")],
    k: Annotated[int, typer.Option("-k", help="How many words.")] = 5,
    unknown: Unknown = False,
    complete: Annotated[
        bool, typer.Option("--complete", help="The last word is only begun: complete it.")
    ] = False,
    json: Json = False,
) -> None:
    """Print the most probable next words and their probabilities."""
    use_one_thread()
    from json import dumps

    from glassgate.runtime import load

    model = load(folder)
    with naming_options("k"):
        found = model.predict(text, k, unknown, complete)
    if json:
        words = [{"word": word, "probability": probability} for word, probability in found]
        typer.echo(dumps({"words": words}, ensure_ascii=False))
        return
    rows = [(printable(word), probability) for word, probability in found]
    width = max((len(word) for word, _ in rows), default=0)
    for word, probability in rows:
        typer.echo(f"{word:<{width}}  {probability:7.2%}".replace("%", " %"))


def generate(
    folder: Folder,
    prompt: Annotated[str, typer.Option(help="What stands before.")] = "",
    words: Annotated[int, typer.Option(help="How many words to write.")] = 50,
    temperature: Annotated[float, typer.Option(help="Below 1 bolder on the probable, 0 greedy.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Draw among so many words; 0: all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Draw among the words that make up this share.")] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed writes the same text.")] = 1,
    unknown: Unknown = False,
) -> None:
    """Write on from a prompt, word by word."""
    use_one_thread()
    from glassgate.runtime import load

    model = load(folder)
    with naming_options("words", "temperature", "top_k", "top_p", "seed"):
        pieces = model.generate(
            prompt, words, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, unknown=unknown
        )
    for piece in pieces:
        typer.echo(piece if piece == "\n" else printable(piece), nl=False)  # <eos> ends the line
    typer.echo()

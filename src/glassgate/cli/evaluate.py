"""``glassgate evaluate``: how good a model is on a text."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A model folder.")],
    texts: Annotated[
        list[Path], typer.Argument(metavar="TEXT...", help="UTF-8 texts, .gz or plain; folders.")
    ],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure perplexity, recall and keystroke savings on a text.

    The text is one stream: the state is carried from its first word to its last, nothing is dropped,
    every <eos> and <unk> counts. <unk> is never suggested, so an unknown word is a miss.
    """
    from json import dumps

    from rich.console import Console

    from glassgate.language.evaluation import evaluate
    from glassgate.language.progress import ProgressDisplay
    from glassgate.runtime import load

    model = load(folder)
    total = sum(path.stat().st_size for path in texts if path.is_file())
    with ProgressDisplay(Console(stderr=True), "reading") as display:
        # How many tokens there are is known at the end; about five bytes make one, and gzip halves that.
        found = evaluate(
            model,
            texts,
            lambda tokens, value: display.update(
                min(0.99, 5 * tokens / max(total, 1)), f"{tokens:,} tokens  perplexity {value:,.2f}"
            ),
        )
    if json:
        typer.echo(dumps(found.as_dict()))
        return
    known = found.recall_in_vocabulary
    rows = [
        ("perplexity", f"{found.perplexity:,.2f}"),
        ("tokens", f"{found.tokens:,}"),
        ("<unk> among them", f"{found.unk_rate:.2%}"),
        *((f"recall@{k}", f"{v:.2%}  (known words: {known[k]:.2%})") for k, v in found.recall.items()),
        ("keystroke savings", f"{found.keystroke_savings:.2%}  (ceiling: {found.keystroke_ceiling:.2%})"),
    ]
    for name, value in rows:
        typer.echo(f"{name:<18} {value}".replace("%", " %"))

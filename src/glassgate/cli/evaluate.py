"""``glassgate evaluate``: how good a model is on a text."""

from pathlib import Path
from typing import Annotated, Any

import typer

from glassgate.cli.common import naming_options, needs, size_of_texts


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A model folder.")],
    texts: Annotated[
        list[Path], typer.Argument(metavar="TEXT...", help="UTF-8 texts, .gz or plain; folders.")
    ],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    cache: Annotated[
        bool, typer.Option("--cache", help="Also with a neural cache: words of the recent past.")
    ] = False,
    cache_window: Annotated[int | None, typer.Option(help="Words that it remembers.  [2000]")] = None,
    cache_theta: Annotated[
        float | None, typer.Option(help="Its sharpness.  [9 / mean of h.h so far]")
    ] = None,
    cache_lambda: Annotated[float | None, typer.Option(help="Its share of the probability.  [0.2]")] = None,
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="Also while a copy learns from the text (needs torch).")
    ] = False,
    dynamic_rate: Annotated[
        float | None, typer.Option(help="Its learning rate.  [0.02 with --dynamic-text, else 0.002]")
    ] = None,
    dynamic_decay: Annotated[
        float | None, typer.Option(help="Share of the way back in a step.  [0.001]")
    ] = None,
    dynamic_segment: Annotated[int | None, typer.Option(help="Words in a step.  [50]")] = None,
    dynamic_text: Annotated[
        list[Path] | None,
        typer.Option(
            help="Training text, to measure the size of each weight's gradient on.  [none: plain SGD]"
        ),
    ] = None,
    suggestions: Annotated[int, typer.Option(help="Words that the keyboard shows.")] = 3,
    keyboard: Annotated[
        bool, typer.Option("--keyboard", help="Also how long a keyboard waits after each key.")
    ] = False,
    keyboard_words: Annotated[
        int | None, typer.Option(help="So many words, the text's first, are typed for that.  [2000]")
    ] = None,
) -> None:
    """Measure perplexity, recall and keystroke savings on a text.

    The text is one stream: the state is carried from its first word to its last, nothing is dropped,
    every <eos> and <unk> counts. <unk> is never suggested, so an unknown word is a miss. What --cache,
    --dynamic and --keyboard measure stands beside the plain figures, and the folder is never changed.
    """
    needs("rich")
    from dataclasses import replace
    from json import dumps

    from rich.console import Console

    from glassgate.errors import GlassgateError
    from glassgate.language.cache import CacheOptions
    from glassgate.language.evaluation import evaluate
    from glassgate.language.keyboard import Keyboard, measure_latency
    from glassgate.language.progress import ProgressDisplay
    from glassgate.runtime import load

    of_cache = _given(window=cache_window, theta=cache_theta, share=cache_lambda)
    of_dynamic = _given(rate=dynamic_rate, decay=dynamic_decay, segment=dynamic_segment)
    for wanted, given, name in (
        (cache, of_cache, "cache"),
        (dynamic, of_dynamic or dynamic_text, "dynamic"),
        (keyboard, keyboard_words is not None, "keyboard"),
    ):
        if given and not wanted:
            raise GlassgateError(f"--{name}: the options of it were given, but not --{name} itself")
    remembered = CacheOptions(**of_cache) if cache else None
    if dynamic:
        needs("torch", "train")
        from glassgate.language.dynamic import GATHERED, DynamicOptions, dynamic_perplexity, read_trainable

        learning = DynamicOptions(**of_dynamic)
        size_of_texts(dynamic_text or [])  # refuses what it cannot read before the text is measured
    typed = 2000 if keyboard_words is None else keyboard_words
    if typed < 1:
        raise GlassgateError(f"--keyboard-words: must be at least 1, got {typed}")
    total = size_of_texts(texts)
    model = load(folder)
    with naming_options("suggestions"):
        keys = Keyboard(model.vocabulary, model.prefixes, suggestions, keep=typed if keyboard else 0)
    with ProgressDisplay(Console(stderr=True), "reading") as display:
        # How many tokens there are is known at the end; about five bytes make one, and gzip halves that.
        found = evaluate(
            model,
            texts,
            lambda tokens, value: display.update(
                min(0.99, 5 * tokens / max(total, 1)), f"{tokens:,} tokens  perplexity {value:,.2f}"
            ),
            cache=remembered,
            keyboard=keys,
        )
    if keyboard:
        with ProgressDisplay(Console(stderr=True), "typing") as display:
            latency = measure_latency(
                model,
                keys.kept,
                suggestions,
                lambda words: display.update(words / len(keys.kept), f"{words:,} words"),
            )
        found = replace(found, latency=latency)
    if dynamic:
        with ProgressDisplay(Console(stderr=True), "learning") as display:
            value = dynamic_perplexity(
                read_trainable(folder),
                model.vocabulary,
                texts,
                learning,
                dynamic_text or (),
                lambda tokens, value, gathering: display.update(
                    min(0.99, tokens / (GATHERED if gathering else found.tokens)),
                    f"{'statistics: ' * gathering}{tokens:,} tokens  perplexity {value:,.2f}",
                ),
            )
        found = replace(found, dynamic_perplexity=value)
    if json:
        typer.echo(dumps(found.as_dict()))
        return
    known = found.recall_in_vocabulary
    rows = [
        ("perplexity", f"{found.perplexity:,.2f}"),
        ("tokens", f"{found.tokens:,}"),
        ("<unk> among them", f"{found.unk_rate:.2%}"),
        *((f"recall@{k}", f"{v:.2%}  (known words: {known[k]:.2%})") for k, v in found.recall.items()),
        (
            "keystroke savings",
            f"{found.keystroke_savings:.2%}  ({suggestions} shown; ceiling: {found.keystroke_ceiling:.2%})",
        ),
    ]
    if found.latency is not None:
        for key, took in (("word", found.latency.word), ("letter", found.latency.letter)):
            times = f"p50 {took.p50:.2f} ms, p95 {took.p95:.2f} ms, p99 {took.p99:.2f} ms"
            rows.append((f"after a {key}", f"{times}  ({took.keys:,} timed)"))
    for label, measured in (
        ("with the cache", found.cache_perplexity),
        ("learning", found.dynamic_perplexity),
    ):
        if measured is not None:
            rows.append((label, f"{measured:,.2f}  (perplexity; {measured / found.perplexity - 1:+.1%})"))
    for name, text in rows:
        typer.echo(f"{name:<18} {text}".replace("%", " %"))


def _given(**options: float | None) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}

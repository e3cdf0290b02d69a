"""A model in fewer bits: its folder again, with smaller weights."""

import shutil
from collections.abc import Callable, Sequence
from os.path import lexists
from pathlib import Path
from secrets import token_hex

from glassgate.errors import GlassgateError
from glassgate.folder.compact import Compact, packed
from glassgate.folder.files import read_bytes, reporting_disk_errors, write_atomically
from glassgate.folder.model import CARD, CONFIG, METRICS, PICTURE, TOKENIZER, WEIGHTS, read_folder
from glassgate.folder.weights import map_weights, read_header, save_weights
from glassgate.language.evaluation import evaluate
from glassgate.runtime import load

__all__ = ["compress"]

KEPT = (CONFIG, TOKENIZER, CARD, METRICS, PICTURE)  # files that stay, where they are there
STORED = {"bf16": "bf16", "int8": "int8, with a scale for each row"}


def compress(
    folder: Path,
    out: Path,
    dtype: Compact,
    texts: Sequence[Path] = (),
    report: Callable[[str, int, float], None] | None = None,
) -> dict[str, float]:
    """Write a model folder whose matrices take fewer bits; the biases stay float32.

    Parameters
    ----------
    folder
        The model, in float32.
    out
        The folder to make.
    dtype
        ``"bf16"``: half the bytes; ``"int8"``: a quarter, with a scale for each row.
    texts
        On which the perplexity is measured, of both models; the figures go into the card.
    report
        Called while measuring, with ``"before"`` or ``"after"``, the tokens read and the perplexity.

    Returns
    -------
    dict of str to float
        ``bytes_before`` and ``bytes_after``, of the weights' files; with texts also
        ``perplexity_before`` and ``perplexity_after``.

    Raises
    ------
    GlassgateError
        When the folder is damaged or compressed already, holds a weight too large for the form, or cannot
        be read; when ``out`` is there already, or a text cannot be read.
        Nothing is left of ``out`` then.

    Examples
    --------
    >>> compress(Path("no-such-folder"), Path("out"), "int8")
    Traceback (most recent call last):
    glassgate.errors.GlassgateError: no-such-folder: no such model folder
    """
    config, _ = read_folder(folder)
    if any(entry.get("dtype", "F32") != "F32" for entry in read_header(folder / WEIGHTS).values()):
        raise GlassgateError(f"{folder}: is compressed already: expected the model that it was made from")
    if lexists(out):
        raise GlassgateError(f"{out}: is there already: expected the name of a folder to make")
    kept = {name: read_bytes(folder / name) for name in KEPT if lexists(folder / name)}
    card = kept.pop(CARD, b"")
    stored = map_weights(folder / WEIGHTS, config.tensors())
    try:
        smaller = packed({name: tensor.values for name, tensor in stored.items()}, dtype)
    except GlassgateError as error:
        raise GlassgateError(f"{folder / WEIGHTS}: {error}") from error
    figures: dict[str, float] = {}
    with reporting_disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        work = out.with_name(f".{out.name}.{token_hex(8)}.tmp")
        work.mkdir()
        try:
            for name, content in kept.items():
                (work / name).write_bytes(content)
            save_weights(work / WEIGHTS, smaller)
            for when, place in (("before", folder), ("after", work)):
                figures[f"bytes_{when}"] = (place / WEIGHTS).stat().st_size
                if texts:
                    figures[f"perplexity_{when}"] = _perplexity(place, texts, when, report)
            write_atomically(work / CARD, card + _section(dtype, figures, texts).encode())
            work.rename(out)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
    return figures


def _perplexity(
    folder: Path, texts: Sequence[Path], when: str, report: Callable[[str, int, float], None] | None
) -> float:
    told = None if report is None else lambda tokens, value: report(when, tokens, value)
    return evaluate(load(folder), texts, told).perplexity


def _section(dtype: Compact, figures: dict[str, float], texts: Sequence[Path]) -> str:
    before, after = figures["bytes_before"], figures["bytes_after"]
    rows = [("weights", STORED[dtype]), ("their file", f"{after:,} bytes, before {before:,}")]
    if texts:
        before, after = figures["perplexity_before"], figures["perplexity_after"]
        names = ", ".join(path.name for path in texts)
        rows.append(
            (f"perplexity on {names}", f"{after:,.2f}, before {before:,.2f} ({after / before - 1:+.3%})")
        )
    return "\n".join(
        ["", "## Compressed", "", "| | |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows), ""]
    )

"""Gates on a page: one file that needs no network, and the still picture that a notebook shows."""

import json
import re
import struct
import zlib
from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt

from glassgate.errors import GlassgateError
from glassgate.lens.blocks import Block, blocks, colours
from glassgate.lens.explore import module, style
from glassgate.trace import LayerTrace

__all__ = ["page", "png", "still"]

COLUMN = 34  # pixels that a word takes in a still picture
STEPS = 200  # that a still picture shows
HEIGHT = 96  # pixels of a heat map in a still picture, at most


def page(trace: Mapping[str, Any], title: str) -> str:
    """Return a page with the heat map of every gate: one file, no network, nothing to install.

    Point at a cell to see the notes' arithmetic there and the next words; click a word to sort the units by
    their values at it. It is drawn by the same modules as the server's page.

    Parameters
    ----------
    trace
        From `glassgate.lens.explore.document`.
    title
        Of the page.

    Returns
    -------
    str
        HTML, whose content-security policy lets it ask nobody for anything.

    Examples
    --------
    >>> from glassgate.lens.explore import document
    >>> from glassgate.trace import Chunk
    >>> layer = LayerTrace("l0", "gru")
    >>> layer.add(Chunk(np.zeros((2, 1, 3)), np.full((2, 1, 3, 3), 0.25), None, None))
    >>> text = page(document({"l0": layer}, ["a", "<b>"]), "two words")
    >>> text.startswith("<!doctype html>"), "http:" in text, "<b>" in text
    (True, False, False)
    """
    # Inside a script element only "<" could end it: no word may.
    written = json.dumps(trace, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    parts = {"title": escape(title), "data": written, "style": style(), "module": module()}
    template = files("glassgate.lens").joinpath("page.html").read_text(encoding="utf-8")
    return re.sub(r"{{(\w+)}}", lambda found: parts[found[1]], template)


def still(words: Sequence[str] | None, layers: Mapping[str, LayerTrace]) -> str:
    """Return what a notebook shows of a trace: for each layer and gate a heat map, words above.

    Parameters
    ----------
    words
        The T words; None: the steps' numbers.
    layers
        A trace, or layers by name. Of a batch the first sequence is shown, of a long text 200 steps.

    Returns
    -------
    str
        A piece of HTML without a script.

    Examples
    --------
    >>> from glassgate.trace import Chunk
    >>> layer = LayerTrace("l0", "gru")
    >>> layer.add(Chunk(np.zeros((2, 1, 3)), np.full((2, 1, 3, 3), 0.25), None, None))
    >>> text = still(["a", "<b>"], {"l0": layer})
    >>> text.count("<img"), "&lt;b&gt;" in text, "<script" in text
    (4, True, False)
    """
    parts = []
    for name, layer in layers.items():
        try:
            drawn = blocks(layer)
        except GlassgateError as error:  # it was not called, or with batches of several sizes
            parts.append(f"<p>{escape(str(error))}</p>")
            continue
        total, units = drawn[0].values.shape
        shown = min(total, STEPS)
        names = list(words or map(str, range(total)))[:shown]
        heads = "".join(f'<th style="{_HEAD}">{escape(word)}</th>' for word in names)
        rows = "".join(_row(block, shown) for block in drawn)
        more = f", the first {shown} of {total:,} steps" if shown < total else ""
        parts.append(
            f'<table style="border-collapse:collapse;font:12px sans-serif"><caption style="text-align:left">'
            f"<b>{escape(name)}</b>: {units} units{more}; gates from 0 (dark) to 1 (light), candidate and "
            f"states from -1 (blue) to 1 (red)</caption><tr><th></th>{heads}</tr>{rows}</table>"
        )
    return f'<div style="overflow-x:auto">{"".join(parts)}</div>'


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Return pixels [rows, columns, 3] as a PNG.

    Examples
    --------
    >>> png(np.zeros((2, 3, 3), np.uint8))[1:4]
    b'PNG'
    """
    rows, columns, _ = pixels.shape
    # Each row begins with its filter, 0: none.
    lines = np.concatenate([np.zeros((rows, 1), np.uint8), pixels.reshape(rows, 3 * columns)], axis=1)
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines.tobytes(), 9)),
        (b"IEND", b""),
    ]
    body = b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in parts
    )
    return b"\x89PNG\r\n\x1a\n" + body


_HEAD = f"width:{COLUMN}px;max-width:{COLUMN}px;overflow:hidden;font-weight:normal;text-align:center"


def _row(block: Block, shown: int) -> str:
    picture = b64encode(png(colours(block.values[:shown].T, block.signed))).decode()
    height = min(max(4 * block.values.shape[1], 12), HEIGHT)
    return (
        f'<tr><td style="padding-right:6px">{escape(block.name)}</td>'
        f'<td colspan="{shown}" style="padding:1px 0">'
        f'<img alt="{escape(block.name)}: a column a word, a row a unit" width="{COLUMN * shown}" '
        f'height="{height}" style="image-rendering:pixelated;display:block;max-width:none" '
        f'src="data:image/png;base64,{picture}"></td></tr>'
    )

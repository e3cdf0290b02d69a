"""What the tests of the page share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Page

TEXT = "the gate opens a door ,"
LINK = f"#text={quote(TEXT)}"
# The page takes the next words from the trace, /predict from a step of many rows: see test_server.py, CLOSE.
CLOSE = 1e-5

Open = Callable[..., Page]


def expected(words: list[dict[str, Any]]) -> dict[str, float]:
    return {entry["word"]: pytest.approx(entry["probability"], rel=CLOSE) for entry in words}


def tables(page: Page, column: str = "is") -> list[dict[str, float | None]]:
    """The next words of each column of the page; None: not among the best."""
    found = page.eval_on_selector_all(
        "table.next",
        """(tables, kind) => tables.map(t => [...t.querySelectorAll('tbody tr')].map(
            r => [r.dataset.word, r.querySelector('td.' + kind)?.dataset.probability]))""",
        column,
    )
    return [{word: float(y) if y else None for word, y in rows} for rows in found]


def becomes(page: Page, *expected_words: list[dict[str, Any]]) -> None:
    """Wait until each column's most probable word and its probability are these, then compare all of them."""
    page.wait_for_function(
        """([all, close]) => {
            const rows = [...document.querySelectorAll('table.next')].map(t => t.querySelector('tbody tr'));
            return rows.length === all.length && all.every(([word, y], n) => rows[n]?.dataset.word === word
                && Math.abs(Number(rows[n].querySelector('td.is').dataset.probability) - y) <= close * y);
        }""",
        arg=[[[words[0]["word"], words[0]["probability"]] for words in expected_words], CLOSE],
        timeout=10_000,
    )
    shown = 8 if len(expected_words) == 1 else 5
    columns = tables(page), tables(page, "was"), expected_words
    for found, before, words in zip(*columns, strict=True):
        assert found == {word: y for word, y in expected(words).items() if word in found}
        assert len(found) == min(shown, len(words))
        ranked = [entry["word"] for entry in words]
        if any(before.values()):  # words that were foremost before stand there, too: see `foremost`
            assert list(found) == [word for word in ranked if word in found]
        else:
            assert list(found) == ranked[:shown]


def foremost(both: dict[str, list[dict[str, Any]]], shown: int = 8) -> list[str]:
    """The words of an answer of /edit that the page shows: most probable before or after, by the latter."""
    before, after = ({e["word"]: e["probability"] for e in both[name]} for name in ("before", "after"))
    most = sorted(after, key=lambda word: max(after[word], before[word]), reverse=True)[:shown]
    return sorted(most, key=lambda word: after[word], reverse=True)


def saved(page: Page, button: str, folder: Path) -> bytes:
    with page.expect_download() as download:
        page.click(button)
    path = folder / "saved"
    download.value.save_as(path)
    return path.read_bytes()

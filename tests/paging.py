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


def saved(page: Page, button: str, folder: Path) -> bytes:
    with page.expect_download() as download:
        page.click(button)
    path = folder / "saved"
    download.value.save_as(path)
    return path.read_bytes()

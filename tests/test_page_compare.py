"""Two models beside each other on the page."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe

from paging import TEXT, Open, becomes, expected, saved, tables
from serving import Client, serving, write_folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Two models with nothing in common but some words: cells, layers and units differ."""
    parent = tmp_path_factory.mktemp("pair")
    other = write_folder(parent / "other", "gru", layers=1, hidden=6, embedding=4)
    with serving(write_folder(parent / "drawn"), compared=other) as client:
        yield client


def test_two_models_stand_beside_each_other_and_edits_work_on_each(pair: Client, visit: Open) -> None:
    page = visit(pair)
    page.click("#models")  # the link names a text and no comparison
    bases = ("", "/compared")

    def words(edits: dict[str, list[Any]], text: str = TEXT) -> list[list[dict[str, Any]]]:
        bodies = {base: {"text": text, "k": 64, "edits": edits.get(base, [])} for base in bases}
        return [pair.post(base + "/edit", bodies[base]).json["after"] for base in bases]

    plain = words({})
    becomes(page, *plain)
    assert page.locator("#plots .name").all_text_contents() == ["drawn", "other"]
    assert page.locator("table.next caption b").all_text_contents() == ["drawn", "other"]

    # A change of the second model's cell is one of the second model alone.
    page.locator("canvas").nth(1).focus()
    page.locator("canvas").nth(1).click(position={"x": 60, "y": 120})
    assert (page.text_content("#pinned") or "").startswith("other: ")
    page.select_option("#scope", "all")
    gate = "reset" if (page.text_content("#pinned") or "").startswith("other: r,") else "update"
    page.click("[data-set='0']")
    own = [{"gate": gate, "set": 0}]
    becomes(page, *words({"/compared": own}))
    assert page.locator("#edits li").count() == 1
    assert "; other" in (page.text_content("#edits") or "")
    before = tables(page, "was")
    assert before[0] == dict.fromkeys(before[0])  # the first one has no column of those before
    assert before[1] == {word: y for word, y in expected(plain[1]).items() if word in before[1]}
    page.click("#undo")
    becomes(page, *plain)

    # The candidate is in both cells: one change of both models.
    page.locator("canvas").nth(1).focus()
    for _ in range(3):
        page.keyboard.press("PageUp")
    for _ in range(2):
        page.keyboard.press("PageDown")
    assert "g, candidate" in (page.text_content("#pinned") or "")
    page.select_option("#scope", "both")
    page.click("[data-set='1']")
    both = [{"gate": "candidate", "set": 1}]
    becomes(page, *words({"": both, "/compared": both}))
    assert "; both models" in (page.text_content("#edits") or "")

    # The link brings it back; a gate that one model lacks changes the other alone.
    page.click("#link")
    again = visit(pair, "#" + page.url.partition("#")[2])
    becomes(again, *words({"": both, "/compared": both}))
    forget = quote(json.dumps([{"gate": "forget", "set": 0, "model": "both"}]))
    one = visit(pair, f"#text={quote(TEXT)}&models=2&edits={forget}")
    becomes(one, *words({"": [{"gate": "forget", "set": 0}]}))
    one.click("#compare")  # two texts of the first model instead
    one.wait_for_function("() => document.querySelectorAll('table.next').length === 2")
    assert one.get_attribute("#models", "aria-pressed") == "false"
    becomes(
        one, words({"": [{"gate": "forget", "set": 0}]})[0], words({"": [{"gate": "forget", "set": 0}]})[0]
    )


def test_who_serves_two_models_sees_both_at_once(pair: Client, visit: Open, tmp_path: Path) -> None:
    page = visit(pair, "")
    page.wait_for_function("() => document.querySelectorAll('table.next').length === 2")
    counts = [pair.get(base + "/model").json["count"]["total"] for base in ("", "/compared")]
    shown_counts = page.eval_on_selector_all(
        "#count tfoot tr:nth-child(2) td", "all => all.map(e => e.textContent)"
    )
    assert shown_counts == [f"{count:,}" for count in counts]
    rows = list(csv.DictReader(saved(page, "#csv", tmp_path).decode().splitlines()))
    text = page.input_value("#text")
    for name, base in (("drawn", ""), ("other", "/compared")):
        layers = pair.post(base + "/trace", {"text": text}).json["layers"]
        cells = sum(np.prod(values["shape"]) for layer in layers for values in layer["values"].values())
        assert sum(row["model"] == name for row in rows) == cells


@pytest.mark.parametrize(("theme", "width"), [("dark", 1360), ("light", 390)])
def test_axe_finds_nothing_in_a_comparison_of_models(
    pair: Client, visit: Open, theme: str, width: int
) -> None:
    page = visit(pair, "", color_scheme=theme, viewport={"width": width, "height": 844})
    page.select_option("#scope", "both")
    page.click("[data-set='0']")
    page.wait_for_selector("#edits li")
    report = Axe().run(page)
    assert report.violations_count == 0, report.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

"""A trace to explore: what is sent are its numbers, and what a browser draws of them, without any server."""

import builtins
import json
import re
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

import glassgate
from glassgate import GlassgateError
from glassgate.edits import Edit
from glassgate.lens import explore, html
from glassgate.lens.handover import load_trace, save_trace
from glassgate.trace import Chunk, LayerTrace
from lens_models import model

SENTENCE = "the keeper opens the gate"


def matrices(layer: dict[str, Any]) -> dict[str, np.ndarray]:
    return {
        gate: np.frombuffer(b64decode(v["float32"]), "<f4").reshape(v["shape"])
        for gate, v in layer["values"].items()
    }


@pytest.mark.parametrize("options", [{"cell": "lstm"}, {"cell": "gru", "reset": "before"}, {"cell": "gru"}])
def test_what_is_sent_is_the_trace(options: dict[str, Any]) -> None:
    own = model(**options)
    traced = own.trace(SENTENCE)
    widget = traced.explore()
    sent = widget.trace
    assert (sent["words"], sent["steps"]) == (list(traced.words), len(traced.words))
    assert [layer["name"] for layer in sent["layers"]] == list(traced.layers)
    for layer, found in zip(traced.layers.values(), sent["layers"], strict=True):
        assert (found["cell"], found["units"]) == (options["cell"], 5)
        assert found["reset"] == (own.config.reset if options["cell"] == "gru" else None)
        assert set(matrices(found)) == set(layer.names)
        for gate, values in matrices(found).items():
            np.testing.assert_array_equal(values, getattr(layer, gate)[:, 0].astype(np.float32))
    for step, words in enumerate(sent["next"]):
        assert [(w["word"], w["probability"]) for w in words] == traced.best(8, step)
    # What the front end gets is what the traits hold: the same document, the module and the style sheet.
    state = widget.get_state(["trace", "_esm", "_css"])
    assert state == {"trace": sent, "_esm": explore.module(), "_css": explore.style()}
    assert json.loads(json.dumps(sent)) == sent
    widget.close()


def test_a_record_of_torch_is_explored_by_layer_and_sequence() -> None:
    lstm = glassgate.LSTM(3, 4, num_layers=1, bidirectional=True)
    with glassgate.record(lstm) as trace:
        lstm(torch.randn(6, 2, 3))
    widget = trace.explore(sequence=1)
    assert widget.trace["words"] == list("012345")
    assert "next" not in widget.trace
    forward, backward = widget.trace["layers"]
    assert ("reverse" in forward, backward["reverse"]) == (False, True)
    for layer in (forward, backward):
        values = trace[layer["name"]].forget[:, 1].detach().numpy()
        np.testing.assert_array_equal(matrices(layer)["forget"], values)
    one = trace["l0"].explore(words=list("abcdef"))
    assert (one.trace["words"], len(one.trace["layers"])) == (list("abcdef"), 1)
    for each in (widget, one):
        each.close()


def test_a_trace_from_a_file_is_explored(tmp_path: Path) -> None:
    traced = model().trace(SENTENCE)
    save_trace(tmp_path / "trace.npz", traced.layers, traced.words)
    widget = load_trace(tmp_path / "trace.npz").explore()
    expected = traced.document()
    assert widget.trace == {name: expected[name] for name in ("words", "steps", "layers")}
    widget.close()


def test_a_projection_has_rows_of_its_own_number() -> None:
    layer = LayerTrace("l0", "lstm")
    drawn = np.random.default_rng(0).random((3, 1, 4, 5))
    layer.add(Chunk(np.ones((3, 1, 2)), drawn, np.zeros((3, 1, 5)), None))
    whole, hidden = explore.document({"l0": layer})["layers"]
    assert (whole["units"], "hidden" in whole["values"]) == (5, False)
    assert (hidden["name"], hidden["units"], list(hidden["values"])) == ("l0 hidden", 2, ["hidden"])


def test_a_long_text_is_cut_and_says_so() -> None:
    steps = explore.STEPS + 50
    layers = {name: LayerTrace(name, "gru") for name in ("l0", "l0_reverse")}
    hidden = np.arange(steps, dtype=np.float32).reshape(steps, 1, 1)
    for layer in layers.values():
        layer.add(Chunk(hidden, np.zeros((steps, 1, 3, 1)), None, None))
    found = explore.document(layers)
    assert (len(found["words"]), found["steps"]) == (explore.STEPS, steps)
    # A layer that reads backwards came to the last step that is shown from the one after it.
    np.testing.assert_array_equal(matrices(found["layers"][1])["hidden"][:, 0], np.arange(explore.STEPS + 1))


def test_what_cannot_be_explored_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = model().trace("the gate")
    with pytest.raises(GlassgateError, match="explore: one word for each of 3 steps expected, got 1"):
        traced.layers.explore(words=["the"])
    with pytest.raises(GlassgateError, match="sequence: must be from 0 to 0, got 1"):
        traced.layers.explore(sequence=1)
    with pytest.raises(GlassgateError, match="units: must be from 0 to 4, got 9"):
        traced.document(units=[9])
    with pytest.raises(GlassgateError, match="got 'update'"):
        traced.document(gates=["update"])
    with pytest.raises(GlassgateError, match="l1 was not called"):
        explore.document({"l1": LayerTrace("l1", "gru")})
    monkeypatch.setattr(explore, "MOST_VALUES", 100)
    with pytest.raises(GlassgateError, match="explore: the trace has 180 values, at most 100 are shown"):
        traced.document()


def test_without_anywidget_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "anywidget":
            raise ModuleNotFoundError(name)
        return imported(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    explore._widget_class.cache_clear()
    try:
        with pytest.raises(GlassgateError, match=r"^anywidget is not installed: .*'glassgate\[notebook\]'$"):
            model().trace("the").explore()
    finally:
        explore._widget_class.cache_clear()


Open = Callable[..., Page]


@pytest.fixture
def visit(browser: Browser, tmp_path: Path) -> Iterator[Open]:
    """Open a page from a file; at the end nothing may have gone wrong in it, and nobody have been asked."""
    contexts, wrong, asked = [], [], []

    def open_page(text: str, **options: Any) -> Page:
        options.setdefault("viewport", {"width": 1200, "height": 900})
        context = browser.new_context(reduced_motion="reduce", **options)
        contexts.append(context)
        page = context.new_page()
        path = tmp_path / f"{len(contexts)}.html"
        path.write_text(text, encoding="utf-8")
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda line: wrong.append(line.text))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        asked.remove(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == []


def terms(page: Page, place: str = "main") -> list[list[Any]]:
    found: list[list[Any]] = page.eval_on_selector_all(
        place + " .arithmetic .term", "all => all.map(t => [t.dataset.letter, Number(t.dataset.value)])"
    )
    return found


def sums(layer: LayerTrace, step: int, unit: int, reset: str | None = None) -> list[list[Any]]:
    """The notes' arithmetic of a cell, as the trace has its numbers."""
    here = {name: float(np.float32(getattr(layer, name)[step, 0, unit])) for name in layer.names}
    back = step + 1 if layer.name.endswith("_reverse") else step - 1
    state = layer.cell if "cell" in layer.names else layer.hidden
    past = float(np.float32(state[back, 0, unit])) if 0 <= back < len(state) else 0.0
    if "cell" in layer.names:
        letters = [["f", here["forget"]], ["C-1", past], ["i", here["input"]], ["g", here["candidate"]]]
        letters += [["C", here["cell"]], ["o", here["output"]], ["C", here["cell"]]]
        return [*letters, ["h", here["hidden"]]]
    r, u, g, h = (here[name] for name in ("reset", "update", "candidate", "hidden"))
    first = [["r", r], ["h-1", past], ["r h", r * past]] if reset == "before" else []
    return [*first, ["u", u], ["g", g], ["1 − u", 1 - u], ["h-1", past], ["h", h]]


def label(page: Page) -> str:
    return page.get_attribute("canvas", "aria-label") or ""


@pytest.mark.parametrize(("cell", "reset"), [("lstm", None), ("gru", "before")])
def test_a_page_of_its_own_tells_the_traces_numbers(visit: Open, cell: str, reset: str | None) -> None:
    traced = model(cell, **({"reset": reset} if reset else {})).trace(SENTENCE)
    words = [*traced.words[:-1], "</script><script>alert(1)"]
    given = explore.document(traced.layers, words, next_words=[traced.best(3, n) for n in range(6)])
    text = html.page(given, "a <b> & c")
    assert text.count("</script") == 2  # of the data and of the program
    page = visit(text)
    assert page.title() == page.text_content("h1") == "a <b> & c"
    layer = traced.layers["l1"]  # the last one, where a reader begins
    gate = layer.names[1] if cell == "lstm" else "reset"
    assert f"unit 0, at “{words[-1]}”" in label(page)
    assert terms(page) == sums(layer, 5, 0, reset)
    page.focus("canvas")
    for key, (step, unit) in {"Home": (0, 0), "ArrowRight": (1, 0), "ArrowDown": (1, 1)}.items():
        page.keyboard.press(key)
        assert terms(page) == sums(layer, step, unit, reset)
        assert float(label(page).rpartition(": ")[2].replace("−", "-")) == pytest.approx(
            float(getattr(layer, gate)[step, 0, unit]),
            abs=5.1e-4,  # it is written with three digits
        )
    best = page.eval_on_selector_all(
        ".next tbody tr",
        "all => all.map(r => [r.dataset.word, +r.querySelector('td.is').dataset.probability])",
    )
    assert [tuple(pair) for pair in best] == traced.best(3, 1)
    # Pointing shows and does not choose: the first cell of the first gate stands below the words.
    chosen = label(page)
    page.hover("canvas", position={"x": 40, "y": 70})
    assert terms(page) == sums(layer, 0, 0, reset)
    assert label(page) == chosen
    page.mouse.move(0, 0)
    assert terms(page) == sums(layer, 1, 1, reset)
    page.get_by_label("Layer").select_option("all")
    assert "unit 1 of layer l1" in label(page)


def test_units_are_sorted_by_the_word_that_is_clicked(visit: Open) -> None:
    traced = model().trace(SENTENCE)
    page = visit(html.page(traced.document(["l0"], gates=["cell"]), "cells"))
    page.click("canvas", position={"x": 34 + 3 * 50, "y": 8})
    step = traced.words.index(re.search("at “(.*)”", label(page))[1])  # type: ignore[index]
    assert page.get_by_label("Units").input_value() == "word"
    seen = []
    page.focus("canvas")
    for _ in range(5):
        page.keyboard.press("ArrowUp")
    for _ in range(5):
        seen.append(float(label(page).rpartition(": ")[2].replace("−", "-")))
        page.keyboard.press("ArrowDown")
    cells = traced.layers["l0"].cell[step, 0]
    assert seen == pytest.approx(sorted(cells, reverse=True), abs=5.1e-4)  # three digits


def test_where_gates_are_missing_the_others_are_told(visit: Open) -> None:
    traced = model().trace(SENTENCE)
    page = visit(html.page(traced.document(["l0"], mean=True), "means"))
    assert "unit mean" in label(page)
    layer = traced.layers["l0"]
    means = {name: float(getattr(layer, name)[5, 0].mean()) for name in ("forget", "output")}
    found = dict(terms(page))
    assert found["f"] == pytest.approx(means["forget"], rel=1e-6)  # one rounding to float32
    assert found["o"] == pytest.approx(means["output"], rel=1e-6)
    edited = visit(html.page(model().trace(SENTENCE, [Edit("cell", set=1.0)]).document(["l0"]), "edited"))
    assert "An edit set it" in (edited.text_content(".arithmetic") or "")


@pytest.mark.parametrize(("theme", "width"), [("light", 1360), ("dark", 390)])
def test_axe_finds_nothing_and_it_fits(visit: Open, theme: str, width: int) -> None:
    page = visit(
        html.page(model().trace(SENTENCE).document(), "a page"),
        color_scheme=theme,
        viewport={"width": width, "height": 844},
    )
    assert page.get_attribute(".explore", "data-theme") == theme
    report = Axe().run(page)
    assert report.violations_count == 0, report.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


NOTEBOOK = """<!doctype html><html lang="en"><head><title>a notebook</title><style>%s</style></head>
<body style="background: #111; color: #eee">
<main><h1>Cells</h1><div id="one"></div><div id="two"></div></main></body></html>"""

# As much of a model as anywidget promises: get, set, save_changes, on and off.
STUB = """async ([esm, given]) => {
  const url = URL.createObjectURL(new Blob([esm], { type: "text/javascript" }));
  const widget = (await import(url)).default;
  const state = { ...given }, heard = {};
  window.saved = [];
  window.model = {
    get: (name) => state[name],
    set(name, value) { state[name] = value; for (const f of heard["change:" + name] ?? []) f(); },
    save_changes() { window.saved.push(structuredClone(state.cell)); },
    on(event, f) { (heard[event] ??= []).push(f); },
    off(event, f) { heard[event] = heard[event].filter((g) => g !== f); },
  };
  window.heard = heard;
  window.ends = [];
  for (const id of ["one", "two"]) {
    window.ends.push(await widget.render({ model, el: document.getElementById(id), experimental: {} }));
  }
}"""


def test_the_widget_draws_follows_its_model_and_tells_the_cell(visit: Open) -> None:
    traced = model().trace(SENTENCE)
    widget = traced.explore()
    page = visit(NOTEBOOK % explore.style())
    page.evaluate(STUB, [widget._esm, {"trace": widget.trace, "cell": widget.cell}])
    assert page.locator("canvas").count() == 2  # two views of one model
    assert page.get_attribute("#one .explore", "data-theme") == "dark"  # as the text around it is light
    colours = page.evaluate(
        """() => {
            const c = document.querySelector('canvas');
            const dots = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
            return new Set(new Uint32Array(dots.buffer)).size;
        }"""
    )
    assert colours > 30  # cells in many shades, letters and their edges: it is drawn
    page.click("#one canvas", position={"x": 40, "y": 70})
    assert page.evaluate("saved") == [{"layer": "l1", "gate": "forget", "unit": 0, "step": 0}]
    assert page.get_attribute("#two canvas", "aria-label") == page.get_attribute("#one canvas", "aria-label")
    page.evaluate("model.set('cell', {layer: 'l1', gate: 'cell', unit: 3, step: 2})")
    assert label(page).startswith("C, cell, unit 3")
    assert terms(page, "#one") == terms(page, "#two") == sums(traced.layers["l1"], 2, 3)
    other = model("gru").trace("the lamp")
    page.evaluate("trace => model.set('trace', trace)", other.document())
    assert terms(page, "#one") == sums(other.layers["l1"], 2, 0, "before")
    report = Axe().run(page, options={"rules": {"region": {"enabled": False}}})
    assert report.violations_count == 0, report.generate_report()
    page.evaluate("ends.forEach(end => end())")
    assert page.evaluate("Object.values(heard).flat().length") == 0
    widget.close()

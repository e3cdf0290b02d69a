"""The page in a headless browser: what it shows are the server's numbers, and it asks nobody else."""

import csv
import io
import json
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from matplotlib.image import imread

from paging import TEXT, Open, becomes, expected, foremost, saved, tables
from serving import Client, serving, write_folder

GATES = {
    "lstm": {"forget": "f", "input": "i", "candidate": "g", "cell": "C", "output": "o", "hidden": "h"},
    "gru": {"reset": "r", "update": "u", "candidate": "g", "hidden": "h"},
}
"""As they stand below one another, with their letters."""


@pytest.fixture(scope="module", params=["lstm", "gru"])
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with serving(write_folder(tmp_path_factory.mktemp("page") / "drawn", request.param)) as client:
        yield client


def trace(client: Client, text: str = TEXT, edits: list[Any] | None = None) -> list[dict[str, Any]]:
    """The layers of a trace, their values as matrices [steps, units]."""
    layers: list[dict[str, Any]] = client.post("/trace", {"text": text, "edits": edits or []}).json["layers"]
    for layer in layers:
        for name, packed in layer["values"].items():
            numbers = np.frombuffer(b64decode(packed["float32"]), "<f4")
            layer["values"][name] = numbers.reshape(packed["shape"])
    return layers


def first_gate(layer: dict[str, Any]) -> str:
    return "forget" if layer["cell"] == "lstm" else "update"


def at(view: int, layer: str, gate: str, unit: int, step: int) -> str:
    return f"#text={quote(TEXT)}&at={view}:{layer}:{gate}:{unit}:{step}"


def test_it_is_small_and_asks_its_own_server_alone(client: Client, visit: Open) -> None:
    page = visit(client)
    loaded = page.evaluate(
        "[location.pathname, ...performance.getEntriesByType('resource').map(e => new URL(e.name).pathname)]"
    )
    files = {path for path in loaded if path == "/" or path.endswith((".js", ".css"))}
    assert {"/", "/app.js", "/style.css"} < files
    sizes = [len(client.get(path).body) for path in files]
    assert sum(sizes) <= 150_000


def test_typing_changes_the_next_words(client: Client, visit: Open) -> None:
    page = visit(client, "#text=the")
    page.focus("#text")
    page.keyboard.press("End")
    for typed, text in ((" gate", "the gate"), (" opens , the", "the gate opens , the")):
        page.keyboard.type(typed)
        becomes(page, client.post("/predict", {"text": text, "k": 64}).json["words"])
    words = page.get_attribute("canvas", "aria-label")
    assert words is not None
    assert "at “the”" in words


def test_an_edit_gives_the_servers_numbers_and_undo_takes_it_back(client: Client, visit: Open) -> None:
    (_, layer) = trace(client)
    gate, name = first_gate(layer), layer["name"]
    page = visit(client, at(0, name, gate, 3, 2))
    plain = client.post("/predict", {"text": TEXT, "k": 64}).json["words"]
    becomes(page, plain)
    scopes = {
        "cell": {"units": [3], "steps": [2, 3], "layer": name},
        "unit": {"units": [3], "layer": name},
        "word": {"steps": [2, 3], "layer": name},
        "layer": {"layer": name},
        "all": {},
    }
    for scope, about in scopes.items():
        page.select_option("#scope", scope)
        page.click("[data-set='0']")
        both = client.post(
            "/edit", {"text": TEXT, "k": 64, "edits": [{"gate": gate, "set": 0, **about}]}
        ).json
        becomes(page, both["after"])
        before = tables(page, "was")[0]
        assert list(before) == foremost(both)
        assert before == {word: y for word, y in expected(both["before"]).items() if word in before}
        page.click("#undo")
        becomes(page, plain)
        page.click("#redo")
        becomes(page, both["after"])
        page.keyboard.press("Control+z")
        becomes(page, plain)
    assert page.locator("#edits li").count() == 0


def test_a_dragged_value_is_one_change(client: Client, visit: Open) -> None:
    layer = trace(client)[0]
    gate, name = first_gate(layer), layer["name"]
    page = visit(client, at(0, name, gate, 1, 4))
    plain = client.post("/predict", {"text": TEXT, "k": 64}).json["words"]
    box = page.locator("#value").bounding_box()
    assert box is not None
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    for share in (0.6, 0.7, 0.8):
        page.mouse.move(box["x"] + share * box["width"], middle)
    page.mouse.up()
    # Answers to the first moves may still be on their way; the last one settles the value.
    page.wait_for_function("document.querySelector('#value').value > 0.7")
    value = float(page.input_value("#value"))
    assert 0.7 < value < 0.9
    edit = {"gate": gate, "set": value, "units": [1], "steps": [4, 5], "layer": name}
    becomes(page, client.post("/edit", {"text": TEXT, "k": 64, "edits": [edit]}).json["after"])
    page.click("#undo")
    becomes(page, plain)
    assert page.is_disabled("#undo")


def test_the_arithmetic_has_the_traces_numbers(client: Client, visit: Open) -> None:
    page = visit(client)
    for layer in trace(client):
        values = layer["values"]
        for gate, unit, step in (("candidate", 0, 0), ("hidden", 5, 3)):
            page.goto(client.server.url + "/" + at(0, layer["name"], gate, unit, step))
            page.wait_for_function(
                "unit => document.querySelector('#where').textContent.includes(unit)",
                arg=f"unit {unit} of layer {layer['name']}",
            )
            terms = page.eval_on_selector_all(
                "#arithmetic .term", "all => all.map(t => [t.dataset.letter, Number(t.dataset.value)])"
            )
            here = {name: float(matrix[step, unit]) for name, matrix in values.items()}
            state = "cell" if layer["cell"] == "lstm" else "hidden"
            past = float(values[state][step - 1, unit]) if step else 0.0
            if layer["cell"] == "lstm":
                f, i, g, o = (here[n] for n in ("forget", "input", "candidate", "output"))
                C, h = here["cell"], here["hidden"]
                wanted = [["f", f], ["C-1", past], ["i", i], ["g", g], ["C", C], ["o", o], ["C", C], ["h", h]]
                # Five roundings to float32, each of numbers below 4.
                assert f * past + i * g == pytest.approx(C, abs=5 * 4 * 2**-24)
                assert o * np.tanh(C) == pytest.approx(h, abs=5 * 2**-24)
            else:
                r, u, g, h = (here[n] for n in ("reset", "update", "candidate", "hidden"))
                wanted = [["r", r], ["h-1", past], ["r h", r * past]]
                wanted += [["u", u], ["g", g], ["1 − u", 1 - u], ["h-1", past], ["h", h]]
                assert u * g + (1 - u) * past == pytest.approx(h, abs=5 * 2**-24)
            assert terms == wanted


def test_pointing_and_keys_go_to_the_cell(client: Client, visit: Open) -> None:
    page = visit(client)
    words = client.post("/trace", {"text": TEXT}).json["words"]
    layers = trace(client)
    gates = list(GATES[layers[1]["cell"]])

    def is_at(gate: str, unit: int, step: int, layer: int = 1) -> None:
        label = page.get_attribute("canvas", "aria-label") or ""
        value = float(layers[layer]["values"][gate][step, unit])
        name, _, number = label.rpartition(": ")
        letter = GATES[layers[1]["cell"]][gate]
        assert name.startswith(f"{letter}, ")
        assert name.endswith(f"unit {unit} of layer l{layer}, at “{words[step]}”")
        assert float(number.replace("−", "-")) == pytest.approx(value, abs=5.1e-4)  # three digits
        assert page.text_content("#pinned") == name

    page.focus("canvas")
    last = len(words) - 1
    for key, gate, unit, step in (
        ("Home", gates[0], 0, 0),
        ("ArrowRight", gates[0], 0, 1),
        ("ArrowRight", gates[0], 0, 2),
        ("ArrowLeft", gates[0], 0, 1),
        ("ArrowDown", gates[0], 1, 1),
        ("ArrowDown", gates[0], 2, 1),
        ("ArrowUp", gates[0], 1, 1),
        ("PageDown", gates[1], 1, 1),
        ("PageDown", gates[2], 1, 1),
        ("PageUp", gates[1], 1, 1),
        ("End", gates[1], 1, last),
        ("ArrowRight", gates[1], 1, last),
    ):
        page.keyboard.press(key)
        is_at(gate, unit, step)
    page.wait_for_function(
        "pinned => document.querySelector('#told').textContent.startsWith(pinned)",
        arg=page.text_content("#pinned"),
    )  # who does not see it hears of it
    chosen = page.text_content("#pinned")
    page.hover("canvas", position={"x": 60, "y": 120})  # the first word: pointing shows and does not choose
    shown = page.text_content("#where") or ""
    assert (shown != chosen, shown.endswith(f"at “{words[0]}”")) == (True, True)
    assert page.text_content("#pinned") == chosen
    page.click("canvas", position={"x": 60, "y": 120})
    assert page.text_content("#pinned") == page.text_content("#where") == shown
    page.focus("canvas")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "value"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.tagName") == "CANVAS"
    column = (page.evaluate("document.querySelector('canvas').clientWidth") - 36) / len(words)
    page.click("canvas", position={"x": 34 + 2.5 * column, "y": 10})  # a word
    assert (page.text_content("#pinned") or "").endswith(f"at “{words[2]}”")


def test_a_cell_that_is_walked_to_comes_into_view(client: Client, visit: Open) -> None:
    text = " ".join(["the gate opens a door ,"] * 8)
    page = visit(client, f"#text={quote(text)}", viewport={"width": 900, "height": 500})
    page.focus("canvas")
    page.evaluate("scrollTo(0, 0)")
    # The last word is in view, as one types; all of it, bold and slanted.
    right, whole = page.eval_on_selector(".plot", "p => [p.scrollLeft + p.clientWidth, p.scrollWidth]")
    assert right >= whole - 4
    assert page.evaluate("document.documentElement.scrollHeight") > 2000  # the last gate is far below
    for _ in range(12):
        page.keyboard.press("PageDown")
    box = "spot => { const { top, bottom } = spot.getBoundingClientRect(); return [top, bottom]; }"
    top, bottom = page.eval_on_selector(".spot", box)
    assert 0 <= top < bottom <= 500
    page.keyboard.press("Home")
    assert page.evaluate("document.querySelector('.plot').scrollLeft") == 0


def test_the_cell_goes_with_the_last_word_until_one_is_picked(client: Client, visit: Open) -> None:
    page = visit(client, "#text=the%20gate")
    says = "word => document.querySelector('#pinned').textContent.endsWith(`at “${word}”`)"
    page.wait_for_function(says, arg="gate")
    page.fill("#text", "the gate opens")
    page.wait_for_function(says, arg="opens")
    page.focus("canvas")
    page.keyboard.press("ArrowLeft")
    page.fill("#text", "the gate opens a door")
    becomes(page, client.post("/predict", {"text": "the gate opens a door", "k": 64}).json["words"])
    assert page.evaluate(f"({says})('gate')")


def test_the_csv_is_the_trace(client: Client, visit: Open, tmp_path: Path) -> None:
    page = visit(client)
    rows = list(csv.DictReader(saved(page, "#csv", tmp_path).decode().splitlines()))
    words = client.post("/trace", {"text": TEXT}).json["words"]
    layers = trace(client)
    assert len(rows) == sum(matrix.size for layer in layers for matrix in layer["values"].values())
    matrices = {(layer["name"], name): m for layer in layers for name, m in layer["values"].items()}
    for row in rows:
        step, unit = int(row["step"]), int(row["unit"])
        assert row["word"] == words[step]
        assert np.float32(row["value"]) == matrices[row["layer"], row["gate"]][step, unit]


def test_the_pictures_are_the_figure(client: Client, visit: Open, tmp_path: Path) -> None:
    page = visit(client)
    dots = np.round(imread(io.BytesIO(saved(page, "#png", tmp_path)))[..., :3] * 255).astype(int)
    tree = ElementTree.fromstring(saved(page, "#svg", tmp_path))
    texts = [element.text for element in tree.iter("{http://www.w3.org/2000/svg}text")]
    words = client.post("/trace", {"text": TEXT}).json["words"]
    assert texts[: len(words)] == words
    rectangles = sum(1 for _ in tree.iter("{http://www.w3.org/2000/svg}rect"))
    cells = sum(matrix.size for layer in trace(client) for matrix in layer["values"].values())
    blocks = sum(len(layer["values"]) for layer in trace(client))
    # The paper, 24 shades of each block's scale, and the frame of the chosen cell.
    assert rectangles == 1 + cells + 24 * blocks + 1
    # The canvas draws cells as one image, the SVG each as a rectangle: both have the same colours, which lie
    # in the order of the values.
    drawn = [one for one in tree.iter("{http://www.w3.org/2000/svg}rect") if float(one.get("width", 0)) > 10]
    drawn = [one for one in drawn[1:] if one.get("fill") != "none"]
    assert len(drawn) == cells
    for one in drawn:
        x, y, width, height = (float(one.get(name, 0)) for name in ("x", "y", "width", "height"))
        found = dots[int(3 * (y + height / 2)), int(3 * (x + width / 2))]  # three dots for a pixel
        assert "#" + bytes(found.tolist()).hex() == one.get("fill")
    one = drawn[0]
    right = int(3 * (float(one.get("x", 0)) + float(one.get("width", 0)))) + 1
    assert bytes(dots[int(3 * float(one.get("y", 0))), right].tolist()).hex() == "fcfbf8"  # paper between
    layer = trace(client)[0]
    gate = "forget" if layer["cell"] == "lstm" else "reset"  # the first block, from light to dark
    shades = [int(one.get("fill", "")[1:3], 16) for one in drawn[: layer["values"][gate].size]]
    values = layer["values"][gate].T.ravel()  # a row for each unit
    assert (np.diff(np.array(shades)[np.argsort(values)]) <= 0).all()


def test_a_link_brings_the_view_back(client: Client, visit: Open) -> None:
    layer = trace(client)[1]
    page = visit(client, at(0, layer["name"], first_gate(layer), 2, 1))
    page.select_option("#scope", "unit")
    page.click("[data-set='0.5']")
    page.select_option("#order", "like")
    page.click("#compare")
    page.fill("#text2", "a baker")
    page.select_option("#from", "2")
    page.wait_for_function("() => location.hash.includes('baker') && location.hash.includes('span')")
    seen = "[...document.querySelectorAll('.next, #pinned, #edits, #found, #where')].map(e => e.textContent)"
    edits = [{"gate": first_gate(layer), "set": 0.5, "units": [2], "layer": layer["name"]}]
    after = client.post("/edit", {"text": "a baker", "k": 64, "edits": edits}).json["after"]
    second = "document.querySelectorAll('table.next')[1]?.querySelector('tr[data-word]')?.dataset.word"
    page.wait_for_function(f"word => {second} === word", arg=after[0]["word"])
    again = visit(client, "#" + page.url.partition("#")[2])
    again.wait_for_function("() => document.querySelectorAll('table.next').length === 2")
    assert again.evaluate(seen) == page.evaluate(seen)
    assert again.input_value("#order") == "like"
    assert again.evaluate("location.hash") == page.evaluate("location.hash")


def test_a_span_finds_the_units_that_are_on_over_it(client: Client, visit: Open) -> None:
    layer = trace(client)[0]
    gate, threshold = first_gate(layer), 0.5
    on = layer["values"][gate] > threshold
    spans = [(a, b) for a in range(len(on)) for b in range(a, len(on))]

    def exactly(a: int, b: int) -> list[int]:
        edges = [on[step] for step in (a - 1, b + 1) if 0 <= step < len(on)]
        return [u for u in range(on.shape[1]) if on[a : b + 1, u].all() and not any(e[u] for e in edges)]

    for a, b in (max(spans, key=lambda s: len(exactly(*s))), min(spans, key=lambda s: len(exactly(*s)))):
        fragment = f"#text={quote(TEXT)}&span={a}:{b}:{layer['name']}:{gate}:{threshold}"
        found = visit(client, fragment).eval_on_selector_all(
            "#units button", "all => all.map(b => +b.textContent)"
        )
        assert found == exactly(a, b)
    assert any(exactly(a, b) for a, b in spans)


@pytest.mark.parametrize(("theme", "width"), [("light", 1360), ("dark", 390)])
def test_axe_finds_nothing_and_it_fits(client: Client, visit: Open, theme: str, width: int) -> None:
    page = visit(client, color_scheme=theme, viewport={"width": width, "height": 844})
    page.click("[data-set='0']")
    page.click("#compare")
    page.wait_for_selector("#edits li")
    page.wait_for_function("() => document.querySelectorAll('canvas').length === 2")
    report = Axe().run(page)
    assert report.violations_count == 0, report.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_counts_are_the_models(client: Client, visit: Open) -> None:
    count = client.get("/model").json["count"]
    totals = visit(client).eval_on_selector_all("#count tfoot td", "all => all.map(e => e.textContent)")
    assert totals == [f"{count[name]:,}" for name in ("cell", "total", "with_embedding")]


def test_a_begun_word_is_completed(visit: Open, tmp_path: Path) -> None:
    with serving(write_folder(tmp_path / "closed", closed=True)) as client:
        page = visit(client, "#text=the%20ga", refused=422)
        becomes(page, client.post("/predict", {"text": "the ga", "k": 64, "complete": True}).json["words"])
        assert "“ga…” is begun" in (page.text_content("#status") or "")
        assert page.text_content("table.next caption") == "that completes “ga” after “the”"
        page.click("table.next tbody .word")
        word = page.input_value("#text").removeprefix("the ")
        assert word in ("gate", "gates")
        becomes(page, client.post("/predict", {"text": f"the {word}", "k": 64}).json["words"])
        page.fill("#text", "zzz")
        page.wait_for_function("() => document.querySelector('#status').textContent.includes('zzz')")


def test_a_token_is_asked_for(visit: Open, tmp_path: Path) -> None:
    token = "a token of some length"
    with serving(write_folder(tmp_path / "guarded"), token=token) as client:
        page = visit(client, refused=401, shows="#key:not([hidden])")
        page.fill("#token", token)
        page.keyboard.press("Enter")
        page.wait_for_selector("table.next tbody tr")
        assert page.is_hidden("#key")
        assert token not in json.dumps([page.url, page.evaluate("({...localStorage, ...sessionStorage})")])

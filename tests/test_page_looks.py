"""How the page looks: from a phone to a wide screen, in both themes; and what its pictures show."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from matplotlib.image import imread
from playwright.sync_api import Page, Route

from glassgate import load
from glassgate.lens.explore import packed
from paging import LINK, TEXT, Open, becomes, saved
from serving import WORDS, Client, write_folder

PAPER = {"light": "fcfbf8", "dark": "15171a"}
LONG = "disinterestedness conversation"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_folder(tmp_path_factory.mktemp("page") / "drawn", words=f"{WORDS} {LONG}")
    (folder / "README.md").write_text("# A\n\n## Measured\n\n| | |\n|---|---|\n| test perplexity | 9.5 |\n")
    course = [{"step": step, "perplexity": 100 / step} for step in range(1, 51)]
    course += [{"step": step, "valid_perplexity": 120 / step} for step in (25, 50)]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, course)))
    return folder


def texts(page: Page, folder: Path, button: str = "#svg") -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(saved(page, button, folder)).iter(f"{SVG}text"))


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(
    ("width", "height"), [(375, 800), (667, 375), (768, 1000), (1440, 900), (2560, 1440)]
)
def test_it_fits_every_screen(client: Client, visit: Open, theme: str, width: int, height: int) -> None:
    page = visit(client, color_scheme=theme, viewport={"width": width, "height": height})
    page.locator("canvas").click(position={"x": 60, "y": 150})
    page.click("[data-set='0']")
    page.wait_for_selector("#edits li")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    report = Axe().run(page)
    assert report.violations_count == 0, report.generate_report()
    dots = imread(io.BytesIO(page.screenshot(full_page=True)))[..., :3]
    colours = np.round(dots * 255).astype(np.uint8)
    assert colours[3, 3].tobytes().hex() == PAPER[theme]
    # A figure, not a grey page: most of it is paper, and the gates have their shades on it.
    paper = (colours == colours[3, 3]).all(axis=2).mean()
    assert 0.4 < paper < 0.95
    assert len(np.unique(colours.reshape(-1, 3), axis=0)) > 200


def test_a_tapped_cell_brings_a_sheet_with_what_follows(client: Client, visit: Open) -> None:
    phone = {"has_touch": True, "is_mobile": True}
    page = visit(client, viewport={"width": 375, "height": 800}, **phone)
    place = "element => { const { top, bottom } = element.getBoundingClientRect(); return [top, bottom]; }"
    assert page.eval_on_selector("#sheet", place)[0] > 800  # nothing sticks before
    page.evaluate("scrollTo(0, document.querySelector('canvas').getBoundingClientRect().top)")
    box = page.locator("canvas").bounding_box()
    assert box is not None
    page.touchscreen.tap(box["x"] + 60, 150)
    top, bottom = page.eval_on_selector("#sheet", place)
    assert (top > 500, bottom) == (True, 800)
    page.tap("[data-set='1']")
    page.wait_for_selector("#edits li")
    for part in ("#where", "#value", "[data-set='0']", "#scope", "#undo", "#brief", ".sum.own"):
        low, high = page.eval_on_selector(part, place)
        assert top <= low < high <= bottom, part
    assert page.locator("#sheet .sum:visible").count() == 1
    page.wait_for_function("() => location.hash.includes('edits')")
    edits = json.loads(page.evaluate("new URLSearchParams(location.hash.slice(1)).get('edits')"))
    both = client.post("/edit", {"text": TEXT, "k": 64, "edits": edits}).json
    becomes(page, both["after"])
    rows = page.eval_on_selector_all("table.next tbody tr", "all => all.map(r => r.dataset.word)")
    brief = page.eval_on_selector_all("#brief b", "all => all.map(e => e.textContent)")
    assert len(brief) == 3
    assert set(brief) <= set(rows)
    page.tap("#done")
    assert page.eval_on_selector("#sheet", "e => getComputedStyle(e).position") == "static"
    low = visit(client, LINK + "&at=0:l1:forget:2:2", viewport={"width": 667, "height": 375}, **phone)
    assert low.eval_on_selector("#sheet", "e => getComputedStyle(e).position") == "static"


def test_the_tab_key_goes_as_the_eye_does(client: Client, visit: Open) -> None:
    for width, order in ((375, ["next", "figure", "sheet"]), (1360, ["figure", "next", "sheet"])):
        page = visit(client, viewport={"width": width, "height": 900})
        parts = page.eval_on_selector_all("#next, #figure, #sheet", "all => all.map(e => e.id)")
        assert parts == order
        tops = page.eval_on_selector_all(
            "#next, #figure, #sheet", "all => all.map(e => e.getBoundingClientRect().top)"
        )
        assert width > 375 or tops == sorted(tops)
        page.set_viewport_size({"width": 1735 - width, "height": 900})
        page.wait_for_function(
            "ids => [...document.querySelectorAll('#next, #figure')].map(e => e.id).join() === ids",
            arg="figure,next" if width == 375 else "next,figure",
        )


def test_buttons_stay_under_the_pointer(client: Client, visit: Open) -> None:
    page = visit(client, LINK + "&at=0:l1:hidden:2:2")
    top = "document.querySelector(\"[data-set='0']\").getBoundingClientRect().top"
    before = page.evaluate(top)
    for scope, value in (("cell", "1"), ("all", "0"), ("word", "0.5")):
        page.select_option("#scope", scope)
        page.click(f"[data-set='{value}']")
        page.wait_for_function(
            "value => document.querySelector('#edits')?.textContent.includes(value)", arg=value
        )
        assert page.locator("table.next tbody tr").count() == 8
        assert page.evaluate(top) == before
    assert page.locator("#arithmetic .hint").count() == 1  # a state was set


def test_who_does_not_see_it_hears_what_follows(client: Client, visit: Open) -> None:
    page = visit(client, "#text=the")
    heard = "start => document.querySelector('#told[role=status]').textContent.startsWith(start)"
    page.fill("#text", "the gate")
    best = client.post("/predict", {"text": "the gate", "k": 1}).json["words"][0]["word"]
    page.wait_for_function(heard, arg=f" Next word: {best} ")
    page.click("[data-set='0']")
    page.wait_for_function("() => document.querySelector('#told').textContent.includes(', before ')")


def test_the_theme_is_remembered(client: Client, visit: Open) -> None:
    page = visit(client, color_scheme="light")
    paper = "getComputedStyle(document.body).backgroundColor"
    assert (page.text_content("#theme"), page.evaluate(paper)) == ("Dark theme", "rgb(252, 251, 248)")
    page.click("#theme")
    for _ in range(2):
        assert (page.text_content("#theme"), page.evaluate(paper)) == ("Light theme", "rgb(21, 23, 26)")
        page.reload()
        page.wait_for_selector("table.next tbody tr")


def test_a_second_text_is_there_again(client: Client, visit: Open) -> None:
    page = visit(client)
    page.click("#compare")
    page.fill("#text2", "a baker bakes")
    page.click("#compare")
    page.wait_for_function("() => document.querySelectorAll('table.next').length === 1")
    page.click("#compare")
    assert page.input_value("#text2") == "a baker bakes"


def test_the_link_is_on_the_clipboard(client: Client, visit: Open) -> None:
    page = visit(client, permissions=["clipboard-read", "clipboard-write"])
    page.fill("#text", "the gate")
    page.click("#link")
    page.wait_for_function(
        "() => document.querySelector('#kept').textContent === 'The link is on the clipboard.'"
    )
    assert (
        page.evaluate("navigator.clipboard.readText()") == page.url == f"{client.server.url}/#text=the+gate"
    )


def test_training_and_weights_are_shown(client: Client, visit: Open) -> None:
    page = visit(client)
    told = "Perplexity over 50 steps of training; at the end 2.40"
    assert page.get_attribute("#course svg", "aria-label") == told
    drawn = page.eval_on_selector_all(
        "#course path", "all => all.map(p => p.getAttribute('d').match(/[ML]/g).length)"
    )
    assert drawn == [50, 2]
    assert page.text_content("#figures") == "test perplexity9.5"
    matrices = client.get("/model").json["count"]["matrices"]
    rows = page.eval_on_selector_all(
        "#count tbody tr", "all => all.map(r => [...r.children].map(c => c.textContent))"
    )
    assert [[row[0], *row[2:]] for row in rows] == [
        [m["name"].replace("_", "").replace("'", "′"), " × ".join(map(str, m["shape"])), f"{m['count']:,}"]
        for m in matrices
    ]
    assert any("′" in row[0] for row in rows)  # of a gate's second bias
    assert page.eval_on_selector("#count", "e => e.scrollHeight <= e.clientHeight")  # the sums are in view


def test_likeness_puts_each_unit_below_its_nearest(client: Client, folder: Path, visit: Open) -> None:
    page = visit(client)
    page.select_option("#order", "like")
    hidden = load(folder).trace(TEXT).layers["l1"].hidden[:, 0]
    left = list(range(hidden.shape[1]))
    order = [left.pop(int(np.argmax(hidden.sum(axis=0))))]
    while left:
        order.append(
            left.pop(int(np.argmin([((hidden[:, u] - hidden[:, order[-1]]) ** 2).sum() for u in left])))
        )
    page.focus("canvas")
    for _ in order:
        page.keyboard.press("ArrowUp")
    found = []
    for _ in order:
        found.append(int((page.text_content("#pinned") or "").partition("unit ")[2].partition(" ")[0]))
        page.keyboard.press("ArrowDown")
    assert found == order


def cell_scale(found: list[ElementTree.Element]) -> float:
    """The end of the cell's scale of colours: the largest number in small letters."""
    return max(float(t.text) for t in found if t.get("font-size") == "10" and t.text and t.text[0].isdigit())


def test_the_scale_only_grows_while_one_types(client: Client, visit: Open, tmp_path: Path) -> None:
    model_cell: dict[str, Any] = {"gate": "cell", "set": 7.5, "steps": [0, 1]}
    page = visit(client, LINK + "&edits=" + quote(json.dumps([model_cell])))
    assert cell_scale(texts(page, tmp_path)) == 7.5
    page.click("#clear")  # nothing reaches so far any more
    page.wait_for_function("() => document.querySelector('#clear').disabled")
    small = cell_scale(texts(page, tmp_path))
    assert small < 7.5
    found = [small]
    for text in ("the gate opens a door , the gate opens a door , the gate", "the gate", "the"):
        page.fill("#text", text)
        becomes(page, client.post("/predict", {"text": text, "k": 64}).json["words"])
        found.append(cell_scale(texts(page, tmp_path)))
    assert found == sorted(found)


def test_two_texts_have_one_scale_and_one_order(client: Client, visit: Open, tmp_path: Path) -> None:
    other = "the baker bakes the loaf of the baker"
    page = visit(
        client,
        f"{LINK}&with={quote(other)}&order=like&edits=" + quote('[{"gate":"cell","set":3,"units":[2]}]'),
    )
    page.wait_for_function("() => document.querySelectorAll('canvas').length === 2")
    kept: list[bytes] = []
    page.on("download", lambda download: kept.append(Path(download.path()).read_bytes()))
    page.click("#svg")
    page.wait_for_timeout(100)
    for _ in range(100):
        if len(kept) == 2:
            break
        page.wait_for_timeout(50)
    trees = [ElementTree.fromstring(one) for one in kept]
    scales = {cell_scale(list(tree.iter(f"{SVG}text"))) for tree in trees}
    assert len(scales) == 1
    frames = [[r.get("y") for r in tree.iter(f"{SVG}rect") if r.get("stroke") == "#b3261e"] for tree in trees]
    assert frames[0] == frames[1]  # the edited unit stands at one height
    assert len(frames[0]) == 2  # in each layer


def test_the_picture_cuts_words_to_their_columns(client: Client, visit: Open, tmp_path: Path) -> None:
    page = visit(client, "#text=" + quote(" ".join([LONG] * 3)), viewport={"width": 1000, "height": 900})
    tree = ElementTree.fromstring(saved(page, "#svg", tmp_path))
    words = [t for t in tree.iter(f"{SVG}text") if t.get("transform")]
    assert len(words) == 7  # with <eos>, slanted
    assert all(len(word.text or "") < 13 for word in words)
    assert (words[1].text or "").endswith("…")
    last = float(words[-1].get("x", 0)) + 74 * 0.65  # where a slanted word ends at the latest
    assert last <= float(tree.get("width", 0))


def test_captions_stay_in_view(client: Client, visit: Open) -> None:
    """Scrolled to its end, the figure has its gates' letters and scales there."""
    page = visit(client, "#text=" + quote(" ".join([TEXT] * 6)), viewport={"width": 500, "height": 900})
    assert page.eval_on_selector(".plot", "p => p.scrollLeft") > 100
    strip = """([x, width]) => {
        const c = document.querySelector('canvas');
        const copy = new OffscreenCanvas(width, 16).getContext('2d', { willReadFrequently: true });
        copy.drawImage(c, x, 100, width, 16, 0, 0, width, 16);
        const dots = copy.getImageData(0, 0, width, 16).data;
        return new Set(new Uint32Array(dots.buffer)).size;
    }"""
    page.wait_for_function(
        f"([x, width]) => ({strip})([x, width]) > 20",
        arg=page.eval_on_selector(".plot", "p => [p.scrollLeft, p.clientWidth]"),
    )
    page.eval_on_selector(".plot", "p => { p.scrollLeft = 0; }")
    page.wait_for_function(f"([x, width]) => ({strip})([x, width]) > 20", arg=[0, 400])
    assert page.evaluate(strip, [700, 100]) == 1  # where they had been, there is paper


SHARES = {
    0.0: "0.0 %",
    0.00004: "< 0.01 %",
    0.0004: "0.04 %",
    0.012: "1.2 %",
    0.5: "50 %",
    0.996: "99.6 %",
    0.9996: "99.96 %",
    0.99999: "> 99.99 %",
    1.0: "100 %",
}


def answering(given: Any) -> Callable[[Route], None]:
    return lambda route: route.fulfill(json=given)


def test_only_none_and_all_are_written_so(client: Client, visit: Open) -> None:
    page = visit(client)
    gates = ("forget", "input", "candidate", "cell", "output", "hidden")
    values = {gate: packed(np.zeros((1, 1))) for gate in gates}
    layer = {"name": "l0", "cell": "lstm", "reset": None, "units": 1, "values": values}
    words = [{"word": written, "probability": share} for share, written in SHARES.items()]
    for some in (words[:5], words[5:]):  # eight rows are shown
        page.route("**/trace", answering({"words": ["the"], "layers": [layer], "next": some, "begun": ""}))
        page.fill("#text", f"the {len(some)}")
        page.wait_for_function("n => document.querySelectorAll('td.is').length === n", arg=len(some))
        rows = page.eval_on_selector_all(
            "table.next tbody tr",
            "all => all.map(r => [r.dataset.word, r.querySelector('td.is').textContent])",
        )
        assert [row[0] for row in rows] == [row[1] for row in rows]

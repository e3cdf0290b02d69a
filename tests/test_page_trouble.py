"""What the page does when a text cannot be read, a server is busy, or a link tells nonsense."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Page

from glassgate.server import connections
from paging import Open, becomes, expected, tables
from serving import Client, serving, write_folder

TEXT = "the gate opens"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A closed vocabulary: an unknown word is an error."""
    with serving(write_folder(tmp_path_factory.mktemp("page") / "closed", closed=True)) as client:
        yield client


def link(text: str = TEXT, **more: Any) -> str:
    parts = {"text": text, **{n: v if isinstance(v, str) else json.dumps(v) for n, v in more.items()}}
    return "#" + "&".join(f"{name}={quote(value)}" for name, value in parts.items())


def told(page: Page, line: str) -> None:
    page.wait_for_function("line => document.querySelector('#status').textContent === line", arg=line)


@pytest.mark.parametrize("text", ["the zz gate and a", "the zz "])
def test_an_unknown_word_is_named_and_the_last_figure_stays(client: Client, visit: Open, text: str) -> None:
    page = visit(client, link(), refused=422)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.rpartition("/")[2]))
    shown = page.text_content("#words")
    page.fill("#text", text)
    told(page, "The model does not know the word 'zz'.")
    assert asked == ["trace"]
    assert page.text_content("#words") == shown
    assert page.locator(".view.stale canvas").is_visible()
    # A change is taken all the same; it holds when the text can be read again.
    page.click("[data-set='0']")
    page.wait_for_selector("#edits li")
    assert page.is_enabled("#undo")
    page.select_option("#scope", "all")
    page.click("[data-set='0']")
    page.fill("#text", "the gate")
    edits = [{"gate": "forget", "set": 0}]
    becomes(page, client.post("/edit", {"text": "the gate", "k": 64, "edits": edits}).json["after"])
    assert page.locator(".stale").count() == 0
    assert page.text_content("#status") == ""


def test_the_first_letter_leaves_the_figure_and_nothing_asks_for_a_word(client: Client, visit: Open) -> None:
    page = visit(client, link(), refused=422)
    page.fill("#text", "g")
    told(page, "The model does not know the word 'g'.")
    assert page.locator(".view.stale canvas").is_visible()
    page.fill("#text", " ")
    told(page, "Type a word that the model knows.")


def test_a_begun_word_has_the_numbers_of_the_edits(client: Client, visit: Open) -> None:
    edits = [{"gate": "forget", "set": 0}, {"gate": "candidate", "set": 1}]
    body = {"text": "the gate op", "k": 64, "edits": edits, "complete": True}
    both = client.post("/edit", body).json
    assert both["before"] != both["after"]
    page = visit(client, link("the gate op", edits=edits))
    becomes(page, both["after"])
    before = tables(page, "was")[0]
    assert before == {word: y for word, y in expected(both["before"]).items() if word in before} != {}


def test_after_which_words_is_told_as_they_were_read(visit: Open, tmp_path: Path) -> None:
    with serving(write_folder(tmp_path / "open")) as client:
        page = visit(client, link("the gate opens a unheard"))
        assert page.text_content("table.next caption") == "after “gate opens a <unk>”"


def test_of_two_models_each_says_what_it_does_not_know(visit: Open, tmp_path: Path) -> None:
    other = write_folder(tmp_path / "other", closed=True, words="the a tree of in trees")
    with serving(write_folder(tmp_path / "one", closed=True), compared=other) as pair:
        page = visit(pair, "", refused=422)
        words = set(page.input_value("#text").split())
        assert words <= {"the", "a", "of", "in"}
        page.wait_for_function("() => document.querySelectorAll('table.next').length === 2")
        page.fill("#text", "the gate opens")
        page.wait_for_function("() => document.querySelectorAll('.view.stale').length === 1")
        line = page.text_content("#status") or ""
        assert line.startswith("other: The model does not know the word 'gate'")
        first = pair.post("/predict", {"text": "the gate opens", "k": 64}).json["words"]
        assert tables(page)[0] == {w: y for w, y in expected(first).items() if w in tables(page)[0]}
        assert page.locator(".view").nth(1).get_attribute("class") == "view stale"


def test_a_busy_server_is_asked_again(client: Client, visit: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    page = visit(client, link("the"), refused=429)
    monkeypatch.setattr(connections, "MOST_REQUESTS", 0)
    page.fill("#text", TEXT)
    told(page, "The server is busy; it is asked again.")
    monkeypatch.undo()
    becomes(page, client.post("/predict", {"text": TEXT, "k": 64}).json["words"])
    assert page.text_content("#status") == ""


def test_an_absent_server_is_asked_again(client: Client, visit: Open) -> None:
    page = visit(client, link("the"))
    page.route("**/trace", lambda route: route.fulfill(status=200, body="<html>"))
    page.fill("#text", TEXT)
    told(page, "The server does not answer; it is asked again.")
    page.unroute("**/trace")
    becomes(page, client.post("/predict", {"text": TEXT, "k": 64}).json["words"])


FIRST = "f, forget gate, unit 0 of layer l1, at “opens”"
NONSENSE = {
    "at": [
        "0:l1:forget:1.5:1.5",
        "0:l1:constructor:0:0",
        "0:l9:forget:0:0",
        "7:l1:forget:0:0",
        "0:l1:forget:0",
    ],
    "span": ["a:b:l1:cell:x", "0:1:l1:cell:", "0:1:l1:valueOf:0.3", "0:1:l1:cell:0.3:4"],
    "edits": [
        "[null]",
        "{",
        '{"gate": "forget", "set": 0}',
        '[{"gate": "forget", "set": 0, "units": 5}]',
        '[{"gate": "forget", "set": 0, "units": [-1]}]',
        '[{"gate": "forget", "set": 0, "steps": [-2, null]}]',
        '[{"gate": "constructor", "set": 0}]',
        '[{"gate": "forget", "set": 0, "model": 7}]',
        '[{"gate": "forget", "set": 0, "scale": 2}]',
        '[{"gate": "forget", "set": 1e999}]',
    ],
}


def test_what_a_link_cannot_mean_is_left_out(client: Client, visit: Open) -> None:
    plain = client.post("/predict", {"text": TEXT, "k": 64}).json["words"]
    page = visit(client, link())
    for part, values in NONSENSE.items():
        for value in values:
            page.goto("about:blank")
            page.goto(f"{client.server.url}/{link(**{part: value})}")
            page.wait_for_selector("table.next tbody tr")
            becomes(page, plain)
            assert (page.text_content("#pinned"), page.locator("#edits li").count()) == (FIRST, 0), value
            page.wait_for_function("() => location.hash === '#text=the+gate+opens'")
    page.goto("about:blank")
    page.goto(f"{client.server.url}/{link(at='0:l0:input:99:99')}")  # beyond the last: the last
    page.wait_for_selector("table.next tbody tr")
    assert page.text_content("#pinned") == "i, input gate, unit 6 of layer l0, at “opens”"


def test_another_link_begins_anew(client: Client, visit: Open) -> None:
    page = visit(client, link())
    page.click("[data-set='0']")
    page.wait_for_selector("#edits li")
    page.evaluate("hash => { location.hash = hash; }", link("the gate"))
    becomes(page, client.post("/predict", {"text": "the gate", "k": 64}).json["words"])
    assert (page.is_disabled("#undo"), page.locator("#edits li").count()) == (True, 0)


def test_the_cell_stands_in_the_link_when_it_was_picked(client: Client, visit: Open) -> None:
    page = visit(client, link())
    page.fill("#text", "the gate")
    page.wait_for_function("() => location.hash === '#text=the+gate'")
    page.reload()
    page.wait_for_selector("table.next tbody tr")
    page.fill("#text", "the gate closes")  # the cell still goes with the typing
    page.wait_for_function("() => document.querySelector('#pinned').textContent.endsWith('“closes”')")
    page.focus("canvas")
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("() => location.hash === '#text=the+gate+closes&at=0%3Al1%3Aforget%3A0%3A1'")


def test_the_threshold_is_the_sliders_alone(client: Client, visit: Open) -> None:
    page = visit(client, link(span="0:1:l1:cell:0.3"))
    for name, value in (("#from", "1"), ("#within", "l0:cell"), ("#to", "2")):
        page.select_option(name, value)
    page.wait_for_function("() => location.hash.endsWith('&span=1%3A2%3Al0%3Acell%3A0.3')")
    assert page.text_content("#level") == "0.30"
    assert float(page.input_value("#threshold")) == pytest.approx(0.3)


def test_a_change_that_overrules_others_takes_their_place(client: Client, visit: Open) -> None:
    page = visit(client, link(at="0:l1:forget:3:1"))
    expected_edits: list[list[str]] = [
        ["f = 0.00: unit 3 of l1, word 2"],
        ["f = 0.00: unit 3 of l1, word 2", "f = 0.50: every unit of l1, word 3"],
        ["f = 0.50: every unit of l1, word 3", "f = 1.00: unit 3 of l1, every word"],
        ["f = 0.00: every unit, all layers, every word"],
    ]
    steps = [("cell", "0", 1), ("word", "0.5", 2), ("unit", "1", 2), ("all", "0", 2)]
    for (scope, value, step), edits in zip(steps, expected_edits, strict=True):
        page.focus("canvas")
        page.keyboard.press("Home")
        for _ in range(step):
            page.keyboard.press("ArrowRight")
        page.select_option("#scope", scope)
        page.click(f"[data-set='{value}']")
        # The number of lines may be that of before: what they say tells that the answer has come.
        page.wait_for_function(
            "edits => [...document.querySelectorAll('#edits li')].map((line) => line.firstChild.textContent)"
            ".join() === edits.join()",
            arg=edits,
        )
    # One taken back by itself; all of them; and there again.
    page.click("#edits button")
    page.wait_for_function("() => !document.querySelector('#edits li')")
    page.keyboard.press("Control+z")
    page.wait_for_selector("#edits li")
    page.click("#clear")
    page.wait_for_function("() => !document.querySelector('#edits li')")
    becomes(page, client.post("/predict", {"text": TEXT, "k": 64}).json["words"])
    page.keyboard.press("Control+z")
    page.wait_for_selector("#edits li")
    page.keyboard.press("Control+Shift+z")
    page.wait_for_function("() => !document.querySelector('#edits li')")

"""What several tests share."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from program import Program

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from paging import Open
    from serving import Client

# A busy machine is no defect: how long an example takes is not what these tests are about.
settings.register_profile("glassgate", deadline=None)
settings.load_profile("glassgate")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of corpora beside the checkout, which are no part of the project."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the corpora lie beside the checkout, in ../shared/data, and are absent here")
    return folder


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """Run commands in processes of their own; what they write goes to this program's folder."""
    running = Program(tmp_path_factory.mktemp("program"))
    yield running
    running.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a model folder to serve; a module that wants another has a fixture of this name."""
    from serving import write_folder

    return write_folder(tmp_path_factory.mktemp("served") / "drawn")


@pytest.fixture(scope="module")
def client(folder: Path) -> "Iterator[Client]":
    """Serve the folder, for all tests of a module."""
    from serving import serving

    with serving(folder) as client:
        yield client


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """Return Chromium without a window."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("there is no chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: "Browser") -> "Iterator[Open]":
    """Open the page; at the end nothing may have gone wrong in it, and nobody else have been asked.

    `refused` is the status of refusals that a test is about: the browser writes a line for each. `shows` is
    what is waited for.
    """
    from paging import LINK

    contexts, wrong, asked = [], [], []

    def open_page(
        client: "Client",
        fragment: str = LINK,
        refused: int | None = None,
        shows: str = "table.next tbody tr",
        **options: Any,
    ) -> "Page":
        options.setdefault("viewport", {"width": 1360, "height": 900})
        context = browser.new_context(reduced_motion="reduce", **options)
        contexts.append(context)
        page = context.new_page()
        expected = f"status of {refused} "
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda line: wrong.append(line.text) if expected not in line.text else None)
        page.on("request", lambda request: asked.append((client.server.url, request.url)))
        page.goto(client.server.url + "/" + fragment)
        page.wait_for_selector(shows)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []
    assert [url for own, url in asked if not url.startswith((own, "blob:" + own, "data:,"))] == []


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a text of 1,011 words in 120 lines, 40 of them different, drawn from a Markov chain."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(markov_text(120))
    return path


def markov_text(lines: int) -> str:
    """Return lines of words in which each word tells something about the next."""
    generator = random.Random(3)
    drawn = []
    for _ in range(lines):
        number, words = generator.randrange(40), []
        for _ in range(generator.randint(3, 14)):
            words.append(f"w{number}")
            number = (3 * number + generator.choice((1, 1, 1, 2, 5))) % 40
        drawn.append(" ".join(words))
    return "\n".join(drawn) + "\n"

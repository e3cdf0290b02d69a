"""``glassgate serve`` as a command, and the exercise that it serves where no model is named."""

import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from urllib.parse import quote

import pytest

from glassgate.cli import main
from glassgate.errors import GlassgateError
from glassgate.folder.counting import count_folder
from glassgate.server import exercise
from serving import serving, write_folder


@pytest.mark.parametrize("ended_by", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_a_signal_and_ends_well(folder: Path, ended_by: signal.Signals) -> None:
    command = [sys.executable, "-m", "glassgate", "serve", str(folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"glassgate: serving at (http://127\.0\.0\.1:\d+) \(Ctrl-C ends it\)\n", line)
        assert found is not None, line
        with urllib.request.urlopen(found[1]) as page:
            assert b"<title>" in page.read()
        process.send_signal(ended_by)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--host", "0.0.0.0"], "--host: 0.0.0.0 is open to others and needs a --token"),
        (["--token", "short"], "--token: must be at least 16 printable ASCII characters"),
        (
            ["--origin", "glass.example.org"],
            "--origin: must be https://NAME or http://NAME, got 'glass.example.org'",
        ),
        (
            ["--origin", "https://a.example"],
            "--origin: https://a.example is open to others and needs a --token",
        ),
        (["--port", "-1"], "--port: must be from 0 to 65535, got -1"),
    ],
)
def test_bad_options_are_one_line(
    folder: Path, arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["serve", str(folder), *arguments])
    assert capsys.readouterr().err == f"glassgate: error: {line}\n"


def test_no_model_folder(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["serve", "no-such-folder"])
    assert capsys.readouterr().err == "glassgate: error: no-such-folder: no such model folder\n"


def test_a_missing_library_is_named_with_its_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glassgate.cli.common.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="2"):
        main(["serve"])
    line = "httptools is not installed: pip install 'glassgate[serve]'"
    assert capsys.readouterr().err == f"glassgate: error: {line}\n"


def test_the_exercise_is_trained_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    told: list[str] = []
    folder = exercise.exercise_folder(told.append)
    assert count_folder(folder).total == 4400
    assert told == ["glassgate: training the notes' exercise, once: some seconds"]
    assert os.listdir(folder.parent) == ["exercise"]  # nothing half-made beside it
    monkeypatch.setattr(exercise, "find_spec", lambda name: None)  # from now on without torch
    assert exercise.exercise_folder(told.append) == folder
    assert len(told) == 1
    (folder / "config.json").write_text("{")
    with pytest.raises(
        GlassgateError, match=r"^DIR: without it .* which torch trains once: give a model folder, or pip"
    ):
        exercise.exercise_folder(told.append)


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "glassgate").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(GlassgateError, match=r"exercise: cannot be written: "):
        exercise.exercise_folder(lambda line: None)


def test_a_proxy_offers_the_page_under_another_name(folder: Path) -> None:
    token = "0123456789abcdef"
    with serving(folder, token=token, origin="https://Glass.example.org") as client:
        bearer = {"Authorization": f"Bearer {token}"}
        origin = "https://glass.example.org"
        for host, sent, status in (
            ("glass.example.org", origin, 200),  # the proxy passes the name on
            (client.host, origin, 200),  # or names this server itself
            ("glass.example.org", "https://evil.example", 403),
            (client.host, "http://glass.example.org", 403),
            ("evil.example", origin, 421),
        ):
            reply = client.post("/predict", {"text": "the"}, Host=host, Origin=sent, **bearer)
            assert reply.status == status, (host, sent)


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    name = 'mod"\\è\nle'
    with serving(write_folder(tmp_path / name)) as client:
        assert client.get("/v1/models").json["data"][0]["id"] == name
        assert client.get(f"/v1/models/{quote(name)}").json["id"] == name
        lines = client.get("/metrics").body.decode().splitlines()
    assert 'glassgate_requests_total{path="/v1/models/mod\\"\\\\è\\nle",status="200"} 1' in lines

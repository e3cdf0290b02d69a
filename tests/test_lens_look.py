"""`glassgate look`: what it prints and writes, and how it fails."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import glassgate
from glassgate.edits import Edit
from glassgate.language.evaluation import evaluate
from glassgate.lens.terminal import HEIGHTS
from lens_models import config_and_weights, vocabulary
from program import Program


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("look") / "model"
    found.mkdir()
    config, weights = config_and_weights()
    (found / "config.json").write_text(config.to_json())
    vocabulary().save(found / "tokenizer.json")
    save_file({n: w.astype(np.float32) for n, w in weights.items()}, found / "model.safetensors")
    return found


def heights(values: np.ndarray, signed: bool) -> str:
    share = np.clip((values + 1) / 2 if signed else values, 0, 1)
    return "".join(HEIGHTS[min(int(8 * s), 7)] for s in share)


def test_look_prints_the_gates_of_the_trace(program: Program, folder: Path) -> None:
    ended = program.run("look", folder, "the gate", "--layer", "l1", "--gate", "forget", "--gate", "cell")
    assert (ended.code, ended.err) == (0, "")
    layer = glassgate.load(folder).trace("the gate").layers["l1"]
    lines = ended.out.splitlines()
    assert lines[1].split() == ["forget", "cell"]
    for row, word in enumerate(("<eos>", "the", "gate")):
        forget, cell = heights(layer.forget[row, 0], False), heights(layer.cell[row, 0], True)
        assert lines[2 + row].split() == [word, forget, cell]


def test_look_at_some_units_and_at_their_mean(program: Program, folder: Path) -> None:
    words = ("look", folder, "the gate", "--layer", "l0", "--gate", "input", "--units", "4,0-1")
    values = glassgate.load(folder).trace("the gate").layers["l0"].input[:, 0][:, [4, 0, 1]]
    assert program.run(*words).out.splitlines()[-1].split()[1] == heights(values[2], False)
    mean = program.run(*words, "--mean").out.splitlines()
    assert mean[-1].split()[1] == heights(values[2].mean(keepdims=True), False)


def test_look_breaks_bands_where_the_terminal_ends(program: Program, folder: Path) -> None:
    lines = program.run("look", folder, "the", "--layer", "l0").out.splitlines()
    assert max(map(len, lines)) <= 80
    heads = [line.split() for line in lines if "forget" in line or "hidden" in line]
    assert [name for head in heads for name in head] == [
        "forget",
        "input",
        "output",
        "candidate",
        "cell",
        "hidden",
    ]


def test_look_at_edited_gates(program: Program, folder: Path) -> None:
    """A forget gate held at 1/2 is drawn as 1/2, and what follows from it as well."""
    words = ("look", folder, "the gate", "--layer", "l0", "--gate", "forget", "--gate", "cell")
    line = program.run(*words, "--set", "forget=1/2").out.splitlines()[-1].split()
    edited = glassgate.load(folder).trace("the gate", [Edit("forget", set=0.5)]).layers["l0"]
    assert line[1:] == [HEIGHTS[4] * 5, heights(edited.cell[2, 0], True)]
    assert line != program.run(*words).out.splitlines()[-1].split()


def test_look_at_what_an_edit_does_to_a_text(program: Program, folder: Path) -> None:
    text = folder.parent / "text.txt"
    text.write_text("the gate of glass\nthe keeper of the lamp\n")
    found = json.loads(program.run("look", folder, "--text", text, "--set", "forget=0.5", "--json").out)
    assert list(found) == ["as trained", "forget=0.5"]
    model = glassgate.load(folder)
    for setting, edits in (("as trained", ()), ("forget=0.5", (Edit("forget", set=0.5),))):
        assert found[setting] == evaluate(model, [text], edits=edits).as_dict()


@pytest.mark.parametrize("form", ["png", "svg", "pdf", "html"])
def test_look_writes_a_picture_or_a_page(program: Program, folder: Path, form: str, tmp_path: Path) -> None:
    out = tmp_path / f"gates.{form}"
    ended = program.run("look", folder, "the gate", "--out", out)
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    begins = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF", "html": b"<!doctype html>"}
    assert out.read_bytes().startswith(begins[form])
    if form == "html":
        data = re.search(r'id="data">(.*?)</script>', out.read_text(), re.DOTALL)
        assert data is not None
        assert json.loads(data[1]) == glassgate.load(folder).trace("the gate").document()


def test_a_page_of_some_gates_and_units_or_of_their_mean(
    program: Program, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "gates.html"
    words = ("look", folder, "the gate", "--out", out, "--layer", "l1", "--gate", "cell", "--units", "4,0")
    traced = glassgate.load(folder).trace("the gate", [Edit("forget", set=0.5)])
    for options, mean in (((), False), (("--mean",), True)):
        program.run(*words, *options, "--set", "forget=1/2")
        data = re.search(r'id="data">(.*?)</script>', out.read_text(), re.DOTALL)
        assert data is not None
        expected = traced.document(["l1"], gates=["cell"], units=[4, 0], mean=mean)
        assert json.loads(data[1]) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["the gatte"], "the model does not know the word 'gatte'; close to it: gate"),
        (["the", "--layer", "l7"], "the layers are l0, l1, got 'l7'"),
        (["the", "--gate", "update"], "l0 has input, forget, candidate, output, cell, hidden, got 'update'"),
        (["the", "--units", "3-1"], "--units: expected 3,7 or 0-19, got '3-1'"),
        (["the", "--units", "5"], "units: must be from 0 to 4, got 5"),
        ([], "either a sentence or --text FILE expected"),
        (["the", "--text", "x"], "either a sentence or --text FILE expected"),
        (["--text", "x", "--mean"], "with --text only --set and --json may stand"),
        (["the", "--json"], "--json: stands with --text"),
        (["the", "--set", "forget"], "--set: expected forget=0.5"),
        (["the", "--out", "x.gif"], "--out: must end in .png, .svg, .pdf or .html, got 'x.gif'"),
        (["the", "--out", "no/such/x.html"], "no/such/x.html: cannot be written: No such file or directory"),
    ],
)
def test_bad_input_is_told_in_one_line(
    program: Program, folder: Path, options: list[str], message: str
) -> None:
    assert message in program.run("look", folder, *options).error

"""The command line: what it prints, how it fails, and what it leaves behind when it does."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

import glassgate
from glassgate import __version__
from program import Program

TINY = ["--hidden", 8, "--embedding", 8, "--epochs", 2, "--batch", 4, "--unroll", 10, "--threads", 1]
COMMANDS = (
    "demo",
    "count",
    "train",
    "evaluate",
    "predict",
    "generate",
    "look",
    "bench",
    "compress",
    "export",
)


@pytest.fixture(scope="module")
def model(program: Program, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "model"
    ended = program.run("train", text, "--out", folder, *TINY, "--learning-rate", 0.02)
    assert ended.code == 0, ended.err
    return folder


def python(*words: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own, not a fork."""
    plain = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "COLUMNS")}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, env=plain)


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_help_answers_without_anything_heavy(command: tuple[str, ...]) -> None:
    """Neither torch nor numpy nor tokenizers: that is what keeps it under 0.3 s."""
    code = (
        "import sys\n"
        "from glassgate.cli import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "except SystemExit as ended:\n"
        "    heavy = {'torch', 'numpy', 'tokenizers', 'safetensors', 'matplotlib'} & set(sys.modules)\n"
        "    print(sorted(heavy), ended.code, file=sys.stderr)\n"
    )
    done = python("-c", code, *command, "--help")
    assert done.stderr == "[] 0\n"
    assert done.stdout.startswith(f"Usage: glassgate {' '.join(command)}".rstrip() + " ")
    if not command:
        for name in COMMANDS:
            assert f"\n  {name} " in done.stdout


def test_importing_the_package_costs_no_torch() -> None:
    done = python("-c", "import sys, glassgate, glassgate.equations; print('torch' in sys.modules)")
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_python_m_is_the_command() -> None:
    done = python("-m", "glassgate", "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"glassgate {__version__}\n", "")
    shown = python("-m", "glassgate")
    assert shown.returncode == 0
    assert shown.stdout == python("-m", "glassgate", "--help").stdout
    assert shown.stderr == ""


def test_a_whole_training_in_a_process_of_its_own(text: Path, tmp_path: Path) -> None:
    out = tmp_path / "m"
    words = ["-m", "glassgate", "train", text, "--out", out, *TINY]
    done = python(*map(str, words))
    assert done.returncode == 0, done.stderr
    predicted = python("-m", "glassgate", "predict", str(out), "w1", "-k", "3")
    assert (predicted.returncode, len(predicted.stdout.splitlines())) == (0, 3)


def test_predict_prints_words_and_shares(program: Program, model: Path) -> None:
    expected = glassgate.load(model).predict("w1 w4", 4)
    found = json.loads(program.run("predict", model, "w1 w4", "-k", 4, "--json").out)
    assert found == {"words": [{"word": word, "probability": y} for word, y in expected]}
    printed = program.run("predict", model, "w1 w4", "-k", 4).out.splitlines()
    width = max(len(word) for word, _ in expected)
    assert printed == [f"{word:<{width}}  {100 * y:6.2f} %" for word, y in expected]
    everything = json.loads(program.run("predict", model, "w1", "-k", 1000, "--json").out)["words"]
    assert [entry["word"] for entry in everything] == [
        word for word, _ in glassgate.load(model).predict("w1", 41)
    ]
    assert len(everything) == 41  # all but <unk>


def test_generate_writes_words_and_is_reproducible(program: Program, model: Path) -> None:
    words = ["generate", model, "--prompt", "w1 w4", "--words", 12, "--temperature", 0.7, "--top-k", 9]
    first = program.run(*words, "--seed", 3)
    assert (first.code, first.err) == (0, "")
    assert first.out.startswith("w1 w4")
    assert first.out.endswith("\n")
    assert program.run(*words, "--seed", 3).out == first.out
    assert program.run(*words, "--seed", 4).out != first.out
    assert program.run("generate", model, "--words", 3).code == 0  # without a prompt a line begins


def test_evaluate_prints_a_table_or_json(program: Program, model: Path, text: Path, tmp_path: Path) -> None:
    ended = program.run("evaluate", model, text, "--json")
    figures = json.loads(ended.out)
    assert list(figures)[:7] == [
        *("perplexity", "tokens", "unk_rate"),
        *("recall@1", "recall@3", "recall@10", "keystroke_savings"),
    ]
    assert figures["tokens"] == sum(len(line.split()) + 1 for line in text.read_text().splitlines())
    assert 1 < figures["perplexity"] < 42
    assert figures["recall@1"] <= figures["recall@3"] <= figures["recall@10"] <= 1
    table = {
        line[:18].strip(): line[18:].strip() for line in program.run("evaluate", model, text).out.splitlines()
    }
    assert table["perplexity"] == f"{figures['perplexity']:,.2f}"
    assert table["tokens"] == f"{figures['tokens']:,}"
    assert table["recall@3"].startswith(f"{100 * figures['recall@3']:.2f} %")
    packed = tmp_path / "text.txt.gz"
    packed.write_bytes(gzip.compress(text.read_bytes()))
    assert program.run("evaluate", model, packed, "--json").out == ended.out


def test_evaluate_with_a_cache_and_while_learning(
    program: Program, model: Path, text: Path, tmp_path: Path
) -> None:
    """Both stand beside the plain figures, which stay; the folder's bytes stay too."""
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    plain = json.loads(program.run("evaluate", model, text, "--json").out)
    words = ["evaluate", model, text, "--cache", "--cache-window", 300, "--dynamic", "--dynamic-segment", 40]
    ended = program.run(*words, "--dynamic-text", text, "--json")
    figures = json.loads(ended.out)
    adapted = {name: figures.pop(name) for name in ("cache_perplexity", "dynamic_perplexity")}
    assert figures == plain
    assert all(1 < value != plain["perplexity"] for value in adapted.values())
    table = program.run(*words[:-2]).out
    assert f"with the cache     {adapted['cache_perplexity']:,.2f}" in table
    assert "learning " in table
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before
    nothing = tmp_path / "nothing.txt"
    nothing.touch()
    refused = program.run(*words[:3], "--dynamic", "--dynamic-text", nothing)
    assert (refused.code, refused.out, refused.error) == (2, "", f"{nothing}: is empty: expected text")
    refused = program.run("evaluate", model, text, "--cache-window", 300)
    assert refused.error == "--cache: the options of it were given, but not --cache itself"


TEXTS: dict[str, bytes] = {
    "empty": b"",
    "blank": b" \n\n \n",
    "binary": b"\x7fELF\x02\x01\x00\x00" + bytes(range(256)),
    "latin1": "eine schöne Tür\n".encode("latin-1") * 50,
    "one": b"word\n",
    "short": b"a b a b a\n" * 40,
    "cut.gz": gzip.compress(b"a b c d " * 500)[:-30],
}
EVERY_TEXT = [
    ("missing", "{}/missing: no such file or folder"),
    ("empty", "{}/empty: is empty: expected text"),
    ("blank", "the text: holds no word"),
    ("binary", "{}/binary: is a binary file: expected text, found a NUL byte at byte 6"),
    ("latin1", "{}/latin1: is not UTF-8: byte 0xf6 at byte 8 ("),
    ("cut.gz", "{}/cut.gz: cannot be read: "),
]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    for name, content in TEXTS.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("name", "message"),
    [
        *EVERY_TEXT,
        ("one", "the text: "),
        ("short", "the text: is shorter than one batch: 500 streams need at least 1,000 tokens to train on"),
    ],
)
def test_a_bad_text_is_one_line_and_leaves_nothing(
    program: Program, texts: Path, text: Path, tmp_path: Path, name: str, message: str
) -> None:
    options = ["--batch", 500] if name == "short" else TINY
    refused = program.run("train", texts / name, "--out", tmp_path / "a" / "b" / "m", *options)
    assert refused.error.startswith(message.format(texts)), refused.err
    assert list(tmp_path.iterdir()) == []  # nor the folders on the way
    if name in dict(EVERY_TEXT):
        for option in ("--valid", "--test"):
            refused = program.run("train", text, option, texts / name, "--out", tmp_path / "m", *TINY)
            if name != "blank":  # a held-out text of empty lines has its <eos>
                assert refused.error.startswith(message.format(texts)), refused.err
                assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(("name", "message"), EVERY_TEXT)
def test_evaluating_a_bad_text_is_one_line(
    program: Program, texts: Path, model: Path, name: str, message: str
) -> None:
    if name == "blank":
        message = ""
        assert json.loads(program.run("evaluate", model, texts / name, "--json").out)["tokens"] == 3
        return
    assert program.run("evaluate", model, texts / name).error.startswith(message.format(texts))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--hidden", -3], "--hidden: must be at least 1, got -3"),
        (["--layers", 0], "--layers: must be at least 1, got 0"),
        (["--dropout", 2], "--dropout: must be at least 0 and below 1, got 2.0"),
        (["--minutes", "nan"], "--minutes: must be above 0, got nan"),
        (["--cell", "elman"], "Invalid value for '--cell': "),
        (["--hidden", "wide"], "Invalid value for '--hidden': "),
        (["--hiden", 3], "No such option: --hiden"),
        (["--hidden", 10**6], "--hidden: "),
        (["--hidden", 10**12], "--hidden: must be at most 100,000,000, got 1,000,000,000,000"),
        (["--threads", 10**6], "--threads: must be at most 1,024, got 1,000,000"),
        (["--learning-rate", 1e30], "training: the loss grew beyond all numbers at step 2, learning rate "),
        (["--learning-rate", 1e4], "training: the loss grew beyond all numbers at step "),
        (["--batch", 10**9], "the text: is shorter than one batch: 1000000000 streams"),
    ],
)
def test_a_bad_option_is_one_line_and_leaves_nothing(
    program: Program, text: Path, tmp_path: Path, options: list[object], message: str
) -> None:
    refused = program.run("train", text, "--out", tmp_path / "m", *TINY, *options)
    assert refused.error.startswith(message), refused.err
    assert refused.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_there_before_stays(program: Program, text: Path, tmp_path: Path) -> None:
    for options in (["--hidden", 10**6], ["--learning-rate", 1e30]):  # refused before and after step 1
        assert program.run("train", text, "--out", tmp_path, *TINY, *options).code == 2
        assert list(tmp_path.iterdir()) == []


def test_without_a_text_or_a_command(program: Program, tmp_path: Path) -> None:
    assert (
        program.run("train", "--out", tmp_path / "m").error == "TEXT: expected a text to train on, got none"
    )
    assert not (tmp_path / "m").exists()
    assert program.run("tarin").error.startswith("No such command 'tarin'.")
    assert program.run("predict").error == "Missing argument 'DIR'."


@pytest.mark.parametrize("kind", ["foreign", "model", "file"])
def test_nothing_is_ever_overwritten(
    program: Program, text: Path, tmp_path: Path, model: Path, kind: str
) -> None:
    out = tmp_path / "m"
    if kind == "file":
        out.write_text("mine")
    elif kind == "foreign":
        out.mkdir()
        (out / "thesis.txt").write_text("mine")
    else:
        out = model
    before = {path: path.read_bytes() for path in [out, *out.rglob("*")] if path.is_file()}
    refused = program.run("train", text, "--out", out, *TINY)
    assert refused.error.startswith(f"{out}: is {'a file' if kind == 'file' else 'not empty'}")
    assert {path: path.read_bytes() for path in [out, *out.rglob("*")] if path.is_file()} == before


def test_a_folder_that_may_not_be_written_is_one_line(
    program: Program, text: Path, tmp_path: Path, model: Path
) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o555)
    for out in (locked / "m", locked):
        refused = program.run("train", text, "--out", out, *TINY, privileged=False)
        assert "cannot be written: Permission denied" in refused.error
        assert refused.error.startswith(str(out))
        assert list(locked.iterdir()) == []
    secret = tmp_path / "secret.txt"
    secret.write_text("the gate\n")
    secret.chmod(0)
    refused = program.run("evaluate", model, secret, privileged=False)
    assert f"{secret}' is not readable" in refused.error


def copy(model: Path, to: Path) -> Path:
    to.mkdir()
    for path in model.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def test_a_foreign_or_damaged_folder_is_one_line(
    program: Program, model: Path, text: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    damages: list[tuple[Path, str]] = [
        (tmp_path / "missing", "{}: no such model folder"),
        (text, "{}: no such model folder"),
        (tmp_path / "empty", "{}: is no model folder: config.json is missing"),
    ]
    for name, message in (
        ("config.json", "{}: is no model folder: config.json is missing"),
        ("model.safetensors", "{}: model.safetensors is missing: the model is not whole"),
        ("tokenizer.json", "{}: tokenizer.json is missing: the model is not whole"),
    ):
        folder = copy(model, tmp_path / f"without-{name}")
        (folder / name).unlink()
        damages.append((folder, message))
        folder = copy(model, tmp_path / f"cut-{name}")
        (folder / name).write_bytes((model / name).read_bytes()[:-20])
        damages.append((folder, "{}/" + name + ": is damaged"))
        folder = copy(model, tmp_path / f"foreign-{name}")
        (folder / name).write_bytes(b'{"model": "another"}')
        damages.append((folder, "{}/" + name + ": is "))
    folder = copy(model, tmp_path / "other-sizes")
    config = json.loads((model / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden": 9, "embedding": 9}))
    damages.append(
        (folder, "{}/model.safetensors: embedding.weight must be F32 or BF16 or I8 [42, 9], got F32 [42, 8]")
    )
    folder = copy(model, tmp_path / "not-a-number")
    weights = load_file(model / "model.safetensors")
    weights["output.bias"][3] = float("nan")
    save_file(weights, folder / "model.safetensors")
    damages.append((folder, "{}/model.safetensors: output.bias holds a value that is no finite number"))
    for folder, message in damages:
        refused = program.run("predict", folder, "w1")
        assert refused.error.startswith(message.format(folder)), refused.err
        assert refused.out == ""
    folder, message = damages[-1]  # all commands read a folder in the same way
    for words in (["generate", folder, "--prompt", "w1"], ["evaluate", folder, text]):
        assert program.run(*words).error.startswith(message.format(folder))


def test_weights_beyond_use_are_one_line(program: Program, model: Path, text: Path, tmp_path: Path) -> None:
    """Finite, so that they load; but no perplexity comes of them."""
    folder = copy(model, tmp_path / "wild")
    weights = load_file(model / "model.safetensors")
    weights["output.bias"] = weights["output.bias"] * 0 + 3e38
    weights["output.bias"][7] = -3e38
    save_file(weights, folder / "model.safetensors")
    refused = program.run("evaluate", folder, text, "--json")
    assert refused.error.startswith("the model: its perplexity is no finite number")
    assert refused.out == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "w1", "-k", 0], "-k: must be at least 1, got 0"),
        (
            ["predict", "w1 stranger"],
            "the text: the model does not know the word 'stranger'; the option unknown reads it as <unk>",
        ),
        (["predict", "w1x"], "the text: the model does not know the word 'w1x'; close to it: w1"),
        (["generate", "--prompt", "stranger"], "the text: the model does not know the word 'stranger'"),
        (["generate", "--words", 0], "--words: must be at least 1, got 0"),
        (["generate", "--temperature", -1], "--temperature: must be at least 0, got -1.0"),
        (["generate", "--top-p", 2], "--top-p: must be above 0 and at most 1, got 2.0"),
        (["generate", "--top-k", -1], "--top-k: must be at least 0 (all words), got -1"),
        (["generate", "--seed", -1], "--seed: must be at least 0 and below 2^31, got -1"),
        (["generate", "--words", "many"], "Invalid value for '--words': "),
    ],
)
def test_bad_questions_are_one_line(program: Program, model: Path, words: list[object], message: str) -> None:
    refused = program.run(words[0], model, *words[1:])
    assert refused.error.startswith(message), refused.err
    assert refused.out == ""


def test_an_unknown_word_may_be_read_as_unk(program: Program, model: Path) -> None:
    found = program.run("predict", model, "w1 stranger", "--unknown").out
    assert found == program.run("predict", model, "w1 <unk>").out != program.run("predict", model, "w1").out
    options = ["--words", 2, "--temperature", 0]
    written = program.run("generate", model, "--prompt", "w1 stranger", "--unknown", *options).out
    expected = "".join(glassgate.load(model).generate("w1 <unk>", 2, temperature=0))
    assert written == expected.replace("<unk>", "stranger", 1) + "\n"


def test_paths_are_shown_as_they_are(program: Program, text: Path, tmp_path: Path) -> None:
    """A path is no markup, and no line is broken, however long it is."""
    out = tmp_path / "[bold]" / ("x" * 90) / "[/red] :smile:"
    ended = program.run("train", text, "--out", out, *TINY)
    assert ended.code == 0, ended.err
    assert ended.err.endswith(f"the model is in {out}\n")
    ended = program.run("train", "--resume", "--out", out)
    assert ended.err.startswith(f"{out}: the training is finished, there is nothing to resume\n")

"""config.json, the model folder and its card: every wrong key, type and range is one clear line."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glassgate.errors import GlassgateError
from glassgate.folder.card import write_card
from glassgate.folder.config import LARGEST_FILE, ModelConfig
from glassgate.folder.counting import count_folder
from glassgate.folder.model import CONFIG, TOKENIZER, WEIGHTS, make_folder, read_folder
from glassgate.folder.vocabulary import Vocabulary
from glassgate.folder.weights import save_weights

SMALL = ModelConfig(cell="lstm", vocabulary=5, embedding=3, hidden=2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / CONFIG
    path.write_text(SMALL.to_json())
    return path


def refusal(path: Path) -> str:
    with pytest.raises(GlassgateError) as raised:
        ModelConfig.load(path)
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable(), "one line, and nothing that a terminal obeys"
    return message.removeprefix(f"{path}: ")


# config.json


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    size = st.integers(1, 5000)
    vocabulary = draw(size)
    cutoffs = draw(st.sets(st.integers(1, vocabulary - 1), max_size=3)) if vocabulary > 1 else ()
    return ModelConfig(
        cell=draw(st.sampled_from(["lstm", "gru"])),
        reset=draw(st.sampled_from(["before", "after"])),
        vocabulary=vocabulary,
        embedding=draw(size),
        hidden=draw(size),
        layers=draw(st.integers(1, 4)),
        bias=draw(st.booleans()),
        tied=draw(st.booleans()),
        output="adaptive" if cutoffs else "full",
        cutoffs=tuple(sorted(cutoffs)),
        dropout=draw(st.floats(0, 1, exclude_max=True)),
        eos=draw(st.sampled_from(["line", "paragraph", "none"])),
    )


@given(configs())
def test_a_configuration_comes_back(tmp_path_factory: pytest.TempPathFactory, config: ModelConfig) -> None:
    path = tmp_path_factory.getbasetemp() / "config.json"
    path.write_text(config.to_json())
    assert ModelConfig.load(path) == config


SIZES = [0, -1, 100_000_001, 3.0, "3", None, True, [3], {}]
SHARES = [1, 1.5, -0.1, True, "0", None, float("nan"), float("inf")]
LISTS = [[], [0], [5], [2, 2], [3, 2], [-1, 2], [True], [1.0], ["1"], [[1]], [None]]
FOREIGN = "is not the configuration of a glassgate next-word model"


@pytest.mark.parametrize(
    ("key", "values", "message"),
    [
        ("vocabulary", SIZES, "must be a whole number from 1 to 100,000,000"),
        ("embedding", SIZES, "must be a whole number from 1 to 100,000,000"),
        ("hidden", SIZES, "must be a whole number from 1 to 100,000,000"),
        ("layers", [*SIZES, 10_001], "must be a whole number from 1 to 10,000"),
        ("cell", ["LSTM", "rnn", 1, None, ["lstm"], {}], "must be lstm or gru"),
        ("reset", ["", "Before", None, 0], "must be before or after"),
        ("output", ["softmax", None, True], "must be full or adaptive"),
        ("eos", ["\n", "\x1b[2J", None, "word"], "must be line or paragraph or none"),
        ("bias", [0, 1, "true", None, []], "must be true or false"),
        ("tied", [0, 1.0, "no", None], "must be true or false"),
        ("dropout", SHARES, "must be at least 0 and below 1"),
        ("format", [0, 3, "1", 1.0, True, None, [1]], "this version reads formats 1 and 2"),
        ("cutoffs", [None, 3, "34", {}, {"1": 2}], "must be a list of word numbers"),
        ("embedding_cutoffs", [None, 3, "34", {}, {"1": 2}], "must be a list of word numbers"),
    ],
)
def test_a_wrong_value_is_named(path: Path, key: str, values: list[Any], message: str) -> None:
    table = json.loads(path.read_text())
    for value in values:
        path.write_text(json.dumps({**table, key: value}))
        assert refusal(path) == f"{key}: {message}, got {value!r}"


@pytest.mark.parametrize(("output", "cutoffs"), [*(("adaptive", bounds) for bounds in LISTS), ("full", [2])])
def test_wrong_cutoffs_are_named(path: Path, output: str, cutoffs: list[Any]) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "output": output, "cutoffs": cutoffs}))
    assert refusal(path) == (
        "cutoffs: an adaptive output has rising word numbers below 5, a full one none; "
        f"got {cutoffs} for {output}"
    )


def test_the_first_format_is_read(path: Path) -> None:
    """It knew no adaptive embedding."""
    table = json.loads(path.read_text())
    expected = ModelConfig.load(path)
    assert table.pop("embedding_cutoffs") == []
    path.write_text(json.dumps({**table, "format": 1}))
    assert ModelConfig.load(path) == expected


@pytest.mark.parametrize(
    ("narrow", "changed", "message"),
    [
        ([2], {"tied": False}, "must be some of the cutoffs .*; got \\[2\\] for \\[2, 4\\], untied"),
        ([3], {}, "must be some of the cutoffs .*; got \\[3\\] for \\[2, 4\\]"),
        ([4, 2], {}, "must be some of the cutoffs .*, rising; got \\[4, 2\\]"),
        ([2, 2], {}, "must be some of the cutoffs .*; got \\[2, 2\\]"),
        ([True], {"cutoffs": [1, 2]}, "must be some of the cutoffs"),
        ([2], {"output": "full", "cutoffs": []}, "must be some of the cutoffs .* for \\[\\]"),
        (
            [2, 4],
            {"embedding": 15},
            "must leave a width of at least 1 to each of 3 bands, got 2 for .* of 15",
        ),
    ],
)
def test_wrong_embedding_cutoffs_are_named(
    path: Path, narrow: list[Any], changed: dict[str, Any], message: str
) -> None:
    table = {**json.loads(path.read_text()), "tied": True, "embedding": 16, "hidden": 16}
    table |= {"output": "adaptive", "cutoffs": [2, 4], **changed}
    path.write_text(json.dumps({**table, "embedding_cutoffs": narrow}))
    assert re.match(f"embedding_cutoffs: {message}", refusal(path))


def test_a_key_more_or_less_is_named(path: Path) -> None:
    table = json.loads(path.read_text())
    rule = "must hold exactly the keys of format 2; at odds: "
    for key in table:
        less = {name: value for name, value in table.items() if name != key}
        path.write_text(json.dumps(less))
        if key == "model":
            assert refusal(path) == FOREIGN
        else:
            assert refusal(path) == f"{rule}{key!r}"
    path.write_text(json.dumps({**table, "auto_map": "x.py", "\x1b[2J\n\ud800": 1}))
    assert refusal(path) == rule + r"'\x1b[2J\n\ud800', 'auto_map'"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged or no configuration: Expecting value"),
        (
            b'{"hidden": 1, "hidden": 2}',
            "is damaged or no configuration: the key 'hidden' stands there twice",
        ),
        (b"{", "is damaged or no configuration: "),
        (b"\xff\xfe{}", "is damaged or no configuration: 'utf-8' codec can't decode byte 0xff"),
        (b"\x80\x04]\x94.", "is damaged or no configuration: "),
        (b"[" * 60_000, "is damaged or no configuration: "),
        (b'{"hidden": ' + b"9" * 5000 + b"}", "is damaged or no configuration: "),
        (b"[]", FOREIGN),
        (b"null", FOREIGN),
        (b'{"model": ["glassgate next-word model"]}', FOREIGN),
        (b'{"model_type": "gpt2"}', FOREIGN),
        (
            b" " * (LARGEST_FILE + 1),
            "is too large for a configuration: expected at most 65,536 bytes, got 65,537",
        ),
    ],
)
def test_a_damaged_configuration_is_refused(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    assert refusal(path).startswith(message)


def test_a_configuration_cut_short_is_refused(path: Path) -> None:
    content = path.read_bytes().rstrip()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        refusal(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "missing") == "cannot be read: No such file or directory"
    assert refusal(tmp_path) == "cannot be read: Is a directory"


# The folder


def write_folder(
    folder: Path, config: ModelConfig = SMALL, text: str = "the gate opens", eos: bool = True
) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / CONFIG).write_text(config.to_json())
    Vocabulary.build([text], tokens="spaces", eos=eos).save(folder / TOKENIZER)
    zeros = {name: np.zeros(shape, np.float32) for name, shape in config.tensors().items()}
    save_weights(folder / WEIGHTS, zeros)
    return folder


def folder_refusal(folder: Path) -> str:
    with pytest.raises(GlassgateError) as raised:
        read_folder(folder)
    message = str(raised.value)
    assert message.startswith(f"{folder}: ")
    return message.removeprefix(f"{folder}: ")


def test_a_whole_folder_is_read(tmp_path: Path) -> None:
    config, vocabulary = read_folder(write_folder(tmp_path / "model"))
    assert config == SMALL
    assert vocabulary.words == ["<unk>", "<eos>", "gate", "opens", "the"]


@given(configs().filter(lambda config: config.vocabulary * config.embedding < 10**6 and config.hidden < 200))
def test_the_tensors_are_those_that_the_count_tells_of(
    tmp_path_factory: pytest.TempPathFactory, config: ModelConfig
) -> None:
    counted = count_folder(write_folder(tmp_path_factory.mktemp("model"), config))
    assert counted.tensors() == config.tensors()


def test_what_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name in ("missing", "file", "x" * 5000):
        assert folder_refusal(tmp_path / name) == "no such model folder"
    assert folder_refusal(tmp_path / "empty") == "is no model folder: config.json is missing"


@pytest.mark.parametrize("name", [TOKENIZER, WEIGHTS])
def test_a_folder_that_is_not_whole(tmp_path: Path, name: str) -> None:
    folder = write_folder(tmp_path / "model")
    (folder / name).unlink()
    assert folder_refusal(folder) == f"{name} is missing: the model is not whole"
    (folder / name).mkdir()
    assert folder_refusal(folder) == f"{name} is missing: the model is not whole"


def test_files_of_two_models(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", text="the gate opens wide")
    assert folder_refusal(folder) == "config.json tells of 5 words, tokenizer.json has 6"
    folder = write_folder(tmp_path / "model", text="the gate opens wide", eos=False)
    assert folder_refusal(folder) == "config.json lets <eos> end a line, tokenizer.json has none"


def test_a_text_may_spell_eos_out_where_nothing_else_writes_it(tmp_path: Path) -> None:
    config = ModelConfig(cell="gru", vocabulary=4, embedding=3, hidden=2, eos="none")
    folder = write_folder(tmp_path / "model", config, "the gate <eos>", eos=False)
    assert read_folder(folder)[1].words == ["<unk>", "<eos>", "gate", "the"]
    folder = write_folder(tmp_path / "model", config, "the gate opens", eos=False)
    assert read_folder(folder)[1].words == ["<unk>", "gate", "opens", "the"]


def test_a_new_folder(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "model"
    make_folder(folder)
    make_folder(folder)  # nothing is in it
    assert folder.is_dir()
    (folder / ".hidden").touch()
    (tmp_path / "file").touch()
    for path, rule in [
        (folder, "is not empty: give another folder, or --resume to go on with a training"),
        (tmp_path / "file", "is a file: expected a folder to make"),
        (tmp_path / "file" / "model", "cannot be written: Not a directory"),
        (tmp_path / ("x" * 300), "cannot be written: File name too long"),
    ]:
        with pytest.raises(GlassgateError) as raised:
            make_folder(path)
        assert str(raised.value) == f"{path}: {rule}"
    assert [p.name for p in folder.iterdir()] == [".hidden"]


# The card


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        (
            {},
            ["# A next-word model: LSTM, 1 layer of 2", "| output | y = softmax(V P h + c), full softmax |"],
        ),
        ({"hidden": 3}, ["| output | y = softmax(V h + c), full softmax |", "| `<eos>` ends a | line |"]),
        (
            {"tied": False, "bias": False},
            ["| output | y = softmax(V h), full softmax |", "| biases | none |"],
        ),
        (
            {"cell": "gru", "reset": "after", "layers": 2, "eos": "none"},
            [
                "# A next-word model: GRU (reset after the product), 2 layers of 2",
                "| `<eos>` ends | nothing: there is no such token |",
            ],
        ),
        (
            {"output": "adaptive", "cutoffs": (2, 3)},
            ["| output | y = softmax(V P h + c), adaptive softmax, cutoffs [2, 3] |"],
        ),
    ],
)
def test_the_card_tells_what_the_model_is(changes: dict[str, Any], lines: list[str]) -> None:
    config = ModelConfig(**{"cell": "lstm", "vocabulary": 5, "embedding": 3, "hidden": 2, **changes})
    card = write_card(config, 1234, True, {"seed": "7"}, [("test perplexity", "99.5")]).splitlines()
    for line in [
        *lines,
        "| vocabulary | 5 words, lower case |",
        "| trainable weights | 1,234 with the embedding |",
        "| seed | 7 |",
        "| test perplexity | 99.5 |",
    ]:
        assert line in card

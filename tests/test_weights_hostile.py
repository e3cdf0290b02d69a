"""model.safetensors: exactly what the configuration says, or one clear line. Nothing else ever happens."""

import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glassgate.errors import GlassgateError
from glassgate.folder.config import ModelConfig
from glassgate.folder.counting import count_folder
from glassgate.folder.model import CONFIG, TOKENIZER, WEIGHTS, read_folder
from glassgate.folder.vocabulary import Vocabulary
from glassgate.folder.weights import LARGEST_HEADER, load_weights, read_header, save_weights

SHAPES: dict[str, tuple[int, ...]] = {"a": (2, 3), "b": (4,)}
A = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
B = {"dtype": "F32", "shape": [4], "data_offsets": [24, 40]}
DATA = np.arange(10, dtype="<f4").tobytes()
LAYOUT = "is damaged: its header tells of no layout that could be"
SIZE = "is damaged: expected {} bytes of weights, got 40"
TWICE = "is damaged or no safetensors file: a name occurs twice in its header"
NO_FIT = "is damaged or no safetensors file: its header does not fit"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / WEIGHTS


def write(path: Path, header: Any, data: bytes = DATA) -> None:
    """Write a header, as a table or as raw bytes, and what follows it."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)


def refusal(path: Path) -> str:
    with pytest.raises(GlassgateError) as raised:
        load_weights(path, SHAPES)
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable(), "one line, and nothing that a terminal obeys"
    return message.removeprefix(f"{path}: ")


def test_the_form_of_a_whole_file(path: Path) -> None:
    write(path, {"__metadata__": {"format": "np"}, "b": B, "a": A})
    weights = load_weights(path, SHAPES)
    np.testing.assert_array_equal(weights["a"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(weights["b"], [6, 7, 8, 9])
    assert {values.dtype for values in weights.values()} == {np.dtype(np.float32)}


def test_what_is_loaded_is_a_copy(path: Path) -> None:
    write(path, {"a": A, "b": B})
    weights = load_weights(path, SHAPES)
    path.write_bytes(b"")  # were it a map of the file, the next line would end the process
    assert weights["b"].sum() == 30


@pytest.mark.parametrize(
    ("header", "message"),
    [
        # overlapping, holed, beyond the end, backwards, negative
        ({"a": A, "b": {**B, "data_offsets": [20, 36]}}, LAYOUT),
        ({"a": {**A, "data_offsets": [0, 24]}, "b": {**B, "data_offsets": [0, 16]}}, LAYOUT),
        ({"a": A, "b": {**B, "data_offsets": [28, 44]}}, LAYOUT),
        ({"a": A, "b": {**B, "shape": [5], "data_offsets": [24, 44]}}, SIZE.format(44)),
        ({"a": A, "b": {**B, "shape": [3], "data_offsets": [24, 36]}}, SIZE.format(36)),
        ({"a": A, "b": {**B, "data_offsets": [40, 24]}}, LAYOUT),
        ({"a": A, "b": {**B, "data_offsets": [-16, 0]}}, LAYOUT),
        ({"a": A, "b": {**B, "data_offsets": [24, 10**40]}}, LAYOUT),
        # a shape whose bytes are not those of its offsets
        ({"a": A, "b": {**B, "shape": [1000, 1000]}}, LAYOUT),
        ({"a": A, "b": {**B, "shape": [0]}}, LAYOUT),
        ({"a": A, "b": {**B, "shape": [-4]}}, LAYOUT),
        ({"a": A, "b": {**B, "shape": [-2, -2]}}, LAYOUT),
        ({"a": A, "b": {**B, "shape": [2**32, 2**32]}}, LAYOUT),
        ({"a": A, "b": {**B, "shape": [4] + [1] * 100}}, f"b must be F32 [4], got F32 {[4] + [1] * 100}"),
        # wrong types
        ({"a": A, "b": {**B, "shape": [4.0]}}, LAYOUT),
        ({"a": A, "b": {**B, "shape": ["4"]}}, LAYOUT),
        ({"a": A, "b": {**B, "shape": [True, 4]}}, LAYOUT),
        ({"a": A, "b": {**B, "shape": None}}, LAYOUT),
        ({"a": A, "b": {**B, "data_offsets": [24]}}, LAYOUT),
        ({"a": A, "b": {**B, "data_offsets": [24.0, 40.0]}}, LAYOUT),
        ({"a": A, "b": {**B, "data_offsets": "24"}}, LAYOUT),
        ({"a": A, "b": {**B, "data_offsets": {"24": 1, "40": 2}}}, LAYOUT),
        ({"a": A, "b": {**B, "dtype": ["F32"]}}, LAYOUT),
        ({"a": A, "b": {**B, "dtype": "PICKLE"}}, LAYOUT),
        ({"a": A, "b": {"shape": [4], "data_offsets": [24, 40]}}, LAYOUT),
        ({"a": A, "b": {}}, LAYOUT),
        ({"a": A, "b": [4]}, "is damaged or no safetensors file: its header is no table"),
        ([A, B], "is damaged or no safetensors file: its header is no table"),
        ({"__metadata__": [], "a": A, "b": B}, "is damaged or no safetensors file: its header is no table"),
        # other tensors than the configuration's
        ({"a": A, "b": {**B, "dtype": "I32"}}, "b must be F32 [4], got I32 [4]"),
        ({"a": A, "b": {**B, "dtype": "F64", "shape": [2]}}, "b must be F32 [4], got F64 [2]"),
        ({"a": A, "b": {**B, "dtype": "BF16", "shape": [8]}}, "b must be F32 [4], got BF16 [8]"),
        ({"a": {**A, "shape": [3, 2]}, "b": B}, "a must be F32 or BF16 or I8 [2, 3], got F32 [3, 2]"),
        ({"a": {**A, "shape": [6]}, "b": B}, "a must be F32 or BF16 or I8 [2, 3], got F32 [6]"),
        ({"a": A, "c": B}, "must hold the tensors that config.json tells; at odds: 'b', 'c'"),
        (
            {"a": A, "b": B, "\x1b[2J\n\ud800": {**B, "shape": [0], "data_offsets": [40, 40]}},
            r"must hold the tensors that config.json tells; at odds: '\x1b[2J\n\ud800'",
        ),
    ],
)  # fmt: skip
def test_a_header_that_lies(path: Path, header: Any, message: str) -> None:
    write(path, header)
    assert refusal(path) == message


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"a": 1, "a": 2}', TWICE),
        (json.dumps(A)[:-1].encode() + b', "dtype": "F64"}', TWICE),
        (b'{"__metadata__": {}, "__metadata__": {}}', TWICE),
        (b"{]", "is damaged or no safetensors file: "),
        (b"{\xff}", "is damaged or no safetensors file: 'utf-8' codec can't decode"),
        (b"[" * 500_000, "is damaged or no safetensors file: "),
        (b'{"a":' * 100_000, "is damaged or no safetensors file: "),
        (b'{"a": {"shape": [' + b"9" * 5000 + b"]}}", "is damaged or no safetensors file: "),
        (b'{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 40]}}', LAYOUT),
        (b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, Infinity]}}', LAYOUT),
        (b"{}", "is damaged: expected 0 bytes of weights, got 40"),
        (b"null", "is damaged or no safetensors file: its header is no table"),
        (b" " * (LARGEST_HEADER + 1), NO_FIT),
    ],
)  # fmt: skip
def test_a_header_that_is_none(path: Path, raw: bytes, message: str) -> None:
    write(path, raw)
    assert refusal(path).startswith(message)


def test_a_name_that_occurs_twice_inside_the_layout(path: Path) -> None:
    # The safetensors library takes the last of the two; another reader may take the first.
    a, b = json.dumps(A), json.dumps(B)
    write(path, f'{{"a": {a}, "b": {b}, "b": {b}}}'.encode())
    assert refusal(path) == TWICE


@pytest.mark.parametrize("length", [0, 1, 1 << 20, 1 << 31, 1 << 63, (1 << 64) - 1])
def test_a_header_length_that_lies(path: Path, length: int) -> None:
    write(path, {"a": A, "b": B})
    content = path.read_bytes()
    path.write_bytes(length.to_bytes(8, "little") + content[8:])
    assert refusal(path) == NO_FIT


def test_many_tensors_are_refused_in_no_time(path: Path) -> None:
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    write(path, {str(n): empty for n in range(100_000)}, b"")
    started = time.perf_counter()
    assert refusal(path) == NO_FIT
    assert time.perf_counter() - started < 0.5  # it is refused by its length, before it is parsed


def test_a_file_cut_short_anywhere_or_with_more_behind(path: Path) -> None:
    write(path, {"a": A, "b": B})
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        assert "damaged" in refusal(path)
    for more in (b"\0", b"\0" * 16, content):
        path.write_bytes(content + more)
        assert refusal(path) == f"is damaged: expected 40 bytes of weights, got {40 + len(more)}"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 5, 9])
def test_a_value_that_is_no_finite_number(path: Path, value: float, place: int) -> None:
    values = np.zeros(10, "<f4")
    values[place] = value
    write(path, {"a": A, "b": B}, values.tobytes())
    assert refusal(path) == f"{'a' if place < 6 else 'b'} holds a value that is no finite number"


def test_the_smallest_and_largest_numbers_are_finite(path: Path) -> None:
    extremes = np.finfo(np.float32)
    values = np.resize(np.array([extremes.max, extremes.min, extremes.smallest_subnormal, -0.0], "<f4"), 10)
    write(path, {"a": A, "b": B}, values.tobytes())
    assert load_weights(path, SHAPES)["b"].tobytes() == values[6:].tobytes()


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (3,)


def test_a_pickle_by_another_name(path: Path, tmp_path: Path) -> None:
    content = pickle.dumps({"a": Trap(), "weights": list(range(100))})
    path.write_bytes(content)
    assert refusal(path) == NO_FIT
    # Even where the length of its header fits:
    write(path, content)
    assert refusal(path).startswith("is damaged or no safetensors file: ")
    (tmp_path / "model.pt").write_bytes(content)
    path.unlink()
    path.symlink_to(tmp_path / "model.pt")
    assert refusal(path) == NO_FIT


def test_what_is_no_file(path: Path) -> None:
    assert refusal(path) == "cannot be read: No such file or directory"
    path.symlink_to(path)
    assert refusal(path) == "cannot be read: Too many levels of symbolic links"
    path.unlink()
    path.mkdir()
    assert refusal(path) == "cannot be read: Is a directory"


WHOLE = json.dumps({"a": A, "b": B}).encode()
WHOLE = len(WHOLE).to_bytes(8, "little") + WHOLE + DATA


@given(flips=st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(1, 255)), min_size=1, max_size=4))
@settings(max_examples=500)
def test_any_bytes_load_as_expected_or_are_refused(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "flipped.safetensors"
    damaged = bytearray(WHOLE)
    for place, bits in flips:
        damaged[place] ^= bits
    path.write_bytes(damaged)
    try:
        weights = load_weights(path, SHAPES)
    except GlassgateError as error:
        assert str(error).startswith(f"{path}: ")  # noqa: PT017  # either way is right
    else:
        assert {name: values.shape for name, values in weights.items()} == SHAPES
        assert all(np.isfinite(values).all() for values in weights.values())
    try:
        header = read_header(path)
    except GlassgateError:
        return
    assert sum(np.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__") <= 40


@given(st.binary(max_size=200))
def test_any_other_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(content)
    refusal(path)


# Reading a folder runs nothing


CONFIGURATION = ModelConfig(cell="lstm", vocabulary=5, embedding=3, hidden=2)
AUDIT = """
import sys
from pathlib import Path
from glassgate.errors import GlassgateError
from glassgate.folder.model import WEIGHTS, read_folder
from glassgate.folder.weights import load_weights
from glassgate.folder.counting import count_folder

def read(folder):
    config, vocabulary = read_folder(folder)
    vocabulary.encode(["the gate"])
    load_weights(folder / WEIGHTS, config.tensors())
    count_folder(folder)

first, folder = Path(sys.argv[1]), Path(sys.argv[2])
read(first)  # what Python imports on the way is imported now
seen = []
sys.addaudithook(lambda event, arguments: seen.append((event, arguments)))
try:
    read(folder)
    print("read")
except GlassgateError as error:
    print("refused")
    assert "is damaged" in str(error), error
watched = list(seen)
for event, arguments in watched:
    if event == "open":
        path, mode, _ = arguments
        assert Path(path).parent == folder and mode in ("r", "rb", None), arguments
    else:
        assert event.startswith(("pathlib.", "os.", "mmap.", "object.", "gc.", "sys._getframe")), event
        assert not event.startswith(("os.system", "os.exec", "os.posix", "os.spawn", "os.fork")), event
assert any(event == "open" for event, _ in watched), "the hook sees nothing"
"""


def model_folder(folder: Path) -> Path:
    folder.mkdir()
    (folder / CONFIG).write_text(CONFIGURATION.to_json())
    Vocabulary.build(["the gate opens"], tokens="spaces").save(folder / TOKENIZER)
    zeros = {name: np.zeros(shape, np.float32) for name, shape in CONFIGURATION.tensors().items()}
    save_weights(folder / WEIGHTS, zeros)
    return folder


@pytest.mark.parametrize("file", [None, WEIGHTS, TOKENIZER, CONFIG])
def test_reading_a_folder_runs_nothing(tmp_path: Path, file: str | None) -> None:
    first, folder = model_folder(tmp_path / "first"), model_folder(tmp_path / "folder")
    # Where other programs look for code to run:
    for name in ("__init__.py", "modeling.py", "sitecustomize.py", "tokenizers.py"):
        (folder / name).write_text("raise SystemExit(3)")
    if file is not None:
        (folder / file).write_bytes(pickle.dumps(Trap()))
    ended = subprocess.run(
        [sys.executable, "-c", AUDIT, str(first), str(folder)], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (
        0,
        "read\n" if file is None else "refused\n",
        "",
    )


def test_counting_a_folder_trusts_no_header(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "folder")
    assert count_folder(folder).total == sum(np.prod(shape) for shape in CONFIGURATION.tensors().values())
    shapes = {**CONFIGURATION.tensors(), "embedding.weight": (5, 3_000_000)}
    entries = {
        name: {"dtype": "F32", "shape": list(shape), "data_offsets": [0, 0]} for name, shape in shapes.items()
    }
    write(folder / WEIGHTS, entries, b"")
    with pytest.raises(GlassgateError, match="its header tells of no layout that could be"):
        count_folder(folder)
    with pytest.raises(GlassgateError, match="its header tells of no layout that could be"):
        load_weights(folder / WEIGHTS, read_folder(folder)[0].tensors())

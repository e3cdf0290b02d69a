"""Models in fewer bits: what is stored, what is read back, what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import load_file

from by_hand import drawn_weights, probabilities
from glassgate import GlassgateError
from glassgate.folder.compact import Stored, packed
from glassgate.folder.config import ModelConfig
from glassgate.folder.counting import count_folder
from glassgate.folder.vocabulary import Vocabulary
from glassgate.folder.weights import load_weights, map_weights, read_header, save_weights
from glassgate.language.compress import compress
from program import Program

TEXT = "the gate opens and the gate closes\nthe baker opens the door\n"
MATRICES = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(1, 9)),
    elements=st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=True),
)


@given(MATRICES)
def test_bf16_is_the_nearest_of_numbers_with_eight_bits(values: Any) -> None:
    """Against the definition, in exact arithmetic: no other bf16 is nearer; of two as near the even one."""
    bits = packed({"V": values}, "bf16")["V"]
    found = Stored(bits).unpacked()
    for value, one, own in zip(values.ravel(), found.ravel(), bits.ravel(), strict=True):
        beside = np.array([n for n in (int(own) - 1, int(own) + 1) if n >= 0], np.uint16)
        neighbours = Stored(beside).unpacked().tolist()
        distance = abs(float(one) - float(value))
        for other in neighbours:
            if np.isfinite(other) and np.sign(other) * np.sign(value) >= 0:
                assert distance <= abs(other - float(value))
                assert distance < abs(other - float(value)) or own % 2 == 0
    assert np.array_equal(packed({"V": found}, "bf16")["V"], bits)


@given(MATRICES)
def test_int8_is_within_half_a_step_of_each_row(values: Any) -> None:
    stored = packed({"V": values}, "int8")
    integers, scales = stored["V"], stored["V.scales"]
    assert np.abs(integers.astype(int)).max() <= 127
    # Half a step, and the rounding of quotient, product and scale: three times 2^-24 of 127 steps. Below
    # the smallest normal number a step cannot be told, so that all of a row may be lost.
    steps = 0.5 + 127 * 3 * 2**-24
    lost = np.where(scales < np.finfo(np.float32).tiny, 127.5 * np.finfo(np.float32).tiny, 0)
    errors = np.abs(Stored(integers, scales).unpacked().astype(np.float64) - values)
    assert (errors <= steps * scales.astype(np.float64)[:, None] + lost[:, None]).all()


def test_vectors_stay_as_they_are() -> None:
    bias = np.array([1.00001, 2.3], np.float32)
    assert packed({"b": bias}, "int8")["b"] is bias
    assert packed({"b": bias}, "bf16")["b"] is bias


def model_folder(folder: Path, **form: Any) -> Path:
    vocabulary = Vocabulary.build([TEXT], tokens="spaces")
    config = ModelConfig(
        **{"cell": "lstm", "vocabulary": len(vocabulary), "embedding": 5, "hidden": 7, **form}
    )
    folder.mkdir()
    (folder / "config.json").write_text(config.to_json())
    (folder / "README.md").write_text("# A model\n")
    vocabulary.save(folder / "tokenizer.json")
    weights = {name: values.astype(np.float32) for name, values in drawn_weights(config, 2).items()}
    save_weights(folder / "model.safetensors", weights)
    return folder


def perplexity_of(config: ModelConfig, weights: dict[str, Any], vocabulary: Vocabulary) -> float:
    """Of TEXT as one stream, its first <eos> unread."""
    assert vocabulary.eos is not None
    numbers = [vocabulary.eos]
    for line in TEXT.splitlines():
        numbers += [*map(vocabulary.words.index, line.split()), vocabulary.eos]
    y = probabilities(config, weights, np.array(numbers[:-1])[:, None])[:, 0]
    return float(np.exp(-np.log(y[np.arange(len(y)), numbers[1:]]).mean()))


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
@pytest.mark.parametrize(
    "form", [{}, {"cell": "gru", "layers": 2, "bias": False, "output": "adaptive", "cutoffs": (3, 6)}]
)
def test_the_model_is_read_as_what_was_stored(tmp_path: Path, dtype: Any, form: dict[str, Any]) -> None:
    folder, out, text = model_folder(tmp_path / "m", **form), tmp_path / "small", tmp_path / "text.txt"
    text.write_text(TEXT)
    figures = compress(folder, out, dtype, [text])
    config = ModelConfig.load(folder / "config.json")
    weights = map_weights(folder / "model.safetensors", config.tensors())
    read = load_weights(out / "model.safetensors", config.tensors())
    for name, values in weights.items():
        matrix = packed({name: values.values}, dtype)
        expected = Stored(matrix[name], matrix.get(f"{name}.scales")).unpacked()
        assert np.array_equal(read[name], expected), name
        assert read[name].dtype == np.float32
    assert count_folder(out) == count_folder(folder)
    for when, place in (("before", folder), ("after", out)):
        assert figures[f"bytes_{when}"] == (place / "model.safetensors").stat().st_size
        # What was stored, unpacked, in float64 by the equations. float32 rounds each of the at most 30 sums
        # and products behind a logit below 10 by 2^-24: 30 * 10 * 2^-24 = 2e-5 at the most.
        stored = map_weights(place / "model.safetensors", config.tensors())
        exact = {name: tensor.unpacked().astype(np.float64) for name, tensor in stored.items()}
        expected_perplexity = perplexity_of(config, exact, Vocabulary.load(place / "tokenizer.json"))
        assert figures[f"perplexity_{when}"] == pytest.approx(expected_perplexity, rel=2e-5)
    before, after = figures["perplexity_before"], figures["perplexity_after"]
    # The two differ by more than that, as far as the weights were rounded: bf16 by up to 2^-9 of each.
    assert abs(after / before - 1) > 4e-5
    size_before, size_after = figures["bytes_before"], figures["bytes_after"]
    form = {"bf16": "bf16", "int8": "int8, with a scale for each row"}[dtype]
    change = f"{100 * (after / before - 1):+.3f}%"
    assert (out / "README.md").read_text() == (
        "# A model\n\n## Compressed\n\n| | |\n|---|---|\n"
        f"| weights | {form} |\n"
        f"| their file | {size_after:,} bytes, before {size_before:,} |\n"
        f"| perplexity on text.txt | {after:.2f}, before {before:.2f} ({change}) |\n"
    )
    header = read_header(out / "model.safetensors")
    told = {"bf16": "BF16", "int8": "I8"}[dtype]
    for name, shape in config.tensors().items():
        assert header[name]["dtype"] == ("F32" if len(shape) == 1 else told)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_other_programs_read_the_file(tmp_path: Path) -> None:
    out = tmp_path / "small"
    compress(model_folder(tmp_path / "m"), out, "int8")
    stored = load_file(out / "model.safetensors")
    assert stored["embedding.weight"].dtype == np.int8
    assert stored["embedding.weight.scales"].shape == (len(stored["embedding.weight"]),)


def test_what_cannot_be_compressed_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    folder, out = model_folder(tmp_path / "m"), tmp_path / "deep" / "small"
    with pytest.raises(GlassgateError, match=r"^.*/nothing.txt: no such file or folder$"):
        compress(folder, out, "int8", [tmp_path / "nothing.txt"])
    assert not any(out.parent.iterdir())
    compress(folder, out, "int8")
    with pytest.raises(GlassgateError, match=r"small: is there already: expected the name of a fold"):
        compress(folder, out, "bf16")
    with pytest.raises(GlassgateError, match=r"small: is compressed already: expected the model that"):
        compress(out, tmp_path / "smaller", "bf16")


def test_what_is_kept_is_kept_to_the_byte(tmp_path: Path) -> None:
    """The card too, whatever it holds."""
    folder, out = model_folder(tmp_path / "m"), tmp_path / "small"
    card = "# Ein Modell für Türen\n".encode("latin-1")
    (folder / "README.md").write_bytes(card)
    (folder / "metrics.jsonl").write_bytes(b"\xff")
    compress(folder, out, "bf16")
    assert (out / "README.md").read_bytes().startswith(card + b"\n## Compressed\n")
    for name in ("config.json", "tokenizer.json", "metrics.jsonl"):
        assert (out / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_a_weight_that_cannot_be_rounded_is_one_line(tmp_path: Path, dtype: Any) -> None:
    """The largest float32 rounds up to infinity in bf16, and in int8 a row's 128th step may be none."""
    folder, largest = model_folder(tmp_path / "m"), np.finfo(np.float32).max
    config = ModelConfig.load(folder / "config.json")
    weights = load_weights(folder / "model.safetensors", config.tensors())
    weights["rnn.weight_hh_l0"][3, 2] = -largest
    save_weights(folder / "model.safetensors", weights)
    with pytest.raises(GlassgateError) as raised:
        compress(folder, tmp_path / "small", dtype)
    assert str(raised.value) == (
        f"{folder}/model.safetensors: rnn.weight_hh_l0: must stay finite when it is rounded to {dtype}, "
        "got 3.4028235e+38"
    )
    assert list(tmp_path.iterdir()) == [folder]


def test_what_cannot_be_read_or_written_is_named(program: Program, tmp_path: Path) -> None:
    folder, long = model_folder(tmp_path / "m"), tmp_path / ("x" * 300)
    assert (
        program.run("compress", folder, "--out", long).error
        == f"{long}: cannot be written: File name too long"
    )
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0)
    refused = program.run("compress", folder, "--out", locked / "o", privileged=False)
    assert refused.error == f"{locked}/o: cannot be written: Permission denied"
    for text, reason in ((long, "File name too long"), (locked / "t.txt", "Permission denied")):
        for words in (
            ["compress", folder, "--out", tmp_path / "o", "--text", text],
            ["evaluate", folder, text],
        ):
            assert program.run(*words, privileged=False).error == f"{text}: cannot be read: {reason}"
    (folder / "metrics.jsonl").touch(mode=0)
    refused = program.run("compress", folder, "--out", tmp_path / "o", privileged=False)
    assert refused.error == f"{folder}/metrics.jsonl: cannot be read: Permission denied"
    (folder / "README.md").unlink()
    (folder / "README.md").mkdir()
    refused = program.run("compress", folder, "--out", tmp_path / "o")
    assert refused.error == f"{folder}/README.md: cannot be read: Is a directory"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["locked", "m"]


def damaged(header_of: str) -> Any:
    shapes = {"V": (2, 3), "b": (2,)}
    weights = {"V": np.ones((2, 3), np.float32), "b": np.ones(2, np.float32)}
    stored = packed(weights, "int8")
    if header_of == "no scales":
        del stored["V.scales"]
        return stored, shapes, "at odds: 'V.scales'"
    if header_of == "scales of float32":
        return {**weights, "V.scales": stored["V.scales"]}, shapes, "at odds: 'V.scales'"
    if header_of == "scales of another length":
        return {**stored, "V.scales": np.ones(3, np.float32)}, shapes, "V.scales must be F32 [2], got F32 [3]"
    if header_of == "scales in bf16":
        return {**stored, "V.scales": np.ones(2, np.uint16)}, shapes, "V.scales must be F32 [2], got BF16 [2]"
    if header_of == "a vector in int8":
        return (
            {**stored, "b": np.ones(2, np.int8), "b.scales": np.ones(2, np.float32)},
            shapes,
            "b must be F32 [2], got I8 [2]",
        )
    if header_of in ("a scale that is no number", "a scale too large"):
        stored["V.scales"][1] = np.inf if header_of == "a scale that is no number" else -3e37
        return stored, shapes, "V holds a value that is no finite number"
    assert header_of == "bf16 that is no number"
    return {**packed(weights, "bf16"), "V": np.full((2, 3), 0x7F80, np.uint16)}, shapes, "no finite number"


@pytest.mark.parametrize(
    "form",
    [
        *("no scales", "scales of float32", "scales of another length", "scales in bf16"),
        *("a vector in int8", "a scale that is no number", "a scale too large", "bf16 that is no number"),
    ],
)
def test_a_file_that_is_not_what_it_says_is_refused(tmp_path: Path, form: str) -> None:
    stored, shapes, message = damaged(form)
    path = tmp_path / "model.safetensors"
    save_weights(path, stored)
    with pytest.raises(GlassgateError) as raised:
        map_weights(path, shapes)
    assert str(raised.value).startswith(f"{path}: ")
    assert message in str(raised.value)


def test_the_command_prints_what_it_saves(program: Program, tmp_path: Path) -> None:
    folder, text = model_folder(tmp_path / "m"), tmp_path / "text.txt"
    text.write_text(TEXT)
    ended = program.run("compress", folder, "--dtype", "bf16", "--out", tmp_path / "a", "--text", text)
    assert ended.code == 0, ended.err
    size = (folder / "model.safetensors").stat().st_size
    sizes, perplexities = ended.out.splitlines()
    assert sizes.split()[:2] == ["bytes", f"{size:,}"]
    assert perplexities.startswith("perplexity ")
    ended = program.run("compress", folder, "--out", tmp_path / "b", "--json")
    assert list(json.loads(ended.out)) == ["bytes_before", "bytes_after"]
    assert read_header(tmp_path / "b" / "model.safetensors")["embedding.weight"]["dtype"] == "I8"
    assert program.run("predict", tmp_path / "b", "the gate", "-k", 3).code == 0
    assert program.run("compress", folder, "--out", tmp_path / "b").error == (
        f"{tmp_path}/b: is there already: expected the name of a folder to make"
    )

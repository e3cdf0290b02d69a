"""Pictures and pages of gates: what was drawn, by its values."""

import io
import json
import re
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest
import torch

import glassgate
from glassgate import GlassgateError
from glassgate.lens import canvas, figures, html, model_figures
from glassgate.lens.blocks import Block, averaged, blocks, colours
from lens_models import model

SENTENCE = "the keeper opens the gate"


def pixels(png: bytes) -> np.ndarray:
    from matplotlib.image import imread

    return np.round(imread(io.BytesIO(png))[..., :3] * 255).astype(np.uint8)


def test_blocks_are_the_trace_in_the_order_of_the_notes() -> None:
    layer = model().trace(SENTENCE).layers["l1"]
    found = blocks(layer)
    assert [b.name for b in found] == ["forget", "input", "output", "candidate", "cell", "hidden"]
    for block in found:
        np.testing.assert_array_equal(block.values, getattr(layer, block.name)[:, 0])
    some = blocks(layer, ["cell"], [4, 0])[0].values
    np.testing.assert_array_equal(some, layer.cell[:, 0][:, [4, 0]])
    np.testing.assert_array_equal(averaged(found[0]).values[:, 0], layer.forget[:, 0].mean(1))
    axes = figures.gates_over_words(["a"] * 6, blocks(layer, ["cell"], [4, 0])).axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["4", "0"]
    axes = figures.gates_over_words(["a"], [Block("f", np.zeros((1, 512)))]).axes[0]
    assert axes.get_yticks().tolist() == [0, 100, 200, 300, 400, 500]
    assert blocks(model("gru").trace("the").layers["l0"])[0].name == "reset"


def test_blocks_of_units_and_gates_that_are_not_there() -> None:
    layer = model().trace("the").layers["l0"]
    with pytest.raises(GlassgateError, match="units: must be from 0 to 4, got 5"):
        blocks(layer, units=[0, 5])
    with pytest.raises(GlassgateError, match="sequence: must be from 0 to 0, got 1"):
        blocks(layer, sequence=1)
    with pytest.raises(GlassgateError, match="got 'update'"):
        blocks(layer, ["update"])


def test_gates_over_words_draws_each_value_at_its_word_and_unit() -> None:
    traced = model().trace(SENTENCE)
    found = blocks(traced.layers["l0"])
    figure = figures.gates_over_words(traced.words, found)
    for axes, block in zip(figure.axes, found, strict=False):
        image = axes.images[0]
        np.testing.assert_array_equal(image.get_array(), block.values.T)
        assert image.get_clim() == ((-1.0, 1.0) if block.signed else (0.0, 1.0))
    assert [t.get_text() for t in figure.axes[5].get_xticklabels()] == list(traced.words)
    with pytest.raises(GlassgateError, match="f: expected a row for each of 1 words, got"):
        figures.gates_over_words(["a"], [Block("f", np.zeros((2, 2)))])
    with pytest.raises(GlassgateError, match="words and blocks expected, got 1 and 0"):
        figures.gates_over_words(["a"], [])


def test_pictures_and_terminal_have_the_same_colours() -> None:
    for signed in (False, True):
        values = np.linspace(-1 if signed else 0, 1, 9)
        table = canvas.colormap(signed)((values + 1) / 2 if signed else values)
        # matplotlib's table has 256 colours: half a step of it between two stops 120 apart, and rounding
        assert np.abs(table[:, :3] * 255 - colours(values, signed)).max() <= 2


def test_a_coloured_text_breaks_its_lines_and_keeps_every_value() -> None:
    words = [*["word"] * 20, "<eos>", "$x$"]
    values = np.linspace(-1, 1, 22)
    texts = figures.cell_colouring(words, values, "unit").axes[0].texts
    assert [t.get_text() for t in texts] == [*words[:-1], r"\$x\$"]
    assert [float(t.get_gid() or "nan") for t in texts] == pytest.approx(values, abs=1e-5)  # six digits
    # 16 words of 4 letters and their spaces fill 80 characters; <eos> ends its line.
    assert [t.get_position()[1] for t in texts] == [0] * 16 + [1] * 5 + [2]
    boxes = [
        np.round(np.array(p.get_facecolor()[:3]) * 255)
        for p in figures.cell_colouring(words, values).axes[0].patches
    ]
    np.testing.assert_array_equal(boxes, colours(values, signed=True))
    with pytest.raises(GlassgateError, match="one value for each of 1 to 3000 words expected, got 1 words"):
        figures.cell_colouring(["a"], [0.0, 1.0])


def test_memory_lengths_beyond_the_axis_stand_in_the_last_bar() -> None:
    axes = figures.memory_lengths({"l0": [0.0, 3.0, np.inf, 1e9], "l1": [3.0]}).axes[0]
    heights = [int(bar.get_height()) for bar in axes.patches]
    assert (heights[0], heights[-1], sum(heights)) == (1, 2, 4)
    assert axes.get_title(loc="right") == "l0: median 5e+03"  # between 3 and 10,000


def test_forget_experiment_tells_the_factor() -> None:
    axes = figures.forget_experiment({"as trained": 20.0, "forget = 1/2": 61.0}).axes[0]
    assert [t.get_text() for t in axes.texts] == [" 20.0", " 61.0  (3.05 x)"]
    assert axes.lines[0].get_xdata()[0] == 20.0
    for wrong in ({"a": np.inf}, {"a": 0.5}, {}):
        with pytest.raises(GlassgateError, match="perplexities of at least 1 expected"):
            figures.forget_experiment(wrong)


def test_attribution_bars_refuse_another_number_of_scores() -> None:
    with pytest.raises(GlassgateError, match=r"one score for each of 2 words expected, got \[3\]"):
        model_figures.attribution_bars(["a", "b"], [1, 2, 3])


def test_a_patching_map_has_one_scale_with_zero_in_the_middle() -> None:
    figure = model_figures.patching_map(
        ["a"], {"l0": {"cell": [0.5]}, "l1": {"cell": [-2.0], "hidden": [1.0]}}
    )
    assert [axes.images[0].get_clim() for axes in figure.axes[:2]] == [(-2.0, 2.0)] * 2
    assert figure.axes[1].images[0].get_array().tolist() == [[-2.0], [1.0]]


def test_a_training_curve_draws_the_rows_of_the_file(tmp_path: Path) -> None:
    rows = [{"step": s, "perplexity": 90.0 / s, "learning_rate": 0.1 * s} for s in (1, 2, 3)]
    rows.append({"step": 3, "valid_perplexity": 40.0})
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    axes, rate = model_figures.training_curve(tmp_path).axes
    assert axes.lines[0].get_xydata().tolist() == [[1, 90], [2, 45], [3, 30]]
    assert axes.lines[1].get_xydata().tolist() == [[3, 40]]
    assert rate.lines[0].get_ydata() == pytest.approx([0.1, 0.2, 0.3])
    (tmp_path / "metrics.jsonl").write_text("{")
    with pytest.raises(GlassgateError, match=r"metrics.jsonl: is damaged"):
        model_figures.training_curve(tmp_path)


def test_neighbours_are_those_of_all_cosines() -> None:
    own = model()
    table = own.network.embedding.rows(np.arange(len(own.vocabulary)))
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    gate = own.vocabulary.words.index("gate")
    order = [n for n in np.argsort(-(unit @ unit[gate])) if n not in (gate, own.vocabulary.unk)][:3]
    found = model_figures.neighbours(own, "gate", 3)
    assert [word for word, _ in found] == [own.vocabulary.words[n] for n in order]
    assert [cosine for _, cosine in found] == pytest.approx((unit @ unit[gate])[order], abs=1e-14)
    axes = model_figures.embedding_neighbours(own, ["gate", "lamp"], 3).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [cosine for _, cosine in found]
    assert axes.get_title(loc="left") == "gate"
    with pytest.raises(GlassgateError, match="one word expected, got 'the gate'"):
        model_figures.neighbours(own, "the gate")


def test_a_prediction_table_has_the_best_words_and_frames_what_came() -> None:
    traced = model().trace(SENTENCE)
    axes = model_figures.prediction_table(traced, k=8).axes[0]
    shares = axes.images[0].get_array()
    for step in range(len(traced.words)):
        best = traced.best(8, step)
        assert shares[:, step].tolist() == [p for _, p in best]
        assert [t.get_text() for t in axes.texts[8 * step : 8 * step + 8]] == [word for word, _ in best]
    framed = {round(p.get_x() + 0.46) for p in axes.patches}
    came = {
        step
        for step in range(len(traced.words) - 1)
        if traced.words[step + 1] in [word for word, _ in traced.best(8, step)]
    }
    assert framed == came
    assert came, "no word that came was among the best: nothing was tested"
    long = model().trace("the gate of glass . " * 6)
    bands = [axes for axes in model_figures.prediction_table(long, k=2).axes if axes.images]
    assert len(bands) > 1
    assert [t.get_text() for axes in bands for t in axes.get_xticklabels()] == list(long.words)
    joined = np.ma.concatenate([axes.images[0].get_array() for axes in bands], axis=1)[:, : len(long.words)]
    assert joined[0].tolist() == [long.best(1, step)[0][1] for step in range(len(long.words))]


@pytest.mark.parametrize(("form", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_a_picture_is_the_same_bytes_each_time(form: str, begins: bytes, tmp_path: Path) -> None:
    written = []
    for name in ("one", "two"):
        figure = figures.gates_over_words(["a", "gate"], [Block("forget", np.eye(2))])
        canvas.save(figure, tmp_path / f"{name}.{form}")
        written.append((tmp_path / f"{name}.{form}").read_bytes())
    assert written[0] == written[1]
    assert written[0].startswith(begins)


def test_own_pngs_are_read_by_others() -> None:
    drawn = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 14
    np.testing.assert_array_equal(pixels(html.png(drawn)), drawn)


def test_a_notebook_shows_a_trace() -> None:
    traced = model().trace(SENTENCE)
    shown = traced._repr_html_()
    pictures = [b64decode(p) for p in re.findall(r"base64,([^\"]+)", shown)]
    drawn = [block for layer in traced.layers.values() for block in blocks(layer)]
    assert len(pictures) == len(drawn) == 12
    for picture, block in zip(pictures, drawn, strict=True):
        np.testing.assert_array_equal(pixels(picture), colours(block.values.T, block.signed))
    heads = re.findall(r">([^<]+)</th>", shown)[: len(traced.words)]
    assert heads == ["&lt;eos&gt;", *traced.words[1:]]
    one = traced.layers["l1"]._repr_html_()
    assert re.findall(r"base64,([^\"]+)", one) == re.findall(r"base64,([^\"]+)", shown)[6:]
    lstm = glassgate.LSTM(3, 4)
    with glassgate.record(lstm) as trace:
        assert trace._repr_html_().endswith("<p>trace: l0 was not called while it was recorded</p></div>")
        lstm(torch.randn(5, 2, 3))
    picture = re.findall(r"base64,([^\"]+)", trace._repr_html_())[0]
    expected = colours(trace.forget[:, 0].detach().numpy().T, signed=False)
    np.testing.assert_array_equal(pixels(b64decode(picture)), expected)
    assert "the first 200 of 501 steps" in model().trace("gate " * 500)._repr_html_()

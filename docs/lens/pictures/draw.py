"""Draw the pictures of the lens's pages: `glassgate demo --out exercise`, then `python draw.py exercise`."""

import sys
import tempfile
from pathlib import Path

import numpy as np

import glassgate
from glassgate.cli.look_edit import forget_experiment
from glassgate.language.exercise import TRAINED, sample_text
from glassgate.lens import canvas, figures, model_figures
from glassgate.lens.attribute import attribute
from glassgate.lens.blocks import blocks
from glassgate.lens.handover import to_frame
from glassgate.lens.index import build_index
from glassgate.lens.measure import measure
from glassgate.lens.patching import patch
from glassgate.lens.search import state_of, units_on

HERE = Path(__file__).parent
SENTENCE = "there was a gate of glass beside a river and by the lamp the keeper thought of the"


def main(folder: Path) -> None:
    """Draw all of them beside this file."""
    model = glassgate.load(folder)
    text = sample_text()
    numbers = np.array(model.numbers(text))
    traced = model.trace(SENTENCE)
    layer = traced.layers["l0"]

    def keep(name: str, figure: object) -> None:
        canvas.save(figure, HERE / f"{name}.png", dots=110)  # type: ignore[arg-type]

    keep("gates", figures.gates_over_words(traced.words, blocks(layer, ["forget", "input", "cell"])))
    keep("predictions", model_figures.prediction_table(model.trace(" ".join(SENTENCE.split()[:9]))))
    keep("training", model_figures.training_curve(folder))
    keep("neighbours", model_figures.embedding_neighbours(model, ["gate", "river", "was", "bread"]))

    long = model.trace(" ".join(text.split()[:120]))
    found = measure(model, [numbers]).layers["l0"]
    keep("saturation", figures.saturation_scatter(found.saturation))
    keep("memory", figures.memory_lengths({"l0": found.memory}))
    cells = np.tanh(long.layers["l0"].cell[:, 0])
    unit = int(np.argmax(cells.std(0)))
    keep("cell", figures.cell_colouring(long.words, cells[:, unit], f"tanh of the cell state of unit {unit}"))

    with tempfile.TemporaryDirectory() as temporary:
        held_out = Path(temporary) / "held-out.txt"
        held_out.write_text(" ".join(text.split()[TRAINED:]))
        perplexities = {name: f.perplexity for name, f in forget_experiment(folder, held_out).items()}
        keep("forget", figures.forget_experiment(perplexities))
        index = build_index(model, [numbers], Path(temporary) / "index")
        span = SENTENCE.split().index("river")
        units = units_on(state_of(traced, index), span, span + 1, exact=False)
        on = (index.values(0, 120)[:, units] >= 0.3).mean(1)
        title = f"share of the {len(units)} units on at “river”"
        keep("search", figures.cell_colouring(text.split()[:120], on, title, signed=False))

    before = " ".join(SENTENCE.split()[:-1])
    words, scores = attribute(folder, before, "the", "contextual")
    keep("bars", model_figures.attribution_bars(words, scores, "for “the”, by contextual decomposition"))
    clean, other = "there was a gate of glass beside a", "there was a lamp of glass beside a"
    tracing = patch(model, clean, other, "river")
    keep("patching", model_figures.patching_map(tracing.words, tracing.effects))

    frame = to_frame(traced.layers, traced.words)
    figure = canvas.new_figure(6, 2.4)
    axes = figure.add_subplot()
    for unit, ink in zip((0, 4, 9), canvas.INK, strict=False):
        axes.plot(frame["l0"]["cell"][unit].to_numpy(), color=ink, label=f"unit {unit}")
    canvas.word_axis(axes, frame.index.get_level_values("word"))
    axes.set_ylabel("cell state", fontsize=8)
    axes.legend(fontsize=7, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    keep("frame", figure)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

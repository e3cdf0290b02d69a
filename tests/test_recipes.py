"""Recipes: which is chosen, and what each of its parts does."""

import re
from dataclasses import fields
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.numpy import load_file

from glassgate import GlassgateError
from glassgate.folder.config import ModelConfig
from glassgate.language import averaging, recipes
from glassgate.language import options as planning
from glassgate.language.model import NextWordModel
from glassgate.language.options import Plan, TrainOptions
from glassgate.language.recipes import RECIPES, Recipe
from glassgate.language.schedule import Streams
from glassgate.language.trainer import Trainer
from glassgate.language.training import train
from test_options import corpus

ALL_ON = {
    "dropout": 0.2,
    "weight_decay": 0.15,
    "weight_drop": 0.3,
    "activation_penalty": 2.0,
    "slowness_penalty": 1.0,
    "average": 0.5,
    "random_unroll": True,
    "spectral": True,
}
SMALL: dict[str, Any] = {"hidden": 8, "embedding": 8, "epochs": 3, "batch": 4, "unroll": 9, "threads": 1}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    words = np.random.default_rng(0).choice(
        ["the", "gate", "opens", "and", "closes", "while", "a", "baker", "bakes", "bread"], 3_000
    )
    path = tmp_path / "text.txt"
    path.write_text(" ".join(words))
    return path


def quiet() -> Console:
    return Console(file=StringIO())


def plan(tokens: int = 2_000, **options: Any) -> Plan:
    return Plan.make(TrainOptions(**options), corpus(tokens))


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_recipe_says_what_the_options_do_not(name: Any) -> None:
    recipe, made = RECIPES[name], plan(recipe=name)
    assert made.recipe == name
    for field in ("cell", "reset", "hidden", "layers", "embedding"):
        assert getattr(made.config, field) == getattr(recipe, field)
    assert made.config.dropout == (0.5 if recipe.dropout is None else recipe.dropout)
    for field in (
        "weight_drop",
        "activation_penalty",
        "slowness_penalty",
        "average",
        "random_unroll",
        "spectral",
    ):
        assert getattr(made, field) == getattr(recipe, field)


def test_options_go_before_the_recipe() -> None:
    made = plan(recipe="quality", hidden=200, **ALL_ON)
    assert made.config.hidden == 200
    assert (made.config.dropout, made.weight_decay) == (0.2, 0.15)
    assert (made.weight_drop, made.activation_penalty, made.slowness_penalty) == (0.3, 2.0, 1.0)
    assert (made.average, made.random_unroll, made.spectral) == (0.5, True, True)


def test_a_gru_that_is_asked_for_is_the_notes() -> None:
    assert plan(recipe="quick").config.reset == "before"  # the notes' GRU
    assert plan(recipe="quick", cell="gru").config.reset == "before"
    assert plan(recipe="quick", reset="before").config.reset == "before"
    assert plan(recipe="quality", cell="gru", reset="after").config.reset == "after"


def test_small_networks_are_not_regularised_unless_asked() -> None:
    made = plan(recipe="quality", hidden=20)
    assert (made.config.dropout, made.weight_drop, made.activation_penalty, made.slowness_penalty) == (0,) * 4
    assert made.weight_decay == 0.01
    assert made.average == 0
    assert not made.random_unroll
    assert not made.spectral
    assert made.config.embedding == 256
    assert plan(hidden=20, weight_drop=0.25).weight_drop == 0.25


@pytest.mark.parametrize("name", ["weight_drop", "average"])
@pytest.mark.parametrize("value", [-0.1, 1.0])
def test_shares_are_below_one(name: str, value: float) -> None:
    with pytest.raises(
        GlassgateError, match=f"^--{name.replace('_', '-')}: must be at least 0 and below 1, got"
    ):
        TrainOptions(**{name: value})


@pytest.mark.parametrize("name", ["activation_penalty", "slowness_penalty"])
def test_penalties_are_not_negative(name: str) -> None:
    with pytest.raises(GlassgateError, match=f"^--{name.replace('_', '-')}: must be at least 0, got -1"):
        TrainOptions(**{name: -1.0})


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_penalties_are_those_of_the_papers(cell: Any) -> None:
    config = ModelConfig(cell=cell, vocabulary=9, embedding=4, hidden=6, dropout=0.0)
    torch.manual_seed(0)
    model = NextWordModel(config).double().train()
    words, targets = torch.randint(9, (2, 5, 3)).unbind()
    state = tuple(part.double() for part in model.initial_state(3))
    loss, penalty, last = model.training_loss(words, targets, state, activation=2.0, slowness=3.0)
    plain, expected_last = model.loss(words, targets, state, "mean")
    h = model.rnn(model.embedding(words), state if cell == "lstm" else state[0])[0].detach().numpy()
    expected = 2 * np.mean(h**2) + 3 * np.mean(np.diff(h, axis=0) ** 2)
    # Sums of at most 90 squares below 1 in float64.
    assert penalty.item() == pytest.approx(expected, rel=1e-13)
    assert torch.equal(loss, plain)
    assert all(map(torch.equal, last, expected_last))
    assert model.training_loss(words, targets, state)[1].item() == 0
    one = model.training_loss(words[:1], targets[:1], state, slowness=3.0)[1]  # no change within one step
    assert one.item() == 0


def test_the_table_of_the_documentation_is_that_of_the_recipes() -> None:
    """docs/language.md, the rows of `Recipes`: the numbers that a newcomer reads."""
    table = {}
    for line in (Path(__file__).parents[1] / "docs" / "language.md").read_text().splitlines():
        if line.startswith("| `--") and line.count("|") == 5:
            names, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            for number, name in enumerate(re.findall(r"`--([a-z-]+)`", names)):
                values = [cell.split(",")[number if "," in names else 0].strip() for cell in cells[:2]]
                table[name.replace("-", "_")] = values
    assert table.keys() == {field.name for field in fields(Recipe)} - {"reset"}
    left_open = {"by text and epochs", "by the text"}
    for column, recipe in enumerate(RECIPES.values()):
        for name, values in table.items():
            value, told = getattr(recipe, name), values[column]
            if told in left_open:
                assert value is None, name
            elif isinstance(value, bool):
                assert told == ("yes" if value else "no"), name
            else:
                assert told == (value if isinstance(value, str) else f"{value:g}"), name
    assert list(RECIPES) == ["quick", "quality"]
    assert RECIPES["quick"].reset == "before"  # "the notes'", says the table


def test_ar_sees_what_is_dropped_and_tar_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = NextWordModel(ModelConfig(cell="lstm", vocabulary=9, embedding=4, hidden=6, dropout=0.5)).train()
    words, state = torch.randint(9, (5, 3)), model.initial_state(3)
    states: list[torch.Tensor] = []
    model.rnn.register_forward_hook(lambda *call: states.append(call[-1][0].detach()))
    penalty = model.training_loss(words, words, state, slowness=1.0)[1].item()
    # float32: sums of 72 squares, each rounded; 72 x 2^-24 is far below 1e-5.
    assert penalty == pytest.approx(float((states[0][1:] - states[0][:-1]).square().mean()), rel=1e-5)
    dropped: list[torch.Tensor] = []
    drop = NextWordModel._drop

    def watched(self: NextWordModel, x: torch.Tensor) -> torch.Tensor:
        made = drop(self, x)
        dropped.append(made.detach())
        return made

    monkeypatch.setattr(NextWordModel, "_drop", watched)
    penalty = model.training_loss(words, words, state, activation=3.0)[1].item()
    _, h = dropped  # of the embedding, and of the last states: twice as large or nothing
    kept = h != 0
    assert 0 < kept.sum() < kept.numel()
    assert torch.equal(h[kept], 2 * states[1][kept])
    assert penalty == pytest.approx(3 * float(h.double().square().mean()), rel=1e-5)  # as above


def test_recurrent_weights_are_dropped_in_training_alone() -> None:
    config = ModelConfig(cell="lstm", vocabulary=9, embedding=4, hidden=6, dropout=0.0)
    model = NextWordModel(config, weight_drop=0.5)
    words, state = torch.randint(9, (5, 3)), model.initial_state(3)
    results = [model.train()(words, state)[0] for _ in range(2)]
    assert not torch.equal(*results)
    first = [model.train()(words[:1], state)[0] for _ in range(2)]
    assert torch.equal(*first)  # from a state of zeros no recurrent weight is met
    assert torch.equal(*[model.eval()(words, state)[0] for _ in range(2)])


@pytest.mark.parametrize("unroll", [1, 3, 4, 35])
def test_pieces_of_random_length_are_the_text_in_order(unroll: int) -> None:
    tokens = np.arange(1_000, dtype=np.uint16)
    streams = Streams(tokens, batch=3, unroll=unroll, seed=5, random=True)
    fixed = Streams(tokens, batch=3, unroll=unroll, seed=5)
    assert len(streams) == len(fixed)
    lengths = []
    for epoch in range(2):
        pieces = [streams.read(epoch * len(streams) + step) for step in range(len(streams))]
        whole = [fixed.read(epoch * len(fixed) + step) for step in range(len(fixed))]
        for part in (0, 1):
            both = (torch.cat([piece[part] for piece in read]) for read in (pieces, whole))
            assert torch.equal(*both)
        lengths.append([len(words) for words, _ in pieces])
        assert min(lengths[-1]) >= 1
        assert max(lengths[-1]) <= unroll + 2 * (unroll // 4)
    assert (lengths[0] == lengths[1]) == (unroll < 4)
    again = Streams(tokens, batch=3, unroll=unroll, seed=5, random=True)
    assert torch.equal(again.read(1)[0], streams.read(1)[0])


def trained(out: Path, text: Path, **options: Any) -> dict[str, Any]:
    outcome = train([text], out, TrainOptions(**SMALL | options), console=quiet())
    assert outcome.finished
    return load_file(out / "model.safetensors")


def test_the_average_is_the_mean_of_the_weights(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen by a model that is asked to be the average: each of its parts is taken down as it goes in."""
    seen: list[dict[str, Any]] = []
    averages: list[averaging.Average] = []
    add = averaging.Average.add

    def watched(average: averaging.Average) -> None:
        add(average)
        seen.append({name: values.astype(np.float64) for name, values in average.model.arrays().items()})
        averages.append(average)

    monkeypatch.setattr(averaging, "EVERY", 5)
    monkeypatch.setattr(averaging.Average, "add", watched)
    trained(tmp_path / "m", text, average=0.5)
    steps = 3 * -(-(2_700 // 4) // 9)
    assert abs(len(seen) - steps / 2 / 5) <= 1
    for name, mean in averages[-1].means.items():
        expected = np.mean([weights[name] for weights in seen], axis=0)
        # Each of the n additions rounds a number of the size of the mean, and the change that is added.
        close = 2 * len(seen) * 2.0**-24 * np.abs([weights[name] for weights in seen]).max()
        np.testing.assert_allclose(mean, expected, rtol=0, atol=close)


def test_the_better_of_weights_and_average_is_the_model(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(averaging, "EVERY", 5)
    measured: list[float] = []
    monkeypatch.setattr(
        "glassgate.language.trainer.perplexity",
        lambda *_: (measured.append(50.0 - len(measured)), measured[-1])[1],
    )
    means: list[averaging.Average] = []
    init = averaging.Average.__init__
    monkeypatch.setattr(
        averaging.Average, "__init__", lambda self, model: (means.append(self), init(self, model))[1]
    )
    weights = trained(tmp_path / "m", text, average=0.5)  # what is measured later is better: the average
    for name, values in means[0].means.items():
        assert np.array_equal(weights[name], values), name


def test_a_training_with_all_on_resumes_to_the_same_bits(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(averaging, "EVERY", 5)
    whole = trained(tmp_path / "whole", text, **ALL_ON)
    options = TrainOptions(**SMALL | ALL_ON)
    steps, step = [0], NextWordModel.training_loss

    def killed(*arguments: Any, **further: Any) -> Any:
        steps[0] += 1
        if steps[0] in (130, 200):
            raise RuntimeError("killed")
        return step(*arguments, **further)

    monkeypatch.setattr(NextWordModel, "training_loss", killed)
    out, log = tmp_path / "parts", quiet()
    for run in range(2):
        with pytest.raises(RuntimeError, match="killed"):
            train([text], out, options, resume=run > 0, console=log, save_every=0)
    assert train([text], out, options, resume=True, console=log, save_every=0).finished
    parts = load_file(out / "model.safetensors")
    for name, values in whole.items():
        assert np.array_equal(parts[name], values), name


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512", "avx512bf16", "amx"])
def test_the_precision_follows_the_processor_and_the_hidden_size(
    monkeypatch: pytest.MonkeyPatch, isa: str
) -> None:
    monkeypatch.setattr(recipes, "isa", lambda: isa)
    fast = isa in ("avx512bf16", "amx")
    assert [plan(hidden=hidden).precision for hidden in (99, 100)] == ["fp32", "bf16" if fast else "fp32"]
    assert plan(hidden=20, precision="bf16").precision == "bf16"
    assert plan(hidden=512, precision="fp32").precision == "fp32"


@pytest.mark.parametrize(
    ("tokens", "budget", "precision", "expected"),
    [
        (2_000_000, {"minutes": 15}, "fp32", "quick"),  # 300 microseconds a word: 1.5 epochs
        (2_000_000, {"minutes": 51}, "fp32", "quality"),  # 5.1
        (2_000_000, {"minutes": 49}, "fp32", "quick"),  # 4.9
        (2_000_000, {"minutes": 15}, "bf16", "quality"),  # 64 microseconds a word: 7 epochs
        (2_000_000, {}, "bf16", "quick"),  # ten minutes: 4.7
        (2_000_000, {"epochs": 5}, "fp32", "quality"),
        (2_000_000, {"epochs": 4}, "fp32", "quick"),
        (2_000_000, {"epochs": 20, "minutes": 1}, "bf16", "quick"),
        (1_499_999, {"epochs": 15}, "fp32", "quick"),
        (1_500_000, {"epochs": 15}, "fp32", "quality"),
        (2_000_000, {"epochs": 15, "hidden": 512}, "fp32", "quick"),
    ],
)
def test_auto_looks_at_the_text_and_the_budget(
    tokens: int, budget: dict[str, Any], precision: Any, expected: str
) -> None:
    made = plan(tokens, precision=precision, **budget)
    assert made.recipe == expected
    assert made.config.hidden == {"quick": 512, "quality": 1024}[expected]


def test_a_resumed_training_keeps_the_recipe_that_was_chosen(
    monkeypatch: pytest.MonkeyPatch, text: Path, tmp_path: Path
) -> None:
    """Another machine, on which `auto` would choose another, goes on with the same network."""
    seen = []

    def interrupted(self: Trainer) -> Any:
        seen.append((self.plan.recipe, self.plan.config.hidden))
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "run", interrupted)
    for chosen in ("quality", "quick"):
        monkeypatch.setattr(planning, "choose_recipe", lambda *_, chosen=chosen: chosen)
        made = TrainOptions(epochs=1, embedding=8)
        assert not train(
            [text], tmp_path / "m", made, resume=chosen == "quick", console=quiet(), given={"epochs": 1}
        ).finished
    assert seen == [("quality", 1024)] * 2

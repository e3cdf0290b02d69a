"""Attributions: parts that sum to the logit; scalar code, finite differences and closed forms beside them."""

import math
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import glassgate
from by_hand import model_in_float64
from glassgate import GlassgateError
from glassgate.edits import Edit
from glassgate.lens import attribute, contextual
from glassgate.lens.patching import patch
from lens_models import config_and_weights, logit, model, vocabulary

FORMS: list[dict[str, Any]] = [
    {"cell": "lstm"},
    {"cell": "lstm", "bias": False, "tied": False, "layers": 1},
    {"cell": "gru", "reset": "before"},
    {"cell": "gru", "reset": "after"},
    {"cell": "gru", "reset": "after", "bias": False, "embedding": 5},
    {"cell": "lstm", "output": "adaptive", "cutoffs": (3, 6), "embedding_cutoffs": (6,)},
]
NUMBERS = [1, 4, 3, 7, 4, 9, 5]
SPANS = [(0, 7), (2, 5), (6, 7), (0, 1)]


def own_logits(options: dict[str, Any], words: list[int]) -> list[float]:
    """Return the logits after the text by the runtime, which the notes' equations hold to."""
    config, weights = config_and_weights(**options)
    runtime = model(**options)
    state = runtime.network.initial_state(1)
    runtime.network.run(np.array(NUMBERS)[:, None], state)
    return [logit(config, weights, state[0][-1, 0], word) for word in words]


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_the_parts_sum_to_the_logit(options: dict[str, Any]) -> None:
    """To 1e-10: a few hundred operations on numbers below 10, in float64, are off by 1e-13."""
    config, weights = config_and_weights(**options)
    found = contextual.decompose(config, weights, NUMBERS, SPANS, [2, 8])
    for sums in found.logits:
        np.testing.assert_allclose(sums, own_logits(options, [2, 8]), rtol=0, atol=1e-10)
    assert np.abs(found.relevant).min() > 1e-4, "a part is nothing: the sum says little"


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_nothing_is_left_of_a_phrase_that_is_the_whole_text(options: dict[str, Any]) -> None:
    """The biases alone, where no word was read, are the phrase's at the phrase's steps."""
    config, weights = config_and_weights(**options)
    found = contextual.decompose(config, weights, NUMBERS, [(0, 7)], [2])
    assert found.rest.tolist() == [[0.0]]


def shapley(act: Any, terms: dict[str, float], bias: float) -> dict[str, float]:
    """Return each term's mean share of an activation over all orders, the bias first."""
    shares = dict.fromkeys(terms, 0.0)
    orders = list(permutations(terms))
    for order in orders:
        total = bias
        for name in order:
            shares[name] += (act(total + terms[name]) - act(total)) / len(orders)
            total += terms[name]
    return shares | {"b": act(bias)}


def sigmoid(a: float) -> float:
    return 1 / (1 + math.exp(-a))


def product(a: dict[str, float], b: dict[str, float]) -> dict[tuple[str, str], float]:
    return {(k, m): a[k] * b[m] for k in a for m in b}


@pytest.mark.parametrize(
    "options",
    [{"cell": "lstm"}, {"cell": "gru", "reset": "before"}, {"cell": "gru", "reset": "after"}],
    ids=str,
)
def test_one_unit_follows_the_paper_term_by_term(options: dict[str, Any]) -> None:
    """Scalar code of its own, with all cross terms written out: the phrase keeps those without the rest."""
    sizes = {"embedding": 1, "hidden": 1, "layers": 1, "tied": False}
    config, weights = config_and_weights(**options, **sizes)
    start, stop = 2, 4
    letters = glassgate.equations.from_torch_layout(
        *(weights[f"rnn.{n}_l0"] for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")), config.reset
    )
    W, U, b = ({k: v.item() for k, v in letters[name].items()} for name in ("W", "U", "b"))
    p, r, Cp, Cr = 0.0, 0.0, 0.0, 0.0
    for t, number in enumerate(NUMBERS):
        x, inside = weights["embedding.weight"][number, 0], start <= t < stop

        def terms(k: str, hp: float, hr: float, x: float = x, inside: bool = inside) -> dict[str, float]:
            return {"p": W[k] * hp + U[k] * x * inside, "r": W[k] * hr + U[k] * x * (not inside)}

        def split(cross: dict[tuple[str, str], float], bb: bool) -> tuple[float, float]:
            """The phrase's: p and b without r; b*b where asked. The rest: all else."""
            own = sum(v for k, v in cross.items() if "r" not in k and (k != ("b", "b") or bb))
            return own, sum(cross.values()) - own

        if config.cell == "lstm":
            f, i = (shapley(sigmoid, terms(k, p, r), b[k]) for k in "fi")
            g = shapley(math.tanh, terms("g", p, r), b["g"])
            o = sigmoid(sum(terms("o", p, r).values()) + b["o"])
            kept, new = split(product(f, {"p": Cp, "r": Cr}), False), split(product(i, g), inside)
            Cp, Cr = kept[0] + new[0], kept[1] + new[1]
            shown = shapley(math.tanh, {"p": Cp, "r": Cr}, 0.0)
            p, r = o * shown["p"], o * shown["r"]
            continue
        reset, u = (shapley(sigmoid, terms(k, p, r), b[k]) for k in "ru")
        if config.reset == "before":
            seen = split(product(reset, {"p": p, "r": r}), False)
            g = shapley(math.tanh, terms("g", *seen), b["g"])
        else:
            after = letters["b_after"].item()
            seen = split(product(reset, {"p": W["g"] * p, "r": W["g"] * r}), False)
            inner = {
                "p": U["g"] * x * inside + seen[0] + reset["p"] * after,
                "r": U["g"] * x * (not inside) + seen[1] + reset["r"] * after,
            }
            g = shapley(math.tanh, inner, b["g"] + reset["b"] * after)
        keep = {"p": -u["p"], "r": -u["r"], "b": 1 - u["b"]}
        kept, new = split(product(keep, {"p": p, "r": r}), False), split(product(u, g), inside)
        p, r = kept[0] + new[0], kept[1] + new[1]
    found = contextual.decompose(config, weights, NUMBERS, [(start, stop)], [6])
    V = weights["output.weight"][6, 0]
    # 7 steps of some 50 operations in float64, each off by 1e-16
    assert found.relevant.item() == pytest.approx(V * p, abs=1e-12)
    assert found.rest.item() == pytest.approx(V * r, abs=1e-12)


def test_bad_spans_and_words_are_told() -> None:
    config, weights = config_and_weights()
    for spans in ([], [(2, 2)], [(0, 8)]):
        with pytest.raises(GlassgateError, match="spans within a text of 7 words expected"):
            contextual.decompose(config, weights, NUMBERS, spans, [0])
    with pytest.raises(GlassgateError, match="word numbers from 0 to"):
        contextual.decompose(config, weights, [1], [(0, 1)], [99])


@pytest.mark.parametrize("options", FORMS[:4], ids=str)
def test_gradients_in_evaluation_mode(options: dict[str, Any]) -> None:
    config, weights = config_and_weights(**options)
    own = model_in_float64(config, weights)
    function = attribute.logit_of(own, 2)
    x = own.embedding(torch.tensor(NUMBERS)[:, None]).detach()
    assert function(x).item() == pytest.approx(own_logits(options, [2])[0], abs=1e-12)
    found = attribute.gradient_times_input(function, x)
    for step, unit in ((0, 1), (6, 3)):
        moved = x.clone()
        moved[step, 0, unit] += 1e-5
        back = x.clone()
        back[step, 0, unit] -= 1e-5
        slope = (function(moved) - function(back)).item() / 2e-5
        # Central differences are off by h^2 times the third derivative, 1e-10, and by rounding / h, 1e-11.
        assert found[step, 0, unit].item() == pytest.approx(x[step, 0, unit].item() * slope, abs=1e-8)
    whole = attribute.integrated_gradients(function, x).sum().item()
    gone = (function(x) - function(torch.zeros_like(x))).item()
    # Gauss-Legendre of 64 nodes on an analytic function whose poles (of tanh) lie about a unit off
    # converges as rho^-128 with rho > 1.1: 5e-6 at worst; here it is far better.
    assert whole == pytest.approx(gone, abs=1e-8)


def test_integrated_gradients_from_a_baseline() -> None:
    x, base = torch.tensor([2.0, -1.0], dtype=torch.float64), torch.tensor([1.0, 1.0], dtype=torch.float64)
    found = attribute.integrated_gradients(lambda v: v[0] ** 3 + v[0] * v[1], x, base, steps=2)
    # By hand along (1 + a, 1 - 2a): d/dv0 = 3 (1+a)^2 + 1 - 2a -> 7 + 0; d/dv1 = 1 + a -> 1.5, times -2.
    assert found.tolist() == pytest.approx([7.0, -3.0], abs=1e-14)
    with pytest.raises(GlassgateError, match="steps must be at least 1, got 0"):
        attribute.integrated_gradients(lambda v: v.sum(), x, steps=0)


def test_captum_works_on_the_layers_in_evaluation_mode() -> None:
    """What captum finds is what the functions here find."""
    from captum.attr import InputXGradient, IntegratedGradients

    for layer in (glassgate.LSTM(3, 4, 2), glassgate.GRU(3, 4, reset="before"), glassgate.GRU(3, 4)):
        layer = layer.double().eval()
        x = torch.randn(6, 1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

        def function(x: torch.Tensor, layer: Any = layer) -> torch.Tensor:
            return layer(x.transpose(0, 1))[0][-1, :, 2]  # captum's batch stands first

        first = x.transpose(0, 1).requires_grad_()  # captum warns of inputs without gradients
        own = attribute.gradient_times_input(function, first)
        torch.testing.assert_close(InputXGradient(function).attribute(first), own, rtol=0, atol=1e-14)
        theirs = IntegratedGradients(function).attribute(first, n_steps=64)
        own = attribute.integrated_gradients(function, first)
        # Both are Gauss-Legendre of 64 nodes; captum rounds its to float32, off by 6e-8 of the values.
        torch.testing.assert_close(theirs, own, rtol=0, atol=1e-7 * own.abs().max().item())


def test_attribution_from_a_folder(tmp_path: Path) -> None:
    config, weights = config_and_weights("gru", reset="before")
    small = {n: w.astype(np.float32) for n, w in weights.items()}
    (tmp_path / "config.json").write_text(config.to_json())
    vocabulary().save(tmp_path / "tokenizer.json")
    save_file(small, tmp_path / "model.safetensors")
    read = glassgate.load(tmp_path)
    numbers = [read.vocabulary.eos, *read.numbers("the keeper opens")]
    target = read.numbers("gate")[0]
    double = {n: w.astype(np.float64) for n, w in small.items()}
    own = model_in_float64(config, double)
    function = attribute.logit_of(own, target)
    x = own.embedding(torch.tensor(numbers)[:, None]).detach()
    expected = {
        "gradient": attribute.gradient_times_input(function, x).sum(-1)[:, 0],
        "integrated": attribute.integrated_gradients(function, x).sum(-1)[:, 0],
        "contextual": contextual.decompose(
            config,
            double,
            numbers,
            [(t, t + 1) for t in range(4)],
            [target],  # type: ignore[arg-type]
        ).relevant[:, 0],
    }
    for method, scores in expected.items():
        words, found = attribute.attribute(tmp_path, "the keeper opens", "gate", method)  # type: ignore[arg-type]
        assert words == ("<eos>", "the", "keeper", "opens")
        np.testing.assert_allclose(found, np.asarray(scores), rtol=0, atol=1e-14)
    with pytest.raises(
        GlassgateError, match="method must be gradient, integrated or contextual, got 'magic'"
    ):
        attribute.attribute(tmp_path, "the", "gate", "magic")  # type: ignore[arg-type]
    with pytest.raises(GlassgateError, match="one next word expected, got 'the gate'"):
        attribute.attribute(tmp_path, "the", "the gate")


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_patching_map(cell: str) -> None:
    own = model(cell)
    text, source = "the keeper of glass", "the lamp of glass"
    found = patch(own, text, source, "gate")
    assert found.before == pytest.approx(math.log(dict(own.predict(text, 99))["gate"]), abs=1e-12)
    assert found.source == pytest.approx(math.log(dict(own.predict(source, 99))["gate"]), abs=1e-12)
    for layer, gates in found.effects.items():
        for gate, effects in gates.items():
            # <eos> and "the" are the same in both: what is put in their place stood there, to the bit.
            assert effects[:2].tolist() == [0.0, 0.0], (layer, gate)
    # The last hidden state of the last layer is all that the prediction sees.
    assert found.effects["l1"]["hidden"][-1] == pytest.approx(found.source - found.before, abs=1e-12)
    trace = own.trace(source).layers
    edit = Edit("candidate", replace=trace["l0"], steps=slice(2, 3), layer="l0")
    edited = dict(own.trace(text, [edit]).best(99))["gate"]
    assert found.effects["l0"]["candidate"][2] == pytest.approx(math.log(edited) - found.before, abs=1e-12)
    assert abs(found.effects["l0"]["candidate"][2]) > 1e-6


def test_patching_needs_texts_of_one_length() -> None:
    with pytest.raises(GlassgateError, match="texts of as many words expected, got 3 and 2"):
        patch(model(), "the gate", "the", "lamp")
    with pytest.raises(GlassgateError, match="one word to watch expected, got 'the lamp'"):
        patch(model(), "the", "gate", "the lamp")

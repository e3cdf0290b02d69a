"""The next-word model against the notes' equations, configuration by configuration."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from by_hand import drawn_weights, probabilities
from glassgate.folder.config import ModelConfig
from glassgate.language.model import NextWordModel

STEPS, STREAMS = 6, 2


@st.composite
def configurations(draw: st.DrawFn) -> ModelConfig:
    hidden, tied = draw(st.integers(1, 9)), draw(st.booleans())
    embedding = draw(st.one_of(st.just(hidden), st.integers(1, 16)))
    words = draw(st.integers(2, 40))
    cutoffs = draw(st.lists(st.integers(1, words - 1), max_size=3, unique=True))
    narrow = draw(st.sets(st.sampled_from(cutoffs), max_size=2)) if cutoffs and tied else set()
    if embedding < 4 ** len(narrow):
        narrow = set()
    return ModelConfig(
        cell=draw(st.sampled_from(["lstm", "gru"])),
        reset=draw(st.sampled_from(["before", "after"])),
        vocabulary=words,
        embedding=embedding,
        hidden=hidden,
        layers=draw(st.integers(1, 3)),
        bias=draw(st.booleans()),
        tied=tied,
        output="adaptive" if cutoffs else "full",
        cutoffs=tuple(sorted(cutoffs)),
        embedding_cutoffs=tuple(sorted(narrow)),
        dropout=draw(st.sampled_from([0.0, 0.5])),
    )


@settings(max_examples=60, deadline=None)
@given(configurations(), st.integers(0, 2**31 - 1))
def test_the_probabilities_are_those_of_the_equations(config: ModelConfig, seed: int) -> None:
    weights = drawn_weights(config, seed)
    words = np.random.default_rng(seed).integers(config.vocabulary, size=(STEPS, STREAMS))
    model = NextWordModel(config).double().eval()
    model.load_arrays(weights)
    with torch.inference_mode():
        start = tuple(part.double() for part in model.initial_state(STREAMS))
        h, _ = model(torch.from_numpy(words), start)
        logs = model.output.log_probabilities(h)
    expected = probabilities(config, weights, words)
    # A sum of at most 20 products below 1 errs by 20 x 20 eps = 9e-14, and gates and states, being bounded,
    # pass on less than they got; over 1,500 drawn configurations the largest error was 4e-15. A wrong
    # formula shows in the first digits.
    np.testing.assert_allclose(logs.exp().numpy(), expected, rtol=1e-12, atol=0)
    # The loss is -log y of the target, row by row of [T, N].
    targets = words[::-1].copy()
    with torch.inference_mode():
        loss, _ = model.loss(torch.from_numpy(words), torch.from_numpy(targets), start)
    own = np.take_along_axis(expected, targets[..., None], -1)[..., 0]
    np.testing.assert_allclose(loss.numpy(), -np.log(own).flatten(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_carried_state_goes_on_where_the_sequence_was_cut(cell: str) -> None:
    config = ModelConfig(cell=cell, vocabulary=30, embedding=6, hidden=8, layers=2)  # type: ignore[arg-type]
    model = NextWordModel(config).double().eval()
    words = torch.arange(20).view(10, 2)
    start = tuple(part.double() for part in model.initial_state(2))
    with torch.inference_mode():
        whole, end = model(words, start)
        first, middle = model(words[:4], start)
        second, last = model(words[4:], middle)
    # The same sums over other numbers of rows: a few roundings of numbers below 1.
    torch.testing.assert_close(torch.cat([first, second]), whole, rtol=0, atol=1e-14)
    for found, expected in zip(last, end, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


def test_the_exercise_has_4400_weights_beside_the_embedding() -> None:
    model = NextWordModel(
        ModelConfig(cell="lstm", vocabulary=100, embedding=10, hidden=20, bias=False, tied=False)
    )
    counts = {name: p.numel() for name, p in model.named_parameters()}
    assert counts == {
        "embedding.weight": 1000,
        "rnn.weight_ih_l0": 800,
        "rnn.weight_hh_l0": 1600,
        "output.weight": 2000,
    }
    assert sum(counts.values()) - counts["embedding.weight"] == 4400


@settings(max_examples=60, deadline=None)
@given(configurations())
def test_the_parameters_are_those_of_the_configuration(config: ModelConfig) -> None:
    """Each trainable tensor once, a tied one too; the names and shapes that model.safetensors has."""
    model = NextWordModel(config)
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == config.tensors()
    arrays = model.arrays()
    assert {name: values.shape for name, values in arrays.items()} == config.tensors()
    other = NextWordModel(config)
    other.load_arrays(arrays)
    for name, values in other.arrays().items():
        np.testing.assert_array_equal(values, arrays[name])
        assert not np.shares_memory(values, arrays[name])


def model_with_dropout(cell: str = "lstm", layers: int = 2, dropout: float = 0.5) -> NextWordModel:
    torch.manual_seed(2)
    config = ModelConfig(
        cell=cell,  # type: ignore[arg-type]
        vocabulary=50,
        embedding=40,
        hidden=40,
        layers=layers,
        dropout=dropout,
    )
    return NextWordModel(config)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_dropout_is_off_in_evaluation(cell: str) -> None:
    dropped, plain = model_with_dropout(cell), model_with_dropout(cell, dropout=0.0)
    plain.load_arrays(dropped.arrays())
    words = torch.arange(12).view(6, 2)
    start = plain.initial_state(2)
    in_training = dropped(words, start)[0]
    assert not torch.equal(dropped.train()(words, start)[0], in_training)
    assert torch.equal(dropped.eval()(words, start)[0], plain.eval()(words, start)[0])
    assert torch.equal(plain.train()(words, start)[0], plain.eval()(words, start)[0])


def test_dropout_masks_are_locked_over_time_and_scaled() -> None:
    """The same units of a stream are zero at all steps; the rest is 1 / (1 - dropout) as large."""
    dropped, plain = model_with_dropout(layers=1), model_with_dropout(layers=1, dropout=0.0)
    seen: dict[str, Any] = {}
    dropped.rnn.register_forward_pre_hook(lambda _, inputs: seen.update(x=inputs[0]))
    words, start = torch.arange(12).view(6, 2), plain.initial_state(2)
    torch.manual_seed(9)
    h = dropped(words, start)[0]
    raw = plain.embedding(words)
    for values, before in ((seen["x"], raw), (h, None)):
        kept = values != 0
        assert torch.equal(kept, kept[:1].expand_as(kept))
        assert not torch.equal(kept[0, 0], kept[0, 1])  # each stream has its own
        # 80 units kept with probability 1/2: a share outside of 0.25 to 0.75 has a chance below 1e-5.
        assert 0.25 < float(kept[0].float().mean()) < 0.75
        if before is not None:
            assert torch.equal(values, torch.where(kept, 2 * before, torch.zeros(())))
    torch.manual_seed(9)
    assert torch.equal(dropped(words, start)[0], h)
    assert not torch.equal(dropped(words, start)[0], h)


def test_a_fresh_lstm_remembers() -> None:
    """The forget gate starts near sigmoid(1): one of its two biases is 1, the other torch's draw."""
    model = NextWordModel(ModelConfig(cell="lstm", vocabulary=9, embedding=4, hidden=5, layers=2))
    for layer in range(2):
        bias = model.rnn.get_parameter(f"bias_ih_l{layer}")
        assert torch.equal(bias[5:10], torch.ones(5))
        assert bool((bias[:5].abs() < 0.5).all())
        assert bool((bias[10:].abs() < 0.5).all())


def test_a_tied_output_is_the_embedding_itself() -> None:
    model = NextWordModel(ModelConfig(cell="gru", vocabulary=9, embedding=4, hidden=5))
    assert model.output.weight is model.embedding.weight
    untied = NextWordModel(ModelConfig(cell="gru", vocabulary=9, embedding=4, hidden=5, tied=False))
    assert untied.output.weight is not untied.embedding.weight
    assert untied.projection is None


def test_the_initial_state_is_zero_in_every_place() -> None:
    for cell, parts in (("lstm", 2), ("gru", 1)):
        config = ModelConfig(cell=cell, vocabulary=9, embedding=4, hidden=5, layers=3)  # type: ignore[arg-type]
        state = NextWordModel(config).initial_state(7)
        assert len(state) == parts
        for part in state:
            assert torch.equal(part, torch.zeros(3, 7, 5))

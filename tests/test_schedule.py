"""The learning rate over a training, and the order in which it reads its text."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glassgate.language.schedule import Streams, one_cycle

# Each token is its own place in the text, so that what is read tells where it was read.
sizes = st.tuples(
    st.integers(2, 300), st.integers(1, 12), st.integers(1, 40), st.integers(0, 2**31 - 1)
).filter(lambda drawn: drawn[0] >= 2 * drawn[1])


def epoch_of(streams: Streams, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Return all that an epoch reads: words and targets [length, N]."""
    steps = [streams.read(epoch * len(streams) + k) for k in range(len(streams))]
    words, targets = (torch.cat(parts).numpy() for parts in zip(*steps, strict=True))
    return words, targets


@given(sizes, st.integers(0, 5))
def test_an_epoch_reads_the_ring_once_in_order(drawn: tuple[int, int, int, int], epoch: int) -> None:
    count, batch, unroll, seed = drawn
    streams = Streams(np.arange(count, dtype=np.uint16), batch, unroll, seed)
    words, targets = epoch_of(streams, epoch)
    length = (count - 1) // batch
    assert words.shape == targets.shape == (length, batch)
    # Along a stream, and from one stream to the next, the words follow each other on the ring.
    read = words.T.reshape(-1)
    np.testing.assert_array_equal(read, (read[0] + np.arange(batch * length)) % count)
    assert len(set(read.tolist())) == batch * length
    assert count - batch * length <= batch, "fewer than one word a stream is left out"
    # A target is the word that follows; from one step to the next the targets become the words.
    np.testing.assert_array_equal(targets, (words + 1) % count)
    np.testing.assert_array_equal(targets[:-1], words[1:])


@given(sizes, st.integers(0, 10_000))
def test_a_step_depends_on_its_number_alone(drawn: tuple[int, int, int, int], step: int) -> None:
    count, batch, unroll, seed = drawn
    tokens = np.arange(count, dtype=np.uint32)
    fresh, used = Streams(tokens, batch, unroll, seed), Streams(tokens, batch, unroll, seed)
    np.random.seed(step)
    torch.manual_seed(step)
    for other in (0, step + 1, 3):
        used.read(other)
    for one, two in zip(fresh.read(step), used.read(step), strict=True):
        assert one.dtype == torch.int64
        assert torch.equal(one, two)
    # All steps are T long but the last of an epoch, which is what remains.
    rows = len(fresh.read(step)[0])
    last = (step + 1) % len(fresh) == 0
    assert rows == (fresh.length - unroll * (len(fresh) - 1) if last else unroll)


def starts(seed: int, epochs: int, unroll: int) -> list[int]:
    """Where each epoch's first stream begins, on a ring of 100,000 words."""
    streams = Streams(np.arange(100_000, dtype=np.uint32), 10, unroll, seed)
    return [int(streams.read(epoch * len(streams))[0][0, 0]) for epoch in range(epochs)]


def test_the_start_is_drawn_from_the_seed() -> None:
    drawn = [starts(seed, 1, 1000)[0] for seed in range(60)]
    assert drawn == [starts(seed, 1, 1000)[0] for seed in range(60)]
    assert len(set(drawn)) == 60
    # All over the ring: of 60 uniform draws the mean is 0.5 +- 0.037, and five times that is 0.19.
    assert 0.31 < np.mean(drawn) / 100_000 < 0.69


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_word_is_met_again_an_epoch_later(seed: int) -> None:
    """Each epoch starts a little further on, by less than the unroll length: the borders of pieces move."""
    first, *others = starts(seed, 40, 1000)
    moved = np.array([(start - first + 1000) % 100_000 - 1000 for start in others])
    assert len(set(moved.tolist())) > 30
    assert (np.abs(moved) < 1000).all()


def test_the_global_generators_are_left_alone() -> None:
    streams = Streams(np.arange(100, dtype=np.uint16), 4, 5, 1)
    torch.manual_seed(7)
    np.random.seed(7)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(7)
    np.random.seed(7)
    streams.read(3)
    assert (torch.rand(1), np.random.rand()) == expected


def test_the_highest_word_number_is_read_as_it_is() -> None:
    tokens = np.full(10, 2**16 - 1, np.uint16)
    words, targets = Streams(tokens, 2, 3, 1).read(0)
    assert set(words.flatten().tolist()) | set(targets.flatten().tolist()) == {65_535}


@pytest.mark.parametrize(
    ("progress", "rate"),
    [(0, 0.04), (0.025, 0.28), (0.05, 0.52), (0.1, 1.0), (0.325, 0.75025), (0.55, 0.5005), (1, 0.001)],
)
def test_the_rate_at_its_corners(progress: float, rate: float) -> None:
    # By hand: 0.04 + 0.96 p / 0.1 on the way up; 0.001 + 0.999 (1 - p) / 0.9 down.
    assert one_cycle(progress) == pytest.approx(rate, rel=1e-12)  # some roundings of 1.1e-16


def test_the_rate_rises_then_falls_without_a_jump() -> None:
    places = np.linspace(0, 1, 100_001)
    rates = np.array([one_cycle(float(p)) for p in places])
    peak = int(rates.argmax())
    assert places[peak] == pytest.approx(0.1)
    assert (np.diff(rates[: peak + 1]) > 0).all()
    assert (np.diff(rates[peak:]) < 0).all()
    # The slope is 0.96 / 0.1 = 9.6 up, and 0.999 / 0.9 = 1.11 down.
    assert np.abs(np.diff(rates)).max() <= 9.6e-5 * (1 + 1e-9)
    assert rates.min() == rates[-1] > 0
    assert math.isclose(rates.max(), 1)

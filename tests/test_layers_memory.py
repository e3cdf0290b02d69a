"""Large results use memory again once nobody holds them, and never before."""

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch

import glassgate
from glassgate.layers import memory

LARGE = (1 << 20) // 4  # float32 values


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_known", [])


def test_what_nobody_holds_is_given_out_again() -> None:
    like = torch.zeros(1)
    first = memory.empty(like, LARGE)
    at = first.data_ptr()
    del first
    again = memory.empty(like, 2, LARGE // 2)
    assert again.data_ptr() == at
    assert again.shape == (2, LARGE // 2)
    assert again.is_contiguous()
    assert not again._is_view()


@pytest.mark.parametrize("hold", ["tensor", "view", "storage", "array", "graph"])
def test_what_somebody_holds_stays_his(hold: str) -> None:
    like = torch.zeros(1)
    result = memory.empty(like, LARGE).fill_(7)
    weight = torch.ones(LARGE, requires_grad=True)
    holders: dict[str, Callable[[torch.Tensor], Any]] = {
        "tensor": lambda tensor: tensor,
        "view": lambda tensor: tensor[5:6],
        "storage": lambda tensor: tensor.untyped_storage(),
        "array": lambda tensor: tensor.numpy(),
        "graph": lambda tensor: weight * tensor,  # saved for the gradient on the weight
    }
    held = holders[hold](result)
    at = result.data_ptr()
    del result
    other = memory.empty(like, LARGE)
    assert other.data_ptr() != at
    other.fill_(-1)
    if hold == "graph":
        held.sum().backward()
        assert weight.grad is not None
        assert (weight.grad == 7).all()


def test_no_more_is_known_than_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "KEPT", 3 << 20)
    like = torch.zeros(1)
    kept = [memory.empty(like, LARGE + 256 * k) for k in range(5)]
    assert [storage.nbytes() for storage in memory._known] == [4 * (LARGE + 256 * k) for k in (3, 4)]
    assert memory.empty(like, LARGE // 2).numel() == LARGE // 2
    assert len(memory._known) == 2
    assert len(kept) == 5


def test_steps_of_training_differ_in_nothing_but_memory() -> None:
    """Results of an earlier step that are still held keep their values."""
    torch.manual_seed(0)
    layer, x = glassgate.LSTM(16, 64), torch.randn(64, 80, 16)  # [64, 80, 64] values are 1.25 MB
    runs = []
    for _ in range(3):
        layer.zero_grad()
        y = layer(x)[0]
        y.sum().backward()
        assert layer.weight_hh_l0.grad is not None
        runs.append((y.detach(), y.detach().clone(), layer.weight_hh_l0.grad.clone()))
        gc.collect()
    assert len(memory._known) > 0
    for y, copy, grad in runs:
        assert torch.equal(y, copy)
        assert torch.equal(y, runs[0][0])
        assert torch.equal(grad, runs[0][2])

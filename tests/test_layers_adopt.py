"""Torch's layers become ours in place: the same objects and values, whatever hangs on them."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import glassgate

NAMES = ["LSTM", "GRU", "LSTMCell", "GRUCell"]


class Half(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w * 0.5


def first(result: Any) -> Tensor:
    return result if isinstance(result, Tensor) else first(result[0])


def assert_near(got: Any, want: Any) -> None:
    # Six steps of some ten roundings (6e-8) of values below one.
    torch.testing.assert_close(first(got), first(want), rtol=0, atol=4e-6)


@pytest.mark.parametrize("name", NAMES)
def test_who_computes_changes_and_nothing_else(name: str) -> None:
    class Own(getattr(nn, name)):  # type: ignore[misc]
        """Somebody's subclass, left alone."""

    model = nn.ModuleDict({"a": getattr(nn, name)(5, 7), "b": nn.ModuleList([nn.GRU(7, 3)]), "c": Own(2, 2)})
    parameters, modules = dict(model.named_parameters()), dict(model.named_modules())
    x = torch.randn(6, 4, 5) if "Cell" not in name else torch.randn(4, 5)
    want = model["a"](x)
    assert glassgate.adopt(model) is model
    assert type(model["a"]) is getattr(glassgate, name)
    assert type(model["b"][0]) is glassgate.GRU
    assert type(model["c"]) is Own
    assert all(p is parameters[key] for key, p in model.named_parameters())
    assert all(m is modules[key] for key, m in model.named_modules())
    assert_near(model["a"](x), want)
    fresh = getattr(glassgate, name)(5, 7)
    fresh.load_state_dict(model["a"].state_dict())
    assert torch.equal(first(model["a"](x)), first(fresh(x)))


def test_tied_modules_and_tied_parameters() -> None:
    shared, other = nn.LSTM(5, 5), nn.LSTM(5, 5)
    other.weight_hh_l0 = shared.weight_hh_l0
    model = glassgate.adopt(nn.ModuleList([shared, shared, other]))
    assert model[0] is model[1]
    assert model[2].weight_hh_l0 is model[0].weight_hh_l0
    x = torch.randn(6, 2, 5)
    with glassgate.record(model) as trace:
        y = model[2](model[1](model[0](x)[0])[0])[0]
    assert list(trace) == ["0.l0", "2.l0"]  # a module has one name, the first
    assert torch.equal(trace["0.l0"].hidden[:6], model[0](x)[0])
    assert trace["0.l0"].hidden.shape == (12, 2, 5)
    y.sum().backward()
    assert model[0].weight_hh_l0.grad is other.weight_hh_l0.grad
    separate = [copy.deepcopy(layer) for layer in model]
    separate[2](separate[1](separate[0](x)[0])[0])[0].sum().backward()
    gradients = [layer.weight_hh_l0.grad for layer in separate]
    for gradient in gradients[1:]:
        gradients[0] += gradient
    # Sums of three gradients in another order: a few roundings of values of size 10.
    torch.testing.assert_close(model[0].weight_hh_l0.grad, gradients[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_parametrised_layer_leaves_its_copies_alone(name: str) -> None:
    cell = "Cell" in name
    weight = "weight_hh" if cell else "weight_hh_l0"
    module = getattr(nn, name)(5, 7)
    parametrize.register_parametrization(module, weight, Half())
    copied = copy.deepcopy(module)
    x = torch.randn(4, 5) if cell else torch.randn(6, 4, 5)
    want = module(x)
    glassgate.adopt(module)
    assert isinstance(module, getattr(glassgate, name))
    assert not isinstance(copied, getattr(glassgate, name))
    assert type(getattr(nn, name)(2, 2)) is getattr(nn, name)
    assert_near(module(x), want)
    assert torch.equal(first(copied(x)), first(want))
    y = module(x)
    parametrize.remove_parametrizations(module, weight)
    assert type(module) is getattr(glassgate, name)
    assert torch.equal(first(module(x)), first(y))
    assert torch.equal(first(copied(x)), first(want))


def test_weight_norm_trains_after_adoption() -> None:
    layer = parametrizations.weight_norm(nn.LSTM(5, 7), "weight_hh_l0")
    ours = glassgate.adopt(copy.deepcopy(layer))
    x = torch.randn(6, 4, 5)
    for module in (layer, ours):
        module(x)[0].square().sum().backward()
    for got, want in zip(ours.parameters(), layer.parameters(), strict=True):
        assert got.grad is not None
        # Sums over 24 rows of gradients of size one, float32.
        torch.testing.assert_close(got.grad, want.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_hooks_of_the_state_dict(name: str) -> None:
    """Torch's hooks before and after saving and before and after loading, on an adopted module and ours."""
    called: list[str] = []

    def rename(module: nn.Module, state: dict[str, Any], prefix: str, local: Any) -> None:
        called.append("saved")
        state[prefix + "w"] = state.pop(prefix + weight)

    def back(module: nn.Module, state: dict[str, Any], prefix: str, *others: Any) -> None:
        called.append("loads")
        state[prefix + weight] = state.pop(prefix + "w")

    weight = "weight_hh" if "Cell" in name else "weight_hh_l0"
    modules = [glassgate.adopt(getattr(nn, name)(5, 7)), getattr(glassgate, name)(5, 7)]
    for module in modules:
        module.register_state_dict_pre_hook(lambda *_: called.append("saves"))
        module.register_state_dict_post_hook(rename)
        module.register_load_state_dict_pre_hook(back)
        module.register_load_state_dict_post_hook(lambda *_: called.append("loaded"))
    state = nn.ModuleDict({"rnn": modules[0]}).state_dict()
    assert "rnn.w" in state
    assert f"rnn.{weight}" not in state
    nn.ModuleDict({"rnn": modules[1]}).load_state_dict(state)
    assert called == ["saves", "saved", "loads", "loaded"]
    for got, want in zip(modules[1].parameters(), modules[0].parameters(), strict=True):
        assert torch.equal(got, want)

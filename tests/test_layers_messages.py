"""What the layers say to input that they cannot take."""

from typing import Any

import pytest
import torch

import glassgate
from glassgate.errors import GlassgateError
from glassgate.layers import scanning

X, STATE = torch.zeros(6, 4, 5), torch.zeros(1, 4, 7)

MESSAGES = [
    ("LSTM", (torch.zeros(6, 4, 3),), {}, "LSTM: the input must have shape [T, N, 5], got [6, 4, 3]"),
    ("GRU", (torch.zeros(6, 3),), {}, "GRU: the input must have shape [T, 5], got [6, 3]"),
    (
        "LSTM",
        (X, STATE),
        {},
        "LSTM: hx must be the pair (h_0, c_0), got Tensor",
    ),
    (
        "LSTM",
        (X, (STATE, torch.zeros(1, 3, 7))),
        {},
        "LSTM: c_0 must have shape [1, 4, 7], got [1, 3, 7]",
    ),
    ("GRU", (X,), {"lengths": [1, 2]}, "GRU: lengths must have shape [4], got [2]"),
    (
        "GRU",
        (X,),
        {"lengths": [0.5] * 4},
        "GRU: lengths must be whole numbers, got torch.float32",
    ),
    (
        "GRU",
        (X,),
        {"lengths": [1, 2, 7, 0]},
        "scan: lengths[2]: must be from 0 to 6, got 7",
    ),
    (
        "GRU",
        (X,),
        {"resets": torch.zeros(4, 6)},
        "GRU: resets must have shape [T, N] like the input, got [4, 6]",
    ),
    (
        "LSTM",
        (torch.zeros(6, 4, 5, dtype=torch.float64),),
        {},
        "LSTM: the input must be of torch.float32 like the weights, got torch.float64",
    ),
    ("GRU", (X.half(),), {}, "GRU: the input must be of torch.float32 like the weights, got torch.float16"),
    ("LSTM", (X.long(),), {}, "LSTM: the input must be of torch.float32 like the weights, got torch.int64"),
    ("LSTM", ([[1.0]],), {}, "LSTM: the input must be a tensor or a PackedSequence, got list"),
    ("GRU", (X.numpy(),), {}, "GRU: the input must be a tensor or a PackedSequence, got ndarray"),
    ("GRU", (X,), {"resets": [[True]]}, "GRU: resets must be a tensor, got list"),
    ("GRU", (X,), {"resets": X[:, :, 0].numpy()}, "GRU: resets must be a tensor, got ndarray"),
    ("GRU", (X,), {"lengths": "ab"}, "GRU: lengths must be whole numbers, got a str"),
    ("GRU", (X,), {"lengths": [[1], [1, 2]]}, "GRU: lengths must be whole numbers, got a list"),
    ("GRU", (X,), {"lengths": [2**70, 1, 1, 1]}, "GRU: lengths must be whole numbers, got a list"),
    (
        "LSTM",
        (X, (STATE, STATE.double())),
        {},
        "LSTM: c_0 must be of torch.float32 like the input, got torch.float64",
    ),
    ("GRU", (X, STATE.to("meta")), {}, "GRU: h_0 must be on cpu like the input, got meta"),
    ("GRU", (X,), {"resets": X[:, :, 0].to("meta")}, "GRU: resets must be on cpu like the input, got meta"),
    (
        "GRU",
        (X.to("meta"),),
        {},
        "GRU: weight_ih_l0 and the input must be on one device, got cpu and meta",
    ),
]


@pytest.mark.parametrize(("name", "inputs", "options", "message"), MESSAGES)
def test_messages(name: str, inputs: Any, options: Any, message: str) -> None:
    with pytest.raises(GlassgateError) as error:
        getattr(glassgate, name)(5, 7)(*inputs, **options)
    assert str(error.value) == message


@pytest.mark.parametrize("gradients", [False, True])
def test_weights_that_were_given_another_shape(gradients: bool) -> None:
    for name, weight in [("LSTM", "weight_hh_l1"), ("GRUCell", "weight_hh")]:
        module = getattr(glassgate, name)(5, 7, **({"num_layers": 2} if name == "LSTM" else {}))
        rows = getattr(module, weight).shape[0]
        setattr(module, weight, torch.nn.Parameter(torch.zeros(rows, 5)))
        with pytest.raises(GlassgateError) as error, torch.set_grad_enabled(gradients):
            module(X if name == "LSTM" else X[0])
        assert str(error.value) == f"{name}: {weight} must have shape [{rows}, 7], got [{rows}, 5]"


def test_a_refusal_uses_no_warning_up_and_a_warning_names_the_callers_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scanning, "_said", set())
    with pytest.raises(GlassgateError):
        glassgate.GRU(5, 7)(X.half())
    assert not scanning._said
    for module in (glassgate.GRU(5, 7), glassgate.GRUCell(5, 7), torch.nn.Sequential(glassgate.LSTM(5, 7))):
        with pytest.warns(UserWarning, match="no kernel for torch.bfloat16") as warned:
            module.bfloat16()(X.bfloat16()[0])
        assert [one.filename for one in warned] == [__file__]


def test_messages_of_the_constructors() -> None:
    for make, message in [
        (lambda: glassgate.GRU(5, 7, reset="never"), "reset: must be before or after, got 'never'"),
        (lambda: glassgate.LSTM(5, 7, precision="fp8"), "LSTM: precision must be fp32 or bf16, got 'fp8'"),
        (lambda: glassgate.GRU(5, 7, weight_drop=1), "GRU: weight_drop must be from 0 to below 1, got 1"),
        (
            lambda: glassgate.GRU(5, 7, weight_drop="a"),
            "GRU: weight_drop must be from 0 to below 1, got 'a'",
        ),
        (lambda: glassgate.LSTM(5, 7, forget_bias="one"), "LSTM: forget_bias must be a number, got 'one'"),
        (lambda: glassgate.LSTM(5, 7, bias=False, forget_bias=1.0), "LSTM: forget_bias needs bias=True"),
    ]:
        with pytest.raises(GlassgateError) as error:
            make()
        assert str(error.value) == message

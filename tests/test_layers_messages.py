"""What the layers say to input that they cannot take."""

from typing import Any

import pytest
import torch

import glassgate
from glassgate.errors import GlassgateError

MESSAGES = [
    ("LSTM", (torch.zeros(6, 4, 3),), {}, "LSTM: the input must have shape [T, N, 5], got [6, 4, 3]"),
    ("GRU", (torch.zeros(6, 3),), {}, "GRU: the input must have shape [T, 5], got [6, 3]"),
    (
        "LSTM",
        (torch.zeros(6, 4, 5), torch.zeros(1, 4, 7)),
        {},
        "LSTM: hx must be the pair (h_0, c_0), got Tensor",
    ),
    (
        "LSTM",
        (torch.zeros(6, 4, 5), (torch.zeros(1, 4, 7), torch.zeros(1, 3, 7))),
        {},
        "LSTM: c_0 must have shape [1, 4, 7], got [1, 3, 7]",
    ),
    ("GRU", (torch.zeros(6, 4, 5),), {"lengths": [1, 2]}, "GRU: lengths must have shape [4], got [2]"),
    (
        "GRU",
        (torch.zeros(6, 4, 5),),
        {"lengths": [0.5] * 4},
        "GRU: lengths must be whole numbers, got torch.float32",
    ),
    (
        "GRU",
        (torch.zeros(6, 4, 5),),
        {"lengths": [1, 2, 7, 0]},
        "scan: lengths[2]: must be from 0 to 6, got 7",
    ),
    (
        "GRU",
        (torch.zeros(6, 4, 5),),
        {"resets": torch.zeros(4, 6)},
        "GRU: resets must have shape [T, N] like the input, got [4, 6]",
    ),
    (
        "LSTM",
        (torch.zeros(6, 4, 5, dtype=torch.float64),),
        {},
        "LSTM: the input must be of torch.float32 like the weights, got torch.float64",
    ),
]


@pytest.mark.parametrize(("name", "inputs", "options", "message"), MESSAGES)
def test_messages(name: str, inputs: Any, options: Any, message: str) -> None:
    with pytest.raises(GlassgateError) as error:
        getattr(glassgate, name)(5, 7)(*inputs, **options)
    assert str(error.value) == message


def test_messages_of_the_constructors() -> None:
    for make, message in [
        (lambda: glassgate.GRU(5, 7, reset="never"), "reset: must be before or after, got 'never'"),
        (lambda: glassgate.LSTM(5, 7, precision="fp8"), "LSTM: precision must be fp32 or bf16, got 'fp8'"),
        (lambda: glassgate.GRU(5, 7, weight_drop=1), "GRU: weight_drop must be from 0 to below 1, got 1"),
        (lambda: glassgate.LSTM(5, 7, bias=False, forget_bias=1.0), "LSTM: forget_bias needs bias=True"),
    ]:
        with pytest.raises(GlassgateError) as error:
            make()
        assert str(error.value) == message

"""The recurrences as a loop of torch operations: what shows the gates where torch's layers do not.

Written to be fast for what they are: all input products at once before the loop, one ``addmm`` for a step's
product, gates with the same activation together.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

__all__ = ["LOOPS", "Loop"]

Seen: TypeAlias = list[dict[str, Tensor]]
Loop: TypeAlias = Callable[[nn.Module, Tensor], tuple[Tensor, Seen]]


def lstm_loop(module: nn.Module, x: Tensor) -> tuple[Tensor, Seen]:
    """Run an LSTM with the parameters of ``torch.nn.LSTM`` over x [T, N, I], from states of zeros.

    Returns
    -------
    Tensor [T, N, H]
        The hidden states.
    list of dict
        Gates and cell state of each step, each [N, H].

    Examples
    --------
    >>> y, seen = lstm_loop(nn.LSTM(4, 3), torch.randn(5, 2, 4))
    >>> len(seen), sorted(seen[0])
    (5, ['candidate', 'cell', 'forget', 'input', 'output'])
    """
    w_ih, w_hh, b_ih, b_hh = module.parameters()
    H = w_hh.shape[1]
    from_x = linear(x, w_ih, b_ih + b_hh)
    h = c = x.new_zeros(x.shape[1], H)
    hidden, seen = [], []
    for t in range(len(x)):
        both, g, o = torch.split(torch.addmm(from_x[t], h, w_hh.T), [2 * H, H, H], 1)
        i, f = torch.sigmoid(both).chunk(2, 1)
        g, o = torch.tanh(g), torch.sigmoid(o)
        c = f * c + i * g
        h = o * torch.tanh(c)
        hidden.append(h)
        seen.append({"input": i, "forget": f, "candidate": g, "output": o, "cell": c})
    return torch.stack(hidden), seen


def gru_before_loop(module: nn.Module, x: Tensor) -> tuple[Tensor, Seen]:
    """Run a GRU that resets before the product, with the parameters of ``torch.nn.GRU``; as `lstm_loop`.

    Examples
    --------
    >>> y, seen = gru_before_loop(nn.GRU(4, 3), torch.randn(5, 2, 4))
    >>> len(seen), sorted(seen[0])
    (5, ['candidate', 'reset', 'update'])
    """
    w_ih, w_hh, b_ih, b_hh = module.parameters()
    H = w_hh.shape[1]
    w_gates, w_new = torch.split(w_hh.T, [2 * H, H], 1)
    for_gates, for_new = torch.split(linear(x, w_ih, b_ih + b_hh), [2 * H, H], 2)
    h = x.new_zeros(x.shape[1], H)
    hidden, seen = [], []
    for t in range(len(x)):
        r, z = torch.sigmoid(torch.addmm(for_gates[t], h, w_gates)).chunk(2, 1)
        n = torch.tanh(torch.addmm(for_new[t], r * h, w_new))
        h = torch.lerp(n, h, z)
        hidden.append(h)
        seen.append({"reset": r, "update": z, "candidate": n})
    return torch.stack(hidden), seen


LOOPS: Mapping[str, Loop] = {"lstm": lstm_loop, "gru-before": gru_before_loop}
"""By cell."""

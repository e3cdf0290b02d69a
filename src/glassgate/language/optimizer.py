"""AdamW that leaves alone the rows that are not in play, and yet moves them as if it had not."""

from collections.abc import Mapping
from functools import partial
from math import sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from glassgate.errors import GlassgateError
from glassgate.kernels import _native
from glassgate.layers.rows import RowGradient, tracked, untrack

__all__ = ["AdamW"]

HORIZON = 1024  # steps after which every row is brought up to date: so long are the tables


class _Slot:
    """A parameter with its moments; of a tracked one also when each row was last brought up to date."""

    def __init__(self, parameter: nn.Parameter) -> None:
        self.parameter = parameter
        self.exp_avg = torch.zeros_like(parameter, requires_grad=False)
        self.exp_avg_sq = torch.zeros_like(parameter, requires_grad=False)
        self.gradient: RowGradient | None = tracked(parameter)
        self.stamp = torch.zeros(len(parameter) if self.gradient else 0, dtype=torch.int64)
        self.height, self.width = parameter.shape if parameter.dim() == 2 else (1, parameter.numel())
        self.twice = parameter.dtype == torch.float64
        self.plain = False  # whether torch's operations move it

    def tensors(self) -> dict[str, Tensor]:
        both = {"exp_avg": self.exp_avg, "exp_avg_sq": self.exp_avg_sq}
        return both if self.gradient is None else both | {"stamp": self.stamp}

    def addresses(self) -> tuple[int, int, int]:
        return self.parameter.data_ptr(), self.exp_avg.data_ptr(), self.exp_avg_sq.data_ptr()


class AdamW:
    r"""AdamW with the gradient's norm clipped; of tracked matrices it visits the rows in play alone.

    .. code-block:: text

        m <- beta1 m + (1 - beta1) g                    g: the gradient, scaled down to a norm of `clip`
        v <- beta2 v + (1 - beta2) g^2
        p <- (1 - rate decay) p - rate m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + epsilon)

    A row without a gradient would still move: its moments fade, momentum carries it on, it decays. All
    of that depends on the moments at its last visit and on the rates since, so it can be done when the
    row is needed next: k steps of no gradient give

    .. code-block:: text

        m <- beta1^k m,  v <- beta2^k v
        p <- D p - F m / (sqrt(v) + epsilon')

    where D is the product of the decays and F the sum over the k steps of rate_s sqrt(1 - beta2^s) /
    (1 - beta1^s) (beta1 / sqrt(beta2))^(s - t), each times the decays after s. A layer that reads a
    tracked matrix says so (`RowGradient.before_read`) and finds its rows up to date; whoever else reads
    it calls `catch_up` first. Beyond rounding one thing differs from a dense AdamW: epsilon' is that
    of the step of the catching up and does not grow with k as sqrt(v) fades, which shows where a
    gradient is not far larger than epsilon.

    Every 1,024 steps all rows are brought up to date, so that the tables of D and F stay short.

    On a device without kernels (`to`) plain torch operations move all rows in each step.

    Parameters
    ----------
    parameters : mapping of str to Parameter
        By name; dense, on the CPU, float32 or float64. A tracked one (`glassgate.layers.track`) takes
        its gradient from there.
    weight_decay
        Of matrices; vectors, that is biases, do not decay.
    betas, epsilon
        Of the moments. Little momentum and a long memory of the gradients' size train best here
        (docs/experiments.md).

    Raises
    ------
    GlassgateError
        A parameter is none that the kernels can move.

    References
    ----------
    Loshchilov and Hutter 2019, "Decoupled weight decay regularization", arXiv:1711.05101.

    Examples
    --------
    >>> layer = nn.Linear(2, 1, bias=False)
    >>> optimizer = AdamW(dict(layer.named_parameters()), weight_decay=0.0)
    >>> before = layer.weight.detach().clone()
    >>> layer(torch.ones(1, 2)).sum().backward()
    >>> norm = optimizer.step(rate=0.1, clip=1.0)
    >>> round(norm, 4), before - layer.weight.detach()  # the first step is as long as the rate
    (1.4142, tensor([[0.1000, 0.1000]]))
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        weight_decay: float,
        betas: tuple[float, float] = (0.5, 0.999),
        epsilon: float = 1e-8,
    ) -> None:
        self.weight_decay, self.betas, self.epsilon = weight_decay, betas, epsilon
        for name, parameter in parameters.items():
            on_cpu = parameter.device.type == "cpu" and parameter.is_contiguous()
            if not on_cpu or parameter.dtype not in (torch.float32, torch.float64):
                raise GlassgateError(
                    f"{name}: must be dense float32 or float64 on the CPU, got {parameter.dtype} on "
                    f"{parameter.device}"
                )
        self.slots = {name: _Slot(parameter) for name, parameter in parameters.items()}
        for slot in self.slots.values():
            if slot.gradient is not None:
                slot.gradient.before_read = partial(self._catch_up, slot)
        self.count = 0  # steps done
        self.base = 0  # the step from which stamps count
        self.shrink, self.move = np.ones(HORIZON + 1), np.zeros(HORIZON + 1)
        self.powers = tuple(beta ** np.arange(HORIZON + 1, dtype=np.float64) for beta in betas)

    def step(self, rate: float, clip: float) -> float:
        """Move the weights by their gradients and forget those.

        Parameters
        ----------
        rate
            The learning rate.
        clip
            The largest norm that the gradient of all parameters together may have.

        Returns
        -------
        float
            The norm before it was clipped. Where it is no finite number nothing has moved.
        """
        moving = [(slot, *self._gradient(slot)) for slot in self.slots.values()]
        norm = sqrt(sum(_squares(slot, g, rows, count) for slot, g, rows, count in moving if count))
        if not np.isfinite(norm):
            return norm
        # What lags and has a gradient all the same, because it was not read through a layer.
        for slot, _, rows, count in moving:
            if slot.gradient is not None and count:
                self._catch_up(slot, rows)
        self.count += 1
        beta1, beta2 = self.betas
        step, correction = rate / (1 - beta1**self.count), sqrt(1 - beta2**self.count)
        for slot, g, rows, count in moving:
            numbers = {
                "beta1": beta1,
                "beta2": beta2,
                "epsilon": self.epsilon,
                "clip": min(1.0, clip / (norm + 1e-6)),
                "shrink": 1 - rate * self._decay(slot),
                "step": step,
                "correction": correction,
            }
            if slot.plain and count:
                _plain_step(slot, g, **numbers)
            elif count:
                p, m, v = slot.addresses()
                _native.adam_step(
                    twice=slot.twice,
                    height=slot.height,
                    width=slot.width,
                    which=_at(rows),
                    rows=count,
                    p=p,
                    m=m,
                    v=v,
                    g=g.data_ptr(),
                    **numbers,
                )
        self._count_skipped(rate, step * correction)
        for slot, _, rows, count in moving:
            if slot.gradient is not None:
                slot.gradient.clear()
                if count:
                    slot.stamp[slice(None) if rows is None else rows] = self.count - self.base
            slot.parameter.grad = None
        if self.count - self.base == HORIZON:
            self.catch_up()
            self.base = self.count
            self.shrink[:], self.move[:] = 1, 0
            for slot in self.slots.values():
                slot.stamp.zero_()
        return norm

    def catch_up(self) -> None:
        """Bring every row up to date: the matrices are then what a dense AdamW would have made of them."""
        for slot in self.slots.values():
            if slot.gradient is not None:
                self._catch_up(slot, None)

    def to(self, device: torch.device) -> None:
        """Move on by plain torch operations, on a device to which the parameters are moved as well.

        Parameters
        ----------
        device
            Of any kind: CUDA is what it is for. Gradients are dense from here on.
        """
        self.catch_up()
        for slot in self.slots.values():
            slot.plain = True
            untrack(slot.parameter)
            slot.gradient, slot.stamp = None, slot.stamp[:0]
            slot.parameter.data = slot.parameter.data.to(device)
            slot.exp_avg, slot.exp_avg_sq = slot.exp_avg.to(device), slot.exp_avg_sq.to(device)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return all that the next step depends on, by name; on the CPU no copies."""
        arrays: dict[str, npt.NDArray[Any]] = {
            f"{name}.{key}": tensor.cpu().numpy()
            for name, slot in self.slots.items()
            for key, tensor in slot.tensors().items()
        }
        counts = np.array([self.count, self.base], np.int64)
        return arrays | {"counts": counts, "shrink": self.shrink, "move": self.move}

    def load_arrays(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take over what `arrays` returned; where rows were not tracked all are up to date.

        Raises
        ------
        KeyError, ValueError
            It is of other parameters.
        """
        self.count, self.base = map(int, arrays["counts"])
        lagging = any(name.endswith(".stamp") for name in arrays)
        for name, slot in self.slots.items():
            slot.stamp.fill_(self.count - self.base)
            for key, tensor in slot.tensors().items():
                if key == "stamp" and not lagging:
                    continue
                saved = torch.from_numpy(np.array(arrays[f"{name}.{key}"]))
                if saved.shape != tensor.shape:
                    raise ValueError(f"{name}.{key} has another shape")
                tensor.copy_(saved)
        self.shrink[:], self.move[:] = arrays["shrink"], arrays["move"]

    def _decay(self, slot: _Slot) -> float:
        return self.weight_decay if slot.parameter.dim() > 1 else 0.0

    def _gradient(self, slot: _Slot) -> tuple[Tensor, Tensor | None, int]:
        """Return a parameter's gradient, the rows that have one (None: all), and how many they are."""
        dense = slot.parameter.grad
        if slot.gradient is None:
            return (slot.parameter, None, 0) if dense is None else (dense.contiguous(), None, slot.height)
        if dense is not None:  # of an operation that knows no rows
            slot.gradient.add(torch.arange(slot.height), dense)
        rows = slot.gradient.rows()
        return slot.gradient.values, rows, slot.height if rows is None else len(rows)

    def _catch_up(self, slot: _Slot, rows: Tensor | None) -> None:
        p, m, v = slot.addresses()
        now = self.count - self.base
        _native.adam_catch_up(
            twice=slot.twice,
            height=slot.height,
            width=slot.width,
            which=_at(rows),
            rows=slot.height if rows is None else len(rows),
            p=p,
            m=m,
            v=v,
            stamp=slot.stamp.data_ptr(),
            now=now,
            shrink=self.shrink[: now + 1],
            move=self.move[: now + 1],
            power1=self.powers[0][: now + 1],
            power2=self.powers[1][: now + 1],
            epsilon=self.epsilon * sqrt(1 - self.betas[1] ** self.count),
        )

    def _count_skipped(self, rate: float, step: float) -> None:
        """Enter a step into the tables: what it would have done to rows that were last visited before."""
        now, ratio = self.count - self.base, self.betas[0] / sqrt(self.betas[1])
        shrink = 1 - rate * self.weight_decay
        self.shrink[:now] *= shrink
        self.move[:now] *= shrink
        self.move[:now] += step * ratio ** np.arange(now, 0, -1)
        self.shrink[now], self.move[now] = 1, 0


def _squares(slot: _Slot, g: Tensor, rows: Tensor | None, count: int) -> float:
    if slot.plain:
        return float(torch.linalg.vector_norm(g, dtype=torch.float64).square())
    return _native.sum_of_squares(slot.twice, slot.height, slot.width, _at(rows), count, g.data_ptr())


@torch.no_grad()
def _plain_step(
    slot: _Slot,
    g: Tensor,
    *,
    beta1: float,
    beta2: float,
    epsilon: float,
    clip: float,
    shrink: float,
    step: float,
    correction: float,
) -> None:
    g = g * clip
    slot.exp_avg.mul_(beta1).add_(g, alpha=1 - beta1)
    slot.exp_avg_sq.mul_(beta2).addcmul_(g, g, value=1 - beta2)
    divisor = slot.exp_avg_sq.sqrt().div_(correction).add_(epsilon)
    slot.parameter.mul_(shrink).addcdiv_(slot.exp_avg, divisor, value=-step)


def _at(rows: Tensor | None) -> int | None:
    return None if rows is None else rows.data_ptr()

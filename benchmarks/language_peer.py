"""What `language.py` measures beside: PyTorch's word-level example, and a watch for the parts of a step."""

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from glassgate.language.corpus import TokenArray

WIDTH, BATCH, UNROLL, DROPOUT = 200, 20, 35, 0.2


class Peer(nn.Module):
    """The example's network, in torch's own layers."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.drop = nn.Dropout(DROPOUT)
        self.encoder = nn.Embedding(words, WIDTH)
        self.rnn = nn.LSTM(WIDTH, WIDTH, 2, dropout=DROPOUT)
        self.decoder = nn.Linear(WIDTH, words)

    def forward(self, words: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the logits [T, N, words] and the last state."""
        h, last = self.rnn(self.drop(self.encoder(words)), state)
        logits: Tensor = self.decoder(self.drop(h))
        return logits, last

    def arrays(self) -> dict[str, Any]:
        """Return the weights under the names of our model."""
        names = {"encoder.weight": "embedding.weight"}
        names |= {f"decoder.{part}": f"output.{part}" for part in ("weight", "bias")}
        return {names.get(name, name): value.numpy() for name, value in self.state_dict().items()}


class Parts:
    """Where the time of a step goes: each mark gives a part what passed since the mark before."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.last = time.perf_counter()

    def mark(self, part: str) -> None:
        """Give a part the time since the last mark."""
        now = time.perf_counter()
        self.seconds[part] += now - self.last
        self.last = now

    def watch(self, embedding: nn.Module, rnn: nn.Module) -> None:
        """Mark the ends of both passes of these; what lies between them and the loss is the output's."""

        def ends(part: str, before: str) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: Any, result: Any) -> None:
                self.mark(part)
                x = result if isinstance(result, Tensor) else result[0]
                if x.requires_grad:
                    x.register_hook(lambda gradient: self.mark(before))

            return hook

        embedding.register_forward_pre_hook(lambda module, inputs: self.mark("data"))
        embedding.register_forward_hook(ends("embedding", before="recurrence"))
        rnn.register_forward_hook(ends("recurrence", before="output"))


def peer_loop(
    peer: Peer, tokens: TokenArray, parts: Parts | None = None, bf16: bool = False
) -> Callable[[], float]:
    """Return a function that does one step of the example's loop and gives its loss."""
    mark = (lambda part: None) if parts is None else parts.mark
    length = len(tokens) // BATCH
    columns = torch.from_numpy(tokens[: length * BATCH].astype(np.int64)).view(BATCH, length).t().contiguous()
    state = (torch.zeros(2, BATCH, WIDTH), torch.zeros(2, BATCH, WIDTH))
    position = 0

    def step() -> float:
        nonlocal state, position
        peer.train()
        words, targets = columns[position : position + UNROLL], columns[position + 1 : position + UNROLL + 1]
        position = (position + UNROLL) % (length - UNROLL - 1)
        peer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits, last = peer(words, (state[0].detach(), state[1].detach()))
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        state = (last[0].float(), last[1].float())
        mark("output")
        loss.backward()  # type: ignore[no-untyped-call]
        mark("embedding")
        nn.utils.clip_grad_norm_(peer.parameters(), 0.25)
        with torch.no_grad():
            for parameter in peer.parameters():
                assert parameter.grad is not None
                parameter.add_(parameter.grad, alpha=-20.0)
        mark("optimiser")
        return loss.item()

    return step


def new_peer(words: int) -> Peer:
    """Return the example's network, begun as the example begins it."""
    torch.manual_seed(1)
    peer = Peer(words)
    for weight in (peer.encoder.weight, peer.decoder.weight):
        nn.init.uniform_(weight, -0.1, 0.1)
    nn.init.zeros_(peer.decoder.bias)
    return peer

"""The compiled module: sizes and buffers in, nothing else; ``glassgate.kernels`` checks shapes and types.

A ``Buffer`` is ``None``, an address (``int``, as ``torch.Tensor.data_ptr()`` gives it: the caller answers for
what lies there) or an object with a C-contiguous buffer of the right number of bytes. ``cell`` is 0 (LSTM), 1
(GRU, reset after) or 2 (GRU, reset before); ``twice`` says float64 instead of float32. ``cpp/kernels.hpp``
documents every buffer.
"""

from typing import TypeAlias

Buffer: TypeAlias = object

def isa() -> str: ...
def threads() -> int: ...
def set_threads(count: int) -> None: ...

class Packed:
    def __init__(
        self,
        cell: int,
        twice: bool,
        I: int,
        H: int,
        w_ih: Buffer,
        w_hh: Buffer,
        b_ih: Buffer,
        b_hh: Buffer,
        bf16: bool,
    ) -> None: ...
    def step(
        self,
        N: int,
        x: Buffer,
        h: Buffer,
        c: Buffer,
        gates: Buffer = None,
        summed: bool = False,
        threads: int = 0,
    ) -> None: ...
    def input_sums(self, N: int, x: Buffer, sums: Buffer, threads: int = 0) -> None: ...
    @property
    def input_sums_size(self) -> int: ...

def forward(
    cell: int,
    twice: bool,
    T: int,
    N: int,
    I: int,
    H: int,
    x: Buffer,
    w_ih: Buffer,
    w_hh: Buffer,
    b_ih: Buffer,
    b_hh: Buffer,
    packed: Packed | None,
    h0: Buffer,
    c0: Buffer,
    lengths: Buffer,
    resets: Buffer,
    reverse: bool,
    bf16: bool,
    hidden: Buffer,
    state: Buffer,
    gates: Buffer,
    h_n: Buffer,
    c_n: Buffer,
    edit_rows: Buffer = None,
    edits: Buffer = None,
    edit_count: int = 0,
) -> None: ...
def backward(
    cell: int,
    twice: bool,
    T: int,
    N: int,
    I: int,
    H: int,
    x: Buffer,
    w_ih: Buffer,
    w_hh: Buffer,
    h0: Buffer,
    c0: Buffer,
    lengths: Buffer,
    resets: Buffer,
    reverse: bool,
    bf16: bool,
    hidden: Buffer,
    state: Buffer,
    gates: Buffer,
    d_hidden: Buffer,
    d_state: Buffer,
    d_gates: Buffer,
    d_h_n: Buffer,
    d_c_n: Buffer,
    d_x: Buffer,
    d_w_ih: Buffer,
    d_w_hh: Buffer,
    d_b_ih: Buffer,
    d_b_hh: Buffer,
    d_h0: Buffer,
    d_c0: Buffer,
) -> None: ...
def activation(is_tanh: bool, twice: bool, source: Buffer, target: Buffer, count: int) -> None: ...
def softmax_loss(
    twice: bool,
    rows: int,
    entries: int,
    stride: int,
    x: Buffer,
    bias: Buffer,
    targets: Buffer,
    scale: float,
    loss: Buffer,
) -> None: ...
def rounded_softmax_loss(
    rows: int,
    entries: int,
    x: Buffer,
    bias: Buffer,
    targets: Buffer,
    scale: float,
    loss: Buffer,
    d_bias: Buffer,
) -> None: ...
def adam_step(
    twice: bool,
    height: int,
    width: int,
    which: Buffer,
    rows: int,
    p: Buffer,
    m: Buffer,
    v: Buffer,
    g: Buffer,
    beta1: float,
    beta2: float,
    epsilon: float,
    clip: float,
    shrink: float,
    step: float,
    correction: float,
) -> None: ...
def adam_catch_up(
    twice: bool,
    height: int,
    width: int,
    which: Buffer,
    rows: int,
    p: Buffer,
    m: Buffer,
    v: Buffer,
    stamp: Buffer,
    now: int,
    shrink: Buffer,
    move: Buffer,
    power1: Buffer,
    power2: Buffer,
    epsilon: float,
) -> None: ...
def add_rows(
    twice: bool,
    height: int,
    width: int,
    count: int,
    which: Buffer,
    source: Buffer,
    target: Buffer,
    in_play: Buffer,
) -> None: ...
def sum_of_squares(
    twice: bool, height: int, width: int, which: Buffer, rows: int, values: Buffer
) -> float: ...

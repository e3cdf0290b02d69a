"""Measure all that was chosen, one row after another."""

import os
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter

import torch

from glassgate import __version__, kernels
from glassgate.bench import onnx_peer
from glassgate.bench.checks import WrongResultError
from glassgate.bench.contests import prepare
from glassgate.bench.report import Report, Row, is_large, line
from glassgate.bench.timing import Call, in_turns, trial
from glassgate.bench.works import Shape, Work
from glassgate.errors import GlassgateError

__all__ = ["measure", "sgemm_rate"]

SECONDS, QUICK_SECONDS = 0.7, 0.2  # for each row, three rounds at least
SIZE = 2048
PRODUCT = 2 * SIZE**3  # operations of the product that large shapes are set beside


def measure(
    works: Sequence[Work],
    shapes: tuple[Shape, ...] | None,
    threads: int | None,
    quick: bool,
    say: Callable[[str], None],
) -> Report:
    """Check and time every work on every shape that fits it.

    Parameters
    ----------
    works, shapes
        What to measure; without shapes the standard ones.
    threads
        For ours and for the peers; by default what torch uses.
    quick
        Leave out the largest standard shapes and measure each row more briefly.
    say
        Receives each line as soon as it is known.

    Returns
    -------
    Report

    Raises
    ------
    WrongResultError
        Ours differs from the peer by more than rounding explains; the row is named.
    GlassgateError
        ``threads`` is not from 1 to 1024, or no shape fits the works.
    """
    rows: list[Row] = []
    skipped: list[str] = []
    chosen = [(work, shape) for work in works for shape in work.shapes(shapes, quick)]
    if not chosen:
        raise GlassgateError("--shapes: none fits the works; steps want 1x1xIxH, bf16 wants H >= 512")
    if threads is not None and not 1 <= threads <= 1024:
        raise GlassgateError(f"--threads: expected 1 to 1024, got {threads}")
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    start = perf_counter()
    try:
        report = Report(
            rows, skipped, _environment(), torch.get_num_threads(), sgemm_rate(0.5 if quick else 2.0), quick
        )
        for text in report.head():
            say(text)
        lacking = onnx_peer.missing()
        for work in works:
            if lacking and work.peer == "ONNX Runtime":
                skipped.append(f"{work.name}: skipped, {lacking}")
                say(skipped[-1])
                continue
            for shape in work.shapes(shapes, quick):
                try:
                    rows.append(_row(work, shape, QUICK_SECONDS if quick else SECONDS))
                except onnx_peer.UnavailableError as error:
                    skipped.append(f"{work.name} {shape}: skipped, {error}")
                    say(skipped[-1])
                else:
                    say(line(rows[-1], report.sgemm))
    finally:
        torch.set_num_threads(before)
    report.seconds = perf_counter() - start
    return report


def _row(work: Work, shape: Shape, seconds: float) -> Row:
    beside = {"product": _product()} if work.share is not None and is_large(shape) else {}
    with torch.inference_mode(not work.training):
        contest = prepare(work, shape, torch.get_num_threads(), seconds)
        try:
            error = contest.check()
        except WrongResultError as wrong:
            raise WrongResultError(f"{work.name} {shape}: {wrong}; nothing of it was timed") from None
        times = in_turns(contest.ours, contest.peers, seconds, beside=beside)
    ours, product = times.pop("ours"), times.pop("product", None)
    forms = {**times, **contest.outside}
    peer = min(forms, key=lambda form: forms[form].seconds)
    flops = work.flops(shape, contest.steps)
    rate = None if product is None else PRODUCT / product.seconds / 1e9
    return Row(work, shape, ours, peer, forms, flops, error, contest.allowed, rate)


def sgemm_rate(seconds: float) -> float:
    """Measure torch's own float32 matrix product: the fastest of many, GFLOP/s.

    The fastest, not the median: it stands for what the machine can do.
    """
    call, end = _product(), perf_counter() + seconds
    fastest = trial(call)
    while perf_counter() < end:
        fastest = min(fastest, trial(call))
    return PRODUCT / fastest / 1e9


def _product() -> Call:
    """Return torch's float32 product of two square matrices, to be called."""
    a, b = torch.randn(SIZE, SIZE), torch.randn(SIZE, SIZE)
    return lambda: a @ b


def _environment() -> dict[str, str]:
    """Name the machine and the versions."""
    found = {"machine": f"{_processor()}, {os.cpu_count()} processors", "instruction set": kernels.isa()}
    found["load before"] = f"{os.getloadavg()[0]:.1f}"
    found |= {"glassgate": __version__, "Python": platform.python_version()}
    for library in ("torch", "numpy", "onnxruntime"):
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "not installed"
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [text.split(":", 1)[1].strip() for text in lines if text.startswith("model name")]
    return f"{platform.machine()} {names[0]}" if names else platform.machine()

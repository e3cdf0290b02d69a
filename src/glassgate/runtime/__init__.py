"""Predict, stream and write without torch: NumPy, the kernels and the tokenizer, nothing else."""

from glassgate.runtime.model import Model, load
from glassgate.runtime.network import Network, State
from glassgate.runtime.session import Session
from glassgate.runtime.traced import Traced

__all__ = ["Model", "Network", "Session", "State", "Traced", "load"]

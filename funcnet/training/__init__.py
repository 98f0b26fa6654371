"""Training as pure functions: objective, step, and the compiled programs made of them."""

from funcnet.training.advance import compute, make_advance, make_evaluate, make_once
from funcnet.training.objective import make_objective, unpack
from funcnet.training.state import init_state, stream
from funcnet.training.step import make_step

__all__ = [
    "compute",
    "init_state",
    "make_advance",
    "make_evaluate",
    "make_objective",
    "make_once",
    "make_step",
    "stream",
    "unpack",
]

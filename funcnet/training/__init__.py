"""Training as pure functions: objective, step, and the compiled programs made of them."""

from funcnet.training.advance import compute, make_advance, make_evaluate, make_once
from funcnet.training.averaging import averaged, ema, swa
from funcnet.training.guarding import guard_of, guarded
from funcnet.training.objective import make_objective, unpack
from funcnet.training.recipe import objective
from funcnet.training.scaling import loss_scale, loss_scaling
from funcnet.training.state import init_state, stream
from funcnet.training.step import make_step

__all__ = [
    "averaged",
    "compute",
    "ema",
    "guard_of",
    "guarded",
    "init_state",
    "loss_scale",
    "loss_scaling",
    "make_advance",
    "make_evaluate",
    "make_objective",
    "make_once",
    "make_step",
    "objective",
    "stream",
    "swa",
    "unpack",
]

"""Training as pure functions: objective, step, and the compiled programs made of them."""

from funcnet.training.advance import compute, make_advance, make_evaluate, make_once
from funcnet.training.averaging import averaged, ema, swa
from funcnet.training.guarding import guard_of, guarded
from funcnet.training.objective import make_objective, unpack
from funcnet.training.partition import from_epoch, from_step, parts
from funcnet.training.plateau import reduce_on_plateau
from funcnet.training.recipe import objective
from funcnet.training.scaling import loss_scale, loss_scaling
from funcnet.training.state import init_state, stream
from funcnet.training.step import make_step
from funcnet.training.told import after_epoch
from funcnet.training.watching import norms, watched

__all__ = [
    "after_epoch",
    "averaged",
    "compute",
    "ema",
    "from_epoch",
    "from_step",
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
    "norms",
    "objective",
    "parts",
    "reduce_on_plateau",
    "stream",
    "swa",
    "unpack",
    "watched",
]

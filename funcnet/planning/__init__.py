"""What a training takes, before a machine is rented: compiled for devices that are not here."""

from funcnet.planning.making import plan
from funcnet.planning.peaks import PEAKS, Peaks
from funcnet.planning.report import Memory, Plan
from funcnet.planning.sizes import Scaling, plan_scaling
from funcnet.planning.traffic import Collective

__all__ = [
    "PEAKS",
    "Collective",
    "Memory",
    "Peaks",
    "Plan",
    "Scaling",
    "plan",
    "plan_scaling",
]

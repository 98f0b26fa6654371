"""What a model is made of and how its training went, for people to look at."""

from funcnet.inspect.confusion import plot_confusion
from funcnet.inspect.describing import describe
from funcnet.inspect.examples import plot_examples
from funcnet.inspect.graphs import graph
from funcnet.inspect.histograms import plot_histograms
from funcnet.inspect.insides import intermediates
from funcnet.inspect.nans import first_nan
from funcnet.inspect.plots import plot
from funcnet.inspect.schedules import plot_schedule
from funcnet.inspect.showing import show
from funcnet.inspect.summaries import summary

__all__ = [
    "describe",
    "first_nan",
    "graph",
    "intermediates",
    "plot",
    "plot_confusion",
    "plot_examples",
    "plot_histograms",
    "plot_schedule",
    "show",
    "summary",
]

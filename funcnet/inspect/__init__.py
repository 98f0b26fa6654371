"""What a model is made of and how its training went, for people to look at."""

from funcnet.inspect.describing import describe
from funcnet.inspect.graphs import graph
from funcnet.inspect.plots import plot, plot_confusion
from funcnet.inspect.summaries import summary

__all__ = ["describe", "graph", "plot", "plot_confusion", "summary"]

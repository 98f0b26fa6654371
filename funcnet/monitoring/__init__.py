"""Callbacks that show a training as it goes: TensorBoard, CSV, trackers, and how fast it is."""

from funcnet.monitoring.boards import tensorboard
from funcnet.monitoring.lines import csv_lines
from funcnet.monitoring.speed import throughput
from funcnet.monitoring.trackers import trackio, wandb

__all__ = ["csv_lines", "tensorboard", "throughput", "trackio", "wandb"]

"""The configuration models of the project: together they describe a run completely, down to the last number.

Nothing here imports torch, because the workflow reads these models at parse time. Symbols follow the paper: T
time-steps, tau temperature, lambda blur ratio, w_LD and w_BKD loss weights.
"""

from bkdsnn.config.datasets import Augment, Dataset, Digits, Events, Interpolation, ResizedCrop, Simulated, View
from bkdsnn.config.identity import Part
from bkdsnn.config.losses import BKD, KDSNN, LD, TET, CrossEntropy, HardLD, LaSNN, OwnLoss, TaskLoss, Term
from bkdsnn.config.networks import (
    MetaSpikeformer,
    Network,
    Neuron,
    OwnNetwork,
    Quantised,
    ResNet,
    Spikformer,
    Spikingformer,
    SpikingTransformer,
    ViT,
    Wide7B,
)
from bkdsnn.config.recipes import Mix, Recipe
from bkdsnn.config.run_spec import RUN_NAME, Pretrained, RunSpec
from bkdsnn.config.strict import Strict

__all__ = [
    "BKD",
    "KDSNN",
    "LD",
    "RUN_NAME",
    "TET",
    "Augment",
    "CrossEntropy",
    "Dataset",
    "Digits",
    "Events",
    "HardLD",
    "Interpolation",
    "LaSNN",
    "MetaSpikeformer",
    "Mix",
    "Network",
    "Neuron",
    "OwnLoss",
    "OwnNetwork",
    "Part",
    "Pretrained",
    "Quantised",
    "Recipe",
    "ResNet",
    "ResizedCrop",
    "RunSpec",
    "Simulated",
    "Spikformer",
    "SpikingTransformer",
    "Spikingformer",
    "Strict",
    "TaskLoss",
    "Term",
    "ViT",
    "View",
    "Wide7B",
]

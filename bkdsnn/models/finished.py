"""Build the network of a finished run with its trained weights."""

from __future__ import annotations

from pathlib import Path

import torch

from bkdsnn import models
from bkdsnn.config import RunSpec
from bkdsnn.models.outputs import Network
from bkdsnn.runs import checkpoint


def finished_network(spec: RunSpec, folder: Path, device: torch.device | str = "cpu") -> Network:
    """Return the network of the run in `folder`, in evaluation mode.

    Raises `UserError` if the run is unfinished, or if its weights are damaged, belong to another spec, or do not fit.
    """
    network = models.build(spec.network, spec.dataset)
    checkpoint.load_run(network, spec, folder)
    return network.eval().to(device)

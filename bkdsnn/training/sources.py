"""The weights that a run starts from: those of another run, or published ones."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from bkdsnn.config import Pretrained, RunSpec
from bkdsnn.core.errors import UserError
from bkdsnn.core.progress import log
from bkdsnn.data.published import stored
from bkdsnn.models import Network
from bkdsnn.runs import checkpoint
from bkdsnn.runs.run_folder import RunFolder


def load_source(network: Network, spec: RunSpec, folder: RunFolder, resources: Path) -> None:
    """Give `network` the weights of the run's source.

    If a published network is fine-tuned for a different number of classes, the last layer keeps its random
    initialisation, which is logged. Raises `UserError` for a missing or damaged file, a wrong checksum, and tensors
    that do not fit.
    """
    if isinstance(spec.source, RunSpec):
        checkpoint.load_run(network, spec.source, folder.of(spec.source).path)
    elif spec.source is not None:
        path = stored(resources / "weights", spec.source)
        tensors = _published(path, spec.source)
        # Old files lack torch's batch counter. Nothing here reads it, so the network's own values stand in.
        counters = {key: value for key, value in network.state_dict().items() if key.endswith("num_batches_tracked")}
        own = _own_head(network, tensors) if spec.recipe else {}
        checkpoint.load_weights(network, counters | tensors | own, str(path))


def _published(path: Path, source: Pretrained) -> dict[str, Tensor]:
    tensors, header = checkpoint.read_tensors(path)
    if not str(header.get("sha256")).startswith(source.sha256 or ""):
        raise UserError(f"{path}: made from SHA-256 {header.get('sha256')}, expected {source.sha256}; delete it")
    return tensors


def _own_head(network: Network, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of the last layer of `network` if the published one has a different number of classes."""
    head = {key: value for key, value in network.state_dict().items() if key.startswith(f"{network.last_layer}.")}
    if all(key in tensors and tensors[key].shape == value.shape for key, value in head.items()):
        return {}
    log.info("the last layer starts from random weights, for %d classes", len(next(iter(head.values()))))
    return head

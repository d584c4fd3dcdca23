"""The networks: built from a spec, called alike.

`net(images, taps)` takes images (B, 3, H, W) and returns `Outputs`; `net.taps` names the features that it can return,
the last being the one before the last layer. Nothing survives a call but the statistics of the norms in training.
"""

from __future__ import annotations

import torch

from bkdsnn import spec
from bkdsnn.models.outputs import Outputs
from bkdsnn.models.resnet import ResNet

__all__ = ["Outputs", "ResNet", "build", "count_parameters", "feature_shapes"]


def build(network: spec.Network, classes: int) -> ResNet:
    """Return the network with weights drawn from torch's global generator; the caller seeds and forks it.

    Raises:
        UserError: the network's form and norm contradict each other.
    """
    return ResNet(network, classes)


def feature_shapes(net: ResNet, image_size: int) -> dict[str, tuple[int, int, int]]:
    """Return (C, h, w) of every tap for square images, by one forward pass that leaves no trace in `net`."""
    modes = {module: module.training for module in net.modules()}
    with torch.no_grad():
        features = net.eval()(net.fc.weight.new_zeros(1, 3, image_size, image_size), net.taps).features
    for module, mode in modes.items():
        module.training = mode
    return {tap: (feature.shape[2], feature.shape[3], feature.shape[4]) for tap, feature in features.items()}


def count_parameters(net: torch.nn.Module) -> int:
    """Return the number of trainable values."""
    return sum(parameter.numel() for parameter in net.parameters())

"""The networks and neurons of this project made with spikingjelly alone, the way its users would.

A module for every family. Its `build(network, dataset)` returns the network, multi-step, and that part of it whose
output is the feature before the last layer; its `pairs(tensors, net)` yields tensors that go by our names under the
names, and in the shapes, that they have there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spikingjelly.activation_based import functional
from torch import Tensor, nn

from bkdsnn import config
from bkdsnn.models import Outputs
from reference import resnet, spikformer, spikingformer, wide7b

FAMILIES = {"resnet": resnet, "spikformer": spikformer, "spikingformer": spikingformer, "wide-7b": wide7b}


class Reference(nn.Module):
    """A spikingjelly network behind the interface of ours: membranes reset after use.

    Images are repeated T times, frames of events are taken as they are. `tap` names the only feature that it returns,
    the one before the last layer.
    """

    def __init__(self, network: config.Network, dataset: config.Dataset, tap: str) -> None:
        super().__init__()
        self.family = FAMILIES[network.family]
        self.net, last = self.family.build(network, dataset)
        self.timesteps, self.tap = network.timesteps, tap
        last.register_forward_hook(self._keep)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take the weights of our network of the same spec."""
        self.net.load_state_dict(dict(self.family.pairs(state, self.net)))

    def forward(self, images: Tensor, taps: Sequence[str] = ()) -> Outputs:
        """Return logits (T, B, K) and the last feature (T, B, C, h, w) of images (B, 3, H, W) or frames."""
        still = images.dim() == 4
        logits = self.net(images.repeat(self.timesteps, 1, 1, 1, 1) if still else images.transpose(0, 1))
        functional.reset_net(self.net)
        return Outputs(logits, {self.tap: self._features} if taps else {}, self._features.mean((-2, -1)))

    def _keep(self, module: nn.Module, inputs: Any, features: Tensor) -> None:
        self._features = features

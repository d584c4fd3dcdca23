"""Grad-CAM (Selvaraju et al., ICCV 2017) of several features of one network at once, by the grad-cam package.

Shapes: T time-steps, B images, C channels, h w spatial positions of a feature, H W pixels, L taps (feature layers).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from bkdsnn.models import Network


class Views(NamedTuple):
    """The Grad-CAM maps of a batch.

    `predicted` is (B,). `maps` are float32 (B, L, H, W), each scaled to 0 .. 1 separately. `silent` and `positive`,
    (B, L), explain empty maps: whether the feature is zero everywhere; whether any spatial position supports the class.
    """

    predicted: NDArray[np.int64]
    maps: NDArray[np.float32]
    silent: NDArray[np.bool_]
    positive: NDArray[np.bool_]


class Cams(GradCAM):
    """The package's Grad-CAM with a separate map per tap, all from one forward and one backward pass (D-174).

    For a spiking network, feature and gradient are averaged over time, so the map is that of the averaged feature
    (Eq. 3). Surrogate gradients carry the gradient through neurons. It stops at the first tap: weights and images need
    no gradient, which saves memory and time.
    """

    def __init__(self, network: Network, taps: Sequence[str]) -> None:
        self.taps = taps
        layers = [network.gradcam_layer(tap) for tap in taps]
        layers[0].register_forward_hook(lambda module, inputs, output: output.requires_grad_())  # before the package's
        self._positive: list[NDArray[np.bool_]] = []
        super().__init__(Classifier(network.requires_grad_(False)), layers, network.as_map)

    def of(self, images: Tensor, labels: Tensor) -> Views:
        """Return the maps of images (B, 3, H, W) for their true classes (B,)."""
        self._positive = []
        maps = self(images, [ClassifierOutputTarget(label) for label in labels.tolist()])
        silent = [(feature == 0).flatten(1).all(1).numpy() for feature in self.activations_and_grads.activations]
        predicted = self.outputs.argmax(1).cpu().numpy()
        del self.outputs  # frees the graph, which the package would keep until the next batch
        return Views(predicted, maps, np.stack(silent, 1), np.stack(self._positive, 1))

    def get_cam_image(self, *arguments: Any) -> NDArray[np.float32]:
        """Return a tap's weighted sum of channels (B, h, w), and note where any of it is positive."""
        cam: NDArray[np.float32] = super().get_cam_image(*arguments)
        self._positive.append(np.asarray((cam > 0).any((1, 2))))
        return cam

    def aggregate_multi_layers(self, cam_per_target_layer: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return the maps of all taps, (B, L, H, W); the package's own method would average them over taps."""
        return np.stack([scale_cam_image(maps[:, 0]) for maps in cam_per_target_layer], axis=1)


class Classifier(nn.Module):
    """Wraps a network to return its logits (B, K), averaged over time, from which the class is predicted."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K)."""
        logits: Tensor = self.network(images).logits.mean(0)
        return logits

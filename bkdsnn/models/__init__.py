"""The networks: built from a spec, all with the same interface.

`net(images, taps)` takes images (B, 3, H, W), or frames of events (B, T, 2, H, W), and returns `Outputs`; `net.taps`
names the features that it can return, the last being the one before the last layer. Calls are independent of each
other: only the running statistics of the norms change, and only in training.
"""

from __future__ import annotations

import importlib

import torch

from bkdsnn import config
from bkdsnn.core.errors import UserError
from bkdsnn.models.outputs import Network, Outputs

__all__ = ["Network", "Outputs", "build", "count_parameters", "feature_shapes"]

_FAMILIES = {  # imported when they are built: the ViT needs timm, which no other run should have to load
    "resnet": ("resnet", "ResNet"),
    "spikformer": ("spikformer", "Spikformer"),
    "spikingformer": ("spikingformer", "Spikingformer"),
    "meta-spikeformer": ("metaspikeformer", "MetaSpikeformer"),
    "wide-7b": ("wide7b", "Wide7B"),
    "vit": ("vit", "ViT"),
}


def build(network: config.Network, dataset: config.Dataset) -> Network:
    """Return the network for a dataset; its weights are drawn from torch's global generator, which the caller seeds.

    Raises:
        UserError: the network's form and norm contradict each other, or a learned time constant cannot begin at `tau`.
    """
    if isinstance(network, config.OwnNetwork):
        return _own(network, dataset)
    module, name = _FAMILIES[network.family]
    made: Network = getattr(importlib.import_module(f"bkdsnn.models.{module}"), name)(network, dataset)
    return made


def _own(network: config.OwnNetwork, dataset: config.Dataset) -> Network:
    if not isinstance(built := network.built(dataset), Network):
        raise UserError(f"'build' of '{network.family}' returns {type(built).__name__}, expected a models.Network")
    with network.guarded(f"trial of '{network.family}' with one blank sample"):
        _expect_interface(built, dataset)
    return built


def _expect_interface(net: Network, dataset: config.Dataset) -> None:
    """Raise an error that says what a network lacks of the interface that `models.outputs` describes."""
    outputs, expected = _of_blank(net, dataset.image_size), (net.timesteps, 1, dataset.classes)
    if not isinstance(outputs, Outputs) or outputs.logits.shape != expected:
        shown = tuple(outputs.logits.shape) if isinstance(outputs, Outputs) else type(outputs).__name__
        raise TypeError(f"forward returns {shown}, expected Outputs with logits (T, B, K) = {expected}")
    if found := [tap for tap in net.taps if tap not in outputs.features or outputs.features[tap].dim() != 5]:
        raise TypeError(f"forward returns no feature (T, B, C, h, w) for the taps {', '.join(found)}")
    for layer in (net.last_layer, *net.mac_layers()):
        net.get_submodule(layer)


def feature_shapes(net: Network, image_size: int) -> dict[str, tuple[int, int, int]]:
    """Return (C, h, w) of every tap for square images or frames, by one forward pass that leaves no trace in `net`."""
    features = _of_blank(net, image_size).features
    return {tap: (feature.shape[2], feature.shape[3], feature.shape[4]) for tap, feature in features.items()}


def _of_blank(net: Network, image_size: int) -> Outputs:
    """Return the outputs for a blank sample, by one forward pass that leaves no trace in `net`."""
    modes = {module: module.training for module in net.modules()}
    with torch.no_grad():
        outputs: Outputs = net.eval()(net.blank(image_size), net.taps)
    for module, mode in modes.items():
        module.training = mode
    return outputs


def count_parameters(net: torch.nn.Module) -> int:
    """Return the number of trainable values (D-167)."""
    return sum(parameter.numel() for parameter in net.parameters())

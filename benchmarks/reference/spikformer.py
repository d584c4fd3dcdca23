"""Spikformer with CML of spikingjelly's zoo.

Its neurons are its own: those that we call `lif-sigmoid`, with a threshold of 0.5 after attention.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from spikingjelly.activation_based.model import spikformer
from torch import Tensor, nn

from bkdsnn import config

NAMES = {
    r"^stem\.(\d)": r"patch_embed.stages.\1.conv_bn.block",
    r"^embedding": "patch_embed.positional_encoding.conv_bn.block",
    r"^block(\d+)": lambda match: f"blocks.{int(match[1]) - 1}",
    r"attention\.qkv": "attn.qkv_conv_bn",
    r"attention\.project": "attn.proj_conv_bn",
    r"mlp\.0": "mlp.fc1",
    r"mlp\.2": "mlp.fc2",
}


def build(network: config.Spikformer, dataset: config.Dataset) -> tuple[nn.Module, nn.Module]:
    """Return the network, from (T, B, C, H, W) to (T, B, K), and its last block."""
    net = spikformer.Spikformer(
        network.timesteps,
        img_size_h=dataset.image_size,
        img_size_w=dataset.image_size,
        patch_size=2 ** len(network.pools),
        in_channels=dataset.channels,
        num_classes=dataset.classes,
        embed_dims=network.dim,
        num_heads=network.heads,
        mlp_ratio=network.mlp_ratio,
        depths=network.depth,
    )
    for block in net.blocks:
        block.attn.scale = network.attention_scale
    return net, net.blocks[-1]


def pairs(tensors: Mapping[str, Tensor], net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield all tensors but the biases before norms, which it does not have."""
    known = net.state_dict()
    for name, value in tensors.items():
        for pattern, replacement in NAMES.items():
            name = re.sub(pattern, replacement, name)
        if name in known:
            yield name, value.reshape(known[name].shape)

"""Vision transformer (Dosovitskiy et al., ICLR 2021) from timm, as a teacher with its own image size and normalisation.

Parameters have timm's names, so its published weights load unchanged.

Shapes: B images, D channels, h w patches (`image_size` / `patch` each way). T = 1: there is no time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from bkdsnn import config
from bkdsnn.models.outputs import Attended, Network, Outputs


class ViT(VisionTransformer, Network):
    """timm's network, which takes the student's images and first converts them to its own normalisation and size.

    `taps` names the patch tokens after each block, `block1` .. `blockN`, as maps. The last are those after the final
    norm, which are the input of the head (D-015). `pooled` is the class token after that norm (D-016).
    """

    last_layer = "head"
    scale: Tensor
    shift: Tensor

    def __init__(self, network: config.ViT, dataset: config.Dataset) -> None:
        super().__init__(
            img_size=network.image_size,
            patch_size=network.patch,
            num_classes=dataset.classes,
            embed_dim=network.dim,
            depth=network.depth,
            num_heads=network.heads,
        )
        self.heads = network.heads
        self.taps = tuple(f"block{index}" for index in range(1, network.depth + 1))
        self.image_size, self.resize = network.image_size, network.resize
        # (x std + mean - own mean) / own std, of images normalised by the dataset's mean and std
        mean, std, own_mean, own_std = (
            torch.tensor(values).view(3, 1, 1) for values in (dataset.mean, dataset.std, network.mean, network.std)
        )
        self.register_buffer("scale", std / own_std, persistent=False)
        self.register_buffer("shift", (mean - own_mean) / own_std, persistent=False)

    def forward(self, images: Tensor, taps: Sequence[str] = ()) -> Outputs:  # type: ignore[override]
        """Return logits (1, B, K) and, for each tap, features (1, B, D, h, w) of images (B, 3, H, W).

        `pooled` is (1, B, D). The images are normalised as the dataset says.

        Raises:
            UserError: a tap that the network does not have.
        """
        self.check_taps(taps)
        inner = [index for index, tap in enumerate(self.taps[:-1]) if tap in taps]
        found = self.forward_intermediates(self.prepare(images), indices=inner or 1)  # it cannot be asked for no map
        tokens, maps = cast(tuple[Tensor, list[Tensor]], found)
        features = {self.taps[index]: feature[None] for index, feature in zip(inner, maps)}
        if self.taps[-1] in taps:
            features[self.taps[-1]] = self.as_map(tokens)[None]
        pooled = self.forward_head(tokens, pre_logits=True)
        return Outputs(self.head(pooled)[None], features, pooled[None])

    def mac_layers(self) -> dict[str, int]:
        """Return nothing: it is an ANN."""
        return {}

    def attentions(self) -> dict[str, Attended]:
        """Return the attention of every block; its layer `qkv` outputs q, k and v together."""
        found = {tap: self.layer(tap).get_submodule("attn") for tap in self.taps}
        return {
            tap: Attended(
                one, {part: (one.get_submodule("qkv"), index) for index, part in enumerate("qkv")}, self.heads, False
            )
            for tap, one in found.items()
        }

    def uncounted(self) -> Sequence[nn.Module]:
        """Return the network itself, whose own weights are the class token and the position embedding."""
        return [self]

    def gradcam_layer(self, tap: str) -> nn.Module:
        """Return the block of a tap, but for the last tap the norm before its block's attention.

        After the last attention the logits depend on the class token alone, so patch tokens have no gradient there.
        """
        return self.layer(tap).get_submodule("norm1") if tap == self.taps[-1] else self.layer(tap)

    def as_map(self, output: Tensor) -> Tensor:
        """Return the patches (B, D, h, w) of tokens (B, 1 + h w, D)."""
        return output[:, 1:].mT.unflatten(2, self.patch_embed.grid_size)

    def layer(self, tap: str) -> nn.Module:
        """Return the block of a tap; its output is tokens (B, 1 + h w, D), the class token first."""
        self.check_taps([tap])
        return self.blocks[self.taps.index(tap)]

    def segments(self) -> list[tuple[nn.Module, str]]:
        """Return the blocks."""
        return [(block, "forward") for block in self.blocks]

    def prepare(self, images: Tensor) -> Tensor:
        """Return (B, 3, image_size, image_size) in the network's normalisation (D-146).

        Interpolation commutes with a scale and shift per channel, so these are applied at the smaller image size.
        """
        if images.shape[-1] > self.image_size:
            return self._normalise(self._resize(images))
        return self._resize(self._normalise(images))

    def _normalise(self, images: Tensor) -> Tensor:
        return torch.addcmul(self.shift, images, self.scale)

    def _resize(self, images: Tensor) -> Tensor:
        if images.shape[-1] == self.image_size:
            return images
        size = (self.image_size, self.image_size)
        return functional.interpolate(images, size, mode=self.resize, align_corners=False)

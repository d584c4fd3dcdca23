"""Networks that are a chain of layers on folded activations: the passage through the chain stands here once.

Shapes: T time-steps, B images, C channels, h w pixels, K classes; folded is (T*B, ...), time-major.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from bkdsnn.models.outputs import Network, Outputs


class Folded(Network):
    """A stem, a chain of layers, what reduces the last map to a vector, and a head.

    A family states how its stem is entered, and its layers where they are more than those of its taps.
    """

    def forward(self, images: Tensor, taps: Sequence[str] = ()) -> Outputs:
        """Return logits (T, B, K) and, for each tap, features (T, B, C, h, w) of images (B, 3, H, W).

        A network that is built for events takes frames (B, T, 2, H, W) instead.

        Raises:
            UserError: a tap that the network does not have, or another number of frames than of time-steps.
        """
        self.check_taps(taps)
        x, features = self.enter(self.fold(images)), {}
        for name, layer in self.chain():
            x = layer(x)
            if name in taps:
                features[name] = self.unfold(x)
        pooled = self.pooled(x)
        logits, distilled = (None if found is None else self.unfold(found) for found in self.decide(pooled))
        assert logits is not None
        return Outputs(logits, features, self.unfold(pooled), distilled)

    @abc.abstractmethod
    def enter(self, x: Tensor) -> Tensor:
        """Return what the first layer takes, (T*B, C, h, w), of images (B, 3, H, W) or folded frames (T*B, 2, H, W)."""

    def chain(self) -> Iterable[tuple[str, nn.Module]]:
        """Return the layers in order, those of a tap by its name."""
        return [(tap, self.layer(tap)) for tap in self.taps]

    def pooled(self, x: Tensor) -> Tensor:
        """Return the vector (T*B, C) that the last map (T*B, C, h, w) is reduced to: its mean over the map."""
        return x.mean((-2, -1))

    def decide(self, pooled: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return logits (T*B, K), and in training those of a second head if there is one."""
        return self.get_submodule(self.last_layer)(pooled), None

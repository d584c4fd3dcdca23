"""The base class of networks that are a chain of layers on folded activations, with their common forward pass.

Shapes: T time-steps, B images, C channels, h w pixels, K classes; folded is (T*B, ...), time-major.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from bkdsnn.models.outputs import Network, Outputs


class Folded(Network):
    """A stem, a chain of layers, a reduction of the last map to a vector, and a head.

    A family implements `enter`, its stem, and overrides `chain` if it has more layers than those of its taps.
    """

    def forward(self, images: Tensor, taps: Sequence[str] = ()) -> Outputs:
        """Return logits (T, B, K) and, for each tap, features (T, B, C, h, w) of images (B, 3, H, W).

        A network that is built for events takes frames (B, T, 2, H, W) instead.

        Raises:
            UserError: the network lacks a tap, or the number of frames is not its number of time-steps.
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
        """Return the first layer's input (T*B, C, h, w) for images (B, 3, H, W) or folded frames (T*B, 2, H, W)."""

    def chain(self) -> Iterable[tuple[str, nn.Module]]:
        """Return the layers in order, with their names; the layer of a tap has the tap's name."""
        return [(tap, self.layer(tap)) for tap in self.taps]

    def pooled(self, x: Tensor) -> Tensor:
        """Reduce the last map (T*B, C, h, w) to a vector (T*B, C): by default its mean over spatial positions."""
        return x.mean((-2, -1))

    def decide(self, pooled: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return logits (T*B, K), and in training the second head's logits if there is a second head, else None."""
        return self.get_submodule(self.last_layer)(pooled), None

"""What is trained: student and criterion as one module, which the processes of a run share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bkdsnn.config import Recipe
from bkdsnn.distill import Criterion
from bkdsnn.machine.distributed import Group
from bkdsnn.models import Network, Outputs


class Trained(nn.Module):
    """Student and criterion as one module: what is trained, and what several processes average gradients of."""

    def __init__(self, student: Network, criterion: Criterion) -> None:
        super().__init__()
        self.student, self.criterion = student, criterion

    def forward(
        self, images: Tensor, target: Outputs | None, labels: Tensor, blur: torch.Generator
    ) -> dict[str, Tensor]:
        """Return the losses by name, 0-dim, of images (B C H W), or frames (B T C H W)."""
        losses: dict[str, Tensor] = self.criterion(self.student(images, self.criterion.taps), target, labels, blur)
        return losses


def shared(student: Network, criterion: Criterion, recipe: Recipe, group: Group, device: torch.device) -> nn.Module:
    """Return what is trained, prepared for the processes of the group."""
    criterion.share(group)
    if recipe.sync_batch_norm:
        from bkdsnn.models.synced import synchronise

        synchronise(student, group)
    return group.wrapped(Trained(student, criterion), device)

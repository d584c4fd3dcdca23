"""Batches of recordings as frames, for training and test: a pure function of (seed, epoch, step)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from bkdsnn.config import Augment
from bkdsnn.core.errors import UserError
from bkdsnn.data.events.clip_augment import ClipAugment
from bkdsnn.data.events.frames import Clips
from bkdsnn.data.loader import Batch, Loader
from bkdsnn.machine.devices import sent


class EventLoader(Loader):
    """Recordings as frames, float32 (B, T, 2, S, S): raw counts of events. Memory holds one batch at a time.

    `clips` are the student input, `teacher_clips` the teacher input: the same recordings with another T, or the same
    object as `clips`. Raises UserError if their labels differ.
    """

    def __init__(
        self,
        clips: Clips,
        teacher_clips: Clips,
        digest: str,
        *,
        batch_size: int,
        augment: Augment,
        seed: int,
        device: torch.device,
    ) -> None:
        super().__init__(len(clips.train), len(clips.test), digest, batch_size, seed)
        self._clips, self._device = clips, device
        self._versions = [clips.train] if teacher_clips is clips else [clips.train, teacher_clips.train]
        self._augment = ClipAugment(augment, seed)
        _check_same(clips, teacher_clips)

    def _read_train(self, order: Tensor, steps: range, epoch: int) -> Iterator[Batch]:
        batches = order.split(self._batch_size)
        for step in steps:
            chosen = batches[step].numpy()
            versions = self._augment([self._frames(counts, chosen) for counts in self._versions], epoch, step)
            yield Batch(versions[0], versions[-1], self._labels(self._clips.train_labels, chosen))

    def _read_test(self, order: Tensor, steps: range) -> Iterator[tuple[Tensor, Tensor]]:
        batches = order.split(self._batch_size)
        for step in steps:
            chosen = batches[step].numpy()
            yield self._frames(self._clips.test, chosen), self._labels(self._clips.test_labels, chosen)

    def _frames(self, counts: np.ndarray, chosen: np.ndarray) -> Tensor:
        return sent(torch.from_numpy(counts[chosen]), self._device).float()  # sent as two bytes a pixel

    def _labels(self, labels: np.ndarray, chosen: np.ndarray) -> Tensor:
        return sent(torch.from_numpy(labels[chosen]), self._device)


def _check_same(clips: Clips, teacher_clips: Clips) -> None:
    for split, mine, others in (
        ("training", clips.train_labels, teacher_clips.train_labels),
        ("test", clips.test_labels, teacher_clips.test_labels),
    ):
        if not np.array_equal(mine, others):
            raise UserError(
                f"frames with T = {clips.train.shape[1]} ({len(mine)} {split} clips) and "
                f"T = {teacher_clips.train.shape[1]} ({len(others)}) have other labels, so they are not of the same "
                "recordings; delete both and make them again by `python -m bkdsnn frames`"
            )

"""One pass of the test set through a finished network, with a check of its accuracy against its metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator

from torch import Tensor

from bkdsnn.core.errors import UserError
from bkdsnn.core.progress import EVERY, duration, log
from bkdsnn.data.loader import Loader
from bkdsnn.runs.records import Finished

TOLERANCE = (0.5, 2)  # allowed difference, percentage points or images, whichever is more: devices round differently


def reported(where: str, loader: Loader) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield the test set, each batch with the index of its first image; log the progress if it takes long."""
    began = last = time.monotonic()
    done = 0
    for images, labels in loader.test():
        yield done, images, labels
        done += len(labels)
        now = time.monotonic()
        if now - last >= EVERY:
            left = duration((now - began) * (loader.test_size - done) / done)
            log.info("%s: %d/%d test images, %s left", where, done, loader.test_size, left)
            last = now


def expect_accuracy(run: Finished, top1: float, images: int) -> None:
    """Raise `UserError` if the accuracy `top1` (in %) on `images` test images is not that of the run's metrics."""
    expected, all_images = run.metrics.top1.last, run.metrics.test_images
    points, flips = TOLERANCE
    allowed = max(points, 100 * flips / all_images)
    if abs(expected - top1) > allowed or images != all_images:
        raise UserError(
            f"{run.folder / 'weights.safetensors'}: classifies {top1:.2f} % of {images} images right, expected "
            f"{expected:.2f} % of {all_images} as in metrics.json, within {allowed:.2f}: they are of another network; "
            "remove that folder and make the run again"
        )

"""Firing rates and operations of a finished run, counted in one pass over its whole test set.

Shapes: T time-steps, B images, C channels, h w pixels.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from bkdsnn import models
from bkdsnn.analysis.activity_records import Activity, Feature, activity_path
from bkdsnn.analysis.completeness import check_counted
from bkdsnn.analysis.counts import Tally, counting
from bkdsnn.config import RunSpec
from bkdsnn.core import files
from bkdsnn.core.errors import UserError
from bkdsnn.core.progress import EVERY, duration, log
from bkdsnn.data.loader import Loader
from bkdsnn.models import Network
from bkdsnn.runs import checkpoint
from bkdsnn.runs.records import Finished, finished
from bkdsnn.runs.run_folder import RunFolder
from bkdsnn.training.execute import open_loader

TOLERANCE = (0.5, 2)  # percentage points or images, whichever is more, by which another device may round otherwise


def analyse(spec: RunSpec, results: Path, device: torch.device) -> Path:
    """Write `analyses/<run>/activity.json` below `results` (one scale's folder); return its path.

    Raises `UserError` for an unfinished run, for other data than it saw, and for a network that is not as accurate as
    its metrics say.
    """
    run = finished(spec, results)
    if run is None:
        raise UserError(f"run {spec.name} is not finished; make it with `python -m bkdsnn train {spec.name}`")
    weights = RunFolder(results / "runs", spec).weights()
    network = models.build(spec.network, spec.dataset)
    checkpoint.load_weights(network, weights, str(run.folder / "weights.safetensors"))
    loader = open_loader(spec, results, device)
    _expect_data(run, loader)
    activity = measure(spec, network.to(device), loader)
    _expect_accuracy(run, activity)
    path = activity_path(spec.name, results)
    files.write_text(path, activity.model_dump_json(indent=1) + "\n")
    log.info("%s: analysed, top-1 %.2f %%, r = %.4f", spec.name, activity.top1, activity.feature.mean)
    return path


@torch.inference_mode()
def measure(spec: RunSpec, network: Network, loader: Loader) -> Activity:
    """Return what is counted while `network` classifies the test set once; `UserError` if any of it is not counted."""
    check_counted(network.eval(), spec.dataset.image_size)
    tap = network.taps[-1]
    feature, total, right = Tally(), 0.0, 0
    with counting(network) as counts:
        for images, labels in _reported(spec.name, loader):
            outputs = network(images, (tap,))
            feature.add(outputs.features[tap])
            total += float(outputs.features[tap].sum(dtype=torch.float64))
            right += int((outputs.logits.mean(0).argmax(1) == labels).sum())
    return Activity(
        run=spec.name,
        spec=spec.digest,
        spiking=spec.network.spiking,
        timesteps=spec.network.timesteps,
        mac_layers=network.mac_layers(),
        test_images=loader.test_size,
        top1=100 * right / loader.test_size,
        feature=Feature(
            tap=tap,
            mean=total / feature.entries,
            nonzero=feature.rate,
            binary=feature.binary,
            integer=feature.integer,
        ),
        blocks=counts.blocks(),
        neurons=counts.neurons(),
        layers=counts.layers(loader.test_size),
    )


def _reported(run: str, loader: Loader) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the test set, with a line in the log where it takes long."""
    began = last = time.monotonic()
    done = 0
    for images, labels in loader.test():
        yield images, labels
        done += len(labels)
        now = time.monotonic()
        if now - last >= EVERY:
            left = duration((now - began) * (loader.test_size - done) / done)
            log.info("%s: %d/%d test images, %s left", run, done, loader.test_size, left)
            last = now


def _expect_data(run: Finished, loader: Loader) -> None:
    expected = run.metrics.dataset.digest
    if loader.digest != expected:
        raise UserError(
            f"{run.folder / 'metrics.json'}: the run saw data with digest {expected[:10]}, found {loader.digest[:10]}; "
            "put the data back, or remove that folder and make the run again"
        )


def _expect_accuracy(run: Finished, activity: Activity) -> None:
    expected, images = run.metrics.top1.last, run.metrics.test_images
    points, flips = TOLERANCE
    allowed = max(points, 100 * flips / images)
    if abs(expected - activity.top1) > allowed or activity.test_images != images:
        raise UserError(
            f"{run.folder / 'weights.safetensors'}: classifies {activity.top1:.2f} % of {activity.test_images} images "
            f"right, expected {expected:.2f} % of {images} as in metrics.json, within {allowed:.2f}: they are of "
            "another network; remove that folder and make the run again"
        )

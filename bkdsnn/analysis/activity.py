"""Firing rates and operations of a finished run, counted in one pass over its whole test set.

Shapes: T time-steps, B images, C channels, h w pixels.
"""

from __future__ import annotations

from pathlib import Path

import torch

from bkdsnn.analysis.activity_records import Activity, Feature, activity_path
from bkdsnn.analysis.completeness import check_counted
from bkdsnn.analysis.counts import EntryCounts, counting
from bkdsnn.analysis.test_set import expect_accuracy, reported
from bkdsnn.config import RunSpec
from bkdsnn.core import files
from bkdsnn.core.progress import log
from bkdsnn.data.loader import Loader
from bkdsnn.models import Network
from bkdsnn.models.finished import finished_network
from bkdsnn.runs.artefacts import expect_data
from bkdsnn.runs.records import expect_finished
from bkdsnn.training.execute import open_loader


def analyse(spec: RunSpec, results: Path, device: torch.device) -> Path:
    """Write `analyses/<run>/activity.json` below `results` (one scale's folder); return its path.

    Raises `UserError` for an unfinished run, for data that differ from those of its training, and for a network whose
    accuracy is not the one in its metrics.
    """
    run = expect_finished(spec, results)
    expect_data(results, spec, run.metrics.dataset.digest, run.folder)
    network = finished_network(spec, run.folder, device)
    loader = open_loader(spec, results, device)
    activity = count_activity(spec, network, loader)
    expect_accuracy(run, activity.top1, activity.test_images)
    path = activity_path(spec.name, results)
    files.write_text(path, activity.model_dump_json(indent=1) + "\n")
    log.info("%s: analysed, top-1 %.2f %%, r = %.4f", spec.name, activity.top1, activity.feature.mean)
    return path


@torch.inference_mode()
def count_activity(spec: RunSpec, network: Network, loader: Loader) -> Activity:
    """Count firing rates and operations while `network` classifies the test set once.

    Raises `UserError` if the network does operations that would not be counted.
    """
    check_counted(network.eval(), spec.dataset.image_size)
    tap = network.taps[-1]
    feature, total, right = EntryCounts(), 0.0, 0
    with counting(network) as counts:
        for _, images, labels in reported(spec.name, loader):
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

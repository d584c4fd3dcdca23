"""Grad-CAM of a figure's networks over the whole test set (figures 2a and 3a): maps to draw, and their similarity.

Shapes: B images of a batch, N of the test set, H W pixels, L taps.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bkdsnn.analysis.cams import Cams, Views
from bkdsnn.analysis.maps import PanelMaps, TapSummary, write_maps
from bkdsnn.analysis.similarity import cosines, mean_and_std, overlaps
from bkdsnn.analysis.test_set import expect_accuracy, reported
from bkdsnn.config import Dataset
from bkdsnn.config.figure_plans import CurvePlan, FigurePlan, PanelPlan
from bkdsnn.core.errors import UserError
from bkdsnn.core.progress import log
from bkdsnn.models.finished import finished_network
from bkdsnn.runs.artefacts import expect_data
from bkdsnn.runs.records import Finished, expect_finished
from bkdsnn.training.execute import open_loader

Arrays = dict[str, NDArray[Any]]


def analyse(plan: FigurePlan, results: Path, device: torch.device) -> None:
    """Write `<results>/analyses/<figure>.npz`, the maps to draw, and `.json`, the summary over the test set.

    The first curve of a panel is the teacher; the others are compared with it.

    Raises:
        UserError: a run is not finished, its data are missing, its accuracy is not the one in its metrics, or its maps
            cannot be compared with the teacher's.
    """
    runs = {name: expect_finished(spec, results) for name, spec in plan.runs().items()}
    for run in runs.values():
        expect_data(results, run.spec, run.metrics.dataset.digest, run.folder)
    panels = [
        _panel(plan, panel, [runs[curve.runs[0].name] for curve in panel.curves], results, device)
        for panel in plan.panels
    ]
    write_maps(plan, results, [shown for shown, _ in panels], [tap for _, taps in panels for tap in taps])


def _panel(
    plan: FigurePlan, panel: PanelPlan, runs: Sequence[Finished], results: Path, device: torch.device
) -> tuple[PanelMaps, list[TapSummary]]:
    """Pass the test set through all networks of a panel, batch by batch, with the view of its last curve (a student).

    Only the images and maps that the figure shows are kept.
    """
    where, data = f"{plan.figure.name}, {panel.title}", runs[-1].spec.dataset
    if data.events:
        raise UserError(f"{where}: '{data.name}' has recordings of events, expected images: Grad-CAM maps pixels")
    loader = open_loader(runs[-1].spec, results, device)
    if (last := max(plan.figure.images)) >= loader.test_size:
        raise UserError(f"{where}: 'images' has {last}, expected numbers below {loader.test_size}, the size of the set")
    networks = [finished_network(run.spec, run.folder, device) for run in runs]
    cams = [Cams(one, one.taps if plan.figure.taps == "all" else one.taps[-1:]) for one in networks]
    if len({len(one.taps) for one in cams}) > 1:
        depths = ", ".join(f"{run.spec.name} {len(one.taps)}" for run, one in zip(runs, cams))
        raise UserError(f"{where}: networks have different numbers of features: {depths}; compare 'taps: last'")
    shown: dict[int, list[Any]] = {}
    measures: list[dict[str, list[NDArray[Any]]]] = [defaultdict(list) for _ in runs]
    for first, images, labels in reported(where, loader):
        views = [_look(run, one, images, labels) for run, one in zip(runs, cams)]
        for found, own in zip(views, measures):
            for key, values in _measured(found, views[0], labels).items():
                own[key].append(values)
        for row in range(len(labels)):
            if first + row in plan.figure.images:
                of_networks = (np.stack([values[row] for values in one]) for one in zip(*views))
                shown[first + row] = [pixels(images[row], data), int(labels[row]), *of_networks]
    log.info("%s: %d test images", where, loader.test_size)
    taps = []
    for run, curve, one, own in zip(runs, panel.curves, cams, measures):
        joined = {key: np.concatenate(values) for key, values in own.items()}
        taps += _summaries(panel, curve, one.taps, joined)
        if run.spec.network.view == runs[-1].spec.network.view:  # otherwise it was tested on different crops
            expect_accuracy(run, taps[-1].top1, taps[-1].images)
    arrays = zip(*(shown[image] for image in plan.figure.images))
    return PanelMaps(*map(np.stack, arrays)), taps


def pixels(images: Tensor, dataset: Dataset) -> NDArray[np.uint8]:
    """Undo the normalisation: return images (..., 3, H, W) as the original bytes (..., H, W, 3)."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (dataset.mean, dataset.std))
    return (255 * (images.cpu() * std + mean)).round().clamp(0, 255).byte().movedim(-3, -1).numpy()


def _look(run: Finished, cams: Cams, images: Tensor, labels: Tensor) -> Views:
    views = cams.of(images, labels)
    if not np.isfinite(views.maps).all():
        raise UserError(f"{run.spec.name}: its maps are not finite numbers; train it with a lower learning rate")
    return views


def _measured(views: Views, teacher: Views, labels: Tensor) -> Arrays:
    """Return what is measured on each image of a batch; a teacher's similarity is NaN."""
    unlike = np.full(views.silent.shape, np.nan)
    return {
        "right": views.predicted == labels.cpu().numpy(),
        "empty": ~views.maps.any((2, 3)),
        "silent": views.silent,
        "cosine": unlike if views is teacher else cosines(views.maps, teacher.maps),
        "overlap": unlike if views is teacher else overlaps(views.maps, teacher.maps),
    }


def _summaries(panel: PanelPlan, curve: CurvePlan, taps: Sequence[str], own: Arrays) -> list[TapSummary]:
    images, right, (run,) = len(own["right"]), int(own["right"].sum()), curve.runs
    about: dict[str, Any] = {"panel": panel.title, "label": curve.label, "run": run.name, "spec": run.digest}
    about |= {"images": images, "top1": 100 * right / images}
    found = []
    for index, tap in enumerate(taps):
        one: dict[str, Any] = {key: own[key][:, index].mean() for key in ("empty", "silent")}
        for key in ("cosine", "overlap"):
            one[key], one[f"{key}_std"] = mean_and_std(own[key][:, index])
        found.append(TapSummary(**about, tap=tap, compared=int((~np.isnan(own["cosine"][:, index])).sum()), **one))
    return found

"""Grad-CAM of a figure's networks over the whole test set (figures 2a and 3a): maps to draw, and their similarity.

Shapes: B images of a batch, N of the test set, H W pixels, L taps.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bkdsnn.analysis.cams import Cams, Views
from bkdsnn.analysis.maps import PanelMaps, Summary, TapSummary, write_maps
from bkdsnn.analysis.similarity import cosines, mean_and_std, overlaps
from bkdsnn.analysis.test_set import expect_accuracy, reported
from bkdsnn.config import Dataset
from bkdsnn.config.figure_plans import FigurePlan, PanelPlan
from bkdsnn.core.errors import UserError
from bkdsnn.core.progress import log
from bkdsnn.data.loader import Loader
from bkdsnn.models.finished import finished_network
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
    shown, methods = [], []
    for panel in plan.panels:
        gallery, taps = _panel(plan, panel, [runs[curve.runs[0].name] for curve in panel.curves], results, device)
        shown.append(gallery)
        methods += taps
    figure = plan.figure
    summary = Summary(figure=figure.name, taps=figure.taps, shown=list(figure.images), methods=methods)
    write_maps(plan, results, shown, summary)


def _panel(
    plan: FigurePlan, panel: PanelPlan, runs: Sequence[Finished], results: Path, device: torch.device
) -> tuple[PanelMaps, list[TapSummary]]:
    """Pass the test set through all networks of a panel, batch by batch, with the view of its last curve (a student).

    Only the images and maps that the figure shows are kept, in the order of the test set.
    """
    where, wanted = f"{plan.figure.name}, {panel.title}", np.array(plan.figure.images)
    loader = _open(where, runs, plan.figure.images, results, device)
    networks = [_cams(run, plan.figure.taps, device) for run in runs]
    _expect_depth(where, runs, networks)
    images_kept, labels_seen, batches = [], [], []
    for first, images, labels in reported(where, loader):
        rows = np.sort(wanted[(first <= wanted) & (wanted < first + len(labels))]) - first
        teacher, *students = [_look(run, cams, images, labels) for run, cams in zip(runs, networks)]
        batches.append([_measured(views, teacher, labels, rows) for views in (teacher, *students)])
        images_kept.append(images[rows].cpu())
        labels_seen.append(labels.cpu())
    log.info("%s: %d test images", where, loader.test_size)
    found = [_joined(own) for own in zip(*batches)]  # by network
    for run, own in zip(runs, found):
        if run.spec.network.view == runs[-1].spec.network.view:  # otherwise it was tested on different crops
            expect_accuracy(run, _top1(own), len(own["right"]))
    order = np.searchsorted(np.sort(wanted), wanted)
    shown = PanelMaps(
        specs=np.array([run.spec.digest for run in runs]),
        images=pixels(torch.cat(images_kept)[order], runs[-1].spec.dataset),
        labels=torch.cat(labels_seen)[wanted].numpy(),
        maps=np.stack([own["maps"][order] for own in found], axis=1),
        **{key: np.stack([own[key][wanted] for own in found], axis=1) for key in ("predicted", "silent", "positive")},
    )
    taps = [
        _summary(panel.title, curve.label, run, index, tap, own)
        for curve, run, cams, own in zip(panel.curves, runs, networks, found)
        for index, tap in enumerate(cams.taps)
    ]
    return shown, taps


def pixels(images: Tensor, dataset: Dataset) -> NDArray[np.uint8]:
    """Undo the normalisation: return images (B, 3, H, W) as the original bytes (B, H, W, 3)."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (dataset.mean, dataset.std))
    return (255 * (images * std + mean)).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def _cams(run: Finished, taps: str, device: torch.device) -> Cams:
    network = finished_network(run.spec, run.folder, device)
    return Cams(network, network.taps if taps == "all" else network.taps[-1:])


def _look(run: Finished, cams: Cams, images: Tensor, labels: Tensor) -> Views:
    views = cams.of(images, labels)
    if not np.isfinite(views.maps).all():
        raise UserError(f"{run.spec.name}: its maps are not finite numbers; train it with a lower learning rate")
    return views


def _measured(views: Views, teacher: Views, labels: Tensor, rows: NDArray[np.int64]) -> Arrays:
    """Return the maps of `rows`, which the figure shows, and measures of all images; a teacher's similarity is NaN."""
    unlike = np.full(views.silent.shape, np.nan)
    return views._asdict() | {
        "maps": views.maps[rows],
        "right": views.predicted == labels.cpu().numpy(),
        "empty": ~views.maps.any((2, 3)),
        "cosine": unlike if views is teacher else cosines(views.maps, teacher.maps),
        "overlap": unlike if views is teacher else overlaps(views.maps, teacher.maps),
    }


def _joined(batches: Sequence[Arrays]) -> Arrays:
    return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}


def _top1(own: Arrays) -> float:
    return 100 * int(own["right"].sum()) / len(own["right"])


def _summary(panel: str, label: str, run: Finished, index: int, tap: str, own: Arrays) -> TapSummary:
    cosine, cosine_std = mean_and_std(own["cosine"][:, index])
    overlap, overlap_std = mean_and_std(own["overlap"][:, index])
    return TapSummary(
        panel=panel,
        label=label,
        run=run.spec.name,
        spec=run.spec.digest,
        tap=tap,
        images=len(own["right"]),
        top1=_top1(own),
        compared=int((~np.isnan(own["cosine"][:, index])).sum()),
        cosine=cosine,
        cosine_std=cosine_std,
        overlap=overlap,
        overlap_std=overlap_std,
        empty=own["empty"][:, index].mean(),
        silent=own["silent"][:, index].mean(),
    )


def _open(where: str, runs: Sequence[Finished], images: Sequence[int], results: Path, device: torch.device) -> Loader:
    """Open the test set of all runs, after checking that it is the same and has every image that the figure shows."""
    dataset = runs[-1].spec.dataset
    if dataset.events:
        raise UserError(f"{where}: '{dataset.name}' has recordings of events, expected images: Grad-CAM maps pixels")
    loader = open_loader(runs[-1].spec, results, device)
    for run in runs:
        if run.metrics.dataset.digest != loader.digest:
            raise UserError(
                f"{where}: run {run.spec.name} used data with digest {run.metrics.dataset.digest[:10]}, found "
                f"{loader.digest[:10]}; put the data back, or remove {run.folder} and make the run again"
            )
    if (last := max(images)) >= loader.test_size:
        raise UserError(f"{where}: 'images' has {last}, expected numbers below {loader.test_size}, the size of the set")
    return loader


def _expect_depth(where: str, runs: Sequence[Finished], networks: Sequence[Cams]) -> None:
    depths = {run.spec.name: len(cams.taps) for run, cams in zip(runs, networks)}
    if len(set(depths.values())) > 1:
        found = ", ".join(f"{name} {depth}" for name, depth in depths.items())
        raise UserError(f"{where}: networks have different numbers of features: {found}; compare 'taps: last'")

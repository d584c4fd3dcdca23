"""Grad-CAM of the networks of a figure over the whole test set (figures 2a and 3a): shown maps, and their likeness.

Shapes: B images, I of them shown, H W pixels, N networks, L taps.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bkdsnn.analysis.cams import Cams, Views
from bkdsnn.analysis.likeness import Likeness
from bkdsnn.analysis.maps import Method, Shown, Summary, write_maps
from bkdsnn.analysis.test_set import expect_accuracy, reported
from bkdsnn.config import Dataset, RunSpec
from bkdsnn.config.figure_plans import FigurePlan, PanelPlan
from bkdsnn.core.errors import UserError
from bkdsnn.core.progress import log
from bkdsnn.data.loader import Loader
from bkdsnn.models.finished import finished_network
from bkdsnn.runs.records import Finished, expect_finished
from bkdsnn.training.execute import open_loader


def analyse(plan: FigurePlan, results: Path, device: torch.device) -> None:
    """Write `<results>/analyses/<figure>.npz`, what the figure shows, and `.json`, the summary over the test set.

    The first curve of a panel is the teacher that the others are compared with.

    Raises:
        UserError: a run is not finished, its data are not there, it classifies otherwise than its metrics say, or its
            maps cannot be compared with the teacher's.
    """
    runs = {name: expect_finished(spec, results) for name, spec in plan.runs().items()}
    shown, methods = [], []
    for panel in plan.panels:
        gallery, sights = _panel(plan, panel, [runs[curve.runs[0].name] for curve in panel.curves], results, device)
        shown.append(gallery.shown([sight.run.spec for sight in sights]))
        methods += [one for curve, sight in zip(panel.curves, sights) for one in sight.methods(panel, curve.label)]
    figure = plan.figure
    summary = Summary(figure=figure.name, taps=figure.taps, shown=list(figure.images), methods=methods)
    write_maps(plan, results, shown, summary)


class Sight:
    """One network of a panel, with what is gathered of its maps over the test set."""

    def __init__(self, run: Finished, taps: str, device: torch.device) -> None:
        self.run, spec = run, run.spec
        network = finished_network(spec, run.folder, device)
        self.taps = network.taps if taps == "all" else network.taps[-1:]
        self.cams = Cams(network, self.taps)
        self.likeness = Likeness()
        self.empty, self.silent = np.zeros(len(self.taps)), np.zeros(len(self.taps))
        self.seen = self.right = 0

    def look(self, images: Tensor, labels: Tensor) -> Views:
        """Return the maps of a batch, and count it."""
        views = self.cams.of(images, labels)
        if not np.isfinite(views.maps).all():
            raise UserError(f"{self.run.spec.name}: its maps are not finite numbers; train it with a lower rate")
        self.empty += (~views.maps.any((2, 3))).sum(0)
        self.silent += views.silent.sum(0)
        self.seen += len(labels)
        self.right += int((views.predicted == labels.cpu().numpy()).sum())
        return views

    def methods(self, panel: PanelPlan, label: str) -> list[Method]:
        """Return the summary of each tap."""
        common = {"panel": panel.title, "label": label, "run": self.run.spec.name, "spec": self.run.spec.digest}
        counted = {"images": self.seen, "top1": 100 * self.right / self.seen}
        return [
            Method.model_validate(
                common
                | {"tap": tap, **counted, **self.likeness.of(index)}
                | {"empty": self.empty[index] / self.seen, "silent": self.silent[index] / self.seen}
            )
            for index, tap in enumerate(self.taps)
        ]


class Gallery:
    """Keeps the images that a figure shows, with what each network makes of them."""

    def __init__(self, wanted: Sequence[int]) -> None:
        self.wanted = wanted
        self._numbers: list[int] = []
        self._images: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._views: list[list[Views]] = []  # by batch and network

    def rows(self, first: int, size: int) -> list[int]:
        """Return which of the `size` images from number `first` on are shown, by their place among them."""
        return [number - first for number in self.wanted if first <= number < first + size]

    def keep(self, first: int, rows: list[int], images: Tensor, labels: Tensor, views: list[Views]) -> None:
        """Keep these rows of a batch that begins with number `first`; `views` has these rows alone, by network."""
        self._numbers += [first + row for row in rows]
        self._images.append(images[rows].cpu())
        self._labels.append(labels[rows].cpu())
        self._views.append(views)

    def shown(self, runs: Sequence[RunSpec]) -> Shown:
        """Return all of them, in the order that was asked for."""
        order = [self._numbers.index(number) for number in self.wanted]
        networks = [Views(*map(np.concatenate, zip(*batches))) for batches in zip(*self._views)]
        found = {key: np.stack([getattr(one, key) for one in networks], axis=1)[order] for key in Views._fields}
        return Shown(
            specs=np.array([run.digest for run in runs]),
            images=pixels(torch.cat(self._images)[order], runs[-1].dataset),
            labels=torch.cat(self._labels)[order].numpy(),
            **found,
        )


def pixels(images: Tensor, dataset: Dataset) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Return normalised images (I, 3, H, W) as the bytes (I, H, W, 3) that they were made of."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (dataset.mean, dataset.std))
    return (255 * (images * std + mean)).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def _panel(
    plan: FigurePlan, panel: PanelPlan, runs: Sequence[Finished], results: Path, device: torch.device
) -> tuple[Gallery, list[Sight]]:
    """Pass the test set through all networks of a panel, batch by batch, as its last curve, a student, sees it."""
    where = f"{plan.figure.name}, {panel.title}"
    loader = _open(where, runs, plan.figure.images, results, device)
    sights = [Sight(run, plan.figure.taps, device) for run in runs]
    _expect_depth(where, sights)
    teacher, *students = sights
    gallery = Gallery(plan.figure.images)
    for first, images, labels in reported(where, loader):
        rows = gallery.rows(first, len(labels))
        views = teacher.look(images, labels)
        picked = [_picked(views, rows)]
        for student in students:
            found = student.look(images, labels)
            student.likeness.add(found.maps, views.maps)
            picked.append(_picked(found, rows))
        gallery.keep(first, rows, images, labels, picked)
    log.info("%s: %d test images", where, loader.test_size)
    for sight in sights:
        if sight.run.spec.network.view == runs[-1].spec.network.view:  # else it was tested on other crops of the images
            expect_accuracy(sight.run, 100 * sight.right / sight.seen, sight.seen)
    return gallery, sights


def _picked(views: Views, rows: list[int]) -> Views:
    return Views._make(part[rows] for part in views)


def _open(where: str, runs: Sequence[Finished], images: Sequence[int], results: Path, device: torch.device) -> Loader:
    """Open the test set that all runs were tested on; it has every image that the figure shows."""
    dataset = runs[-1].spec.dataset
    if dataset.events:
        raise UserError(f"{where}: '{dataset.name}' has recordings of events, expected images: Grad-CAM maps pixels")
    loader = open_loader(runs[-1].spec, results, device)
    for run in runs:
        if run.metrics.dataset.digest != loader.digest:
            raise UserError(
                f"{where}: run {run.spec.name} saw data with digest {run.metrics.dataset.digest[:10]}, found "
                f"{loader.digest[:10]}; put the data back, or remove {run.folder} and make the run again"
            )
    if (last := max(images)) >= loader.test_size:
        raise UserError(f"{where}: 'images' has {last}, expected numbers below {loader.test_size}, the size of the set")
    return loader


def _expect_depth(where: str, sights: Sequence[Sight]) -> None:
    depths = {sight.run.spec.name: len(sight.taps) for sight in sights}
    if len(set(depths.values())) > 1:
        found = ", ".join(f"{name} {depth}" for name, depth in depths.items())
        raise UserError(f"{where}: networks have different numbers of features: {found}; compare 'taps: last'")

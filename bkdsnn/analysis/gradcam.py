"""Grad-CAM (Selvaraju et al., ICCV 2017) of finished networks, and how like its teacher's a student's maps are.

Shapes: T time-steps, B images, C channels, h w places of a feature, H W pixels, L taps.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from bkdsnn import checkpoint, files, models
from bkdsnn.analysis.maps import Method, Summary, analysis_paths
from bkdsnn.data.loader import Loader
from bkdsnn.errors import UserError
from bkdsnn.execute import open_loader
from bkdsnn.figures.plan import FigurePlan, PanelPlan
from bkdsnn.models import Network
from bkdsnn.progress import log
from bkdsnn.runs import RunFolder
from bkdsnn.spec import Dataset, RunSpec

TOP = 0.2  # share of the pixels whose intersection is measured
EVERY = 20  # batches between two lines of progress


class Maps(NamedTuple):
    """Maps of a batch, float32 (B, L, H, W), each scaled to [0, 1] by itself; which taps are silent; the decisions."""

    maps: NDArray[np.float32]
    silent: NDArray[np.bool_]  # (B, L): all entries of the feature are zero
    predicted: NDArray[np.int64]  # (B,)


class Cams(GradCAM):
    """Grad-CAM of several taps of a network from one forward and one backward pass.

    Of a spiking network the feature and its gradient are averaged over time: the map of the averaged feature (Eq. 3).
    The gradient passes neurons by their surrogates. A ViT is looked at before its last attention, in the norm of the
    block: behind it only the class token has a gradient.
    """

    def __init__(self, network: Network, taps: Sequence[str]) -> None:
        self.per_tap: list[NDArray[np.float32]] = []
        layers = [_layer(network, tap) for tap in taps]
        super().__init__(Classifier(network), layers, _averaged(network))

    def compute_cam_per_layer(self, *arguments: Any) -> list[NDArray[np.float32]]:
        """Keep the maps of the taps apart; the package averages them."""
        self.per_tap = super().compute_cam_per_layer(*arguments)
        return self.per_tap

    def of(self, images: Tensor, labels: Tensor) -> Maps:
        """Return the maps of images (B, 3, H, W) for their true classes (B,)."""
        self(images, [ClassifierOutputTarget(label) for label in labels.tolist()])
        silent = [(feature == 0).flatten(1).all(1).numpy() for feature in self.activations_and_grads.activations]
        predicted = self.outputs.argmax(1).cpu().numpy()
        return Maps(np.concatenate(self.per_tap, axis=1), np.stack(silent, axis=1), predicted)


class Classifier(nn.Module):
    """A network that returns the logits (B, K) which decide, averaged over time."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K)."""
        logits: Tensor = self.network(images).logits.mean(0)
        return logits


class Likeness:
    """Adds up how like those of a teacher the maps of a student are, image by image."""

    def __init__(self, taps: int) -> None:
        self.cosines: list[NDArray[np.float64]] = []
        self.overlaps: list[NDArray[np.float64]] = []
        self.empty, self.silent = np.zeros(taps, np.int64), np.zeros(taps, np.int64)

    def add(self, student: Maps, teacher: Maps) -> None:
        """Compare the maps of a batch."""
        self.cosines.append(cosines(student.maps, teacher.maps))
        self.overlaps.append(overlaps(student.maps, teacher.maps))
        self.empty += _empty(student.maps)
        self.silent += student.silent.sum(0)


def cosines(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the cosine of each two maps (B, L, H, W), (B, L): 0 if one of them is empty, NaN if both are."""
    a, b = (maps.reshape(*maps.shape[:2], -1).astype(np.float64) for maps in (one, other))
    sizes = np.linalg.norm(a, axis=-1), np.linalg.norm(b, axis=-1)
    both = (a * b).sum(-1) / np.maximum(sizes[0] * sizes[1], 1e-300)
    return np.where((sizes[0] == 0) & (sizes[1] == 0), np.nan, both)


def overlaps(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the share of the top 20 % of pixels that two maps have in common, (B, L); NaN if both maps are empty.

    Pixels of value zero are never among the top, and of equal values the first pixels are.
    """
    a, b = top(one), top(other)
    common = (a & b).sum((-2, -1)) / round(TOP * one.shape[-2] * one.shape[-1])
    return np.where(a.any((-2, -1)) | b.any((-2, -1)), common, np.nan)


def top(maps: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which pixels of maps (B, L, H, W) are among the highest 20 % and not zero."""
    flat = maps.reshape(*maps.shape[:2], -1)
    first = np.argsort(-flat, axis=-1, kind="stable")[..., : round(TOP * flat.shape[-1])]
    chosen = np.zeros(flat.shape, bool)
    np.put_along_axis(chosen, first, True, axis=-1)
    return (chosen & (flat > 0)).reshape(maps.shape)


def analyse(plan: FigurePlan, results: Path, device: torch.device) -> None:
    """Write `<results>/analyses/<figure>.npz`, what the figure shows, and `.json`, the summary over the test set.

    The first curve of a panel is the teacher that the others are compared with. Raises `UserError` for a run that is
    not finished.
    """
    arrays: dict[str, NDArray[Any]] = {}
    methods: list[Method] = []
    for index, panel in enumerate(plan.panels):
        shown, found = _panel(plan, panel, results, device)
        arrays |= {f"{index}/{key}": value for key, value in shown.items()}
        methods += found
    shown_at, summary_at = analysis_paths(plan, results)
    with files.replacing(shown_at) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays)
    files.write_text(summary_at, Summary(figure=plan.figure.name, methods=methods).model_dump_json(indent=1) + "\n")


def _panel(
    plan: FigurePlan, panel: PanelPlan, results: Path, device: torch.device
) -> tuple[dict[str, NDArray[Any]], list[Method]]:
    """Pass the whole test set, as the first student sees it, through all networks of a panel."""
    runs = [curve.runs[0] for curve in panel.curves]
    networks = [_network(run, results, device) for run in runs]
    taps = [network.taps if plan.figure.taps == "all" else network.taps[-1:] for network in networks]
    for (first, ours), (label, theirs) in pairwise(zip((curve.label for curve in panel.curves), taps)):
        if len(ours) != len(theirs):
            raise UserError(f"{plan.figure.name}: '{first}' has {len(ours)} features, '{label}' {len(theirs)}")
    cams = [Cams(network, own) for network, own in zip(networks, taps)]
    loader = open_loader(runs[1], results, device)
    likeness = [Likeness(len(taps[0])) for _ in runs]
    shown: list[tuple[Tensor, Tensor, list[Maps]]] = []
    seen = 0
    for step, (images, labels) in enumerate(loader.test(), start=1):
        found = [cam.of(images, labels) for cam in cams]
        for like, maps in zip(likeness, found):
            like.add(maps, found[0])
        for index in plan.figure.images:
            if seen <= index < seen + len(images):
                shown.append(_picked(images, labels, found, index - seen))
        seen += len(images)
        if step % EVERY == 0:
            log.info("%s, %s: %d of %d images", plan.figure.name, panel.title, seen, loader.test_size)
    if len(shown) < len(plan.figure.images):
        raise UserError(f"{plan.figure.name}: 'images' has {max(plan.figure.images)}, expected below {seen}")
    log.info("%s, %s: %d images", plan.figure.name, panel.title, seen)
    return _arrays(shown, runs[1].dataset), _methods(panel, runs, taps, likeness, loader)


def _picked(images: Tensor, labels: Tensor, found: list[Maps], at: int) -> tuple[Tensor, Tensor, list[Maps]]:
    return images[at].cpu(), labels[at].cpu(), [Maps(*(part[at] for part in maps)) for maps in found]


def _arrays(shown: list[tuple[Tensor, Tensor, list[Maps]]], dataset: Dataset) -> dict[str, NDArray[Any]]:
    """Images uint8 (I, H, W, 3), labels (I,), and of N networks maps (I, N, L, H, W), silent (I, N, L), predicted."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (dataset.mean, dataset.std))
    pixels = [((image * std + mean) * 255).round().clamp(0, 255).byte().permute(1, 2, 0) for image, _, _ in shown]
    return {
        "images": torch.stack(pixels).numpy(),
        "labels": torch.stack([label for _, label, _ in shown]).numpy(),
        **{key: np.stack([[getattr(maps, key) for maps in found] for _, _, found in shown]) for key in Maps._fields},
    }


def _methods(
    panel: PanelPlan, runs: list[RunSpec], taps: list[tuple[str, ...]], likeness: list[Likeness], loader: Loader
) -> list[Method]:
    made = []
    for curve, run, own, like in zip(panel.curves, runs, taps, likeness):
        cosine, overlap = np.concatenate(like.cosines), np.concatenate(like.overlaps)
        for index, tap in enumerate(own):
            compared = cosine[:, index][~np.isnan(cosine[:, index])], overlap[:, index][~np.isnan(overlap[:, index])]
            made.append(
                Method(
                    panel=panel.title,
                    label=curve.label,
                    run=run.name,
                    spec=run.digest,
                    tap=tap,
                    images=loader.test_size,
                    compared=len(compared[0]),
                    cosine=_mean(compared[0]),
                    cosine_std=_std(compared[0]),
                    overlap=_mean(compared[1]),
                    overlap_std=_std(compared[1]),
                    empty=int(like.empty[index]),
                    silent=int(like.silent[index]),
                )
            )
    return made


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if len(values) else None


def _std(values: NDArray[np.float64]) -> float | None:
    return float(values.std(ddof=1)) if len(values) > 1 else None


def _empty(maps: NDArray[np.float32]) -> NDArray[np.int64]:
    """How many of the maps (B, L, H, W) of each tap are zero everywhere."""
    return np.asarray((~maps.any((2, 3))).sum(0), np.int64)


def _network(run: RunSpec, results: Path, device: torch.device) -> Network:
    folder = RunFolder(results / "runs", run)
    network = models.build(run.network, run.dataset)
    checkpoint.load_weights(network, folder.weights(), str(folder.path / "weights.safetensors"))
    return network.to(device)


def _layer(network: Network, tap: str) -> nn.Module:
    layer = network.layer(tap)
    return layer.norm1 if _is_vit(network) else layer  # type: ignore[return-value]


def _averaged(network: Network) -> Any:
    """What turns an output of a layer, or its gradient, into a map (B, C, h, w)."""
    if _is_vit(network):
        grid: tuple[int, int] = network.patch_embed.grid_size  # type: ignore[union-attr, assignment]
        return lambda tokens: tokens[:, 1:].mT.unflatten(2, grid)
    timesteps = int(network.timesteps)  # type: ignore[arg-type]
    return lambda x: x.unflatten(0, (timesteps, -1)).mean(0)


def _is_vit(network: Network) -> bool:
    return hasattr(network, "patch_embed")

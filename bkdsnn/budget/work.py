"""How much a run computes, derived from its spec. Free of torch."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from bkdsnn.config import Dataset, Network, RunSpec
from bkdsnn.core.errors import UserError
from bkdsnn.data.layout import OFFICIAL
from bkdsnn.data.manifest import Manifest

FREE = {"weight", "logits_weight", "tau", "blur_ratio"}  # options of terms that do not change a step's cost
IN_RECIPE = {"batch_size", "optimizer", "precision", "augment"}


class Size(NamedTuple):
    """Number of training and test images, or recordings."""

    train: int
    test: int


def size(dataset: Dataset, results: Path) -> Size | None:
    """Return the size of a dataset: as embedded, as published, or from its manifest; None while it is unknown."""
    made = dataset.digits or (dataset.events and dataset.events.simulated)
    if made:
        return Size(made.train, made.test)
    if dataset.name in OFFICIAL:
        return Size(*OFFICIAL[dataset.name])
    with contextlib.suppress(UserError):  # missing or outdated: the workflow will make it
        manifest = Manifest.read(results / "data" / f"{dataset.name}.json", dataset)
        return Size(manifest.train, manifest.test)
    return None


def kind(spec: RunSpec) -> str:
    """Return a name that runs share if each training step, and each test image, costs the same on the same data.

    It does not depend on seed, loss weights, learning rate and number of epochs.
    """
    data = spec.dataset
    recipe = spec.recipe.model_dump(mode="json", include=IN_RECIPE) if spec.recipe else {}
    described = {
        "data": [data.name, data.format, data.classes, data.image_size],
        "network": _network(spec.network),
        "loss": spec.loss.method,
        "distill": [_structure(term) for term in spec.distill],
        "teacher": _network(spec.teacher.network) if spec.teacher else None,
        "recipe": recipe,
        "mix": bool(spec.recipe and spec.recipe.mix),
    }
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:10]
    return f"{data.name}-{spec.network.slug}-{spec.method}-t{spec.network.timesteps}-{digest}"


def _network(network: Network) -> dict[str, Any]:
    return network.model_dump(mode="json", exclude={"name"})


def _structure(term: Any) -> dict[str, Any]:
    blurred = getattr(term, "blur_ratio", None) is not None
    return {**term.model_dump(mode="json", exclude=FREE), "blurred": blurred}

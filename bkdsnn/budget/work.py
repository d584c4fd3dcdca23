"""How much a run computes, derived from its spec. Free of torch."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from bkdsnn.config import Dataset, RunSpec
from bkdsnn.core.errors import UserError
from bkdsnn.data.layout import OFFICIAL
from bkdsnn.data.manifest import Manifest

# The parts of a run that decide what a step costs, without the options of them that do not.
COSTLY: Any = {
    "dataset": {"name", "format", "classes", "image_size"},
    "network": True,
    "loss": {"method"},
    "distill": True,
    "teacher": {"network"},
    "recipe": {"batch_size", "optimizer", "precision", "augment"},
}
FREE: Any = {
    "network": {"name"},
    "teacher": {"network": {"name"}},
    "distill": {"__all__": {"weight", "logits_weight", "tau", "blur_ratio"}},
}


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
    described = spec.model_dump(mode="json", include=COSTLY, exclude=FREE)
    described["blurred"] = [getattr(term, "blur_ratio", None) is not None for term in spec.distill]
    described["mix"] = bool(spec.recipe and spec.recipe.mix)
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:10]
    return f"{spec.dataset.name}-{spec.network.slug}-{spec.method}-t{spec.network.timesteps}-{digest}"

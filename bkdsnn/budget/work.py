"""How much a run computes, by its spec alone. Free of torch."""

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

FREE = {"weight", "logits_weight", "tau", "blur_ratio"}  # options of terms that cost nothing


class Size(NamedTuple):
    """Training and test images, or recordings."""

    train: int
    test: int


class Work(NamedTuple):
    """What runs have in common that go equally fast.

    Runs of one `kind` do the same at every training step and for every test image, on the same data: seeds, weights of
    losses, learning rates and numbers of epochs do not set them apart. Runs of one `kin` have the same network on the
    same data, whatever their losses and teachers.
    """

    kind: str
    kin: str

    @classmethod
    def of(cls, spec: RunSpec) -> Work:
        """Return the work of a run."""
        return cls(_kind(spec), _kin(spec))


def size(dataset: Dataset, results: Path) -> Size | None:
    """Return how much data there is: as embedded, as published, or as the manifest says; None if nothing tells yet."""
    made = dataset.digits or (dataset.events and dataset.events.simulated)
    if made:
        return Size(made.train, made.test)
    if dataset.name in OFFICIAL:
        return Size(*OFFICIAL[dataset.name])
    with contextlib.suppress(UserError):  # absent or of other data: the workflow is about to make it
        manifest = Manifest.read(results / "data" / f"{dataset.name}.json", dataset)
        return Size(manifest.train, manifest.test)
    return None


_IN_RECIPE = {"batch_size", "optimizer", "precision", "augment"}


def _kind(spec: RunSpec) -> str:
    recipe = spec.recipe.model_dump(mode="json", include=_IN_RECIPE) if spec.recipe else None
    if spec.recipe and recipe:
        recipe["mix"] = spec.recipe.mix is not None
    told = {
        **_seen(spec),
        "loss": spec.loss.method,
        "distill": [_structure(term) for term in spec.distill],
        "teacher": _network(spec.teacher.network) if spec.teacher else None,
        "recipe": recipe,
    }
    return f"{_prefix(spec)}-{spec.method}-t{spec.network.timesteps}-{_digest(told)}"


def _kin(spec: RunSpec) -> str:
    told = {**_seen(spec), "batch": spec.recipe.batch_size if spec.recipe else None}
    return f"{_prefix(spec)}-t{spec.network.timesteps}-{_digest(told)}"


def _seen(spec: RunSpec) -> dict[str, Any]:
    data = spec.dataset
    return {"data": [data.name, data.format, data.classes, data.image_size], "network": _network(spec.network)}


def _network(network: Network) -> dict[str, Any]:
    return network.model_dump(mode="json", exclude={"name"})


def _structure(term: Any) -> dict[str, Any]:
    blurred = getattr(term, "blur_ratio", None) is not None
    return {**term.model_dump(mode="json", exclude=FREE), "blurred": blurred}


def _prefix(spec: RunSpec) -> str:
    return f"{spec.dataset.name}-{spec.network.slug}"


def _digest(told: dict[str, Any]) -> str:
    text = json.dumps(told, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]

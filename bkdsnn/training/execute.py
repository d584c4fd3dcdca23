"""Carry out one run, from its spec to its artefacts: train it, or only evaluate the weights that it starts from."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path

import numpy as np
import torch

from bkdsnn import models
from bkdsnn.config import Augment, RunSpec
from bkdsnn.core import files
from bkdsnn.core.progress import log
from bkdsnn.data import open_data
from bkdsnn.data.loader import Loader
from bkdsnn.machine import devices
from bkdsnn.machine.distributed import ALONE, Group
from bkdsnn.models import Network
from bkdsnn.models.neurons import implementations
from bkdsnn.runs import artefacts, checkpoint, schema
from bkdsnn.runs.attempts import standing
from bkdsnn.runs.provenance import provenance
from bkdsnn.runs.run_folder import RunFolder
from bkdsnn.runs.schema import Data, Epoch, Metrics, Top1
from bkdsnn.runs.slices import Slice
from bkdsnn.training.evaluate import Evaluation, evaluate
from bkdsnn.training.sources import load_source
from bkdsnn.training.train import train

EVALUATION_BATCH = 250  # images per batch for a run without a recipe


def execute(
    spec: RunSpec,
    results: Path,
    resources: Path,
    device: torch.device,
    minutes: float | None,
    group: Group = ALONE,
    recompute: bool = False,
) -> None:
    """Carry out a run in `results` (the folder of its scale); a finished run is left as it is.

    Every process of a `group` calls this function; only the first of them writes files. Raises `UserError` for bad
    input, and `Interrupted` when the time slice of `minutes` ends before the run does. `recompute` trades time for
    memory: the backward pass recomputes activations instead of storing them.
    """
    folder, time_slice = RunFolder(results / "runs", spec), Slice(minutes, results / "runs" / spec.name)
    with contextlib.ExitStack() as stack:
        if group.main and not folder.finished:
            stack.enter_context(folder.locked(time_slice))
        (unfinished,) = group.any(group.main and not folder.finished)  # another writer may have just finished it
        if unfinished and group.main:
            stack.enter_context(folder.recorded())
        if unfinished:
            _carry_out(folder, results, resources, device, time_slice, group, recompute)
            return
    if group.main:
        log.info("%s: already finished", spec.name)
        folder.clear_checkpoints()  # a kill after writing the results may have left some


def _carry_out(
    folder: RunFolder,
    results: Path,
    resources: Path,
    device: torch.device,
    time_slice: Slice,
    group: Group,
    recompute: bool,
) -> None:
    spec, name = folder.spec, devices.describe(device)
    if group.main:
        folder.begin(name, standing(folder.checkpoint), functools.partial(devices.peak_memory_mb, device))
    where = name if group.size == 1 else f"{group.size} x {name}"
    log.info("%s: on %s%s", spec.name, where, ", recomputing activations" if recompute else "")
    loader = open_loader(spec, results, device, group)
    with time_slice if spec.recipe else contextlib.nullcontext():  # a signal does not interrupt the writing of results
        network, evaluation, history = _computed(folder, loader, resources, device, time_slice, group, recompute)
        if group.main:
            write_artefacts(folder, network, evaluation, history, loader, name)
            folder.clear_checkpoints()


def _computed(
    folder: RunFolder,
    loader: Loader,
    resources: Path,
    device: torch.device,
    time_slice: Slice,
    group: Group,
    recompute: bool,
) -> tuple[Network, Evaluation, list[Epoch]]:
    """Return the network of a run, trained or as it was given, its evaluation, and its history."""
    spec = folder.spec
    if spec.recipe:
        return train(spec, spec.recipe, folder, loader, device, time_slice, resources, group, recompute)
    network = models.build(spec.network, spec.dataset)
    load_source(network, spec, folder, resources)
    evaluation = evaluate(network.to(device), loader)
    log.info("%s: top-1 %.2f %%", spec.name, evaluation.top1)
    return network, evaluation, []


def open_loader(spec: RunSpec, results: Path, device: torch.device, group: Group = ALONE) -> Loader:
    """Open the run's dataset through its manifest, which the workflow's data rule has written."""
    recipe = spec.recipe
    return open_data(
        spec.dataset,
        results / "data" / f"{spec.dataset.name}.json",
        batch_size=recipe.batch_size if recipe else EVALUATION_BATCH,
        augment=recipe.augment if recipe else Augment(),
        view=spec.network.view,
        timesteps=spec.network.timesteps,
        teacher_timesteps=spec.teacher.network.timesteps if spec.teacher else None,
        seed=spec.root,
        device=device,
        group=group,
    )


def write_artefacts(
    folder: RunFolder,
    network: Network,
    evaluation: Evaluation,
    history: list[Epoch],
    loader: Loader,
    device: str,
) -> None:
    """Write all artefacts of a finished run. `metrics.json` comes last, because its existence marks success."""
    spec, path = folder.spec, folder.path
    folder.write_history(history)
    folder.write_spec()  # it is there, unless another Snakemake that waits for this attempt has removed its outputs
    checkpoint.write_tensors(path / "weights.safetensors", network.state_dict(), {"spec": spec.digest})
    with files.replacing(path / "predictions.npz") as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, predicted=evaluation.predicted.astype(np.int16), correct=evaluation.correct)
    about = provenance(folder.attempts(), device, implementations(network), loader.digest, history)
    schema.write(path / "provenance.json", about)
    metrics = Metrics(
        run=spec.name,
        spec=spec.digest,
        top1=Top1.of(evaluation.top1, history),
        top1_by_timestep=evaluation.top1_by_timestep,
        parameters=models.count_parameters(network),
        epochs=len(history),
        test_images=len(evaluation.correct),
        dataset=Data(name=spec.dataset.name, label=spec.dataset.label, digest=loader.digest),
        seconds=about.seconds,
        files=artefacts.seal(path),
        parents=artefacts.descent(folder.of(parent).path for parent in spec.parents()),
    )
    schema.write(path / "metrics.json", metrics)

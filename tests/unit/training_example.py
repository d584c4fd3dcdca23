"""Runs of tens of samples that several test files train, whole and in slices."""

import json
import shutil

import torch
from safetensors.torch import load_file

from bkdsnn.core.errors import Interrupted
from bkdsnn.runs.run_folder import RunFolder
from bkdsnn.training.execute import execute

CPU = torch.device("cpu")


def changed(spec, **recipe):
    return spec.model_copy(update={"recipe": spec.recipe.model_copy(update=recipe)})


def run(spec, results, minutes=None):
    execute(spec, results, results / "resources", CPU, minutes)
    return RunFolder(results / "runs", spec).path


def run_in_slices(spec, results):
    """Train one step a slice: every step ends in a checkpoint and begins from one."""
    for slices in range(1, 100):
        try:
            return run(spec, results, minutes=1e-9), slices
        except Interrupted:
            assert not (RunFolder(results / "runs", spec).path / "metrics.json").exists()
    raise AssertionError("no end")


def losses(path):
    return [json.loads(line)["losses"] for line in (path / "history.jsonl").read_text().splitlines()]


def compare_sliced(spec, results, again):
    """Assert that training a step a slice, in the folder `again`, leaves what uninterrupted training does."""
    whole = run(spec, results)
    shutil.copytree(results, again, ignore=shutil.ignore_patterns(spec.name))
    sliced, slices = run_in_slices(spec, again)
    made = spec.dataset.digits or spec.dataset.events.simulated
    steps = spec.recipe.total_epochs * (made.train // spec.recipe.batch_size)
    assert slices == steps + 1
    assert_equal(whole, sliced)
    assert len(losses(sliced)) == spec.recipe.total_epochs
    assert len(json.loads((sliced / "provenance.json").read_text())["attempts"]) == slices


def assert_equal(one, other):
    """Assert that two runs left the same bits."""
    first, second = (load_file(path / "weights.safetensors") for path in (one, other))
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    assert losses(one) == losses(other)
    assert (one / "predictions.npz").read_bytes() == (other / "predictions.npz").read_bytes()

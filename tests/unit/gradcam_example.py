"""Small real runs of Grad-CAM figures, untrained, in their folders: what the tests of analysis and figure measure."""

import dataclasses

import torch
from torch import nn

from bkdsnn import models
from bkdsnn.config.figure_plans import Figure, plan_figure
from bkdsnn.config.paper import Expansion
from bkdsnn.data import prepare
from bkdsnn.runs.run_folder import RunFolder
from bkdsnn.training.evaluate import evaluate
from bkdsnn.training.execute import open_loader, write_artefacts

CPU = torch.device("cpu")
CNN = {
    "title": "CNN",
    "table": "table2c",
    "column": "resnet18-imagenet",
    "curves": [
        {"label": "ANN", "row": "ann"},
        {"label": "w/o KD", "row": "sew-resnet"},
        {"label": "BKDSNN", "row": "bkdsnn"},
    ],
}
TRANSFORMER = {
    "title": "Transformer",
    "table": "table2d",
    "column": "sformer-8-384-imagenet",
    "curves": [{"label": "ANN", "row": "ann"}, {"label": "w/o KD", "row": "spikingformer-cml"}],
}
SIZE = 64  # of the images, so that the last stage of R-18 has 2 x 2 places
BATCH = 30  # 100 test images are three batches of 30 and one of 10


def gradcam_plan(*panels, images=(0,), taps="last"):
    """A figure at scale smoke on larger images, whose runs are tested in uneven batches."""
    figure = Figure(
        name="fig9y", number="9y", title="maps", kind="gradcam", panels=panels, images=tuple(images), taps=taps
    )
    plan = plan_figure(Expansion("smoke"), figure)
    return dataclasses.replace(
        plan, panels=tuple(dataclasses.replace(p, curves=tuple(_changed(p))) for p in plan.panels)
    )


def _changed(panel):
    for curve in panel.curves:
        (run,) = curve.runs
        changes = {"recipe": run.recipe.model_copy(update={"batch_size": BATCH})}
        yield dataclasses.replace(curve, runs=(_enlarged(run).model_copy(update=changes),))


def _enlarged(run):
    """A run on larger images, with the teacher that sees the same ones."""
    if run.dataset.events:
        return run
    dataset = run.dataset.model_copy(update={"image_size": SIZE})
    return run.model_copy(update={"dataset": dataset, "teacher": run.teacher and _enlarged(run.teacher)})


def lively(spec, seed=1):
    """An untrained network whose layers fire."""
    torch.manual_seed(seed)
    network = models.build(spec.network, spec.dataset).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.bias, 0.3, 0.5)
            nn.init.uniform_(module.running_var, 0.1, 0.5)  # amplifies, so that maps differ from place to place
    return network


def finish(plan, results, change=lambda name, network: None):
    """Write data and run folders of a plan, of untrained networks that `change(name, network)` may alter first."""
    for seed, spec in enumerate(plan.runs().values()):
        manifest = results / "data" / f"{spec.dataset.name}.json"
        if not manifest.exists():
            prepare(spec.dataset, None, manifest)
        network = lively(spec, seed)
        change(spec.name, network)
        folder = RunFolder(results / "runs", spec)
        for parent in map(folder.of, spec.parents()):
            parent.path.mkdir(parents=True, exist_ok=True)
            (parent.path / "weights.safetensors").touch()  # a checksum is all that is asked of them
        folder.begin("a CPU", None, lambda: 1.0)
        loader = open_loader(spec, results, CPU)
        write_artefacts(folder, network, evaluate(network, loader), [], loader, "a CPU")
    return results

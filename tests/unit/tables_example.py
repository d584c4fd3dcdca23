"""A small table by hand, and run folders with real files: what the tests of the tables package measure.

Three columns under two architectures, six rows in three groups, two of them of one method, three seeds, 100 test images
a run. Every run gets the images of one `range` right, so that accuracies, differences and discordant counts can be
worked out by hand. R-19 has a teacher with another network, R-20 one with its own.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bkdsnn.config import Dataset, Digits, Neuron, Recipe, ResNet, RunSpec
from bkdsnn.config.declarations import Column, Row, Scale, Table
from bkdsnn.config.plans import Cell, Plan

IMAGES = 100
SEEDS = (0, 1, 2)
PARAMETERS = {"resnet19": 33_540, "resnet20": 272_474, "resnet34": 21_797_672}
IF = Neuron(kind="if", surrogate="atan", alpha=2.0)
RECIPE = Recipe(epochs=12, batch_size=50, optimizer="sgd", lr=0.1)

COLUMNS = tuple(
    Column(
        key=f"{network}-{dataset}",
        heading=(short, dataset.upper(), block),
        dataset=dataset,
        network=network,
        teacher=teacher,
        student="sew-resnet",
        recipes={"student": "sew"},
        parameters_m=size,
    )
    for network, short, size, dataset, block, teacher in (
        ("resnet19", "R-19", 12.63, "cifar10", "w/ G", "resnet34"),
        ("resnet19", "R-19", 12.63, "cifar100", "w/ G", "resnet34"),
        ("resnet20", "R-20", 0.27, "cifar10", "w/o G", None),
    )
)
ROWS = (
    Row(method="qcfs", group="without-kd", timesteps=4, paper=(None, None, 83.75), origin="quoted"),
    Row(method="sew-resnet", group="without-kd", timesteps=4, paper=(93.24, 70.84, 89.07)),
    Row(method="ann", group="teacher", timesteps=1, paper=(95.60, 79.78, 91.77)),
    Row(method="bkd", group="with-kd", timesteps=4, paper=(94.10, 74.00, 89.10), delta_against=("sew-resnet",) * 3),
    Row(
        key="bkd-0.40",
        method="bkd",
        group="with-kd",
        timesteps=4,
        paper=(None, 74.12, None),
        origin="inferred",
        delta_against=("bkd",) * 3,
        distill={"bkd": {"blur_ratio": 0.4}},
    ),
    Row(
        method="bkdsnn",
        group="with-kd",
        timesteps=4,
        paper=(94.64, 74.95, 89.29),
        delta_against=("sew-resnet", "bkd", "sew-resnet"),
    ),
)
TEACHER = ROWS[2]
LABELS = {
    "qcfs": "QCFS",
    "sew-resnet": "SEW-R",
    "ann": "Teacher ANN",
    "bkd": "+L_BKD",
    "bkd-0.40": "+L_BKD",
    "bkdsnn": "BKDSNN (ours)",
}
TABLE = Table(
    name="table9z",
    number="9z",
    title="CNN-based SNNs & their teachers",
    metric="top-1 accuracy (%)",
    groups={"without-kd": "w/o KD", "teacher": "Teacher", "with-kd": "with KD"},
    settings={"τ": "ld.tau", "λ": "bkd.blur_ratio"},
    columns=COLUMNS,
    rows=ROWS,
    footnotes=("100 % of the footnote_s of table #9z are escaped; λ is that of L_BKD.",),
    deviations=("D-001", "D-148"),
)
DEMO = Scale(
    name="demo",
    note="Demo scale: tiny networks on 100 images.",
    seeds=SEEDS,
    pretrained="none",
    datasets={"cifar10": "digits-8", "cifar100": "digit-pairs-8"},
)
PAPER = Scale(name="paper", note="Paper scale, with the published recipes.", seeds=SEEDS, pretrained="none")

# Images that each run of a row gets right, one range per seed; None: not run, "failed": stopped with an error.
RIGHT: Mapping[tuple[str, str], tuple[Any, ...]] = {
    ("qcfs", "resnet19-cifar10"): ("failed", "failed", "failed"),
    ("qcfs", "resnet20-cifar10"): (range(70), "failed", None),
    ("sew-resnet", "resnet19-cifar10"): (range(80), range(82), range(84)),
    ("sew-resnet", "resnet19-cifar100"): (range(60), range(61), range(62)),
    ("sew-resnet", "resnet20-cifar10"): (range(90), range(90), range(90)),
    ("ann", "resnet19-cifar10"): (range(95), range(96), range(97)),
    ("bkd", "resnet19-cifar10"): (range(81), range(82), range(86)),
    ("bkd", "resnet19-cifar100"): (range(64), range(66), None),
    ("bkd", "resnet20-cifar10"): (range(2, 100), range(2, 92), range(4, 86)),
    ("bkd-0.40", "resnet19-cifar10"): (range(84), range(82), range(80)),
    ("bkdsnn", "resnet19-cifar10"): (range(5, 88), range(1, 85), range(2, 90)),
    ("bkdsnn", "resnet19-cifar100"): (range(70), None, range(72)),
    ("bkdsnn", "resnet20-cifar10"): (range(5, 95), range(89), range(91)),
}


def spec(row: Row, column: Column, seed: int, scale: Scale = DEMO) -> RunSpec:
    """The run of a row in a column; the teacher of distilled rows is the `ann` row."""
    distilled = row.method.startswith("bkd")
    terms = {"bkd": {"weight": 1.0, **row.distill.get("bkd", {})}, **({"ld": {}} if row.method == "bkdsnn" else {})}
    return RunSpec(
        dataset=_dataset(scale.datasets.get(column.dataset, column.dataset)),
        network=_network(row, column),
        distill=terms if distilled else (),
        teacher=spec(TEACHER, column, seed, scale) if distilled else None,
        # Only a different recipe keeps the runs of QCFS and SEW-R apart here.
        recipe=RECIPE.model_copy(update={"epochs": 13}) if row.method == "qcfs" else RECIPE,
        role="teacher" if row == TEACHER else "student",
        seed=seed,
    )


def example_plan(scale: Scale = DEMO) -> Plan:
    """The table at a scale."""
    cells = [
        Cell(
            row,
            column,
            tuple(spec(row, column, seed, scale) for seed in scale.seeds),
            row.paper[i],
            row.delta_against[i] if row.delta_against else None,
        )
        for row in ROWS
        for i, column in enumerate(COLUMNS)
    ]
    datasets = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
    return Plan(TABLE, scale, "reference", LABELS, datasets, tuple(cells))


def without(plan: Plan, *seeds: int) -> Plan:
    """The plan with fewer seeds."""
    cells = (dataclasses.replace(c, runs=tuple(r for r in c.runs if r.seed not in seeds)) for c in plan.cells)
    return dataclasses.replace(plan, cells=tuple(cells))


def finish(run: RunSpec, results: Path, right: range, /, **changes: Any) -> Path:
    """Write the folder of a run that succeeded; `changes` replaces keys of its metrics. Returns the folder."""
    folder = results / "runs" / run.name
    folder.mkdir(parents=True)
    correct = np.isin(np.arange(IMAGES), list(right))
    np.savez_compressed(folder / "predictions.npz", correct=correct)
    last = 100.0 * float(correct.mean())
    metrics = {
        "run": run.name,
        "spec": run.digest,
        "top1": {"last": last, "best": last + 1.5, "best_epoch": 9},
        "parameters": PARAMETERS[run.network.name],
        "epochs": 12,
        "test_images": IMAGES,
        "dataset": {"name": run.dataset.name, "label": run.dataset.label, "digest": run.dataset.name * 4},
        "seconds": 5.4,
    }
    (folder / "metrics.json").write_text(json.dumps({**metrics, **changes}))
    return folder


def fail(run: RunSpec, results: Path) -> None:
    """Write the folder of a run that stopped with an error."""
    folder = results / "runs" / run.name
    folder.mkdir(parents=True)
    (folder / "failure.json").write_text(json.dumps({"message": "loss is nan at epoch 3, step 7"}))


def example_results(plan: Plan, results: Path) -> Path:
    """Write the folders of all runs in `RIGHT`; returns `results`."""
    for (row, column), outcomes in RIGHT.items():
        for run in plan.cell(row, column).runs:
            outcome = outcomes[run.seed]
            if outcome == "failed":
                fail(run, results)
            elif outcome is not None:
                finish(run, results, outcome)
    return results


def _network(row: Row, column: Column) -> ResNet:
    ann = row.method == "ann"
    form = {"form": "ann"} if ann else {"form": "sew", "neuron": IF, "timesteps": row.timesteps}
    name = (column.teacher or column.network) if ann else column.network
    return ResNet(name=name, stem="cifar", stem_width=4, block="basic", blocks=(1,), widths=(4,), **form)


def _dataset(name: str) -> Dataset:
    embedded = name.startswith("digit")
    return Dataset(
        name=name,
        format="digits" if embedded else "cifar-binary",
        classes=10,
        image_size=8,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        digits=Digits(train=200, test=IMAGES) if embedded else None,
        label=f"{name} (embedded)" if embedded else name.upper(),
    )

"""A run that teaches shares no random number with its students; students of one column share them all."""

import functools
import json
from typing import get_args

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from bkdsnn import data, models
from bkdsnn.config import RunSpec, paper
from bkdsnn.config.catalogue import load_table, scale_names
from bkdsnn.core import streams
from bkdsnn.data.loader import shuffled
from bkdsnn.training import step
from bkdsnn.training.execute import open_loader

CPU = torch.device("cpu")
SEEDS = range(5)


@functools.cache
def pairs(scale: str) -> dict[tuple[str, str], tuple[RunSpec, RunSpec]]:
    """Every student of a scale with every trained run that its teacher is or is built on, by their names."""
    students = [run for run in paper.all_runs(scale, seeds=[0]).values() if run.teacher]
    found = [(run, one) for run in students for one in run.teacher.lineage() if one.recipe]
    return {(run.name, teacher.name): (run, teacher) for run, teacher in found}


def drawn(network: nn.Module) -> list[torch.Tensor]:
    """The parameters that are not constant, such as scales of norms are."""
    return [one.detach() for one in network.parameters() if one.unique().numel() > 1]


def begun(spec: RunSpec) -> nn.Module:
    """The network of a run as its training begins."""
    teacher = models.build(spec.teacher.network, spec.teacher.dataset) if spec.teacher else None
    return step.build(spec, teacher, CPU)[0]


def of(method: str, table: str = "table2a", column: str = "resnet20-cifar10", scale: str = "smoke") -> RunSpec:
    return paper.plan(table, scale).cell(method, column).runs[0]


@pytest.mark.parametrize("scale", scale_names())
def test_no_student_has_the_streams_of_any_teacher_at_any_seed(scale):
    runs = [one for run in paper.all_runs(scale, seeds=SEEDS).values() for one in run.lineage() if one.recipe]
    roots = {role: {run.root for run in runs if run.role == role} for role in ("student", "teacher")}
    assert roots["student"] == set(SEEDS) and len(roots["teacher"]) == len(SEEDS)
    assert not roots["student"] & roots["teacher"]
    assert all(run.role == "teacher" for _, run in pairs(scale).values())


def test_no_stream_of_a_teacher_is_one_of_its_students():
    found = [pair for scale in scale_names() for pair in pairs(scale).values()]
    keys = [[streams.key(run.root, one, 0, 1) for run in pair] for pair in found for one in get_args(streams.Purpose)]
    assert keys and all(student != teacher for student, teacher in keys)


def test_no_tensor_of_a_teacher_begins_as_one_of_its_students():
    built = {}
    for pair in pairs("smoke").values():
        for run in pair:
            key = (run.root, run.network.model_dump_json(), run.dataset.name)
            built[run.name] = built[key] = built.get(key) or drawn(begun(run))
        student, teacher = (built[run.name] for run in pair)
        shared = [(a.shape, b.shape) for a in student for b in teacher if a.shape == b.shape and torch.equal(a, b)]
        assert student and teacher and not shared


@pytest.mark.parametrize(
    ("table", "column"),
    [("table2a", "resnet20-cifar10"), ("table2c", "resnet18-imagenet"), ("table3b", "wide-7b-net-t4")],
)
def test_teachers_of_the_students_own_geometry_begin_elsewhere_at_demo_scale(table, column):
    student = of("bkdsnn", table, column, "demo")
    pair = zip(drawn(begun(student)), drawn(begun(student.teacher)), strict=True)
    assert all(mine.shape == theirs.shape and not torch.equal(mine, theirs) for mine, theirs in pair)


def test_a_teacher_sees_its_images_in_another_order_and_with_other_draws(tmp_path):
    runs = [of("bkdsnn"), of("sew-resnet"), of("bkdsnn").teacher]
    data.prepare(runs[0].dataset, None, tmp_path / "data" / f"{runs[0].dataset.name}.json")
    student, alone, teacher = (next(iter(open_loader(run, tmp_path, CPU).train(0))).images for run in runs)
    assert torch.equal(student, alone) and not torch.equal(student, teacher)
    orders = [shuffled(60, run.root, epoch).tolist() for run in runs[1:] for epoch in range(20)]
    assert len({tuple(order) for order in orders}) == 40


def test_students_of_one_column_begin_alike():
    first, second = (begun(of(method)).state_dict() for method in ("sew-resnet", "bkdsnn"))
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_a_row_that_shows_the_teacher_is_the_run_that_teaches():
    assert of("ann") == of("bkdsnn").teacher


def test_a_network_that_a_row_shows_alone_and_that_also_teaches_is_two_runs():
    table = load_table("table2a")
    column = next(one for one in table.columns if one.key == "resnet20-cifar10")
    taught = table.model_copy(update={"columns": (column.model_copy(update={"taught_by": "sew-resnet"}),)})
    plan = paper.Expansion("smoke").plan(taught)
    student, alone = (plan.cell(method, column.key).runs[0] for method in ("bkdsnn", "sew-resnet"))
    assert student.teacher != alone and student.teacher.model_copy(update={"role": "student"}) == alone


def test_a_taught_teacher_draws_neither_from_its_own_teachers_streams_nor_from_its_students():
    student = of("bkdsnn")
    assistant = student.model_copy(update={"role": "teacher"})
    assert len({student.root, assistant.root, student.teacher.root}) == 3


def test_a_teacher_of_the_role_of_students_is_refused():
    described = json.loads(of("bkdsnn").canonical())
    described["teacher"]["role"] = "student"
    with pytest.raises(ValidationError, match=r"'role' of a run that teaches, .* must be 'teacher'"):
        RunSpec.model_validate(described)

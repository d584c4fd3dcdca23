"""What is measured from run folders: statistics, states, bold, and every file that must be refused."""

import dataclasses
import io
import json
import math
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save
from scipy.stats import ttest_1samp, ttest_rel
from tables_example import (
    DEMO,
    IMAGES,
    PAPER,
    PARAMETERS,
    example_plan,
    example_results,
    fail,
    finish,
    without,
)

from bkdsnn.analysis.energy import Constants
from bkdsnn.config import Pretrained, paper
from bkdsnn.core.errors import UserError
from bkdsnn.core.paired import compare, holm, seeds_needed
from bkdsnn.report.tables import MeasuredCell, TableModel, measure
from bkdsnn.report.tables.comparison import Comparisons
from bkdsnn.runs.artefacts import seal
from bkdsnn.runs.records import LARGEST, expect_finished

R19, R19_100, R20 = "resnet19-cifar10", "resnet19-cifar100", "resnet20-cifar10"


@pytest.fixture
def plan():
    return example_plan()


def cell(model: TableModel, row: str, column: str) -> MeasuredCell:
    return next(c for c in model.cells if (c.row, c.column) == (row, column))


def measured(plan, tmp_path, row, column) -> MeasuredCell:
    return cell(measure(plan, tmp_path), row, column)


def test_mean_std_and_best_epoch_over_seeds(plan, tmp_path):
    found = measured(plan, example_results(plan, tmp_path), "bkdsnn", R19)
    assert (found.mean, found.std) == (85.0, pytest.approx(7**0.5))  # of 83, 84, 88
    assert found.best_epoch_mean == 86.5
    assert (found.state, found.seeds, found.planned) == ("measured", (0, 1, 2), 3)


def test_delta_is_the_mean_of_paired_differences(plan, tmp_path):
    found = measured(plan, example_results(plan, tmp_path), "bkdsnn", R19)
    assert (found.baseline, found.to_baseline.difference) == ("sew-resnet", 3.0)  # 83 - 80, 84 - 82, 88 - 84
    assert found.paper_delta == 1.4  # 94.64 - 93.24


def test_mcnemar_is_that_of_each_pair_of_networks(plan, tmp_path):
    found = measured(plan, example_results(plan, tmp_path), "bkdsnn", R19)
    # by seed, only BKDSNN right: 8, 3, 6, and only SEW-R right: 5, 1, 2
    expected = [2 * sum(math.comb(n, k) for k in range(few + 1)) / 2**n for few, n in ((5, 13), (1, 4), (2, 8))]
    assert found.to_baseline.mcnemar == pytest.approx(expected)


def test_the_interval_is_two_way_over_seeds_and_images(plan, tmp_path):
    found = measured(plan, example_results(plan, tmp_path), "bkdsnn", R19).to_baseline
    right = np.arange(IMAGES)
    pairs = ((range(5, 88), range(80)), (range(1, 85), range(82)), (range(2, 90), range(84)))
    d = np.array([np.isin(right, ours) * 100.0 - np.isin(right, theirs) * 100.0 for ours, theirs in pairs])
    assert found.interval == compare(d)
    assert found.interval.low < found.difference == 3.0 < found.interval.high
    assert found.seeds == (0, 1, 2)


def test_holm_adjusts_over_all_differences_that_the_table_plans(plan, tmp_path):
    planned = [c for c in measure(plan, example_results(plan, tmp_path)).cells if c.baseline and c.runs]
    found = [c.to_baseline for c in planned if c.to_baseline]
    tested = [one for one in found if one.interval]
    assert len(tested) == 6 < len(found) < len(planned) == 9
    assert [one.p_holm for one in tested] == holm([one.interval.p for one in tested], missing=3)
    assert {one.p_holm for one in found if not one.interval} == {None}


def test_seeds_needed_are_those_for_the_difference_that_the_paper_prints(plan, tmp_path):
    model = measure(plan, example_results(plan, tmp_path))
    found = cell(model, "bkd", R19)
    assert found.seeds_needed == seeds_needed(0.86, found.to_baseline.interval.spread)  # 94.10 - 93.24
    assert math.isfinite(found.seeds_needed)
    assert cell(model, "bkd-0.40", R19).seeds_needed is None  # the paper has no value there
    assert cell(model, "bkdsnn", R19_100).seeds_needed is None  # one seed in common


def test_one_seed_makes_no_statement_about_the_methods(plan, tmp_path):
    plan = without(plan, 1, 2)
    model = measure(plan, example_results(plan, tmp_path))
    found = cell(model, "bkdsnn", R19)
    assert (found.to_baseline.difference, found.to_baseline.interval, found.to_baseline.p_holm) == (3.0, None, None)
    assert found.seeds_needed is None
    assert not any(c.underlined for c in model.cells)


def test_two_runs_with_different_numbers_of_test_images_are_refused(plan, tmp_path):
    finish(plan.cell("sew-resnet", R19).runs[0], tmp_path, range(80))
    folder = finish(
        plan.cell("bkdsnn", R19).runs[0],
        tmp_path,
        range(40),
        test_images=50,
        top1={"last": 80.0, "best": 80.0, "best_epoch": 1},
    )
    np.savez(folder / "predictions.npz", correct=np.arange(50) < 40)
    with pytest.raises(UserError, match=r"metrics\.json: 'test_images' is 100, expected 50 as in .*metrics\.json"):
        measure(plan, tmp_path)


def test_relative_differences_are_compared_over_seeds(plan, tmp_path):
    plan = with_columns(plan, difference="relative")
    found = measured(plan, example_results(plan, tmp_path), "bkdsnn", R19).to_baseline
    values = [100 * (ours / theirs - 1) for ours, theirs in ((83, 80), (84, 82), (88, 84))]
    expected = ttest_1samp(values, 0)
    assert found.difference == pytest.approx(np.mean(values))
    assert (found.interval.p, found.interval.df) == (pytest.approx(expected.pvalue), pytest.approx(2))


def test_values_without_images_are_compared_over_seeds(plan, tmp_path):
    ours, theirs = plan.cell("bkdsnn", R19), plan.cell("sew-resnet", R19)
    example_results(plan, tmp_path)
    rates = [3.0, 4.5, 3.1], [2.0, 2.5, 2.9]
    found = [
        list(zip((expect_finished(run, tmp_path) for run in one.runs), values))
        for one, values in zip((ours, theirs), rates)
    ]
    compared = Comparisons().of("firing-rate", False, found[0], "sew-resnet", found[1])
    assert compared.difference == pytest.approx(np.mean(np.subtract(*rates)))
    assert compared.interval.p == pytest.approx(ttest_rel(*rates).pvalue)
    assert (compared.seeds, compared.mcnemar) == ((0, 1, 2), ())


def with_columns(plan, **changes):
    """The plan with other fields in all columns."""
    cells = (dataclasses.replace(c, column=c.column.model_copy(update=changes)) for c in plan.cells)
    return dataclasses.replace(plan, cells=tuple(cells))


def test_delta_uses_only_the_seeds_that_both_cells_have(plan, tmp_path):
    found = measured(plan, example_results(plan, tmp_path), "bkdsnn", R19_100)
    assert found.seeds == (0, 2)
    assert (found.baseline, found.to_baseline.difference) == ("bkd", 6.0)  # seed 0 only: 70 - 64
    assert (found.to_baseline.seeds, found.to_baseline.interval) == ((0,), None)
    assert found.to_baseline.mcnemar == pytest.approx((2 * 0.5**6,))


def test_no_common_seed_means_no_delta(plan, tmp_path):
    finish(plan.cell("bkdsnn", R19).runs[0], tmp_path, range(80))
    finish(plan.cell("sew-resnet", R19).runs[1], tmp_path, range(70))
    found = measured(plan, tmp_path, "bkdsnn", R19)
    assert (found.mean, found.to_baseline) == (80.0, None)


def test_delta_survives_missing_predictions_but_its_p_value_does_not(plan, tmp_path):
    example_results(plan, tmp_path)
    (tmp_path / "runs" / plan.cell("sew-resnet", R19).runs[1].name / "predictions.npz").unlink()
    found = measured(plan, tmp_path, "bkdsnn", R19)
    assert (found.to_baseline.difference, found.to_baseline.interval, found.to_baseline.mcnemar) == (3.0, None, ())


def test_rows_without_a_baseline_have_no_difference(plan, tmp_path):
    found = measured(plan, example_results(plan, tmp_path), "ann", R19)
    assert (found.baseline, found.to_baseline, found.paper_delta) == (None, None, None)


@pytest.mark.parametrize(
    ("method", "column", "state", "seeds"),
    [
        ("sew-resnet", R19, "measured", (0, 1, 2)),
        ("qcfs", R20, "partial", (0,)),
        ("qcfs", R19, "failed", ()),
        ("qcfs", R19_100, "not run", ()),
    ],
)
def test_states(plan, tmp_path, method, column, state, seeds):
    found = measured(plan, example_results(plan, tmp_path), method, column)
    assert (found.state, found.seeds) == (state, seeds)
    assert (found.mean is None) == (not seeds)


def test_a_later_success_outweighs_an_earlier_failure(plan, tmp_path):
    plan = without(plan, 1, 2)
    run = plan.cell("ann", R19).runs[0]
    fail(run, tmp_path)
    (tmp_path / "runs" / run.name / "failure.json").rename(tmp_path / "old.json")
    (tmp_path / "runs" / run.name).rmdir()
    folder = finish(run, tmp_path, range(90))
    (tmp_path / "old.json").rename(folder / "failure.json")
    assert measured(plan, tmp_path, "ann", R19).state == "measured"


def test_one_seed_has_no_standard_deviation(plan, tmp_path):
    plan = without(plan, 1, 2)
    found = measured(plan, example_results(plan, tmp_path), "sew-resnet", R19)
    assert (found.state, found.mean, found.std) == ("measured", 80.0, None)


def only(plan, *rows):
    """The plan with these rows alone."""
    return dataclasses.replace(plan, cells=tuple(c for c in plan.cells if c.row.key in rows))


def test_bold_is_the_best_spiking_mean_and_ties_share_it(plan, tmp_path):
    example_results(plan, tmp_path)
    model = measure(only(plan, "sew-resnet", "ann", "bkd", "bkdsnn"), tmp_path)
    bold = {(c.row, c.column) for c in model.cells if c.bold}
    assert bold == {
        ("bkdsnn", R19),  # not the ANN, although 96 > 85
        ("sew-resnet", R20),
        ("bkd", R20),
        ("bkdsnn", R20),
    }


def test_a_column_in_which_a_result_is_missing_has_no_marks(plan, tmp_path):
    model = measure(plan, example_results(plan, tmp_path))  # QCFS failed, or was not run with every seed
    assert not any(c.bold or c.underlined or c.to_best for c in model.cells)


def test_an_snn_that_teaches_is_not_in_bold(plan, tmp_path):
    plan = only(without(plan, 1, 2), "sew-resnet", "bkd")
    teacher, taught = plan.cell("sew-resnet", R19).runs[0], plan.cell("bkd", R19)
    student = taught.runs[0].model_copy(update={"teacher": teacher})
    cells = (dataclasses.replace(cell, runs=(student,)) if cell is taught else cell for cell in plan.cells)
    for run, right in ((teacher, 90), (student, 50)):
        finish(run, tmp_path, range(right))
    model = measure(dataclasses.replace(plan, cells=tuple(cells)), tmp_path)
    assert [c.row for c in model.cells if c.bold] == ["bkd"]


def test_means_that_print_alike_tie(plan, tmp_path):
    plan = only(without(plan, 1, 2), "sew-resnet", "bkd", "bkdsnn")
    for method, last in (("sew-resnet", 71.2499), ("bkd", 71.2501), ("bkdsnn", 71.24)):
        top1 = {"last": last, "best": last, "best_epoch": 9}
        (finish(plan.cell(method, R19).runs[0], tmp_path, range(71), top1=top1) / "predictions.npz").unlink()
    model = measure(plan, tmp_path)
    assert [c.row for c in model.cells if c.bold] == ["sew-resnet", "bkd"]


def test_a_teacher_is_not_bold_even_where_it_ties_with_the_best(plan, tmp_path):
    plan = only(without(plan, 1, 2), "sew-resnet", "ann", "bkd", "bkdsnn")
    for method, right in (("sew-resnet", 70), ("ann", 90), ("bkd", 70), ("bkdsnn", 90)):
        finish(plan.cell(method, R19).runs[0], tmp_path, range(right))
    assert [c.row for c in measure(plan, tmp_path).cells if c.bold] == ["bkdsnn"]


def test_underlined_is_what_cannot_be_told_from_the_best(plan, tmp_path):
    plan = only(plan, "sew-resnet", "ann", "bkd", "bkdsnn")
    right = {"sew-resnet": (40, 42, 41), "ann": (88, 90, 89), "bkd": (86, 90, 88), "bkdsnn": (90, 88, 89)}
    for row, counts in right.items():
        for run, count in zip(plan.cell(row, R19).runs, counts):
            finish(run, tmp_path, range(count))
    model = measure(plan, tmp_path)
    assert [c.row for c in model.cells if c.bold] == ["bkdsnn"]
    assert [c.row for c in model.cells if c.underlined] == ["bkd"]  # the ANN teaches
    compared = [cell(model, row, R19).to_best for row in ("sew-resnet", "bkd")]
    assert [(one.row, one.difference) for one in compared] == [("bkdsnn", -48.0), ("bkdsnn", -1.0)]
    other_columns = 2 * (len(plan.table.columns) - 1)  # nothing of them is finished
    assert [one.p_holm for one in compared] == holm([one.interval.p for one in compared], missing=other_columns)
    assert cell(model, "ann", R19).to_best is cell(model, "bkdsnn", R19).to_best is None


def test_a_table_without_bold_compares_nothing_with_the_best(plan, tmp_path):
    example_results(plan, tmp_path)
    table = plan.table.model_copy(update={"bold": False})
    model = measure(only(dataclasses.replace(plan, table=table), "sew-resnet", "bkd", "bkdsnn"), tmp_path)
    assert not any(c.bold or c.underlined or c.to_best for c in model.cells)


def test_nothing_measured_is_a_table_of_cells_not_run(plan, tmp_path):
    model = measure(plan, tmp_path)
    assert {c.state for c in model.cells} == {"not run"}
    assert not any(c.bold for c in model.cells)
    assert [c.parameters for c in model.columns] == [None, None, None]


def test_column_size_is_that_of_the_student_network(plan, tmp_path):
    student, teacher = plan.cell("sew-resnet", R19).runs[0], plan.cell("ann", R19).runs[0]
    finish(teacher, tmp_path, range(95), parameters=99)
    assert measure(plan, tmp_path).columns[0].parameters is None
    finish(student, tmp_path, range(80))
    assert measure(plan, tmp_path).columns[0].parameters == PARAMETERS["resnet19"]


def test_a_distilled_run_also_tells_the_size_of_the_student(plan, tmp_path):
    finish(plan.cell("bkd", R19).runs[0], tmp_path, range(80))
    assert measure(plan, tmp_path).columns[0].parameters == PARAMETERS["resnet19"]


def with_cells(plan, row, *, method=None, **network):
    """The plan with another method, or other networks, in one row."""
    cells = []
    for c in plan.cells:
        if c.row.key == row:
            runs = tuple(r.model_copy(update={"network": r.network.model_copy(update=network)}) for r in c.runs)
            c = dataclasses.replace(c, row=c.row.model_copy(update={"method": method or c.row.method}), runs=runs)
        cells.append(c)
    return dataclasses.replace(plan, cells=tuple(cells))


def test_a_row_that_trains_the_student_under_another_name_tells_its_size_too(plan, tmp_path):
    plan = with_cells(plan, "sew-resnet", method="none")
    finish(plan.cell("sew-resnet", R19).runs[0], tmp_path, range(80))
    assert measure(plan, tmp_path).columns[0].parameters == PARAMETERS["resnet19"]


@pytest.mark.parametrize(("network", "size"), [({"timesteps": 4}, PARAMETERS["resnet19"]), ({"hidden": 9}, None)])
def test_the_size_is_the_student_s_at_any_time_steps_but_of_no_other_network(plan, tmp_path, network, size):
    plan = with_cells(plan, "bkd-0.40", **network)
    finish(plan.cell("bkd-0.40", R19).runs[0], tmp_path, range(80))
    assert measure(plan, tmp_path).columns[0].parameters == size


def test_teachers_with_another_network_are_named_with_their_measured_size(plan, tmp_path):
    columns = measure(plan, tmp_path).columns
    assert [(c.teacher, c.teacher_parameters) for c in columns] == [
        ("resnet34", None),
        ("resnet34", None),
        (None, None),
    ]
    finish(plan.cell("ann", R19).runs[1], tmp_path, range(95))
    columns = measure(plan, tmp_path).columns
    assert [c.teacher_parameters for c in columns] == [PARAMETERS["resnet34"], None, None]
    assert columns[0].parameters is None


def test_the_teacher_of_a_table_without_its_row_is_measured_as_well(plan, tmp_path):
    example_results(plan, tmp_path)
    plan = dataclasses.replace(plan, cells=tuple(c for c in plan.cells if c.row.key != "ann"))
    assert measure(plan, tmp_path).columns[0].teacher_parameters == PARAMETERS["resnet34"]


def test_two_rows_of_one_method_are_two_rows(plan, tmp_path):
    model = measure(plan, example_results(plan, tmp_path))
    first, second = cell(model, "bkd", R19), cell(model, "bkd-0.40", R19)
    assert (first.method, first.mean) == ("bkd", 83.0)
    assert (second.method, second.mean) == ("bkd", 82.0)
    assert (second.baseline, second.to_baseline.difference) == ("bkd", -1.0)
    assert second.runs == tuple(run.name for run in plan.cell("bkd-0.40", R19).runs)


def test_settings_are_those_of_the_runs(plan, tmp_path):
    model = measure(plan, tmp_path)
    assert {row[0].row: row[0].settings for row in model.rows()} == {
        "qcfs": (None, None),
        "sew-resnet": (None, None),
        "ann": (None, None),
        "bkd": (None, 0.15),
        "bkd-0.40": (None, 0.4),
        "bkdsnn": (2.0, 0.15),
    }
    assert all(c.settings == row[0].settings for row in model.rows() for c in row)


def test_a_setting_that_differs_between_the_columns_of_a_row_is_refused(plan, tmp_path):
    other = plan.cell("bkd-0.40", R19).runs
    cells = [dataclasses.replace(c, runs=other) if (c.row.key, c.column.key) == ("bkd", R20) else c for c in plan.cells]
    with pytest.raises(UserError) as error:
        measure(dataclasses.replace(plan, cells=tuple(cells)), tmp_path)
    assert "config/paper/table9z.yaml: 'settings' has bkd.blur_ratio, so row 'bkd'" in str(error.value)
    assert f"found 0.15 in '{R19}', 0.15 in '{R19_100}', 0.4 in '{R20}'; set it in the row" in str(error.value)


def test_the_origin_is_that_of_a_value_and_none_without_one(plan, tmp_path):
    model = measure(plan, tmp_path)
    assert [cell(model, "qcfs", c.key).origin for c in model.columns] == [None, None, "quoted"]
    assert [cell(model, "bkd-0.40", c.key).origin for c in model.columns] == [None, "inferred", None]
    assert cell(model, "bkd", R19).origin == "printed"


def test_stand_ins_are_named(plan, tmp_path):
    model = measure(plan, example_results(plan, tmp_path))
    assert [(c.dataset, c.stands_in_for) for c in model.columns] == [
        ("digits-8 (embedded)", "CIFAR-10"),
        ("digit-pairs-8 (embedded)", "CIFAR-100"),
        ("digits-8 (embedded)", "CIFAR-10"),
    ]
    assert {c.stands_in_for for c in measure(example_plan(PAPER), tmp_path).columns} == {None}


def test_real_data_in_place_of_the_paper_s_own_is_a_stand_in_too(tmp_path):
    plan = example_plan(PAPER.model_copy(update={"datasets": {"cifar10": "cifar10-part"}}))
    column, *_ = measure(plan, tmp_path).columns
    assert (column.dataset, column.stands_in_for) == ("CIFAR10-PART", "CIFAR-10")


@pytest.mark.parametrize(
    ("changes", "comparable"),
    [
        ({}, True),
        ({"datasets": {"imagenet": "imagenette"}}, False),
        ({"networks": {"resnet20": {"blocks": [1]}}}, False),
        ({"recipes": {"*": {"epochs": 30}}}, False),
        ({"distill": {"bkd": {"weight": 1.0}}}, False),
    ],
)
def test_comparable_with_the_paper_only_if_the_scale_replaces_nothing(tmp_path, changes, comparable):
    scale = PAPER.model_copy(update=changes)
    plan = dataclasses.replace(example_plan(), scale=scale)
    assert measure(plan, tmp_path).comparable is comparable


def test_a_teacher_with_published_weights_is_complete_with_its_one_run(plan, tmp_path):
    published = Pretrained(name="someone/weights", sha256="0123abcd")
    run = plan.cell("ann", R19).runs[0].model_copy(update={"source": published, "recipe": None})
    cells = [dataclasses.replace(c, runs=(run,)) if c.row.method == "ann" else c for c in plan.cells]
    finish(run, tmp_path, range(97))
    model = measure(dataclasses.replace(plan, cells=tuple(cells)), tmp_path)
    found = cell(model, "ann", R19)
    assert (found.state, found.planned, found.mean, found.std) == ("measured", 1, 97.0, None)
    assert model.seeds == DEMO.seeds


@pytest.mark.parametrize("key", ["run", "spec"])
def test_metrics_of_another_run_are_refused(plan, tmp_path, key):
    folder = finish(plan.cell("ann", R19).runs[0], tmp_path, range(90), **{key: "another"})
    with pytest.raises(UserError) as error:
        measure(plan, tmp_path)
    assert str(folder / "metrics.json") in str(error.value)
    assert f"'{key}' is 'another', expected '" in str(error.value)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"top1": {"best": 90.0, "best_epoch": 1}}, "'top1.last'"),
        ({"top1": {"last": 100.5, "best": 100.0}}, "'top1.last'"),
        ({"top1": {"last": float("nan"), "best": 90.0}}, "'top1.last'"),
        ({"parameters": None}, "'parameters'"),
        ({"dataset": {"label": "x"}}, "'dataset.digest'"),
    ],
)
def test_incomplete_or_impossible_metrics_are_refused(plan, tmp_path, changes, named):
    folder = finish(plan.cell("ann", R19).runs[0], tmp_path, range(90), **changes)
    with pytest.raises(UserError) as error:
        measure(plan, tmp_path)
    assert str(folder / "metrics.json") in str(error.value)
    assert named in str(error.value)


def test_metrics_that_are_not_json_are_refused(plan, tmp_path):
    folder = finish(plan.cell("ann", R19).runs[0], tmp_path, range(90))
    text = (folder / "metrics.json").read_text()
    (folder / "metrics.json").write_text(text[: len(text) // 2])
    with pytest.raises(UserError, match=r"metrics\.json: .*Invalid JSON"):
        measure(plan, tmp_path)


def _pair(plan, tmp_path):
    finish(plan.cell("sew-resnet", R19).runs[0], tmp_path, range(80))
    return finish(plan.cell("bkdsnn", R19).runs[0], tmp_path, range(85)) / "predictions.npz"


@pytest.mark.parametrize(
    "arrays",
    [
        {"correct": np.ones(IMAGES + 1, dtype=bool)},
        {"correct": np.ones((IMAGES, 1), dtype=bool)},
        {"correct": np.ones(IMAGES, dtype=np.uint8)},
        {"right": np.ones(IMAGES, dtype=bool)},
        {"correct": np.array([None] * IMAGES)},  # would need pickle
    ],
    ids=["longer", "two-dimensional", "not bool", "other name", "objects"],
)
def test_unusable_predictions_are_refused(plan, tmp_path, arrays):
    path = _pair(plan, tmp_path)
    np.savez(path, **arrays)
    with pytest.raises(UserError) as error:
        measure(plan, tmp_path)
    assert str(path) in str(error.value)
    assert "'correct'" in str(error.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"text"])
def test_damaged_predictions_are_refused(plan, tmp_path, content):
    path = _pair(plan, tmp_path)
    path.write_bytes(content)
    with pytest.raises(UserError, match="no array 'correct' can be read from it"):
        measure(plan, tmp_path)


def test_predictions_of_another_accuracy_are_refused(plan, tmp_path):
    path = _pair(plan, tmp_path)
    np.savez(path, correct=np.arange(IMAGES) < 84)
    with pytest.raises(UserError, match=rf"{path}: 84.0 % are right, expected 85.0 % as in metrics.json"):
        measure(plan, tmp_path)


def test_predictions_that_unpack_to_too_much_are_refused_before(plan, tmp_path):
    path = _pair(plan, tmp_path)
    np.savez_compressed(path, correct=np.zeros(LARGEST + 1, dtype=bool))
    assert path.stat().st_size < 100_000
    with pytest.raises(
        UserError, match=r"no array 'correct' can be read from it \(it has more than 67,108,864 bytes\)"
    ):
        measure(plan, tmp_path)


def test_predictions_that_claim_more_than_the_memory_holds_are_refused(plan, tmp_path):
    path = _pair(plan, tmp_path)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|b1", "fortran_order": False, "shape": (1 << 60,)})
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("correct.npy", header.getvalue())
    with pytest.raises(UserError, match="no array 'correct' can be read from it"):
        measure(plan, tmp_path)


@pytest.mark.parametrize("name", ["spec.json", "predictions.npz", "history.jsonl"])
def test_a_copied_file_that_is_not_the_one_that_was_sealed_is_refused(plan, tmp_path, name):
    run = plan.cell("ann", R19).runs[0]
    folder = finish(run, tmp_path, range(90))
    (folder / "spec.json").write_text(run.canonical())
    (folder / "history.jsonl").write_text("{}\n")
    (folder / "weights.safetensors").write_bytes(save({}, metadata={"bkdsnn": json.dumps({"spec": run.digest})}))
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps({**metrics, "files": seal(folder)}))
    assert measured(plan, tmp_path, "ann", R19).mean == 90.0
    with (folder / name).open("ab") as stream:
        stream.write(b"\n")
    with pytest.raises(UserError, match=rf"{folder / name}: SHA-256 begins \w{{10}}, expected \w{{10}} as in metrics"):
        measure(plan, tmp_path)


@pytest.mark.parametrize("name", ["spec.json", "weights.safetensors"])
def test_spec_and_weights_of_another_run_are_refused(plan, tmp_path, name):
    run, other = plan.cell("ann", R19).runs[:2]
    folder = finish(run, tmp_path, range(90))
    weights = save({}, metadata={"bkdsnn": json.dumps({"spec": other.digest})})
    (folder / name).write_bytes(other.canonical().encode() if name == "spec.json" else weights)
    message = rf"{folder / name}: belongs to spec {other.digest[:10]}, expected {run.digest[:10]}: this is another run"
    with pytest.raises(UserError, match=message):
        measure(plan, tmp_path)


@pytest.mark.parametrize("name", ["spec.json", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000])
def test_damaged_specs_and_weights_are_refused(plan, tmp_path, name, content):
    folder = finish(plan.cell("ann", R19).runs[0], tmp_path, range(90))
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{folder / name}: (not valid JSON|damaged or not safetensors) "):
        measure(plan, tmp_path)


@pytest.mark.parametrize("content", ['{"digest": "another"}', "[]"])
def test_a_run_on_other_data_than_are_here_is_refused(plan, tmp_path, content):
    folder = finish(plan.cell("ann", R19).runs[0], tmp_path, range(90))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "digits-8.json").write_text(content)
    message = (
        rf"{folder / 'metrics.json'}: the run used data with digest digits-8di, but .*digits-8.json has .*: other data"
    )
    with pytest.raises(UserError, match=message):
        measure(plan, tmp_path)


def test_one_column_on_two_versions_of_the_data_is_refused(plan, tmp_path):
    finish(plan.cell("ann", R19).runs[0], tmp_path, range(90))
    other = {"name": "digits-8", "label": "digits-8 (embedded)", "digest": "another"}
    folder = finish(plan.cell("sew-resnet", R19).runs[0], tmp_path, range(80), dataset=other)
    with pytest.raises(UserError) as error:
        measure(plan, tmp_path)
    assert str(folder / "metrics.json") in str(error.value)
    assert f"column '{R19}'" in str(error.value)


def test_unknown_keys_of_later_versions_do_no_harm(plan, tmp_path):
    folder = finish(plan.cell("ann", R19).runs[0], tmp_path, range(90), top5=99.0)
    assert json.loads((folder / "metrics.json").read_text())["top5"] == 99.0
    assert measured(plan, tmp_path, "ann", R19).mean == 90.0


def test_energies_name_what_an_operation_costs(tmp_path):
    model = measure(paper.plan("table5b", "smoke"), tmp_path, Constants(5.5, 1))
    assert model.footnotes[-1] == "Energies at 5.5 pJ a MAC and 1 pJ an AC."
    assert not any("pJ" in note for note in measure(paper.plan("table5a", "smoke"), tmp_path).footnotes)

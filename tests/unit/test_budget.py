"""What a call would cost: the kinds of work, the evidence, the arithmetic, the caps."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from figures_example import provenance

from bkdsnn.budget.budget_text import excess, summary
from bkdsnn.budget.calibration import Calibration, Times
from bkdsnn.budget.estimate import Budget, Priced, Span, prepared, price
from bkdsnn.budget.evidence import MODEL, Bytes, Evidence, PastRun, epochs_done, read_past
from bkdsnn.budget.quote import outstanding, quote, runs_of
from bkdsnn.budget.work import Size, kind, size
from bkdsnn.config import figure_plans as figures
from bkdsnn.config import paper
from bkdsnn.config.settings import Settings
from bkdsnn.core import files
from bkdsnn.core.errors import UserError
from bkdsnn.runs.artefacts import ARTEFACTS

ROOT = Path(__file__).parents[2]
PLAN = paper.plan("table2c", "demo", seeds=[0, 1])
STUDENT = PLAN.cell("bkdsnn", "resnet18-imagenet").runs[0]
OTHER = PLAN.cell("sew-resnet", "resnet18-imagenet").runs[0]
CONVERTED = PLAN.cell("qcfs", "resnet18-imagenet").runs[0]
CPU, GPU = "x86_64 CPU, 1 threads", "NVIDIA H200"
SIZE = Size(1000, 400)
DISK = Bytes(10**9, 3 * 10**9)


def changed(spec, **parts):
    """The spec with other fields of its parts."""
    new = {key: getattr(spec, key).model_copy(update=fields) for key, fields in parts.items()}
    return spec.model_copy(update=new)


def finished(spec, seconds, *, device=CPU, when=1.0, overhead=3.0):
    epochs = spec.recipe.total_epochs if spec.recipe else 0
    return PastRun(kind(spec), device, when, epochs, seconds, overhead, 1_000)


def times(spec, **fields):
    values = {"step_seconds": 0.1, "step_spread": 0.0, "image_seconds": 0.01, "image_spread": 0.0, "parameters": 50}
    values |= {"weights_bytes": 200, "checkpoint_bytes": 700}
    return Times(**(values | fields))


def calibration(*specs, device=CPU, **fields):
    found = {kind(spec): times(spec, **fields) for spec in specs}
    return Calibration(device=device, date="2026-01-01", versions={}, startup_seconds=5.0, times=found)


def evidence(*runs, calibrated=None, device="auto"):
    return Evidence([(0.0, calibrated)] if calibrated else [], runs, device)


def budget(*runs, prepared_bytes=0.0, at_once=1):
    return Budget(tuple(runs), CPU, prepared_bytes, 7e9, at_once)


def priced(spec=STUDENT, seconds=3600.0, sigma=0.0, disk=DISK):
    return Priced(spec, SIZE, Span.of(seconds, sigma), "measured", disk)


# ---- Kinds of work ---------------------------------------------------------------------------------------------------


def test_seeds_weights_rates_and_epochs_change_no_kind_of_work():
    same = changed(STUDENT, recipe={"lr": 0.5, "epochs": 77, "label_smoothing": 0.1}).model_copy(update={"seed": 9})
    terms = tuple(term.model_copy(update={"weight": 0.125}) for term in STUDENT.distill)
    assert kind(same.model_copy(update={"distill": terms})) == kind(STUDENT)


@pytest.mark.parametrize(
    "parts",
    [
        {"recipe": {"batch_size": 7}},
        {"recipe": {"optimizer": "sgd"}},
        {"recipe": {"precision": "bf16"}},
        {"network": {"timesteps": 2}},
        {"network": {"widths": (8, 16, 32, 65)}},
        {"dataset": {"image_size": 64}},
        {"dataset": {"name": "others"}},
    ],
)
def test_what_sets_the_pace_makes_another_kind(parts):
    assert kind(changed(STUDENT, **parts)) != kind(STUDENT)


def test_another_loss_or_teacher_is_another_kind():
    unrestored = tuple(term.model_copy(update={"restoration": False}) for term in STUDENT.distill[:1])
    for other in (OTHER, STUDENT.model_copy(update={"distill": unrestored + STUDENT.distill[1:]})):
        assert kind(other) != kind(STUDENT)
    assert kind(STUDENT.teacher) != kind(STUDENT)


def test_sizes_are_embedded_published_or_counted(tmp_path):
    made = STUDENT.dataset
    assert size(made, tmp_path) == (made.digits.train, made.digits.test)
    runs = paper.all_runs("lite", seeds=[0]).values()
    data = {spec.dataset.name: spec.dataset for spec in runs}
    assert size(data["cifar10"], tmp_path) == (50_000, 10_000)
    assert size(data["imagenette"], tmp_path) is None
    from bkdsnn.data.manifest import Found, Manifest

    found = Found(9_469, 3_925, "0" * 64, [])
    Manifest.of(data["imagenette"], found, tmp_path).write(tmp_path / "data" / "imagenette.json")
    assert size(data["imagenette"], tmp_path) == (9_469, 3_925)


# ---- Evidence --------------------------------------------------------------------------------------------------------


def test_an_interval_is_log_normal_and_totals_err_alike():
    assert Span.of(100, 0) == (100, 100, 100)
    span = Span.of(100, math.log(2) / 1.6449)
    assert span == pytest.approx((100, 50, 200))
    assert Span.total([span, Span(1, 1, 1)]) == pytest.approx((101, 51, 201))


def test_finished_runs_give_the_median_epoch_and_widen_the_interval_by_their_spread():
    epochs = STUDENT.recipe.total_epochs
    runs = [finished(STUDENT, epochs * each, overhead=over) for each, over in ((1.0, 2.0), (math.e, 4.0), (1.0, 4.0))]
    found = evidence(*runs)
    pace = found.pace(STUDENT, None)
    assert pace.seconds == pytest.approx(1.0) and pace.source == "measured"
    assert pace.sigma == pytest.approx(math.hypot(MODEL["measured"], math.sqrt(1 / 3)))  # logarithms 0, 1, 0
    assert found.startup == 4.0


def test_a_calibration_is_steps_and_test_images_and_start():
    found = evidence(calibrated=calibration(STUDENT, step_spread=0.3))
    pace = found.pace(STUDENT, SIZE)
    steps = 1000 // STUDENT.recipe.batch_size
    assert pace.seconds == pytest.approx(steps * 0.1 + 400 * 0.01)
    assert pace.sigma == pytest.approx(math.hypot(0.3, MODEL["calibrated"]))
    assert found.pace(STUDENT, None) is None  # steps of an unknown number


def test_a_run_costs_its_start_and_its_epochs(tmp_path):
    run = price(STUDENT, evidence(calibrated=calibration(STUDENT)), tmp_path)
    steps = STUDENT.dataset.digits.train // STUDENT.recipe.batch_size
    epoch = steps * 0.1 + STUDENT.dataset.digits.test * 0.01
    assert run.seconds.middle == pytest.approx(5.0 + STUDENT.recipe.total_epochs * epoch)
    assert run.bytes == (200 + 3 * STUDENT.dataset.digits.test, 700)


def test_an_evaluation_costs_its_images_or_what_its_process_took(tmp_path):
    run = price(CONVERTED, evidence(calibrated=calibration(CONVERTED, step_seconds=None)), tmp_path)
    assert run.seconds.middle == pytest.approx(5.0 + CONVERTED.dataset.digits.test * 0.01)
    run = price(CONVERTED, evidence(finished(CONVERTED, 0.0, overhead=8.0)), tmp_path)
    assert run.seconds.middle == pytest.approx(8.0)


def test_epochs_that_an_interrupted_run_has_behind_it_are_not_counted_again(tmp_path):
    folder = tmp_path / "runs" / STUDENT.name
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "history.jsonl").write_text("{}\n{}\n")
    assert epochs_done(STUDENT, tmp_path) == 0  # without a checkpoint it begins anew
    found = evidence(finished(STUDENT, STUDENT.recipe.total_epochs * 10.0, overhead=None))
    whole = price(STUDENT, found, tmp_path)
    (folder / "checkpoints" / "last.safetensors").touch()
    rest = price(STUDENT, found, tmp_path)
    assert whole.seconds.middle - rest.seconds.middle == pytest.approx(20.0)


def test_better_evidence_comes_first_and_without_any_there_is_no_estimate():
    calibrated = calibration(STUDENT)
    assert evidence().pace(STUDENT, SIZE) is None and evidence().bytes(STUDENT) is None
    assert evidence(finished(OTHER, 5.0)).pace(STUDENT, SIZE) is None  # of another kind
    assert MODEL["calibrated"] > MODEL["measured"]
    assert evidence(finished(STUDENT, 5.0)).bytes(STUDENT) == (1_000, 3_000)  # Adam keeps two values per parameter
    assert evidence(finished(OTHER, 5.0), calibrated=calibrated).pace(STUDENT, SIZE).source == "calibrated"
    both = evidence(finished(STUDENT, 5.0), calibrated=calibrated)
    assert both.pace(STUDENT, SIZE).source == "measured"
    assert both.bytes(STUDENT) == (200, 700)


def test_evidence_of_another_device_counts_for_nothing():
    runs = [finished(STUDENT, 50.0, device=CPU, when=1.0), finished(STUDENT, 5.0, device=GPU, when=2.0)]
    assert evidence(*runs).device == GPU
    assert evidence(*runs).pace(STUDENT, SIZE).seconds == 5.0 / STUDENT.recipe.total_epochs
    assert evidence(*runs, device="cpu").pace(STUDENT, SIZE).seconds == 50.0 / STUDENT.recipe.total_epochs
    assert evidence(runs[0], device="cuda").pace(STUDENT, SIZE) is None
    assert evidence(runs[0], calibrated=calibration(OTHER, device=GPU)).pace(STUDENT, SIZE) is None


def test_what_a_run_left_is_read_and_damage_is_no_evidence(tmp_path):
    folder, benchmarks = tmp_path / "runs" / STUDENT.name, tmp_path / "benchmarks" / "runs"
    folder.mkdir(parents=True)
    benchmarks.mkdir(parents=True)
    about = {"run": STUDENT.name, "spec": STUDENT.digest, "top1": {"last": 50.0, "best": 50.0, "best_epoch": 5}}
    data = {"name": "digits", "label": "digits", "digest": "d" * 64}
    counts = {"parameters": 1, "epochs": 5, "test_images": 10, "seconds": 12.5}
    files.write_json(folder / "metrics.json", {**about, **counts, "dataset": data})
    files.write_json(folder / "provenance.json", provenance(CPU))
    (folder / "weights.safetensors").write_bytes(bytes(321))
    (benchmarks / f"{STUDENT.name}.tsv").write_text("s\th:m:s\n16.0\t0:00:16\n")
    run = read_past(STUDENT, tmp_path)
    assert (run.device, run.epochs, run.seconds, run.overhead, run.weights_bytes) == (CPU, 5, 12.5, 3.5, 321)
    (benchmarks / f"{STUDENT.name}.tsv").write_text("s\th:m:s\n6.0\t0:00:06\n")  # of the last attempt only
    assert read_past(STUDENT, tmp_path).overhead is None
    (folder / "metrics.json").write_text("{")
    assert read_past(STUDENT, tmp_path) is None


def test_a_calibration_keeps_other_kinds_and_a_damaged_one_is_named(tmp_path):
    path = calibration(STUDENT).write(tmp_path)
    assert path == tmp_path / "calibration" / "x86-64-cpu-1-threads.json"
    assert calibration(OTHER).write(tmp_path) == path
    assert calibration(STUDENT, device=GPU).write(tmp_path).name == "nvidia-h200.json"
    assert Calibration.read(path).times.keys() == {kind(STUDENT), kind(OTHER)}
    content = json.loads(path.read_text()) | {"startup_seconds": -1}
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"x86-64-cpu-1-threads.json: 'startup_seconds'.*calibrate` again"):
        Evidence.gather(tmp_path, "demo", set(), {}, "auto")


# ---- Disk ------------------------------------------------------------------------------------------------------------


def test_data_that_are_yet_to_be_made_are_counted_by_the_byte(tmp_path):
    images = STUDENT.dataset
    runs = paper.all_runs("demo", seeds=[0]).values()
    clips = next(spec.dataset for spec in runs if spec.dataset.events)
    made, recorded = images.digits, clips.events.simulated
    frames = (recorded.train + recorded.test) * 4 * 2 * clips.image_size**2 * 2  # uint16 (N, T, 2, S, S), T = 4
    expected = (made.train + made.test) * 3 * images.image_size**2 + frames
    shown = next(spec for spec in runs if spec.dataset == clips and not spec.teacher and spec.network.timesteps == 4)
    assert prepared([STUDENT, shown, shown], tmp_path) == expected
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / f"{images.name}.json").touch()
    assert prepared([STUDENT, shown], tmp_path) == frames


def test_the_peak_has_two_checkpoints_of_each_run_at_work():
    one = budget(priced(), priced(disk=Bytes(10**9, 10**9)), at_once=2, prepared_bytes=5.0)
    assert one.left_bytes == 5 + 2 * 10**9 + 2 * 20_000
    assert one.peak_bytes - one.left_bytes == 2 * 2 * 3 * 10**9


# ---- Words and caps --------------------------------------------------------------------------------------------------

STEP = "`python -m bkdsnn calibrate table2c --scale demo`"


def test_the_summary_has_runs_by_kind_and_data_the_longest_and_the_disk():
    told = summary(budget(priced(sigma=0.1), priced(STUDENT.teacher, 1800.0)), STEP)
    assert told[0].startswith(f"budget: 2 runs on {CPU}; device time")
    text = "\n".join(" ".join(line.split()) for line in told)
    for line in (
        f"student, {STUDENT.dataset.name} 1 1.0 h (50 min 54 s to 1.2 h)",
        f"teacher, {STUDENT.dataset.name} 1 30 min (30 min to 30 min)",
        "all 2 1.5 h (1.3 h to 1.7 h)",
        f"longest: 1.0 h (50 min 54 s to 1.2 h), {STUDENT.name}",
        "from finished runs (2)",
        "disk: 2.0 GB stay, 8.0 GB at the peak with 1 run at a time; 7.0 GB are free",
        "not counted: jobs",
    ):
        assert line in text


def test_nothing_is_invented_where_nothing_is_known():
    assert summary(budget(Priced(STUDENT, SIZE, None, None, None)), STEP) == [
        "budget: 1 run",
        f"  no estimate of 1 run; to know more: {STEP}",
        "  not counted: jobs for data, analyses, tables and figures",
    ]


def test_data_of_unknown_size_are_counted_first(tmp_path):
    runs = paper.all_runs("lite", seeds=[0])
    unsized = next(spec for spec in runs.values() if spec.dataset.name == "imagenette")
    target, settings = f"results/lite/runs/{unsized.name}/metrics.json", Settings(scale="lite")
    told, problem = quote([target], settings, runs, tmp_path, 1)
    assert "to know more: `python -m bkdsnn data imagenette --scale lite`, then `python -m bkdsnn calibrate" in told[1]
    assert problem is None


@pytest.mark.parametrize(
    ("caps", "problem"),
    [
        ({}, None),
        ({"cap_hours": 1.2, "cap_disk_gb": 8}, None),
        (
            {"cap_hours": 1.1},
            "needs up to 1.18 hours on the device (the upper end of the interval), more than 'budget.",
        ),
        ({"cap_disk_gb": 6.9}, "needs up to 7 GB of disk, more than 'budget.cap_disk_gb', which is 6.9; raise the key"),
    ],
)
def test_caps_hold_against_the_upper_end(caps, problem):
    found = excess(budget(priced(sigma=0.1)), Settings(scale="demo", budget=caps).budget, STEP)
    assert found is None if problem is None else problem in found


@pytest.mark.parametrize("key", ["cap_hours", "cap_disk_gb"])
def test_a_cap_that_cannot_be_checked_is_not_kept(key):
    unknown = Priced(STUDENT, SIZE, None, None, None)
    found = excess(budget(priced(), unknown), Settings(scale="demo", budget={key: 1e9}).budget, STEP)
    assert (
        f"'budget.{key}' is 1e+09, but there is no estimate of 1 run, such as {STUDENT.name}; run `python -m" in found
    )


@pytest.mark.parametrize("cap", [0, -1, "many"])
def test_a_wrong_cap_is_named(cap):
    with pytest.raises(UserError, match=r"'budget.cap_hours': .* found"):
        Settings.read({"scale": "demo", "budget": {"cap_hours": cap}})


def test_targets_are_tables_and_figures_with_their_ancestors():
    runs = runs_of(["table2c"], paper.Expansion("smoke"))
    assert runs == paper.plan("table2c", "smoke", seeds=[0]).runs()
    name = figures.figure_names()[0]
    drawn = runs_of([name], paper.Expansion("smoke"))
    assert all(parent.name in drawn for spec in drawn.values() for parent in spec.parents())
    assert runs_of([], paper.Expansion("smoke")) == paper.all_runs("smoke", seeds=[0])


def test_unfinished_runs_behind_every_kind_of_target(tmp_path):
    settings, runs = Settings(scale="smoke"), paper.all_runs("smoke")
    table = paper.plan("table2c", "smoke").runs()
    student = next(spec for spec in table.values() if spec.teacher)

    def names(*targets):
        return {spec.name for spec in outstanding(targets, settings, runs, tmp_path)}

    assert names("table2c") == names("results/smoke/tables/table2c.csv") == table.keys()
    assert names() == names("all") == names("table2c", "all") == runs.keys()
    assert names(f"results/smoke/runs/{student.name}/metrics.json") == {student.name, student.teacher.name}
    assert names("figures/smoke/fig4.png") == names("fig4") != set()
    assert names("table1", "ledger", "results/smoke/data/x.json") == set()
    for name in ARTEFACTS:
        assert names("table2c") == table.keys()
        files.write_json(tmp_path / "runs" / student.teacher.name / name, {})
    assert names("table2c") == table.keys() - {student.teacher.name}


def test_the_budget_imports_no_torch():
    modules = ("quote", "estimate", "evidence", "budget_text", "work", "calibration")
    code = (
        f"import sys; import {', '.join(f'bkdsnn.budget.{name}' for name in modules)}; sys.exit('torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0

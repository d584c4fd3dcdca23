"""What a call would cost: the kinds of work, the evidence, the arithmetic, the caps."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from figures_example import provenance

from bkdsnn.budget.budget_text import Advice, excess, summary
from bkdsnn.budget.calibration import Calibration, Times
from bkdsnn.budget.estimate import Budget, Priced, Span, Wanted, prepared, price
from bkdsnn.budget.evidence import MODEL, Bytes, Evidence
from bkdsnn.budget.past_runs import PastRun, epochs_done, read_finished
from bkdsnn.budget.targets import runs_of
from bkdsnn.budget.work import Size, Work, size
from bkdsnn.config import figure_plans as figures
from bkdsnn.config import paper
from bkdsnn.config.settings import Settings
from bkdsnn.core import files
from bkdsnn.core.errors import UserError

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
    return PastRun(spec, Work.of(spec), device, when, epochs, seconds, overhead, 1_000)


def times(spec, **fields):
    values = {"step_seconds": 0.1, "step_spread": 0.0, "image_seconds": 0.01, "image_spread": 0.0, "parameters": 50}
    values |= {"weights_bytes": 200, "checkpoint_bytes": 700}
    return Times(kin=Work.of(spec).kin, **(values | fields))


def calibration(*specs, device=CPU, **fields):
    found = {Work.of(spec).kind: times(spec, **fields) for spec in specs}
    return Calibration(device=device, date="2026-01-01", versions={}, startup_seconds=5.0, times=found)


def evidence(*runs, calibrated=None, device="auto"):
    return Evidence([(0.0, calibrated)] if calibrated else [], runs, device)


def wanted(spec, rule="student"):
    return Wanted(rule, spec.name, spec, Work.of(spec))


def budget(*runs, prepared_bytes=0.0, at_once=1, others=0):
    return Budget(tuple(runs), CPU, prepared_bytes, 7e9, at_once, others)


def priced(spec=STUDENT, seconds=3600.0, sigma=0.0, disk=DISK, rule="student"):
    return Priced(wanted(spec, rule), SIZE, Span.of(seconds, sigma), "measured", disk)


# ---- Kinds of work ---------------------------------------------------------------------------------------------------


def test_seeds_weights_rates_and_epochs_change_no_kind_of_work():
    same = changed(STUDENT, recipe={"lr": 0.5, "epochs": 77, "label_smoothing": 0.1}).model_copy(update={"seed": 9})
    terms = tuple(term.model_copy(update={"weight": 0.125}) for term in STUDENT.distill)
    assert Work.of(same.model_copy(update={"distill": terms})) == Work.of(STUDENT)


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
    assert Work.of(changed(STUDENT, **parts)).kind != Work.of(STUDENT).kind


def test_another_loss_or_teacher_is_another_kind_of_the_same_kin():
    unrestored = tuple(term.model_copy(update={"restoration": False}) for term in STUDENT.distill[:1])
    for other in (OTHER, STUDENT.model_copy(update={"distill": unrestored + STUDENT.distill[1:]})):
        assert Work.of(other).kind != Work.of(STUDENT).kind and Work.of(other).kin == Work.of(STUDENT).kin
    assert Work.of(STUDENT.teacher).kin != Work.of(STUDENT).kin


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
    pace = found.pace(STUDENT, Work.of(STUDENT), None)
    assert pace.seconds == pytest.approx(1.0) and pace.source == "measured"
    assert pace.sigma == pytest.approx(math.hypot(MODEL["measured"], math.sqrt(1 / 3)))  # logarithms 0, 1, 0
    assert found.startup == 4.0


def test_a_calibration_is_steps_and_test_images_and_start():
    found = evidence(calibrated=calibration(STUDENT, step_spread=0.3))
    pace = found.pace(STUDENT, Work.of(STUDENT), SIZE)
    steps = 1000 // STUDENT.recipe.batch_size
    assert pace.seconds == pytest.approx(steps * 0.1 + 400 * 0.01)
    assert pace.sigma == pytest.approx(math.hypot(0.3, MODEL["calibrated"]))
    assert found.pace(STUDENT, Work.of(STUDENT), None) is None  # steps of an unknown number


def test_a_run_costs_its_start_and_its_epochs(tmp_path):
    (run,) = price([wanted(STUDENT)], evidence(calibrated=calibration(STUDENT)), tmp_path)
    steps = STUDENT.dataset.digits.train // STUDENT.recipe.batch_size
    epoch = steps * 0.1 + STUDENT.dataset.digits.test * 0.01
    assert run.seconds.middle == pytest.approx(5.0 + STUDENT.recipe.total_epochs * epoch)
    assert run.bytes == (200 + 3 * STUDENT.dataset.digits.test, 700)


def test_an_evaluation_costs_its_images_or_what_its_process_took(tmp_path):
    (run,) = price([wanted(CONVERTED)], evidence(calibrated=calibration(CONVERTED, step_seconds=None)), tmp_path)
    assert run.seconds.middle == pytest.approx(5.0 + CONVERTED.dataset.digits.test * 0.01)
    (run,) = price([wanted(CONVERTED)], evidence(finished(CONVERTED, 0.0, overhead=8.0)), tmp_path)
    assert run.seconds.middle == pytest.approx(8.0)


def test_epochs_that_an_interrupted_run_has_behind_it_are_not_counted_again(tmp_path):
    folder = tmp_path / "runs" / STUDENT.name
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "history.jsonl").write_text("{}\n{}\n")
    assert epochs_done(STUDENT.name, tmp_path) == 0  # without a checkpoint it begins anew
    found = evidence(finished(STUDENT, STUDENT.recipe.total_epochs * 10.0, overhead=None))
    (whole,) = price([wanted(STUDENT)], found, tmp_path)
    (folder / "checkpoints" / "last.safetensors").touch()
    (rest,) = price([wanted(STUDENT)], found, tmp_path)
    assert whole.seconds.middle - rest.seconds.middle == pytest.approx(20.0)


def test_better_evidence_comes_first_and_without_any_there_is_no_estimate():
    work, calibrated = Work.of(STUDENT), calibration(STUDENT)
    assert evidence().pace(STUDENT, work, SIZE) is None and evidence().bytes(STUDENT, work) is None
    assert evidence(finished(STUDENT.teacher, 5.0)).pace(STUDENT, work, SIZE) is None
    near = evidence(finished(OTHER, 5.0))
    assert near.pace(STUDENT, work, SIZE).source == "related"
    assert near.pace(STUDENT, work, SIZE).sigma == MODEL["related"] > MODEL["calibrated"] > MODEL["measured"]
    assert near.bytes(STUDENT, work) == (1_000, 3_000)  # Adam keeps two values per parameter
    assert evidence(calibrated=calibration(OTHER)).pace(STUDENT, work, SIZE).source == "related"
    assert evidence(finished(OTHER, 5.0), calibrated=calibrated).pace(STUDENT, work, SIZE).source == "calibrated"
    both = evidence(finished(STUDENT, 5.0), calibrated=calibrated)
    assert both.pace(STUDENT, work, SIZE).source == "measured"
    assert both.bytes(STUDENT, work) == (200, 700)


def test_evidence_of_another_device_counts_for_nothing():
    work = Work.of(STUDENT)
    runs = [finished(STUDENT, 50.0, device=CPU, when=1.0), finished(STUDENT, 5.0, device=GPU, when=2.0)]
    assert evidence(*runs).device == GPU
    assert evidence(*runs).pace(STUDENT, work, SIZE).seconds == 5.0 / STUDENT.recipe.total_epochs
    assert evidence(*runs, device="cpu").pace(STUDENT, work, SIZE).seconds == 50.0 / STUDENT.recipe.total_epochs
    assert evidence(runs[0], device="cuda").pace(STUDENT, work, SIZE) is None
    assert evidence(runs[0], calibrated=calibration(OTHER, device=GPU)).pace(STUDENT, work, SIZE).source == "related"


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
    work = Work.of(STUDENT)
    run = read_finished(STUDENT.name, STUDENT, work, tmp_path)
    assert (run.device, run.epochs, run.seconds, run.overhead, run.weights_bytes) == (CPU, 5, 12.5, 3.5, 321)
    (benchmarks / f"{STUDENT.name}.tsv").write_text("s\th:m:s\n6.0\t0:00:06\n")  # of the last attempt only
    assert read_finished(STUDENT.name, STUDENT, work, tmp_path).overhead is None
    (folder / "metrics.json").write_text("{")
    assert read_finished(STUDENT.name, STUDENT, work, tmp_path) is None


def test_a_calibration_keeps_other_kinds_and_a_damaged_one_is_named(tmp_path):
    path = calibration(STUDENT).write(tmp_path)
    assert path == tmp_path / "calibration" / "x86-64-cpu-1-threads.json"
    assert calibration(OTHER).write(tmp_path) == path
    assert calibration(STUDENT, device=GPU).write(tmp_path).name == "nvidia-h200.json"
    assert Calibration.read(path).times.keys() == {Work.of(STUDENT).kind, Work.of(OTHER).kind}
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
    assert prepared([images, clips], [(clips, 4)], tmp_path) == expected


def test_the_peak_has_two_checkpoints_of_each_run_at_work():
    one = budget(priced(), priced(disk=Bytes(10**9, 10**9)), at_once=2, prepared_bytes=5.0)
    assert one.left_bytes == 5 + 2 * 10**9 + 2 * 20_000
    assert one.peak_bytes - one.left_bytes == 2 * 2 * 3 * 10**9


# ---- Words and caps --------------------------------------------------------------------------------------------------

ADVICE = Advice({"student", "table2c"}, Settings(scale="demo"))


def test_the_summary_has_runs_by_rule_and_network_the_longest_and_the_disk():
    teacher = priced(STUDENT.teacher, 1800.0, rule="teacher")
    told = summary(budget(priced(sigma=0.1), teacher, others=3), ADVICE)
    assert told[0].startswith(f"budget: 2 runs on {CPU}; device time")
    text = "\n".join(" ".join(line.split()) for line in told)
    for line in (
        "student 1 1.0 h (50 min 54 s to 1.2 h)",
        "teacher 1 30 min (30 min to 30 min)",
        f"{STUDENT.dataset.name}, {STUDENT.network.slug} 1 1.0 h",
        "all 2 1.5 h (1.3 h to 1.7 h)",
        f"longest: 1.0 h (50 min 54 s to 1.2 h), {STUDENT.name}",
        "from finished runs (2)",
        "disk: 2.0 GB stay, 8.0 GB at the peak with 1 run at a time; 7.0 GB are free",
        "not counted: 3 jobs",
    ):
        assert line in text


def test_nothing_is_invented_where_nothing_is_known():
    unknown = Priced(wanted(STUDENT), SIZE, None, None, None)
    told = summary(budget(unknown), ADVICE)
    assert told == [
        "budget: 1 run",
        "  no estimate of 1 run; to know more: `python -m bkdsnn calibrate table2c --scale demo`",
    ]
    uncounted = unknown._replace(size=None)
    assert f"results/demo/data/{STUDENT.dataset.name}.json`, then `python -m" in summary(budget(uncounted), ADVICE)[1]


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
    found = excess(budget(priced(sigma=0.1)), Settings(scale="demo", budget=caps).budget, ADVICE)
    assert found is None if problem is None else problem in found


@pytest.mark.parametrize("key", ["cap_hours", "cap_disk_gb"])
def test_a_cap_that_cannot_be_checked_is_not_kept(key):
    unknown = Priced(wanted(STUDENT), SIZE, None, None, None)
    found = excess(budget(priced(), unknown), Settings(scale="demo", budget={key: 1e9}).budget, ADVICE)
    assert (
        f"'budget.{key}' is 1e+09, but there is no estimate of 1 run, such as {STUDENT.name}; run `python -m" in found
    )


@pytest.mark.parametrize("cap", [0, -1, "many"])
def test_a_wrong_cap_is_named(cap):
    with pytest.raises(UserError, match=r"'budget.cap_hours': .* found"):
        Settings.read({"scale": "demo", "budget": {"cap_hours": cap}})


def test_targets_are_tables_and_figures_with_their_ancestors():
    runs = runs_of(["table2c"], "smoke", "reference")
    assert runs == paper.plan("table2c", "smoke", seeds=[0]).runs()
    name = figures.figure_names()[0]
    drawn = runs_of([name], "smoke", "reference")
    assert all(parent.name in drawn for spec in drawn.values() for parent in spec.parents())
    assert runs_of([], "smoke", "reference") == paper.all_runs("smoke", seeds=[0])


def test_the_budget_imports_no_torch():
    modules = ("hook", "estimate", "evidence", "history", "report", "targets", "work", "calibration")
    code = (
        f"import sys; import {', '.join(f'bkdsnn.budget.{name}' for name in modules)}; sys.exit('torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0

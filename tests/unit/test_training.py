"""Training end to end on tens of embedded images: artefacts, exact resume, guards."""

import contextlib
import importlib.metadata
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from training_example import CPU, assert_equal, changed, compare_sliced, losses, run, run_in_slices

from bkdsnn import data
from bkdsnn.config import Augment, Mix, RunSpec, paper
from bkdsnn.core.errors import RESUMABLE, Interrupted, UserError
from bkdsnn.core.progress import Progress
from bkdsnn.machine.devices import choose
from bkdsnn.runs import checkpoint
from bkdsnn.runs.run_folder import RunFolder
from bkdsnn.runs.slices import Slice
from bkdsnn.training import meter, train
from bkdsnn.training.execute import execute
from bkdsnn.training.optim import learning_rate

COLUMN = "resnet20-cifar10"
SFORMER = "sformer-2-384-cifar10"
# All that the published recipes of transformers do to a batch, at twice their rates; mixing ends within the run.
PUBLISHED = {
    "epochs": 2,
    "cooldown_epochs": 1,
    "warmup_epochs": 1,
    "warmup_lr": 1e-4,
    "label_smoothing": 0.1,
    "mix": Mix(mixup=0.5, cutmix=0.5, off_epoch=1),
    "augment": Augment(flip=True, randaugment="rand-m9-n2-mstd0.4-inc1", erasing=0.5, erasing_mode="pixel"),
}


def spec_of(method, **recipe):
    """The smoke-scale run of a method, with changes to its recipe."""
    return changed(paper.plan("table2a", "smoke").cell(method, COLUMN).runs[0], **recipe)


def transformer(method, **recipe):
    """The smoke-scale run of a method on Spikingformer, with all that published recipes do and more changes."""
    return changed(paper.plan("table2b", "smoke").cell(method, SFORMER).runs[0], **PUBLISHED | recipe)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Results folder with data and trained teachers, a ResNet and a ViT."""
    results = tmp_path_factory.mktemp("results")
    teachers = [spec_of("ann"), transformer("bkdsnn").teacher]
    data.prepare(teachers[0].dataset, None, results / "data" / f"{teachers[0].dataset.name}.json")
    for teacher in teachers:
        execute(teacher, results, results / "resources", CPU, None)
    return results


@pytest.fixture
def results(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "results")
    return tmp_path / "results"


def test_a_run_leaves_what_the_contract_names(results):
    spec = spec_of("bkdsnn", epochs=2)
    path = run(spec, results)
    assert sorted(file.name for file in path.iterdir()) == [
        "history.jsonl",
        "metrics.json",
        "predictions.npz",
        "provenance.json",
        "spec.json",
        "weights.safetensors",
    ]
    metrics = json.loads((path / "metrics.json").read_text())
    correct = np.load(path / "predictions.npz")["correct"]
    history = [json.loads(line) for line in (path / "history.jsonl").read_text().splitlines()]
    assert RunSpec.model_validate_json((path / "spec.json").read_text()).digest == spec.digest == metrics["spec"]
    assert metrics["top1"]["last"] == 100 * correct.mean() == history[-1]["top1"]
    assert metrics["top1"]["best"] == max(record["top1"] for record in history)
    assert len(correct) == metrics["test_images"] == spec.dataset.digits.test
    assert set(history[0]["losses"]) == {"ce", "ld", "bkd"}
    assert [record["lr"] for record in history] == [learning_rate(spec.recipe, epoch) for epoch in range(2)]
    assert all(0 < record["evaluation_seconds"] < record["seconds"] for record in history)
    assert metrics["seconds"] == sum(record["seconds"] for record in history)
    about = json.loads((path / "provenance.json").read_text())
    assert (
        about["packages"]["torch"] == importlib.metadata.version("torch")
        and about["threads"] == torch.get_num_threads()
    )
    assert len(about["attempts"]) == 1 and about["neurons"] in (["native"], ["loop"])
    assert about["peak_memory_mb"] == max(record["peak_memory_mb"] for record in history)


def test_restoration_block_and_adapter_are_not_part_of_the_student(results):
    weights = load_file(run(spec_of("bkdsnn"), results) / "weights.safetensors")
    plain = load_file(run(spec_of("sew-resnet"), results) / "weights.safetensors")
    assert weights.keys() == plain.keys()
    assert all(weights[key].shape == plain[key].shape for key in plain)


@pytest.mark.parametrize("method", ["bkdsnn", "lasnn", "tet"])
def test_resumed_equals_uninterrupted_bit_for_bit(results, tmp_path, method):
    compare_sliced(spec_of(method, epochs=2), results, tmp_path / "again")


@pytest.mark.parametrize("method", ["bkdsnn", "kdsnn"])
def test_a_resumed_transformer_equals_an_uninterrupted_one_bit_for_bit(results, tmp_path, method):
    spec = transformer(method)
    assert spec.recipe.optimizer == "adamw" and not spec.recipe.decay_vectors and spec.recipe.total_epochs == 3
    compare_sliced(spec, results, tmp_path / "again")


@pytest.mark.parametrize("spec", [spec_of("bkdsnn", epochs=2), transformer("bkdsnn")], ids=["cnn", "transformer"])
def test_recomputation_leaves_the_same_bits_and_may_begin_in_the_middle(results, tmp_path, spec):
    shutil.copytree(results, tmp_path / "again")
    whole, folder = run(spec, results), tmp_path / "again"
    for minutes, recompute in ((1e-9, True), (1e-9, False), (None, True)):
        with contextlib.suppress(Interrupted):
            execute(spec, folder, folder / "resources", CPU, minutes, recompute=recompute)
    again = RunFolder(folder / "runs", spec).path
    assert_equal(whole, again)
    lines = [(path / "history.jsonl").read_text().splitlines() for path in (whole, again)]
    first, second = ([json.loads(line)["gradients"] for line in each] for each in lines)
    assert first == second


def test_lambs_count_of_steps_survives_a_resume(results, tmp_path):
    spec = transformer("spikingformer", optimizer="lamb", cooldown_epochs=0, augment=Augment())
    compare_sliced(spec, results, tmp_path / "again")


@pytest.mark.parametrize("method", ["bkdsnn", "lasnn"])
def test_a_transformer_depends_on_its_seed_alone(results, tmp_path, method):
    shutil.copytree(results, tmp_path / "again")
    paths = []
    for number, folder in enumerate((results, tmp_path / "again")):
        torch.manual_seed(number)
        np.random.seed(number)
        random.seed(number)
        paths.append(run(transformer(method), folder))
    assert_equal(*paths)


def test_cooldown_is_counted_and_trains(results):
    paths = [run(transformer("spikingformer", min_lr=1e-3, cooldown_epochs=epochs), results) for epochs in (0, 2)]
    histories = [[json.loads(line) for line in (path / "history.jsonl").read_text().splitlines()] for path in paths]
    assert [[record["epoch"] for record in history] for history in histories] == [[1, 2], [1, 2, 3, 4]]
    assert losses(paths[0]) == losses(paths[1])[:2]
    assert json.loads((paths[1] / "metrics.json").read_text())["epochs"] == 4
    shorter, longer = (load_file(path / "weights.safetensors")["head.weight"] for path in paths)
    assert not torch.equal(shorter, longer)


def test_adam_state_survives_a_resume(results, tmp_path):
    spec = paper.plan("table2a", "smoke").cell("tet", "resnet19-cifar10").runs[0]
    assert spec.recipe.optimizer == "adam"
    whole = load_file(run(spec, results) / "weights.safetensors")
    shutil.copytree(results, tmp_path / "again", ignore=shutil.ignore_patterns(spec.name))
    sliced = load_file(run_in_slices(spec, tmp_path / "again")[0] / "weights.safetensors")
    assert all(torch.equal(whole[key], sliced[key]) for key in whole)


def test_the_restoration_block_is_trained_and_resumed(results):
    spec = spec_of("bkdsnn", epochs=2)
    folder = RunFolder(results / "runs", spec)
    blocks = []
    for _ in range(3):
        with pytest.raises(Interrupted):
            run(spec, results, minutes=1e-9)
        tensors, header = checkpoint.read_tensors(folder.checkpoint)
        blocks.append(next(tensors[key] for key in sorted(tensors) if "restoration" in key and key.startswith("crit")))
    assert header["position"]["step"] == 3
    assert not torch.equal(blocks[0], blocks[1]) and not torch.equal(blocks[1], blocks[2])


def test_methods_begin_with_the_same_student_and_see_the_same_order(results):
    first = {}
    for method in ("sew-resnet", "kdsnn", "bkdsnn"):
        spec = spec_of(method, lr=1e-30)  # so small a step leaves the initial weights as they are
        first[method] = load_file(run(spec, results) / "weights.safetensors")
    for weights in first.values():
        for key, value in weights.items():  # statistics of norms, which depend on the images, too
            torch.testing.assert_close(value, first["sew-resnet"][key], rtol=0, atol=1e-25)


def test_a_finished_run_is_left_alone(results):
    spec = spec_of("sew-resnet")
    path = run(spec, results)
    before = {file: file.stat().st_mtime_ns for file in path.iterdir()}
    run(spec, results)
    assert before == {file: file.stat().st_mtime_ns for file in path.iterdir()}


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_checkpoint(results):
    spec = spec_of("sew-resnet", lr=1e38, epochs=3)
    folder = RunFolder(results / "runs", spec)
    with pytest.raises(Interrupted):
        run(spec, results, minutes=1e-9)
    kept = folder.checkpoint.read_bytes()
    with pytest.raises(UserError, match=r"loss 'ce' is (nan|inf) at epoch \d, step \d"):
        run(spec, results)
    assert folder.checkpoint.read_bytes() == kept
    assert "loss 'ce'" in json.loads((folder.path / "failure.json").read_text())["message"]
    assert not folder.finished


def interrupted(results, **recipe):
    spec = spec_of("bkdsnn", **recipe)
    with pytest.raises(Interrupted):
        run(spec, results, minutes=1e-9)
    return spec, RunFolder(results / "runs", spec).checkpoint


def test_checkpoint_of_another_spec_is_refused(results):
    _, theirs = interrupted(results, epochs=2)
    spec, ours = interrupted(results, epochs=3)
    shutil.copy(theirs, ours)
    with pytest.raises(UserError, match=r"last\.safetensors: checkpoint of spec .* expected"):
        run(spec, results)


@pytest.mark.parametrize("keep", [0, 100, -10])
def test_a_truncated_checkpoint_gives_way_to_the_one_before(results, tmp_path, caplog, keep):
    whole = run(spec_of("bkdsnn", epochs=2), shutil.copytree(results, tmp_path / "whole"))
    spec, path = interrupted(results, epochs=2)
    with pytest.raises(Interrupted):
        run(spec, results, minutes=1e-9)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(Interrupted):
        run(spec, results, minutes=1e-9)  # goes on from the first step
    assert checkpoint.read_tensors(path)[1]["position"]["step"] == 2
    assert f"{path}: damaged" in caplog.text and path.with_name("last.safetensors.damaged").exists()
    assert_equal(whole, run(spec, results))


def scaled_steps(network, optimizer, scaler, count):
    for _ in range(count):
        scaler.scale(network(torch.ones(2, 3)).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()


@pytest.mark.parametrize(("saved", "resumed"), [(False, True), (True, False), (True, True)])
def test_a_checkpoint_goes_on_with_a_gradient_scaler_and_without(tmp_path, saved, resumed):
    """Only float16 on a GPU scales, so that a run may change between the two; scalers work on a CPU too."""
    options = {"growth_interval": 2, "init_scale": 8.0}
    scalers = [torch.amp.GradScaler("cpu", enabled=enabled, **options) for enabled in (saved, resumed)]
    networks = [nn.Linear(3, 1), nn.Linear(3, 1)]
    optimizers = [torch.optim.Adam(network.parameters()) for network in networks]
    scaled_steps(networks[0], optimizers[0], scalers[0], 2)
    path = tmp_path / "last.safetensors"
    checkpoint.save(path, "spec", checkpoint.Position(epoch=1), {"student": networks[0]}, optimizers[0], scalers[0])
    at = checkpoint.resume(path, "spec", {"student": networks[1]}, optimizers[1], scalers[1])
    assert at.epoch == 1 and torch.equal(networks[0].weight, networks[1].weight)
    assert scalers[1].get_scale() == {(False, True): 8.0, (True, False): 1.0, (True, True): 16.0}[saved, resumed]
    if (saved, resumed) != (True, False):  # whose gradients are alike, but for a scale that is a power of two
        for each in zip(networks, optimizers, scalers):
            scaled_steps(*each, 3)
        assert torch.equal(networks[0].weight, networks[1].weight)


def test_bits_that_flip_are_found(results):
    _, path = interrupted(results)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(checkpoint.Damaged, match=r"last\.safetensors: damaged \(CRC-32 is \d+, expected \d+\)"):
        checkpoint.read_tensors(path)


def test_missing_teacher_is_named(results):
    spec = spec_of("bkdsnn")
    shutil.rmtree(RunFolder(results / "runs", spec.teacher).path)
    with pytest.raises(UserError, match=r"run .*-ann-.* is not finished"):
        run(spec, results)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: {key: t[key] for key in list(t)[1:]}, "lacks tensor"),
        (lambda t: {**t, "extra": torch.zeros(1)}, "has unknown tensor 'extra'"),
        (lambda t: {**t, "fc.weight": torch.zeros(3, 3)}, r"'fc.weight' has shape \(3, 3\), expected"),
    ],
)
def test_teacher_weights_of_the_wrong_shape_are_named(results, damage, message):
    spec = spec_of("bkdsnn")
    path = RunFolder(results / "runs", spec.teacher).path / "weights.safetensors"
    tensors, header = checkpoint.read_tensors(path)
    checkpoint.write_tensors(path, damage(tensors), header)
    with pytest.raises(UserError, match=message):
        run(spec, results)


def test_teacher_weights_of_another_run_are_named(results):
    spec = spec_of("bkdsnn")
    path = RunFolder(results / "runs", spec.teacher).path / "weights.safetensors"
    tensors, _ = checkpoint.read_tensors(path)
    checkpoint.write_tensors(path, tensors, {"spec": "0" * 64})
    with pytest.raises(UserError, match="belongs to spec 0000000000"):
        run(spec, results)
    save_file(tensors, path)
    with pytest.raises(UserError, match="has no 'bkdsnn' header"):
        run(spec, results)


def test_less_data_than_one_batch_is_named(results):
    with pytest.raises(UserError, match="'batch_size' is 41, expected 40"):
        run(spec_of("sew-resnet", batch_size=41), results)


def test_a_second_writer_is_kept_out_until_its_slice_ends(results):
    folder = RunFolder(results / "runs", spec_of("sew-resnet"))
    with folder.locked(Slice(None, folder.path)), pytest.raises(Interrupted, match=rf"pid {os.getpid()}\) is writing"):
        run(folder.spec, results, minutes=1e-9)
    assert not folder.ledger.exists() and not (folder.path / "history.jsonl").exists()


def test_conversion_evaluates_the_trained_ann_and_approaches_it_with_time(results):
    plan = paper.plan("table2a", "smoke")
    converted = plan.cell("qcfs", COLUMN).runs[0]
    source = run(converted.source, results)
    path = run(converted, results)
    converted_metrics, metrics = (json.loads((folder / "metrics.json").read_text()) for folder in (path, source))
    assert converted_metrics["epochs"] == 0
    assert converted_metrics["parameters"] == metrics["parameters"]
    ours, theirs = (load_file(folder / "weights.safetensors") for folder in (path, source))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def command(results, spec, *options):
    return [sys.executable, "-m", "bkdsnn", "train", spec.name, "--scale", "smoke", "--results", str(results), *options]


def test_sigterm_saves_and_the_same_command_goes_on(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "all" / "smoke")
    spec = paper.plan("table2a", "smoke").cell("bkdsnn", COLUMN).runs[0]
    folder = RunFolder(tmp_path / "all" / "smoke" / "runs", spec)
    started = subprocess.Popen(command(tmp_path / "all", spec), stderr=subprocess.PIPE, text=True)
    while not folder.ledger.exists() and started.poll() is None:
        time.sleep(0.002)
    started.send_signal(signal.SIGTERM)
    stderr = started.communicate()[1]
    assert started.returncode in (RESUMABLE, -signal.SIGTERM, 0), stderr
    if started.returncode == RESUMABLE:
        assert folder.checkpoint.exists() and "run again to continue" in stderr
    again = subprocess.run(command(tmp_path / "all", spec), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert folder.finished and not folder.checkpoint.exists()


class Watched(Progress):
    """Makes every operation an error that waits for the GPU, from the end of an epoch's first step to its last."""

    def step(self, epoch, step):
        torch.cuda.set_sync_debug_mode("error" if step < self.steps else "default")
        super().step(epoch, step)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature")  # once a process, by torch
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("method", ["sew-resnet", "bkdsnn", "kdsnn", "lasnn", "transformer"])
def test_no_step_waits_for_a_gpu(results, monkeypatch, method, precision):
    monkeypatch.setattr(meter, "LOSSES_PER_TRANSFER", 1)
    monkeypatch.setattr(train, "Progress", Watched)
    augment = PUBLISHED["augment"].model_copy(update={"erasing_mode": "const"})
    spec = transformer("bkdsnn", augment=augment) if method == "transformer" else spec_of(method, epochs=2)
    try:
        execute(changed(spec, precision=precision), results, results / "resources", choose("cuda", 1), None)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_float32_is_float32_on_a_gpu_too():
    """In convolutions torch itself allows TF32; a new process says what torch has before a device is chosen."""
    flags = "(torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)"
    code = f"import torch; from bkdsnn.machine import devices; print({flags}); devices.choose('cpu', 1); print({flags})"
    ended = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert ended.stdout == "(True, False)\n(False, False)\n", ended.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_convolutions_and_products_of_a_gpu_round_as_float32_does():
    """TF32 keeps 10 bits of a factor's fraction: 1 + 2^-13 becomes 1."""
    device, factor = choose("cuda", 1), 1 + 2**-13
    one = torch.full((1, 16, 8, 8), factor, device=device)
    assert (nn.functional.conv2d(one, torch.eye(16, device=device)[:, :, None, None]) == factor).all()
    assert (one[0, 0].expand(16, 8, 8).reshape(128, 8) @ torch.eye(8, device=device) == factor).all()


def test_an_absent_gpu_is_an_error_not_a_silent_cpu(results):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    spec = paper.plan("table2a", "smoke").cell("ann", COLUMN).runs[0]
    ended = subprocess.run(command(results, spec, "--device", "cuda"), capture_output=True, text=True)
    assert ended.returncode == 1
    assert "device 'cuda' asked for, but 0 CUDA devices are present" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1

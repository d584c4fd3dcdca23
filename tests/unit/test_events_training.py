"""Training on events end to end: the same recordings for student and teacher, no gradient to it, exact resume."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from training_example import CPU, assert_equal, changed, compare_sliced, losses, run

from bkdsnn import data, models
from bkdsnn.config import Augment, Mix, paper
from bkdsnn.core import streams
from bkdsnn.core.errors import UserError
from bkdsnn.data.events import frames
from bkdsnn.data.mixing import Mixing
from bkdsnn.models import Network
from bkdsnn.training import step
from bkdsnn.training.execute import open_loader

# All that the published recipes for events do to a batch; mixing ends within the run.
PUBLISHED = {
    "epochs": 2,
    "cooldown_epochs": 1,
    "batch_size": 44,
    "label_smoothing": 0.1,
    "mix": Mix(mixup=0.5, cutmix=0.5, off_epoch=1),
    "augment": Augment(flip=True, neuromorphic=True),
}
COLUMNS = ["sformer-2-256-t4", "wide-7b-net-t4"]


def spec_of(method, column, **recipe):
    """The smoke-scale run of a method, with all that published recipes do and more changes."""
    return changed(paper.plan("table3b", "smoke").cell(method, column).runs[0], **PUBLISHED | recipe)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Results folder with frames for students and teachers, and the trained teachers."""
    results = tmp_path_factory.mktemp("results")
    specs = [spec_of("bkdsnn", column) for column in COLUMNS]
    dataset = specs[0].dataset
    manifest = results / "data" / f"{dataset.name}.json"
    data.prepare(dataset, None, manifest)
    for timesteps in {one.network.timesteps for spec in specs for one in (spec, spec.teacher)}:
        frames.convert(dataset, manifest, timesteps)
    for spec in specs:
        run(spec.teacher, results)
    return results


@pytest.fixture
def results(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "results")
    return tmp_path / "results"


@pytest.mark.parametrize(("column", "recipe"), [(COLUMNS[0], {}), (COLUMNS[1], {"epochs": 1, "cooldown_epochs": 0})])
def test_resumed_equals_uninterrupted_bit_for_bit(results, tmp_path, column, recipe):
    spec = spec_of("bkdsnn", column, **recipe)
    assert spec.teacher.network.timesteps > spec.network.timesteps > 1
    compare_sliced(spec, results, tmp_path / "again")


@pytest.mark.parametrize("method", ["kdsnn", "lasnn", "bkdsnn"])
def test_a_run_depends_on_its_seed_alone(results, tmp_path, method):
    shutil.copytree(results, tmp_path / "again")
    paths = []
    for number, folder in enumerate((results, tmp_path / "again")):
        torch.manual_seed(number)
        paths.append(run(spec_of(method, COLUMNS[0], epochs=1, cooldown_epochs=0), folder))
    assert_equal(*paths)


def test_in_training_the_teacher_sees_the_recordings_that_the_student_sees(results, monkeypatch):
    """Mixed, mirrored and distorted: over time, both count the same events at every pixel."""
    spec = spec_of("bkdsnn", COLUMNS[0])
    seen: dict[int, list[torch.Tensor]] = {spec.network.timesteps: [], spec.teacher.network.timesteps: []}
    forward = models.spikingformer.Spikingformer.forward

    def watched(net: Network, images: torch.Tensor, taps: tuple[str, ...] = ()) -> models.Outputs:
        if len(images) == spec.recipe.batch_size:  # one of training
            seen[images.shape[1]].append(images.sum(1))
        return forward(net, images, taps)

    monkeypatch.setattr(models.spikingformer.Spikingformer, "forward", watched)
    run(spec, results)
    mine, teachers = seen.values()
    assert len(mine) == len(teachers) == 2 * spec.recipe.total_epochs and all(images.sum() > 0 for images in mine)
    for images, shown in zip(mine, teachers):
        torch.testing.assert_close(images, shown)
    plain = open_loader(changed(spec, augment=Augment()), results, CPU)
    assert not torch.allclose(mine[0], next(plain.train(0)).images.sum(1))


def test_no_gradient_of_the_student_reaches_its_teacher(results):
    spec = spec_of("bkdsnn", COLUMNS[0])
    teacher = models.build(spec.teacher.network, spec.dataset).eval()  # its parameters ask for gradients
    student, criterion = step.build(spec, teacher, CPU)
    batch = Mixing(spec.recipe, spec.dataset.classes, 0)(next(open_loader(spec, results, CPU).train(0)), 0, 0)
    target = step.teacher_outputs(teacher, batch.teacher_input, criterion.teacher_taps)
    assert not any(output.requires_grad for output in (target.logits, target.pooled, *target.features.values()))
    outputs = student(batch.images, criterion.taps)
    losses = criterion(outputs, target, batch.labels, streams.generator(0, "blur", 0, 0))
    torch.stack(list(losses.values())).sum().backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert any(parameter.grad.abs().sum() > 0 for parameter in student.parameters())


def test_a_taught_run_on_events_leaves_its_losses_and_another_student(results):
    alone, taught = (run(spec_of(method, COLUMNS[0]), results) for method in ("none", "bkdsnn"))
    weights = [load_file(path / "weights.safetensors")["head.weight"] for path in (alone, taught)]
    assert not torch.equal(*weights)
    for record in losses(taught):
        assert record.keys() == {"ce", "ld", "bkd"} and all(value > 0 for value in record.values())
    metrics = json.loads((taught / "metrics.json").read_text())
    assert metrics["test_images"] == 10 and metrics["epochs"] == 3


def test_missing_frames_of_the_teacher_end_the_run_before_training(results):
    spec = spec_of("bkdsnn", COLUMNS[0])
    record = results / "data" / f"{spec.dataset.name}-t{spec.teacher.network.timesteps}.json"
    record.unlink()
    with pytest.raises(UserError, match=rf"{record.name} is missing"):
        run(spec, results)

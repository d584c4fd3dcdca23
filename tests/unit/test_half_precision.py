"""What half precision does: a step of every family stays finite, and a teacher stays near its float32 outputs."""

import pytest
import torch
from trained_example import cifar10_test, trained_resnet20

from bkdsnn import models
from bkdsnn.config import paper
from bkdsnn.core import streams
from bkdsnn.distill.features import time_mean
from bkdsnn.training import step

ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
HALVES = (torch.float16, torch.bfloat16)

# --- a step of every family, on a GPU at the paper's size

FAMILIES = {
    "resnet": ("table2c", "bkdsnn", "resnet18-imagenet"),
    "resnet, TET": ("table2a", "bkdsnn", "resnet19-cifar10"),
    "resnet, tdBN": ("table2a", "stbp-tdbn", "resnet19-cifar10"),
    "spikformer": ("table2b", "spikformer-cml", "sformer-4-384-cifar10"),
    "spikingformer": ("table2d", "bkdsnn", "sformer-8-384-imagenet"),
    "meta-spikeformer": ("table3a", "bkdsnn", "mformer-8-256-imagenet"),
    "wide-7b": ("table3b", "bkdsnn", "wide-7b-net-t4"),
}
PARTS = {"vit": ("spikingformer", "teacher"), "resnet, ANN": ("resnet, TET", "teacher")}


def spec_of(family, scale):
    """The run of a student of that family, or of the teacher of one."""
    name, part = PARTS.get(family, (family, None))
    table, row, column = FAMILIES[name]
    spec = paper.plan(table, scale, seeds=[0]).cell(row, column).runs[0]
    return getattr(spec, part) if part else spec


def samples(network, size, device):
    """Four images, or the frames of four recordings, with the same seed for every network."""
    generator = torch.Generator().manual_seed(0)
    shape = (4, *network.sample, size, size)
    counts = len(network.sample) > 1
    drawn = torch.randint(3, shape, generator=generator) if counts else torch.randn(shape, generator=generator)
    return drawn.float().to(device)


@pytest.mark.parametrize("family", [*FAMILIES, *PARTS])
@pytest.mark.parametrize(
    ("device", "dtype"), [("cpu", torch.float32), *(pytest.param("cuda", half, marks=ON_GPU) for half in HALVES)]
)
def test_a_step_of_every_family_is_finite(family, device, dtype):
    """As `training.train`, with teachers that nobody trained; on a CPU, which trains in float32, at scale smoke."""
    spec, on = spec_of(family, "smoke" if device == "cpu" else "paper"), torch.device(device)
    torch.manual_seed(0)
    teacher = models.build(spec.teacher.network, spec.dataset).eval().to(on) if spec.teacher else None
    student, criterion = step.build(spec, teacher, on)
    images, *shown = (samples(net, spec.dataset.image_size, on) for net in (student, teacher) if net)
    with torch.autocast(device, dtype, enabled=device == "cuda"):
        target = step.teacher_outputs(teacher, *(shown or [images]), criterion.teacher_taps)
        outputs = student.train()(images, criterion.taps)
        losses = criterion(outputs, target, torch.arange(4, device=on) % 2, streams.generator(0, "blur", 0, 0))
    torch.stack(list(losses.values())).sum().backward()
    gradients = [parameter.grad for parameter in (*student.parameters(), *criterion.parameters())]
    assert len(losses) == 1 + len(spec.distill) and all(loss.isfinite() for loss in losses.values())
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients)


# --- a teacher

BOUNDS = {torch.float16: 3e-3, torch.bfloat16: 2e-2}  # stated in docs/deviations.md
TEACHERS = [
    ("table2a", "resnet20-cifar10"),
    ("table2c", "resnet18-imagenet"),
    ("table2c", "resnet50-imagenet"),
    ("table2b", "sformer-4-384-cifar10"),
]


def outputs_of(teacher, images):
    """What distillation compares: time averages of the last feature and of the logits."""
    outputs = step.teacher_outputs(teacher, images, teacher.taps[-1:])
    return time_mean(outputs.features[teacher.taps[-1]]), time_mean(outputs.logits)


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize(("table", "column"), TEACHERS)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=ON_GPU)])
def test_a_teacher_in_half_precision_stays_near_its_outputs(table, column, device, dtype):
    spec = paper.plan(table, "paper", seeds=[0]).cell("bkdsnn", column).runs[0].teacher
    torch.manual_seed(0)
    teacher = models.build(spec.network, spec.dataset).eval().to(device)
    images = samples(teacher, spec.dataset.image_size, device)
    assert_near(teacher, images, dtype)


def assert_near(teacher, images, dtype):
    """Outputs of a teacher under autocast are within the bound; returns both logits (B, K)."""
    exact = outputs_of(teacher, images)
    with torch.autocast(images.device.type, dtype):
        found = outputs_of(teacher, images)
    for half, full in zip(found, exact, strict=True):
        assert half.dtype == torch.float32
        assert 0 < torch.linalg.vector_norm(half - full) < BOUNDS[dtype] * torch.linalg.vector_norm(full)
    return found[1], exact[1]


@pytest.mark.parametrize("dtype", BOUNDS)
def test_a_trained_teacher_in_half_precision_sees_what_it_sees_in_float32(dtype, samples):
    images, _ = cifar10_test(samples)
    half, full = assert_near(trained_resnet20(samples), images, dtype)
    assert (half.argmax(1) == full.argmax(1)).float().mean() > 0.99


def test_a_teachers_outputs_are_constants_that_losses_can_take():
    """Autograd refuses to keep inference tensors; what `time_mean` makes of them is none."""
    spec = spec_of("resnet", "smoke").teacher
    teacher = models.build(spec.network, spec.dataset)  # its weights still ask for gradients
    outputs = step.teacher_outputs(teacher, samples(teacher, spec.dataset.image_size, "cpu"), teacher.taps)
    assert outputs.logits.is_inference() and not outputs.logits.requires_grad
    mean = time_mean(outputs.logits)
    assert not mean.is_inference() and not mean.requires_grad
    weight = torch.ones_like(mean, requires_grad=True)
    (weight * mean).sum().backward()
    assert torch.equal(weight.grad, mean)

"""The criterion as the trainer meets it: taps, refusals, mask, trained parts, precision, silent stages."""

import copy
import math
from typing import get_args

import pytest
import torch
from test_distill_losses import run_spec

from bkdsnn.config import BKD, KDSNN, LD, TET, CrossEntropy, HardLD, LaSNN, TaskLoss, Term
from bkdsnn.core.errors import UserError
from bkdsnn.core.streams import generator
from bkdsnn.distill import METHODS, Criterion
from bkdsnn.distill.restoration import blur_mask
from bkdsnn.models.outputs import Outputs

T, B, K = 2, 4, 3
STUDENT = {"stage1": (2, 4, 4), "stage2": (3, 2, 2)}
SAME = {"layer1": (2, 4, 4), "layer2": (3, 2, 2)}
WIDER = {"layer1": (2, 4, 4), "layer2": (5, 2, 2)}
TERMS = {
    "ld": LD(),
    "ld-focal": LD(focal=True),
    "hard-ld": HardLD(),
    "bkd": BKD(weight=0.1),
    "bkd-bare": BKD(weight=0.1, restoration=False),
    "bkd-vector": BKD(weight=0.1, target="vector"),
    "bkd-swapped": BKD(weight=0.1, swapped=True),
    "kdsnn": KDSNN(weight=0.1),
    "kdsnn-published": KDSNN(weight=0.1, published=True),
    "kdsnn-last": KDSNN(weight=0.1, layers="last"),
    "kdsnn-blurred": KDSNN(weight=0.1, blur_ratio=0.15),
    "lasnn": LaSNN(weight=0.1),
    "lasnn-blurred": LaSNN(weight=0.1, blur_ratio=0.15),
    "lasnn-published": LaSNN(weight=0.1, published=True),
}


def criterion(*terms, teacher=WIDER, loss=None):
    """A criterion whose f_adp and G are initialised from a fixed seed."""
    torch.manual_seed(5)
    return Criterion(run_spec(loss or CrossEntropy(), terms), STUDENT, teacher if terms else None)


def outputs(shapes, steps, seed, fill=None, dtype=torch.float32):
    """Random outputs of a network, or features (and their vector) that are all `fill`, as leaves."""
    source = torch.Generator().manual_seed(seed)

    def leaf(*size, fill=None):
        values = torch.randn(size, generator=source) if fill is None else torch.full(size, fill)
        return values.to(dtype).requires_grad_()

    logits = leaf(steps, B, K)
    features = {tap: leaf(steps, B, *shape, fill=fill) for tap, shape in shapes.items()}
    width = list(shapes.values())[-1][0] if shapes else 1
    return Outputs(logits, features, leaf(steps, B, width, fill=fill), leaf(steps, B, K))


def converted(found, convert):
    """The outputs with every tensor converted."""
    features = {tap: convert(feature) for tap, feature in found.features.items()}
    return Outputs(convert(found.logits), features, convert(found.pooled), convert(found.distilled))


LABELS = torch.tensor([0, 1, 2, 1])


def losses(module, student, teacher, step=0):
    return module(student, teacher, LABELS, generator(0, "blur", 0, step))


# --- which outputs a method needs


@pytest.mark.parametrize(
    ("terms", "taps", "teacher_taps"),
    [
        ((), (), ()),
        ((LD(),), (), ()),
        ((HardLD(),), (), ()),
        ((BKD(weight=1),), ("stage2",), ("layer2",)),
        ((BKD(weight=1, target="vector"),), ("stage2",), ()),
        ((BKD(weight=1, swapped=True),), ("stage2",), ("layer2",)),
        ((KDSNN(weight=1, layers="last"),), ("stage2",), ("layer2",)),
        ((LaSNN(weight=1, blur_ratio=0.1),), ("stage1", "stage2"), ("layer1", "layer2")),
        ((LD(), KDSNN(weight=1)), ("stage1", "stage2"), ("layer1", "layer2")),
        ((BKD(weight=1), LaSNN(weight=1)), ("stage2", "stage1"), ("layer2", "layer1")),
    ],
)
def test_taps_name_each_feature_needed_once(terms, taps, teacher_taps):
    module = criterion(*terms)
    assert (module.taps, module.teacher_taps) == (taps, teacher_taps)


@pytest.mark.parametrize("name", TERMS)
def test_losses_need_no_other_feature_than_the_taps(name):
    module = criterion(TERMS[name])
    student, teacher = outputs(STUDENT, T, 1), outputs(WIDER, 1, 2)
    full = losses(module, student, teacher)
    only_taps = (
        student._replace(features={tap: student.features[tap] for tap in module.taps}),
        teacher._replace(features={tap: teacher.features[tap] for tap in module.teacher_taps}),
    )
    assert losses(module, *only_taps) == full


def test_every_method_of_the_spec_is_in_the_table():
    union = (*get_args(get_args(Term)[0]), *get_args(get_args(TaskLoss)[0]))
    assert {options.model_fields["method"].default for options in union} == set(METHODS)


@pytest.mark.parametrize("loss", [CrossEntropy(), TET()])
def test_a_task_loss_needs_no_teacher(loss):
    found = losses(criterion(loss=loss), outputs({}, T, 1), None)
    assert list(found) == [loss.method]
    assert found[loss.method].shape == ()


# --- what is refused before training


LOGITS_ONLY = {"ld", "ld-focal", "hard-ld"}
LAYERS = ["kdsnn", "kdsnn-blurred", "lasnn", "lasnn-blurred", "lasnn-published"]


@pytest.mark.parametrize("name", sorted(set(TERMS) - LOGITS_ONLY - {"bkd-vector"}))
def test_maps_of_different_aspect_ratio_are_refused_naming_both_shapes(name):
    with pytest.raises(UserError, match=r"'stage2' is \(3, 2, 2\), the teacher's 'layer2' \(3, 4, 2\)"):
        criterion(TERMS[name], teacher={"layer1": (2, 4, 4), "layer2": (3, 4, 2)})


def test_a_vector_has_no_aspect_ratio_to_refuse():
    assert criterion(TERMS["bkd-vector"], teacher={"layer2": (3, 4, 2)}).teacher_taps == ()


@pytest.mark.parametrize("name", LAYERS)
def test_a_student_of_more_layers_than_its_teacher_is_refused_naming_both(name):
    message = r"student has 2 .*'stage1': \(2, 4, 4\).* teacher only 1 .*'layer2': \(3, 2, 2\)"
    with pytest.raises(UserError, match=message):
        criterion(TERMS[name], teacher={"layer2": (3, 2, 2)})


SINGLE = ("single", (3, 1, 1))
MANY = ("many", (3, 4, 4))


@pytest.mark.parametrize(("student", "teacher"), [(SINGLE, MANY), (MANY, SINGLE)])
def test_attention_on_a_single_place_beside_many_is_refused_naming_both(student, teacher):
    message = rf"'{student[0]}' is \(3, \d, \d\), the teacher's '{teacher[0]}' .* has a single spatial position"
    with pytest.raises(UserError, match=message):
        Criterion(run_spec(CrossEntropy(), (LaSNN(weight=1),)), dict([student]), dict([teacher]))


@pytest.mark.parametrize("name", sorted(set(LAYERS) - {"lasnn"}))
def test_features_on_a_single_place_may_be_compared_with_many(name):
    assert Criterion(run_spec(CrossEntropy(), (TERMS[name],)), dict([SINGLE]), dict([MANY])).taps == ("single",)


def test_attention_on_single_places_of_both_is_accepted():
    assert Criterion(run_spec(CrossEntropy(), (LaSNN(weight=1),)), dict([SINGLE]), dict([SINGLE])).taps == ("single",)


def test_methods_on_the_last_feature_accept_other_numbers_of_stages():
    module = criterion(BKD(weight=0.1), KDSNN(weight=0.1, published=True), teacher={"layer7": (3, 2, 2)})
    assert (module.taps, module.teacher_taps) == (("stage2",), ("layer7",))


def test_logits_distillation_accepts_any_features():
    assert criterion(LD(), teacher={"blocks": (384, 14, 14)}).taps == ()


def test_a_method_listed_twice_is_refused():
    with pytest.raises(UserError, match="lists a method twice: ce, ld, ld"):
        criterion(LD(), LD(tau=4.0))


# --- the blur mask


def test_a_channel_mask_erases_whole_maps_at_the_blur_ratio():
    mask = blur_mask((64, 512, 2, 3), 0.15, "channel", generator(0, "blur", 0, 0))
    assert mask.shape == (64, 512, 1, 1)
    draws = mask.numel()
    erased = draws - int(mask.sum())
    assert abs(erased - 0.15 * draws) < 4 * math.sqrt(draws * 0.15 * 0.85)


def test_a_pixel_mask_erases_places_of_all_channels_at_the_blur_ratio():
    mask = blur_mask((64, 5, 16, 32), 0.4, "pixel", generator(0, "blur", 0, 0))
    assert mask.shape == (64, 1, 16, 32)
    draws = mask.numel()
    assert abs(draws - int(mask.sum()) - 0.4 * draws) < 4 * math.sqrt(draws * 0.4 * 0.6)


@pytest.mark.parametrize("kind", ["channel", "pixel"])
def test_a_mask_is_zero_exactly_where_r_is_below_lambda(kind):
    size = (8, 6, 1, 1) if kind == "channel" else (8, 1, 4, 4)
    r = torch.rand(size, generator=generator(3, "blur", 1, 2)).flatten().tolist()
    ratio = sorted(r)[len(r) // 3]  # one R equals lambda, and stays
    mask = blur_mask((8, 6, 4, 4), ratio, kind, generator(3, "blur", 1, 2))
    assert mask.shape == size
    assert mask.flatten().tolist() == [not value < ratio for value in r]


def test_masks_differ_between_images_and_channels():
    mask = blur_mask((8, 64, 2, 2), 0.5, "channel", generator(0, "blur", 0, 0))
    assert len({tuple(row) for row in mask.flatten(1).tolist()}) == 8


def test_the_same_step_draws_the_same_mask_and_another_step_another():
    def draw(*counters):
        return blur_mask((4, 32, 2, 2), 0.5, "channel", generator(0, "blur", *counters))

    assert torch.equal(draw(1, 7), draw(1, 7))
    assert not torch.equal(draw(1, 7), draw(1, 8))
    assert not torch.equal(draw(1, 7), draw(2, 7))


def test_ratio_zero_erases_nothing():
    assert blur_mask((64, 512, 2, 2), 0.0, "channel", generator(0, "blur", 0, 0)).all()


def test_the_mask_neither_reads_nor_moves_the_global_generator():
    module, student, teacher = criterion(BKD(weight=0.1)), outputs(STUDENT, T, 1), outputs(WIDER, 1, 2)
    torch.manual_seed(1)
    first = losses(module, student, teacher)["bkd"]
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert losses(module, student, teacher)["bkd"] == first
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


# --- what is trained beside the student


def blocks(method, layers):
    """Names of the parameters of a block G per layer, sorted."""
    inner = [f"{i}.{kind}" for i in (0, 2) for kind in ("bias", "weight")]
    return [f"methods.{method}.restorations.{layer}.{name}" for layer in range(layers) for name in inner]


@pytest.mark.parametrize(
    ("term", "teacher", "names"),
    [
        (LD(), WIDER, []),
        (BKD(weight=1, restoration=False), SAME, []),
        (BKD(weight=1, restoration=False), WIDER, ["methods.bkd.adapters.0.bias", "methods.bkd.adapters.0.weight"]),
        (BKD(weight=1), SAME, [f"methods.bkd.restoration.{i}.{kind}" for i in (0, 2) for kind in ("bias", "weight")]),
        (KDSNN(weight=1), SAME, []),
        (KDSNN(weight=1), WIDER, ["methods.kdsnn.adapters.1.bias", "methods.kdsnn.adapters.1.weight"]),
        (LaSNN(weight=1), WIDER, []),
        (LaSNN(weight=1, published=True), WIDER, ["methods.lasnn.adapters.1.bias", "methods.lasnn.adapters.1.weight"]),
        (BKD(weight=1, target="vector", restoration=False), SAME, []),
        (KDSNN(weight=1, blur_ratio=0.1), SAME, blocks("kdsnn", 2)),
        (KDSNN(weight=1, blur_ratio=0.1, layers="last"), SAME, blocks("kdsnn", 1)),
        (LaSNN(weight=1, blur_ratio=0.0), SAME, blocks("lasnn", 2)),
        (
            LaSNN(weight=1, blur_ratio=0.1),
            WIDER,
            ["methods.lasnn.adapters.1.bias", "methods.lasnn.adapters.1.weight", *blocks("lasnn", 2)],
        ),
    ],
)
def test_adapters_exist_where_widths_differ_and_blocks_where_they_restore(term, teacher, names):
    assert sorted(criterion(term, teacher=teacher).state_dict()) == names


def test_the_restoration_block_is_two_3x3_convolutions_at_the_teachers_width():
    wide = criterion(BKD(weight=1), teacher={"layer4": (128, 2, 2)})
    size = sum(p.numel() for p in wide.methods["bkd"].restoration.parameters())
    assert size == 2 * (128 * 128 * 9 + 128) == 295_168  # the published block at width 128


@pytest.mark.parametrize("name", TERMS)
def test_all_parameters_get_gradients(name):
    module = criterion(TERMS[name])
    sum(losses(module, outputs(STUDENT, T, 1), outputs(WIDER, 1, 2)).values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def test_training_goes_on_exactly_after_a_restore():
    module, student, teacher = criterion(LD(), BKD(weight=0.1)), outputs(STUDENT, T, 1), outputs(WIDER, 1, 2)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    sum(losses(module, student, teacher).values()).backward()
    optimizer.step()
    saved = copy.deepcopy(module.state_dict())
    restored = criterion(LD(), BKD(weight=0.1))
    assert losses(restored, student, teacher) != losses(module, student, teacher)
    restored.load_state_dict(saved)
    assert losses(restored, student, teacher, step=1) == losses(module, student, teacher, step=1)


def test_initial_parameters_follow_the_global_seed():
    first, second = criterion(BKD(weight=1)).state_dict(), criterion(BKD(weight=1)).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", TERMS)
def test_the_teacher_receives_no_gradient(name):
    teacher = outputs(WIDER, 1, 2)
    sum(losses(criterion(TERMS[name]), outputs(STUDENT, T, 1), teacher).values()).backward()
    assert [leaf.grad for leaf in (teacher.logits, teacher.pooled, *teacher.features.values())] == [None] * 4


# --- numbers


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("silent_teacher", [False, True])
def test_a_silent_student_has_finite_losses_and_gradients(name, silent_teacher):
    module = criterion(TERMS[name])
    student, teacher = outputs(STUDENT, T, 1, fill=0.0), outputs(WIDER, 1, 2, fill=0.0 if silent_teacher else None)
    found = losses(module, student, teacher)
    sum(found.values()).backward()
    leaves = [student.logits, *(student.features[tap] for tap in module.taps), *module.parameters()]
    assert all(math.isfinite(loss.item()) for loss in found.values())
    assert all(torch.isfinite(leaf.grad).all() for leaf in leaves)


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_outputs_give_the_losses_of_their_float32_copies(name, dtype):
    """Features of 300 have squares beyond float16."""
    module = criterion(TERMS[name], loss=TET())
    halves = [outputs(STUDENT, T, 1, fill=300.0, dtype=dtype), outputs(WIDER, 1, 2, fill=-300.0, dtype=dtype)]
    floats = [converted(half, torch.Tensor.float) for half in halves]
    found, expected = losses(module, *halves), losses(module, *floats)
    assert {loss.dtype for loss in found.values()} == {torch.float32}
    assert found == expected


@pytest.mark.parametrize("name", TERMS)
def test_under_autocast_losses_stay_float32(name):
    """Only f_adp and G run in half precision, so their losses agree to its 8 bits, all others exactly."""
    module, student, teacher = criterion(TERMS[name]), outputs(STUDENT, T, 1), outputs(WIDER, 1, 2)
    expected = losses(module, student, teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = losses(module, student, teacher)
    assert {loss.dtype for loss in found.values()} == {torch.float32}
    tolerance = 2e-2 if list(module.parameters()) else 0.0
    assert all(torch.isclose(found[key], expected[key], rtol=tolerance, atol=0) for key in expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", TERMS)
def test_a_gpu_computes_the_losses_of_the_cpu(name):
    module = criterion(TERMS[name]).double()
    student, teacher = (outputs(*a, dtype=torch.float64) for a in ((STUDENT, T, 1), (WIDER, 1, 2)))
    expected = losses(module, student, teacher)
    on_gpu = [converted(found, torch.Tensor.cuda) for found in (student, teacher)]
    found = module.cuda()(*on_gpu, LABELS.cuda(), generator(0, "blur", 0, 0))
    assert {key: loss.item() for key, loss in found.items()} == pytest.approx(
        {key: loss.item() for key, loss in expected.items()}, rel=1e-10
    )

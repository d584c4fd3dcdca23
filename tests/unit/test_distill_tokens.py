"""Distillation between networks of different depth and grid, layer-wise L_BKD, and labels that are probabilities."""

import numpy as np
import pytest
import torch
from test_distill_criterion import TERMS
from test_distill_losses import run_spec, triangle
from torch.nn import functional as F

from bkdsnn.config import BKD, KDSNN, LD, TET, CrossEntropy, LaSNN
from bkdsnn.core.streams import generator
from bkdsnn.distill import Criterion
from bkdsnn.distill.features import pair_stages, resample
from bkdsnn.distill.restoration import Restoration, blur_mask
from bkdsnn.models.outputs import Outputs

T, B, K = 2, 3, 3
STUDENT = {f"block{i}": (4, 8, 8) for i in (1, 2)}
TEACHER = {f"block{i}": (6, 14, 14) for i in range(1, 5)}
LABELS = torch.tensor([0, 2, 1])


def outputs(shapes, steps, seed):
    """Outputs of a network of tokens in float64, as leaves."""
    source = torch.Generator().manual_seed(seed)

    def leaf(*size):
        return torch.randn(size, generator=source, dtype=torch.float64).requires_grad_()

    width = list(shapes.values())[-1][0]
    features = {tap: leaf(steps, B, *shape) for tap, shape in shapes.items()}
    return Outputs(leaf(steps, B, K), features, leaf(steps, B, width))


def criterion(*terms, student=STUDENT, teacher=TEACHER, loss=None):
    torch.manual_seed(5)
    return Criterion(run_spec(loss or CrossEntropy(), terms), student, teacher).double()


def losses(module, student=STUDENT, teacher=TEACHER, labels=LABELS, step=0):
    return module(outputs(student, T, 1), outputs(teacher, 1, 2), labels, generator(0, "blur", 0, step))


# --- pairing by number


def numbered(count):
    return {f"tap{i}": (2, 4, 4) for i in range(1, count + 1)}


@pytest.mark.parametrize(
    ("own", "theirs", "chosen"),
    [
        (1, 12, [12]),
        (2, 12, [6, 12]),
        (4, 12, [3, 6, 9, 12]),
        (8, 12, [2, 3, 5, 6, 8, 9, 11, 12]),  # 1.5, 4.5, 7.5 and 10.5 go up
        (12, 12, list(range(1, 13))),
        (3, 4, [1, 3, 4]),
        (4, 7, [2, 4, 5, 7]),  # 1.75, 3.5, 5.25
    ],
)
def test_layers_of_a_shallow_student_are_spread_over_its_teacher(own, theirs, chosen):
    pairs = pair_stages("kdsnn", numbered(own), numbered(theirs))
    assert [pair.tap for pair in pairs] == [f"tap{i}" for i in range(1, own + 1)]
    assert [pair.teacher_tap for pair in pairs] == [f"tap{i}" for i in chosen]


# --- resampling


def test_equal_grids_leave_a_map_untouched():
    target = torch.randn(2, 3, 7, 7)
    assert resample(target, torch.Size((7, 7))) is target


def test_halving_takes_a_triangle_four_places_wide():
    """Places at 1/4 of the half-width weigh 3/4, places at 3/4 weigh 1/4; beyond the edge there is nothing to weigh."""
    ramp = torch.tensor([1.0, 10.0, 100.0, 1000.0], dtype=torch.float64)
    along = resample(ramp.expand(1, 1, 4, 4), torch.Size((2, 2)))[0, 0, 0]
    assert along.tolist() == pytest.approx([(3 * 1 + 3 * 10 + 100) / 7, (10 + 3 * 100 + 3 * 1000) / 7], rel=1e-12)


def test_doubling_interpolates_between_centres_and_repeats_the_edge():
    along = resample(torch.tensor([0.0, 4.0]).expand(1, 1, 2, 2), torch.Size((4, 4)))[0, 0, 0]
    assert along.tolist() == [0.0, 1.0, 3.0, 4.0]


@pytest.mark.parametrize(
    ("old", "new"), [((14, 14), (8, 8)), ((8, 8), (14, 14)), ((12, 6), (4, 2)), ((14, 14), (1, 1))]
)
def test_a_resampled_map_is_that_of_the_triangle_filter(old, new):
    target = torch.randn(2, 3, *old, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows, columns = (torch.from_numpy(triangle(*sizes)) for sizes in zip(old, new))
    torch.testing.assert_close(resample(target, torch.Size(new)), rows @ target @ columns.T, rtol=0, atol=1e-12)


def test_a_constant_map_stays_constant():
    found = resample(torch.full((1, 1, 14, 14), 0.7, dtype=torch.float64), torch.Size((8, 8)))
    np.testing.assert_allclose(found.numpy(), 0.7, rtol=1e-12)


def test_without_block_the_erased_tokens_are_compared_with_the_resampled_map():
    module = criterion(BKD(weight=1, blur_ratio=0.5, restoration=False), student={"block": (6, 8, 8)})
    student, teacher = outputs({"block": (6, 8, 8)}, T, 1), outputs(TEACHER, 1, 2)
    found = module(student, teacher, LABELS, generator(0, "blur", 0, 0))["bkd"]
    mask = torch.rand(B, 6, 1, 1, generator=generator(0, "blur", 0, 0)) >= 0.5
    assert 0 < mask.sum() < mask.numel()
    target = F.interpolate(teacher.features["block4"][0], (8, 8), mode="bilinear", antialias=True)
    expected = (student.features["block"].sum(0) / T * mask - target).square().sum() / B
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)


def test_the_vector_target_needs_no_feature_of_the_teacher():
    module, student, teacher = criterion(BKD(weight=1, target="vector")), outputs(STUDENT, T, 1), outputs(TEACHER, 1, 2)
    found = module(student, teacher._replace(features={}), LABELS, generator(0, "blur", 0, 0))
    assert found["bkd"] == losses(module)["bkd"]
    other = module(student, teacher._replace(pooled=teacher.pooled + 1), LABELS, generator(0, "blur", 0, 0))
    assert other["bkd"] != found["bkd"]


@pytest.mark.parametrize("name", sorted(set(TERMS) - {"hard-ld"}))
def test_every_term_compares_networks_of_different_depth_width_and_grid(name):
    module = criterion(TERMS[name])
    found = losses(module)
    sum(found.values()).backward()
    assert all(torch.isfinite(loss) for loss in found.values())
    assert all(p.grad.abs().sum() > 0 for p in module.parameters())


# --- layer-wise L_BKD


def test_ratio_zero_restores_all_of_the_feature():
    block, feature = Restoration(4, 0.0), torch.randn(2, 4, 3, 3)
    assert torch.equal(block.restore(feature, generator(0, "blur", 0, 0)), block(feature))


@pytest.mark.parametrize("method", [KDSNN, LaSNN])
def test_ratio_zero_is_not_the_methods_own_comparison(method):
    name = {KDSNN: "kdsnn_features", LaSNN: "lasnn"}[method]
    blurred, own = (losses(criterion(method(weight=1, blur_ratio=ratio)))[name] for ratio in (0.0, None))
    assert blurred != own


@pytest.mark.parametrize("method", [KDSNN, LaSNN])
def test_layers_draw_their_masks_in_order_of_depth(method):
    """With G and f_adp removed the loss is that of masks drawn one after the other from the generator of the step."""
    shapes = {"a": (5, 4, 4), "b": (9, 4, 4)}
    module = criterion(method(weight=1, blur_ratio=0.5), student=shapes, teacher=shapes)
    for part in module.methods.values():
        for block in getattr(part, "restorations", ()):
            del block[:]
    student, teacher = outputs(shapes, T, 1), outputs(shapes, 1, 2)
    blur, expected = generator(0, "blur", 0, 0), 0.0
    for tap, shape in shapes.items():
        mask = blur_mask((B, *shape), 0.5, "channel", blur)
        expected += (student.features[tap].mean(0) * mask - teacher.features[tap][0]).square().sum().item() / B
    found = list(module(student, teacher, LABELS, generator(0, "blur", 0, 0)).values())[-1]
    assert found.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["bkd", "bkd-vector", "kdsnn-blurred", "lasnn-blurred"])
def test_a_step_repeats_its_masks_and_another_step_draws_others(name):
    module = criterion(TERMS[name])
    assert losses(module, step=3) == losses(module, step=3)
    assert losses(module, step=3) != losses(module, step=4)


def test_the_single_layer_is_the_last_term_of_the_sum_over_layers():
    alone = losses(criterion(KDSNN(weight=1, layers="last"), student=TEACHER), student=TEACHER)["kdsnn_features"]
    blind = outputs(TEACHER, T, 1)
    teacher = outputs(TEACHER, 1, 2)
    for tap in list(TEACHER)[:-1]:  # all other layers agree
        blind.features[tap] = teacher.features[tap].expand(T, -1, -1, -1, -1)
    whole = criterion(KDSNN(weight=1), student=TEACHER)(blind, teacher, LABELS, generator(0, "blur", 0, 0))
    assert whole["kdsnn_features"].item() == pytest.approx(alone.item(), rel=1e-12)


# --- labels as probabilities


@pytest.mark.parametrize(("loss", "term"), [(CrossEntropy(), LD()), (TET(), LD()), (CrossEntropy(), LD(focal=True))])
def test_probabilities_of_one_are_the_class_itself(loss, term):
    module, certain = criterion(term, loss=loss), F.one_hot(LABELS, K).double()
    found, expected = losses(module, labels=certain), losses(module)
    assert {key: value.item() for key, value in found.items()} == pytest.approx(
        {key: value.item() for key, value in expected.items()}, rel=1e-12
    )


@pytest.mark.parametrize("loss", [CrossEntropy(), TET(mse_weight=0)])
def test_mixed_labels_mix_the_losses_of_their_classes(loss):
    module = criterion(loss=loss, teacher=None)
    other = torch.tensor([1, 1, 0])
    mixed = 0.3 * F.one_hot(LABELS, K).double() + 0.7 * F.one_hot(other, K).double()
    one, two, both = (losses(module, labels=labels)[loss.method].item() for labels in (LABELS, other, mixed))
    assert both == pytest.approx(0.3 * one + 0.7 * two, rel=1e-12)

"""Networks on events taught by themselves with more time-steps, and L_BKD with teacher and student exchanged."""

import pytest
import torch
from events_example import NETWORKS, dataset, frames, seeded
from test_distill_criterion import SAME, WIDER, B, T, criterion, losses, outputs

from bkdsnn import models
from bkdsnn.config import BKD, KDSNN, LD, LaSNN, RunSpec
from bkdsnn.core.streams import generator
from bkdsnn.distill import Criterion
from bkdsnn.distill.restoration import blur_mask

SWAPPED = BKD(weight=0.3, blur_ratio=0.4, swapped=True)
TAUGHT = {
    "ld-bkd": (LD(), BKD(weight=0.1)),
    "bkd-swapped": (BKD(weight=0.1, swapped=True),),
    "kdsnn": (KDSNN(weight=0.1),),
    "lasnn": (LaSNN(weight=0.1),),
}

# --- a student with 4 frames of a recording, its teacher with 16 ------------------------------------------------------


def taught(family, *terms):
    """A criterion, the student with T = 4, and what it and its teacher with T = 16 return for the same recordings."""
    networks = [NETWORKS[family].model_copy(update={"timesteps": steps}) for steps in (4, 16)]
    recipe = {"epochs": 1, "batch_size": 2, "optimizer": "sgd", "lr": 0.1}
    student, teacher = ({"network": one, "dataset": dataset(), "recipe": recipe, "seed": 0} for one in networks)
    run = RunSpec.model_validate(student | {"distill": terms, "teacher": teacher | {"role": "teacher"}})
    nets = [seeded(network, seed=seed) for seed, network in enumerate(networks)]
    module = Criterion(run, *(models.feature_shapes(net, 32) for net in nets))
    fine = frames(2, 16)
    with torch.no_grad():
        target = nets[1](fine, module.teacher_taps)
    return module, nets[0], nets[0](fine.unflatten(1, (4, 4)).sum(2), module.taps), target


def summed(module, student, teacher):
    return module(student, teacher, torch.tensor([3, 7]), generator(0, "blur", 0, 0))


@pytest.mark.parametrize("family", NETWORKS)
@pytest.mark.parametrize("name", TAUGHT)
def test_only_means_over_time_are_compared(family, name):
    module, _, *both = taught(family, *TAUGHT[name])
    assert [len(found.logits) for found in both] == [4, 16]
    means = [
        found._replace(
            logits=found.logits.mean(0, keepdim=True),
            features={tap: feature.mean(0, keepdim=True) for tap, feature in found.features.items()},
        )
        for found in both
    ]
    found, expected = summed(module, *both), summed(module, *means)
    assert list(found) == list(expected)
    for key, loss in found.items():
        assert loss > 0
        torch.testing.assert_close(loss, expected[key], rtol=1e-5, atol=0)


@pytest.mark.parametrize("family", NETWORKS)
def test_features_compared_as_they_are_differ_by_the_mean_rates_of_4_and_of_16_steps(family):
    module, net, student, teacher = taught(family, BKD(weight=0.5, blur_ratio=0.0, restoration=False))
    own, theirs = (found.features[net.taps[-1]] for found in (student, teacher))
    expected = 0.5 * (own.sum(0) / 4 - theirs.sum(0) / 16).square().sum() / 2
    torch.testing.assert_close(summed(module, student, teacher)["bkd"], expected)


@pytest.mark.parametrize("family", NETWORKS)
@pytest.mark.parametrize("name", TAUGHT)
def test_every_term_moves_the_student_and_what_is_trained_beside_it(family, name):
    module, net, student, teacher = taught(family, *TAUGHT[name])
    losses = summed(module, student, teacher)
    sum(loss for key, loss in losses.items() if key != "ce").backward()
    moved = {name for name, parameter in net.named_parameters() if parameter.grad is not None and parameter.grad.any()}
    assert {"stem.0.weight", "stem.1.bias"} <= moved or {"stem.0.0.weight", "stem.0.1.bias"} <= moved
    assert all(parameter.grad.any() for parameter in module.parameters())


# --- L_BKD, teacher and student exchanged -----------------------------------------------------------------------------


def test_exchanged_the_block_and_the_adapter_have_the_width_of_the_student():
    shapes = {name: tuple(p.shape) for name, p in criterion(SWAPPED).named_parameters() if name.endswith("weight")}
    assert shapes == {
        "methods.bkd.adapters.0.weight": (3, 5, 1, 1),  # from the teacher's 5 channels
        "methods.bkd.restoration.0.weight": (3, 3, 3, 3),
        "methods.bkd.restoration.2.weight": (3, 3, 3, 3),
    }
    assert not any("adapters" in name for name in criterion(SWAPPED, teacher=SAME).state_dict())


def test_exchanged_the_gradient_reaches_the_student_through_the_target_alone():
    """dL/dF[t] = 2 w (F - G(f_adp(F_tea) * B)) / (B T), the same for every step."""
    module, student, teacher = criterion(SWAPPED), outputs({"stage2": (3, 2, 2)}, T, 1), outputs(WIDER, 1, 2)
    method = module.methods["bkd"]
    mask = blur_mask((B, 3, 2, 2), 0.4, "channel", generator(0, "blur", 0, 0))
    assert 0 < mask.sum() < mask.numel()
    restored = method.restoration(method.adapters[0](teacher.features["layer2"][0]) * mask)
    losses(module, student, teacher)["bkd"].backward()
    feature = student.features["stage2"]
    expected = 2 * 0.3 * (feature.mean(0) - restored) / (B * T)
    torch.testing.assert_close(feature.grad, expected.detach().expand_as(feature))
    assert teacher.features["layer2"].grad is None


def test_exchanged_means_that_the_student_learns_what_can_be_restored():
    """A student's map that is what the block restores costs nothing; in the order of the paper it does."""
    module, student, teacher = criterion(SWAPPED), outputs({"stage2": (3, 2, 2)}, T, 1), outputs(WIDER, 1, 2)
    method = module.methods["bkd"]
    with torch.no_grad():
        mask = blur_mask((B, 3, 2, 2), 0.4, "channel", generator(0, "blur", 0, 0))
        restored = method.restoration(method.adapters[0](teacher.features["layer2"][0]) * mask)
    same = student._replace(features={"stage2": restored.expand(T, -1, -1, -1, -1)})
    assert losses(module, same, teacher)["bkd"] < 1e-10
    assert losses(criterion(BKD(weight=0.3, blur_ratio=0.4)), same, teacher)["bkd"] > 0.1

"""Optimisers and schedules against timm, and the published recipes."""

import math
from pathlib import Path

import pytest
import torch
import yaml
from timm.optim import Lamb, create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import nn

from bkdsnn.config import Recipe
from bkdsnn.training.optim import learning_rate, make_optimizer, sgd

FILES = sorted((Path(__file__).parents[2] / "config" / "recipes").glob("*.yaml"))
RECIPES = {name: Recipe(**fields) for path in FILES for name, fields in yaml.safe_load(path.read_text()).items()}
BASE = {"epochs": 12, "batch_size": 4, "optimizer": "adamw", "lr": 0.1}


def _network() -> nn.Module:
    """The norm comes first: behind a bias it would leave that a gradient of rounding errors, which LAMB scales up."""
    torch.manual_seed(0)
    return nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 5))


def _steps(network: nn.Module, optimizer: torch.optim.Optimizer, count: int = 4) -> list[torch.Tensor]:
    images, labels = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(1)), torch.arange(6) % 5
    for _ in range(count):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    return [parameter.detach() for parameter in network.parameters()]


@pytest.mark.parametrize("name", RECIPES)
def test_the_schedule_of_every_recipe_is_timms(name):
    recipe = RECIPES[name]
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=recipe.lr)
    scheduler, epochs = create_scheduler_v2(
        optimizer,
        "cosine",
        num_epochs=recipe.epochs,
        warmup_epochs=recipe.warmup_epochs,
        warmup_lr=recipe.warmup_lr,
        min_lr=recipe.min_lr,
        cooldown_epochs=recipe.cooldown_epochs,
        warmup_prefix=False,
    )
    assert epochs == recipe.total_epochs
    for epoch in range(epochs):
        assert learning_rate(recipe, epoch) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        scheduler.step(epoch + 1)


def test_the_learning_rate_is_that_of_the_published_log():
    assert learning_rate(RECIPES["spikingformer-cifar-400"], 100) == pytest.approx(4.282e-4, abs=5e-8)


def test_without_warm_up_it_is_the_plain_cosine_to_the_bit():
    recipe = RECIPES["sew-imagenet"]
    for epoch in range(recipe.epochs + 1):
        assert learning_rate(recipe, epoch) == recipe.lr * (1 + math.cos(math.pi * (epoch / recipe.epochs))) / 2


@pytest.mark.parametrize("warmup", [0, 3])
def test_cooldown_stays_at_the_minimum(warmup):
    recipe = Recipe(**BASE, min_lr=0.01, cooldown_epochs=5, warmup_epochs=warmup)
    assert [learning_rate(recipe, epoch) for epoch in range(12, 17)] == [0.01] * 5
    assert learning_rate(recipe, 11) > 0.01


@pytest.mark.parametrize(
    ("name", "published"), [("adamw", {"opt": "adamw"}), ("lamb", {"opt": "lamb", "trust_clip": True})]
)
def test_steps_are_those_of_timms_optimiser_with_its_own_choice_of_what_decays(name, published):
    recipe = Recipe(**BASE | {"optimizer": name, "weight_decay": 0.3}, decay_vectors=False)
    ours, theirs = _network(), _network()
    found = _steps(ours, make_optimizer(recipe, ours.parameters()))
    expected = _steps(theirs, create_optimizer_v2(theirs, lr=0.1, weight_decay=0.3, **published))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_vectors_decay_unless_the_recipe_says_no():
    network = _network()
    both, arrays = (
        make_optimizer(Recipe(**BASE, weight_decay=0.3, decay_vectors=decay), network.parameters())
        for decay in (True, False)
    )
    assert [(len(group["params"]), group["weight_decay"]) for group in both.param_groups] == [(6, 0.3)]
    assert [(len(group["params"]), group["weight_decay"]) for group in arrays.param_groups] == [(2, 0.3), (4, 0.0)]
    assert all(parameter.ndim <= 1 for parameter in arrays.param_groups[1]["params"])


@pytest.mark.parametrize(
    ("name", "kind"),
    [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("lamb", Lamb)],
)
def test_every_optimiser_of_the_vocabulary_is_made_and_takes_a_generator_of_parameters(name, kind):
    recipe = Recipe(**BASE | {"optimizer": name}, momentum=0.8)
    optimizer = make_optimizer(recipe, _network().parameters())
    assert type(optimizer) is kind and optimizer.param_groups[0]["lr"] == 0.1
    assert optimizer.param_groups[0].get("momentum", 0.8) == 0.8


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_fused_sgd_takes_the_steps_of_torchs_default(momentum):
    ours, theirs = _network(), _network()
    common = {"lr": 0.1, "weight_decay": 1e-2}
    found = _steps(ours, sgd(list(ours.parameters()), momentum, True, common))
    expected = _steps(theirs, torch.optim.SGD(theirs.parameters(), momentum=momentum, **common))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("fused", [None, True])
def test_a_first_step_that_overflows_leaves_nothing_behind(fused):
    """As in half precision on a GPU, where the scale begins too high; the scaler works on a CPU too."""
    network, scaler = nn.Linear(5, 3), torch.amp.GradScaler("cpu", init_scale=4.0)
    optimizer = sgd(list(network.parameters()), 0.9, fused, {"lr": 0.1})
    before = network.weight.detach().clone()
    for loss in (network.weight.sum() * math.inf, network.weight.sum()):
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert scaler.get_scale() == 2.0
    torch.testing.assert_close(before - network.weight, torch.full((3, 5), 0.1))


def test_lambs_trust_ratio_is_at_most_one():
    network = _network()
    with torch.no_grad():
        network[3].weight.mul_(1e3)  # a ratio far above 1
    before = network[3].weight.detach().clone()
    recipe = Recipe(**BASE | {"optimizer": "lamb", "weight_decay": 1e-6})  # timm's LAMB adapts only what decays
    _steps(network, make_optimizer(recipe, network.parameters()), 1)
    assert 0.05 < (network[3].weight - before).abs().max() < 0.2


@pytest.mark.parametrize("name", [name for name in RECIPES if RECIPES[name].mix])
def test_recipes_that_mix_have_even_batches(name):
    assert RECIPES[name].batch_size % 2 == 0


def test_the_published_schedules_run_ten_epochs_longer_than_named():
    lengths = {name: recipe.total_epochs for name, recipe in RECIPES.items() if recipe.cooldown_epochs}
    imagenet = {f"spikingformer-imagenet-{dim}": 310 for dim in (384, 512, 768)}
    events = {"spikingformer-events": 106, "spikingformer-gesture": 202}
    others = {"spikingformer-cifar-300": 310, "spikingformer-cifar-400": 410, "vit-cifar": 60}
    assert lengths == {**others, **imagenet, **events}


def test_learning_rates_follow_the_published_rules_for_the_batch():
    for dim in (384, 512, 768):
        recipe = RECIPES[f"spikingformer-imagenet-{dim}"]
        assert recipe.lr == pytest.approx(5e-4 * math.sqrt(recipe.batch_size / 192), rel=1e-4)
    for name, base in (("meta-spikeformer-t1", 6e-4), ("meta-spikeformer-t4", 2e-5)):
        recipe = RECIPES[name]
        assert recipe.lr == pytest.approx(base * recipe.batch_size / 256)
        assert recipe.warmup_lr == pytest.approx(recipe.lr / (2 * recipe.warmup_epochs))

"""Recipes and networks against what published code does, where a reader of its options alone would be wrong."""

import pytest
import torch
from timm.data.mixup import Mixup
from timm.data.random_erasing import RandomErasing
from torch import Tensor, nn

from bkdsnn import models
from bkdsnn.config import Recipe, ResNet, RunSpec, paper
from bkdsnn.core.streams import seeded
from bkdsnn.data.loader import Batch
from bkdsnn.models.transformer import StillNorm
from bkdsnn.runs.checkpoint import Position
from bkdsnn.training.step import Step, build

CPU = torch.device("cpu")
IMAGES = 32  # in a batch


def of(table: str, method: str, column: str, scale: str = "paper") -> RunSpec:
    return paper.plan(table, scale).cell(method, column).runs[0]


# Mixing and erasing


def batches(run: RunSpec, steps: int) -> list[tuple[Tensor, Tensor]]:
    """Images without a single 0, and labels."""
    draws, side = torch.Generator().manual_seed(0), run.dataset.image_size
    return [
        (torch.randn(IMAGES, 3, side, side, generator=draws), torch.randint(0, 10, (IMAGES,), generator=draws))
        for _ in range(steps)
    ]


def shown(run: RunSpec, recipe: Recipe, steps: int) -> Tensor:
    """What the student of a run sees in so many training steps by another recipe."""
    (student, criterion), seen = build(run, None, CPU), []
    step = Step(run, recipe.model_copy(update={"batch_size": IMAGES}), student, criterion, None)
    student.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].clone()))
    for number, (images, labels) in enumerate(batches(run, steps)):
        step(Batch(images, images, labels), Position(0, number))
    return torch.cat(seen)


def by_timm(run: RunSpec, recipe: Recipe, steps: int) -> Tensor:
    """What timm 0.6.12 (data/loader.py) shows: FastCollateMixup mixes, then the prefetcher erases."""
    mix, found = recipe.mix, []
    mixup = Mixup(mix.mixup, mix.cutmix, None, mix.probability, mix.switch, "batch", True, 0.1, 10)
    erasing = RandomErasing(0.25, mode="const", device="cpu")
    for number, (images, labels) in enumerate(batches(run, steps)):
        with seeded(run.root, "mixing", 0, number):
            mixed, _ = mixup(images, labels)
        with seeded(run.root, "erasing", 0, number):
            found.append(erasing(mixed))
    return torch.cat(found)


def boxes(images: Tensor) -> float:
    """The share of images with pixels of exactly the fill colour."""
    return (images == 0).all(1).flatten(1).any(1).double().mean().item()


@pytest.mark.parametrize("method", ["spikformer", "spikingformer-cml", "ann"])
def test_mixed_images_are_erased_so_that_a_quarter_has_a_box_of_exactly_the_fill_colour(method):
    run = of("table2b", "spikformer", "sformer-2-384-cifar10", "smoke")
    recipe = of("table2b", method, "sformer-2-384-cifar10").recipe
    found = shown(run, recipe, steps=40)
    assert torch.equal(found, by_timm(run, recipe, steps=40))
    assert boxes(found) == pytest.approx(0.25, abs=0.04)
    earlier = recipe.model_copy(update={"augment": recipe.augment.model_copy(update={"erasing_mixed": False})})
    assert boxes(shown(run, earlier, steps=2)) == 0  # where they are not erased before, by the loader


def test_every_recipe_that_mixes_erases_mixed_images_but_for_that_after_deit():
    recipes = paper.Expansion("paper").recipes.items()
    assert {name: one.augment.erasing_mixed for name, one in recipes if one.mix and one.augment.erasing} == {
        "spikingformer-cifar-300": True,
        "spikingformer-cifar-400": True,
        "spikingformer-imagenet-384": True,
        "spikingformer-imagenet-512": True,
        "spikingformer-imagenet-768": True,
        "vit-cifar": True,
        "vit-imagenet": False,
    }


# QCFS: ANN_SNN_QCFS, main_train.py and README; SNN_conversion_QCFS, Models/ResNet.py


@pytest.mark.parametrize(("column", "lr"), [("resnet20-cifar10", 0.1), ("resnet20-cifar100", 0.05)])
def test_qcfs_trains_on_either_cifar_set_by_the_rate_of_its_authors_in_fp32(column, lr):
    source = of("table2a", "qcfs", column).source
    assert (source.recipe.lr, source.recipe.precision, source.network.quantised.levels) == (lr, "fp32", 8)


@pytest.mark.parametrize(("stem", "positions"), [("imagenet", 7), ("cifar", 28)])
def test_qcfs_on_imagenet_has_the_geometry_of_its_authors_as_an_option(stem, positions):
    network = of("table2c", "qcfs", "resnet34-imagenet").network
    network = ResNet(**network.model_dump() | {"stem": stem, "form": "qcfs", "timesteps": 1})
    with torch.device("meta"):
        built = models.build(network, of("table2c", "qcfs", "resnet34-imagenet").dataset)
        (feature,) = built(torch.zeros(1, 3, 224, 224), ["stage4"]).features.values()
    assert feature.shape[-2:] == (positions, positions)


# Heads: cifar10.yml and cifar100.yml of BKDSNN and Spikingformer-CML


@pytest.mark.parametrize("method", ["spikformer", "spikingformer-cml", "bkdsnn"])
@pytest.mark.parametrize(("data", "heads"), [("cifar10", (16, 12, 12)), ("cifar100", (16, 8, 8))])
def test_heads_are_those_of_the_published_configuration_of_each_set(method, data, heads):
    columns = (f"sformer-{size}-{data}" for size in ("4-256", "2-384", "4-384"))
    assert tuple(of("table2b", method, column).network.heads for column in columns) == heads


# TET: models/resnet_models.py repeats the images before the stem


@pytest.mark.parametrize("scale", ["paper", "demo"])
@pytest.mark.parametrize(
    ("column", "method"), [("resnet19-cifar10", "bkdsnn"), ("resnet19-cifar10", "tet"), ("resnet20-cifar10", "tet")]
)
def test_the_stem_of_a_network_with_tets_neurons_has_statistics_as_of_repeated_images(scale, column, method):
    network = of("table2a", method, column, scale).network
    assert network.still_norm and network.neuron.surrogate == "triangle"
    with torch.device("meta"):
        norm = models.build(network, of("table2a", method, column, scale).dataset).bn1
    assert isinstance(norm, StillNorm) and norm.timesteps == network.timesteps


def test_the_running_variance_of_that_stem_is_the_published_one():
    run = of("table2a", "tet", "resnet20-cifar10", "smoke")
    ours, theirs = models.build(run.network, run.dataset), nn.BatchNorm2d(run.network.stem_width)
    images = torch.randn(
        2, 3, run.dataset.image_size, run.dataset.image_size, generator=torch.Generator().manual_seed(0)
    )
    currents = ours.conv1(images)
    ours(images), theirs(currents.repeat(run.network.timesteps, 1, 1, 1))
    torch.testing.assert_close(ours.bn1.running_var, theirs.running_var, rtol=1e-6, atol=0)
    once = nn.BatchNorm2d(run.network.stem_width)
    once(currents)
    assert not torch.allclose(ours.bn1.running_var, once.running_var, rtol=1e-6, atol=0)


def test_recipes_of_tet_train_in_fp32_as_its_code_does():
    assert of("table2a", "tet", "resnet19-cifar10").recipe.precision == "fp32"

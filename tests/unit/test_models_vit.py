"""The ViT teacher: timm's network, behind the normalisation and size that are its own."""

import pytest
import timm
import torch
from pydantic import ValidationError
from torch.nn import functional

from bkdsnn import config
from bkdsnn.core.errors import UserError
from bkdsnn.models import build, count_parameters, feature_shapes
from bkdsnn.models.outputs import Network

OWN = {"mean": (0.5, 0.4, 0.6), "std": (0.5, 0.25, 0.4)}
TINY = {"image_size": 32, "patch": 8, "dim": 24, "depth": 3, "heads": 2}
CIFAR = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)}


def network(**changes):
    return config.ViT(name="vit-tiny", **{**TINY, **OWN, **changes})


def dataset(classes=10, size=32, mean=CIFAR["mean"], std=CIFAR["std"]):
    return config.Dataset(name="x", format="image-folder", classes=classes, image_size=size, mean=mean, std=std)


def seeded(configuration, data=None, seed=0):
    """The network in evaluation; tokens begin almost alike, so they are drawn wider."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = build(configuration, data or dataset())
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return net.eval()


def pixels(batch=2, size=32):
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def normalised(images, mean, std):
    return (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def twin(net, **options):
    """timm's own network with the same weights."""
    reference = timm.create_model("vit_small_patch16_224", num_classes=10, **options)
    reference.load_state_dict(net.state_dict())
    return reference.eval()


TINY_TIMM = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2}


@pytest.mark.parametrize(
    ("dim", "heads", "classes", "expected"),
    [
        (768, 12, 1000, 86_567_656),
        (384, 6, 1000, 22_050_664),
        (384, 6, 100, 21_704_164),
        (384, 6, 10, 21_669_514),
    ],
)
def test_parameter_counts_equal_the_published_ones(dim, heads, classes, expected):
    with torch.device("meta"):
        net = build(network(image_size=224, patch=16, dim=dim, depth=12, heads=heads), dataset(classes))
    assert count_parameters(net) == expected


def test_equals_the_small_network_of_timm():
    configuration = network(image_size=224, patch=16, dim=384, depth=2, heads=6)
    net = seeded(configuration, dataset(size=224))
    images = pixels(size=224)
    with torch.no_grad():
        logits = net(normalised(images, **CIFAR)).logits
        expected = twin(net, depth=2)(normalised(images, **OWN))
    assert expected.std() > 0.1
    torch.testing.assert_close(logits[0], expected, rtol=1e-4, atol=1e-4)


def test_names_are_those_of_timm():
    net = seeded(network())
    assert isinstance(net, Network)
    assert net.get_submodule(net.last_layer).out_features == 10
    assert list(net.state_dict()) == list(twin(net, **TINY_TIMM).state_dict())


def test_the_students_normalisation_is_undone():
    net = seeded(network())
    images = pixels()
    direct = seeded(network(), dataset(**OWN))
    torch.testing.assert_close(direct.prepare(normalised(images, **OWN)), normalised(images, **OWN))
    torch.testing.assert_close(net.prepare(normalised(images, **CIFAR)), normalised(images, **OWN))
    with torch.no_grad():
        logits, expected = net(normalised(images, **CIFAR)).logits, direct(normalised(images, **OWN)).logits
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [12, 32, 50])
def test_images_of_another_size_are_resized(mode, size):
    net = seeded(network(resize=mode), dataset(size=size))
    images = pixels(size=size)
    resized = functional.interpolate(images, size=(32, 32), mode=mode, align_corners=False)
    prepared = net.prepare(normalised(images, **CIFAR))
    torch.testing.assert_close(prepared, normalised(resized, **OWN), rtol=1e-4, atol=1e-5)
    assert net(normalised(images, **CIFAR)).logits.shape == (1, 2, 10)


@pytest.mark.parametrize(("size", "touched"), [(12, 12), (32, 32), (50, 32)])
def test_normalising_touches_the_smaller_image(size, touched, monkeypatch):
    sizes = []
    plain = torch.addcmul
    monkeypatch.setattr(torch, "addcmul", lambda *args: sizes.append(args[1].shape[-1]) or plain(*args))
    seeded(network()).prepare(pixels(size=size))
    assert sizes == [touched]


def test_taps_are_the_patch_tokens_after_each_block():
    net = seeded(network(image_size=16), dataset(size=16))
    images = pixels(batch=3, size=16)
    outputs = net(normalised(images, **CIFAR), net.taps)
    reference = twin(net, **TINY_TIMM | {"img_size": 16})
    tokens, maps = reference.forward_intermediates(normalised(images, **OWN))
    normed = reference.forward_intermediates(normalised(images, **OWN), norm=True, intermediates_only=True)
    close = {"rtol": 1e-4, "atol": 1e-4}
    assert set(outputs.features) == {"block1", "block2", "block3"}
    for tap, expected in zip(net.taps, [*maps[:2], normed[2]]):
        torch.testing.assert_close(outputs.features[tap], expected[None], **close)
    torch.testing.assert_close(outputs.pooled[0], tokens[:, 0], **close)
    torch.testing.assert_close(outputs.logits[0], reference.head(tokens[:, 0]), **close)
    assert feature_shapes(net, 16) == dict.fromkeys(net.taps, (24, 2, 2))


@pytest.mark.parametrize("taps", [(), ("block2",), ("block3",), ("block3", "block1")])
def test_features_are_only_those_asked_for_and_change_nothing(taps):
    net = seeded(network())
    outputs, everything = net(pixels(), taps), net(pixels(), net.taps)
    assert set(outputs.features) == set(taps)
    for tap in taps:
        assert torch.equal(outputs.features[tap], everything.features[tap])
    assert torch.equal(outputs.logits, everything.logits)
    assert outputs.logits.shape == (1, 2, 10) and outputs.pooled.shape == (1, 2, 24)
    assert outputs.distilled is None


def test_a_tap_that_there_is_not_is_refused():
    with pytest.raises(UserError, match=r"unknown tap 'block4' .*expected one of: block1, block2, block3"):
        seeded(network())(pixels(), ["block4"])


def test_patches_and_heads_must_divide():
    with pytest.raises(ValidationError, match="'patch' must divide 'image_size', found 7 and 32"):
        network(patch=7)
    with pytest.raises(ValidationError, match="'heads' must divide 'dim', found 5 heads for a width of 24"):
        network(heads=5)


def test_a_frozen_network_serves_as_teacher():
    net = seeded(network()).requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.inference_mode():
        first, again = net(pixels(), net.taps), net(pixels(), net.taps)
    assert torch.equal(first.logits, again.logits) and not first.logits.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_it_learns_every_parameter():
    net = seeded(network()).train()
    net(pixels()).logits.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in net.parameters())


def test_same_seed_same_network():
    with torch.random.fork_rng():
        made = []
        for seed in (5, 5, 6):
            torch.manual_seed(seed)
            made.append(list(build(network(), dataset()).parameters()))
    first, second, other = made
    assert all(torch.equal(a, b) for a, b in zip(first, second))
    assert any(not torch.equal(a, b) for a, b in zip(first, other))

"""Grad-CAM of real networks against gradients worked out by hand, and likeness against NumPy."""

import numpy as np
import pytest
import torch
from torch import nn

from bkdsnn import models, paper
from bkdsnn.analysis.gradcam import Cams, cosines, overlaps, top


def spec_of(table, row, column):
    return paper.plan(table, "smoke").cell(row, column).runs[0]


SPECS = {
    "ann": ("table2c", "ann", "resnet18-imagenet"),
    "sew": ("table2c", "sew-resnet", "resnet18-imagenet"),
    "spikingformer": ("table2d", "spikingformer-cml", "sformer-8-384-imagenet"),
    "vit": ("table2d", "ann", "sformer-8-384-imagenet"),
}


def lively(name):
    spec = spec_of(*SPECS[name])
    torch.manual_seed(1)
    network = models.build(spec.network, spec.dataset).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, 0.3, 0.5)
    images = torch.randn(5, 3, spec.dataset.image_size, spec.dataset.image_size)
    return network, images, torch.tensor([0, 3, 1, 2, 0])


def by_hand(network, tap, images, labels):
    """Maps (B, h, w) before scaling, from the feature as a leaf of the graph behind it."""
    kept = {}

    def replace(module, inputs, output):
        if tap.startswith("block") and hasattr(network, "patch_embed"):
            tokens = output[:, 1:].mT.unflatten(2, network.patch_embed.grid_size)[None]
        else:
            tokens = output.unflatten(0, (network.timesteps, -1))
        kept["feature"], kept["raw"] = tokens, output

    layer = network.layer(tap)
    hook = (layer.norm1 if hasattr(network, "patch_embed") else layer).register_forward_hook(replace)
    score = network(images).logits.mean(0).gather(1, labels[:, None]).sum()
    hook.remove()
    (raw,) = torch.autograd.grad(score, [kept["raw"]])
    if hasattr(network, "patch_embed"):
        gradient = raw[:, 1:].mT.unflatten(2, network.patch_embed.grid_size)[None]
    else:
        gradient = raw.unflatten(0, (network.timesteps, -1))
    weights = gradient.mean(0).mean((-2, -1), keepdim=True)
    return (weights * kept["feature"].mean(0)).sum(1).clamp_min(0).detach().numpy()


@pytest.mark.parametrize("name", SPECS)
def test_maps_are_the_weighted_sum_of_the_feature(name):
    network, images, labels = lively(name)
    taps = network.taps if name in ("ann", "sew") else network.taps[-1:]
    found = Cams(network, taps).of(images, labels)
    assert found.maps.shape == (5, len(taps), *images.shape[-2:])
    assert found.predicted.tolist() == network(images).logits.mean(0).argmax(1).tolist()
    import cv2

    for index, tap in enumerate(taps):
        for one, raw in zip(found.maps[:, index], by_hand(network, tap, images, labels)):
            scaled = (raw - raw.min()) / (1e-7 + raw.max() - raw.min())
            expected = cv2.resize(scaled.astype(np.float32), images.shape[-2:][::-1])
            np.testing.assert_allclose(one, expected, atol=2e-3)
    assert found.maps.any()


@pytest.mark.parametrize("name", SPECS)
def test_nothing_survives_a_pass(name):
    network, images, labels = lively(name)
    cams = Cams(network, network.taps[-1:])
    whole, again = cams.of(images, labels), cams.of(images, labels)
    parts = [cams.of(images[part], labels[part]) for part in (slice(0, 2), slice(2, 5))]
    np.testing.assert_array_equal(whole.maps, again.maps)
    np.testing.assert_allclose(np.concatenate([part.maps for part in parts]), whole.maps, atol=1e-4)


def test_a_layer_that_never_fires_is_told_from_one_without_evidence():
    network, images, labels = lively("sew")
    for module in network.layer("stage4").modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.bias, -100.0)
            nn.init.zeros_(module.weight)
    found = Cams(network, network.taps).of(images, labels)
    assert found.silent[:, -1].all() and not found.maps[:, -1].any()
    assert not found.silent[:, 0].any()


def test_cosines():
    rng = np.random.default_rng(0)
    one, other = rng.random((2, 3, 2, 4, 5), dtype=np.float32)
    other[0, 0], one[1, 1], other[1, 1] = 0, 0, 0
    found = cosines(one, other)
    for image in range(3):
        for tap in range(2):
            a, b = one[image, tap].ravel().astype(float), other[image, tap].ravel().astype(float)
            if not (a.any() or b.any()):
                assert np.isnan(found[image, tap])
            elif not (a.any() and b.any()):
                assert found[image, tap] == 0
            else:
                assert found[image, tap] == pytest.approx(a @ b / np.sqrt((a @ a) * (b @ b)))
    assert cosines(one, one)[0, 0] == pytest.approx(1)


def test_overlap_of_the_highest_pixels():
    one, other = np.zeros((2, 1, 1, 2, 5), np.float32)
    one[0, 0, 0, :3] = 3, 2, 1
    other[0, 0, 0, 1:4] = 5, 1, 4
    assert top(one)[0, 0].sum() == 2  # 20 % of 10 pixels
    assert overlaps(one, other)[0, 0] == 0.5
    assert overlaps(one, one)[0, 0] == 1
    assert overlaps(one, np.zeros_like(one))[0, 0] == 0
    assert np.isnan(overlaps(np.zeros_like(one), np.zeros_like(one))[0, 0])
    single = np.zeros_like(one)
    single[0, 0, 1, 4] = 1  # zeros are never among the top
    assert top(single)[0, 0].sum() == 1

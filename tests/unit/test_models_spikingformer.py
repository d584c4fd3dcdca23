"""Spikingformer: agreement with a plain construction from spikingjelly's layers, and what only this family has."""

from functools import partial

import pytest
import torch
from reference import spikingformer
from transformers_example import EVERY_POOL, compare, dataset, fired, images, lively, network, seeded


@pytest.mark.parametrize("heads", [2, 8])
@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("pools", [(3, 4), EVERY_POOL])
@pytest.mark.parametrize("cml", [True, False])
def test_equals_the_plain_construction(cml, pools, size, heads):
    configuration = network("spikingformer", cml=cml, pools=pools, heads=heads)
    ours, reference = lively(seeded(configuration)), lively(spikingformer.build(configuration, dataset())[0])
    pairs = partial(spikingformer.pairs, net=reference)
    reference.load_state_dict(dict(pairs(ours.state_dict())))
    x = images(size=size, dtype=torch.float64)
    compare(ours, reference, x, pairs, repeated=x.expand(4, *x.shape))


def test_tokens_are_sums_of_currents():
    _, features = fired(seeded(network("spikingformer")), images())
    for feature in features.values():
        assert feature.min() < 0
        assert not torch.equal(feature, feature.round())


@pytest.mark.parametrize("pools", [(3, 4), EVERY_POOL])
def test_convolutions_keep_torch_defaults(pools):
    net = seeded(network("spikingformer", dim=256, pools=pools))
    assert net.block1.attention.qkv[0].bias is None
    for name in ("attention.qkv.0", "attention.project.0", "mlp.0.0"):
        weight = net.get_submodule(f"block1.{name}").weight.detach()
        assert float(weight.std()) == pytest.approx((3 * 256) ** -0.5, rel=0.02), name
    assert net.block1.attention.project[0].bias.abs().max() > 0

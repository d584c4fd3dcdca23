"""Spikformer: agreement with spikingjelly's, and what only this family has."""

from functools import partial

import pytest
import torch
from reference import spikformer
from spikingjelly.activation_based.layer import SeqToANNContainer, SpikingSelfAttention
from transformers_example import EVERY_POOL, cancelled, compare, dataset, fired, images, lively, network, seeded


def zoo(configuration):
    """spikingjelly's network, which is the one with CML; without, its pools move behind the neurons."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net, _ = spikformer.build(configuration, dataset())
    for index in () if configuration.cml else configuration.pools:
        stage = net.patch_embed.stages[index - 1]
        *rest, pool = stage.conv_bn.block
        stage.conv_bn.block = SeqToANNContainer(*rest)
        stage.neuron = torch.nn.Sequential(stage.neuron, SeqToANNContainer(pool))
    return net


@pytest.mark.parametrize("heads", [2, 8])
@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("pools", [(3, 4), EVERY_POOL])
@pytest.mark.parametrize("cml", [True, False])
def test_equals_spikingjelly_zoo(cml, pools, size, heads):
    configuration = network("spikformer", cml=cml, pools=pools, heads=heads)
    ours, reference = lively(seeded(configuration)), lively(zoo(configuration))
    for name, parameter in ours.named_parameters():
        if cancelled(name):
            parameter.data.zero_()
    pairs = partial(spikformer.pairs, net=reference)
    reference.load_state_dict(dict(pairs(ours.state_dict())))
    x = images(size=size, dtype=torch.float64)
    compare(ours, reference, x, pairs, repeated=x)  # it repeats them itself


def test_attention_is_scaled_as_in_spikingjelly():
    assert network("spikformer").attention_scale == SpikingSelfAttention(32).scale


def test_tokens_are_sums_of_spikes():
    """At most 2 from the tokenizer, and 2 more from each block."""
    _, features = fired(lively(seeded(network("spikformer"))), images(dtype=torch.float64))
    for index, feature in enumerate(features.values(), start=1):
        assert torch.equal(feature, feature.round())
        assert feature.min() == 0
        assert 1 < feature.max() <= 2 + 2 * index


def test_linear_layers_are_drawn_narrow_with_biases_of_zero():
    net = seeded(network("spikformer", dim=256))
    for name in ("attention.qkv.0", "attention.project.0", "mlp.0.0", "mlp.2.0"):
        linear = net.get_submodule(f"block2.{name}")
        assert float(linear.weight.detach().std()) == pytest.approx(0.02, rel=0.02), name
        assert linear.bias.abs().max() == 0, name
    assert float(net.stem[3][0].weight.detach().std()) == pytest.approx((3 * 9 * 128) ** -0.5, rel=0.02)


def test_convolutions_in_their_place_keep_the_default_and_give_no_bias_to_q_k_v():
    net = seeded(network("spikformer", dim=256, pools=EVERY_POOL))
    assert net.block1.attention.qkv[0].bias is None
    for name in ("attention.qkv.0", "attention.project.0", "mlp.0.0"):
        weight = net.get_submodule(f"block1.{name}").weight.detach()
        assert float(weight.std()) == pytest.approx((3 * 256) ** -0.5, rel=0.02), name
    assert net.block1.attention.project[0].bias.abs().max() > 0

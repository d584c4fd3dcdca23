"""What Spikformer and Spikingformer share: geometry, tokenizer, attention, behaviour in time and in training."""

import subprocess
import sys
from itertools import product

import pytest
import torch
from pydantic import ValidationError
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode
from transformers_example import (
    EVERY_POOL,
    FAMILIES,
    ROOT,
    SIZES,
    cancelled,
    dataset,
    fired,
    images,
    lively,
    network,
    seeded,
)

from bkdsnn.core.errors import UserError
from bkdsnn.models import build, count_parameters, feature_shapes
from bkdsnn.models.neurons import Spiking
from bkdsnn.models.transformer import Attention, StillNorm, attend

VARIANTS = list(product(FAMILIES, ("spiking", "ann"), (False, True)))
NORMS = torch.nn.BatchNorm2d

# --- geometry -------------------------------------------------------------------------------------------------------

COUNTS = [  # with what the references count in their layer norms, which they never call
    ("spikformer", "sformer-4-256", 10, 4_155_178, 4_159_274),
    ("spikformer", "sformer-2-384", 10, 5_765_050, 5_768_122),
    ("spikformer", "sformer-4-384", 10, 9_324_730, 9_330_874),
    ("spikingformer", "sformer-4-256", 10, 4_152_106, 4_156_202),
    ("spikingformer", "sformer-2-384", 10, 5_762_746, 5_765_818),
    ("spikingformer", "sformer-4-384", 10, 9_320_122, 9_326_266),
    ("spikingformer", "sformer-4-256", 100, 4_152_106 + 23_130, 4_156_202 + 23_130),
    ("spikingformer", "sformer-4-384", 100, 9_320_122 + 34_650, 9_326_266 + 34_650),
    *((family, "sformer-8-384", 1000, 16_816_024, 16_828_312) for family in FAMILIES),
    *((family, "sformer-8-512", 1000, 29_689_384, 29_705_768) for family in FAMILIES),
    *((family, "sformer-8-768", 1000, 66_338_632, 66_363_208) for family in FAMILIES),
]


@pytest.mark.parametrize("form", ["spiking", "ann"])
@pytest.mark.parametrize(("family", "base", "classes", "expected", "published"), COUNTS)
def test_parameter_counts_equal_the_published_ones(family, base, classes, expected, published, form):
    for cml in (False, True):
        with torch.device("meta"):
            net = build(network(family, form, base, cml=cml), dataset(classes))
        assert count_parameters(net) == expected
    two_layer_norms = 2 * 2 * SIZES[base]["dim"]
    assert expected + SIZES[base]["depth"] * two_layer_norms == published


@pytest.mark.parametrize(("family", "form", "cml"), VARIANTS)
def test_shapes_over_time(family, form, cml):
    for timesteps in (1, 4) if form == "spiking" else (1,):
        net = seeded(network(family, form, timesteps=timesteps, cml=cml), classes=7)
        outputs = net(images(), taps=net.taps)
        assert net.taps == tuple(outputs.features) == ("block1", "block2")
        assert feature_shapes(net, 16) == {"block1": (32, 4, 4), "block2": (32, 4, 4)}
        assert {feature.shape for feature in outputs.features.values()} == {(timesteps, 2, 32, 4, 4)}
        assert outputs.pooled.shape == (timesteps, 2, 32)
        assert outputs.logits.shape == (timesteps, 2, 7)
        assert outputs.distilled is None


def test_grids_are_those_of_the_papers():
    for base, size, expected in (("sformer-2-384", 32, (384, 8, 8)), ("sformer-8-384", 224, (384, 14, 14))):
        with torch.device("meta"):
            net = build(network("spikingformer", "ann", base), dataset())
        assert set(feature_shapes(net, size).values()) == {expected}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("pools", "sizes"), [((3, 4), (16, 16, 8, 4)), (EVERY_POOL, (8, 4, 2, 1)), ((2,), (16, 8, 8, 8))]
)
def test_pools_follow_the_convolutions_that_they_name(family, pools, sizes):
    for cml in (False, True):
        net, seen = seeded(network(family, pools=pools, cml=cml)), []
        for stage in net.stem:
            stage.register_forward_hook(lambda _, __, output, seen=seen: seen.append(tuple(output.shape[1:])))
        net(images())
        assert seen == [(width, size, size) for width, size in zip((4, 8, 16, 32), sizes)]


@pytest.mark.parametrize("family", FAMILIES)
def test_bad_geometry_is_refused(family):
    with pytest.raises(ValidationError, match=r"'heads' must divide 'dim', found 12 heads for a width of 256"):
        network(family, dim=256, heads=12)
    with pytest.raises(ValueError, match=r"halves the image 2 times .* must be a multiple of 4, found 30"):
        network(family).check_image(30)


@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_only_those_asked_for(family):
    net = seeded(network(family))
    assert list(net(images(), taps=["block2"]).features) == ["block2"]
    assert net(images()).features == {}
    with pytest.raises(UserError, match=r"unknown tap 'block3' .*expected one of: block1, block2"):
        net(images(), taps=["block3"])


@pytest.mark.parametrize("family", FAMILIES)
def test_head_reads_the_mean_of_the_last_tokens(family):
    net = seeded(network(family))
    outputs = net(images(), taps=net.taps)
    torch.testing.assert_close(outputs.pooled, outputs.features["block2"].mean((-2, -1)))
    torch.testing.assert_close(outputs.logits, net.head(outputs.pooled))


# --- tokenizer ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cml", "expected"), [(True, [1.0, 0.0]), (False, [1.0, 1.0])])
def test_cml_pools_before_the_neuron_fires(cml, expected):
    """Of two pixels in one window one fires at the first step only, the other at the second only.

    Membranes are 2 / 2 = 1, and 1.6 / 2 = 0.8, then (0.8 + 1.6) / 2 = 1.2. The largest currents, 2 and 1.6, make the
    neuron behind the pool fire once: 1, reset, 0.8.
    """
    stage = seeded(network("spikingformer", timesteps=2, cml=cml)).stem[3]
    currents = torch.zeros(2, 1, 2, 2)  # T, C, h, w
    currents[:, 0, 0, 0] = torch.tensor([2.0, 0.0])
    currents[:, 0, 1, 1] = torch.tensor([1.6, 1.6])
    assert stage[2:](currents).flatten().tolist() == expected


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cml", [False, True])
def test_what_precedes_the_first_neuron_runs_once_per_image(family, cml):
    net, batches = seeded(network(family, pools=EVERY_POOL, cml=cml)), {}
    for name in ("0.0", "0.1", "0.2", "0.3", "1.0"):
        layer = net.stem.get_submodule(name)
        layer.register_forward_hook(lambda m, inputs, _: batches.update({type(m).__name__: len(inputs[0])}))
    net(images())
    assert batches == {"Conv2d": 8, "StillNorm": 2, "Spiking": 2, "MaxPool2d": 2 if cml else 8}  # Conv2d: the second's


def test_norm_of_still_images_equals_that_of_repeated_ones():
    still, plain = StillNorm(3, timesteps=4).double(), NORMS(3).double()
    for _ in range(3):
        x, weights = torch.randn(2, 3, 2, 2, dtype=torch.float64), torch.randn(2, 3, 2, 2, dtype=torch.float64)
        once, repeated = x.clone().requires_grad_(), x.clone().requires_grad_()
        normalised, expected = still(once), plain(repeated.repeat(4, 1, 1, 1))
        torch.testing.assert_close(normalised.repeat(4, 1, 1, 1), expected)
        (4 * normalised * weights).sum().backward()
        (expected * weights.repeat(4, 1, 1, 1)).sum().backward()
        torch.testing.assert_close(once.grad, repeated.grad, rtol=1e-9, atol=1e-12)
    for ours, theirs in zip((*still.parameters(),), (*plain.parameters(),)):
        torch.testing.assert_close(ours.grad, theirs.grad)
    torch.testing.assert_close(dict(still.named_buffers()), dict(plain.named_buffers()), rtol=1e-12, atol=0)
    torch.testing.assert_close(still.eval()(x), plain.eval()(x))


def test_norm_of_still_images_may_run_twice_before_the_backward_pass():
    norm, x = StillNorm(3, timesteps=4), images()
    (norm(x).square().sum() + norm(2 * x).square().sum()).backward()
    assert norm.weight.grad.isfinite().all()


# --- attention ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tokens", "width"), [(3, 16), (16, 16), (16, 3)])
def test_both_orders_of_the_products_agree_and_the_cheaper_runs(tokens, width):
    q, k, v = torch.randn(3, 2, 4, tokens, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with FlopCounterMode(display=False) as counter:
        mixed = attend(q, k, v, scale=0.3)
    left, right = 0.3 * ((q @ k.mT) @ v), 0.3 * (q @ (k.mT @ v))
    for expected in (left, right):
        torch.testing.assert_close(mixed, expected, rtol=1e-12, atol=1e-12)
    multiplications = 2 * 4 * 2 * tokens * width * min(tokens, width)
    assert counter.get_total_flops() == 2 * multiplications


def test_attention_of_the_ann_is_softmax_per_head():
    attention = Attention(network("spikingformer", "ann"), qkv_bias=False)
    seen, x = [], torch.randn(2, 32, 3, 2)
    attention.qkv_neuron.register_forward_hook(lambda _, __, output: seen.append(output))
    attention.attention_neuron.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    attention(x)
    q, k, v = seen[0].flatten(2).chunk(3, dim=1)
    assert seen[1].shape == x.shape
    for head in range(4):
        rows = slice(8 * head, 8 * head + 8)
        weights = (q[:, rows].mT @ k[:, rows] / 8**0.5).softmax(-1)  # B, N queries, N keys
        torch.testing.assert_close(seen[1].flatten(2)[:, rows], (weights @ v[:, rows].mT).mT)


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_neurons_after_attention_have_a_threshold_of_their_own(family):
    net = seeded(network(family, attention_threshold=0.3))
    thresholds = {
        name: module.neuron.v_threshold for name, module in net.named_modules() if isinstance(module, Spiking)
    }
    lower = {name for name, threshold in thresholds.items() if threshold == 0.3}
    assert lower == {"block1.attention.attention_neuron", "block2.attention.attention_neuron"}
    assert set(thresholds.values()) == {0.3, 1.0}


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_is_scaled(family):
    seen = []
    for scale in (0.125, 0.25):
        net = lively(seeded(network(family, attention_scale=scale)))
        neuron = net.block1.attention.attention_neuron
        neuron.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
        net(images(dtype=torch.float64))
    assert seen[0].max() > 0
    assert torch.equal(2 * seen[0], seen[1])


# --- behaviour ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "layers"), [("spikformer", 4 + 1 + 2 * 5), ("spikingformer", 4 + 2 * 5)])
@pytest.mark.parametrize("cml", [False, True])
def test_every_neuron_fires_zeros_and_ones(family, layers, cml):
    spikes, _ = fired(lively(seeded(network(family, cml=cml))), images(dtype=torch.float64))
    assert len(spikes) == layers
    assert spikes["block1.attention.qkv_neuron"].shape == (8, 96, 4, 4)  # T*B, 3 D, h, w
    for name, output in spikes.items():
        assert set(output.unique().tolist()) == {0.0, 1.0}, name


@pytest.mark.parametrize("family", FAMILIES)
def test_ann_has_a_relu_for_every_layer_of_neurons(family):
    kinds = []
    for form, kind in (("spiking", Spiking), ("ann", torch.nn.ReLU)):
        modules = seeded(network(family, form)).named_modules()
        kinds.append([name for name, module in modules if isinstance(module, kind)])
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize(("family", "form", "cml"), VARIANTS)
def test_every_parameter_gets_a_finite_gradient_and_learns(family, form, cml):
    """A bias before a norm gets a gradient too, but of rounding errors: the norm subtracts what the bias adds."""
    net = seeded(network(family, form, cml=cml)).double()
    x, labels = images(batch=16, dtype=torch.float64), torch.arange(16) % 10
    optimizer = torch.optim.Adam(net.parameters(), lr=0.005)
    losses, largest = [], dict.fromkeys((name for name, _ in net.named_parameters()), 0.0)
    for _ in range(20):
        optimizer.zero_grad()
        loss = cross_entropy(net(x).logits.mean(0), labels)
        loss.backward()
        for name, parameter in net.named_parameters():
            assert parameter.grad.isfinite().all(), name
            largest[name] = max(largest[name], float(parameter.grad.abs().max()))
        optimizer.step()
        losses.append(loss.item())
    for name, value in largest.items():
        assert value < 1e-12 if cancelled(name) else value > 1e-4, (name, value)
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(("family", "form", "cml"), VARIANTS)
def test_nothing_survives_a_call(family, form, cml):
    net = lively(seeded(network(family, form, cml=cml)))
    x = images(dtype=torch.float64)
    net(x)  # gives the norms their statistics
    first = net.eval()(x).logits
    net(x.flip(0))
    assert first.std() > 0
    assert torch.equal(net(x).logits, first)


@pytest.mark.parametrize("family", FAMILIES)
def test_same_seed_same_network_same_outputs(family):
    first, second, other = (seeded(network(family), seed=seed) for seed in (5, 5, 6))
    assert torch.equal(first(images()).logits, second(images()).logits)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values()))
    assert not torch.equal(first.head.weight, other.head.weight)


@pytest.mark.parametrize("family", FAMILIES)
def test_forms_share_their_initial_weights(family):
    ann, spiking, cml = (
        seeded(network(family, form, cml=cml)).state_dict()
        for form, cml in (("ann", False), ("spiking", False), ("spiking", True))
    )
    assert list(ann) == list(spiking) == list(cml)
    assert all(torch.equal(ann[name], other[name]) for name in ann for other in (spiking, cml))


@pytest.mark.parametrize("family", FAMILIES)
def test_head_is_drawn_narrow_with_a_bias_of_zero(family):
    head = seeded(network(family, dim=256), classes=100).head
    assert float(head.weight.detach().std()) == pytest.approx(0.02, rel=0.02)
    assert head.bias.abs().max() == 0


def test_importing_them_loads_no_heavy_package():
    probe = (
        "import sys, bkdsnn.models.spikformer, bkdsnn.models.spikingformer;"
        "print({'torchvision', 'timm', 'spikingjelly', 'pandas', 'matplotlib', 'scipy', 'sklearn'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "set()"

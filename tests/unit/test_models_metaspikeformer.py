"""Meta-SpikeFormer: geometry, agreement with a plain reference, both heads, behaviour in time."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from metaspikeformer_reference import EAGER, LIF, Reference, ReferenceAttentionBlock
from pydantic import ValidationError
from spikingjelly.activation_based import neuron as sj
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from bkdsnn import config
from bkdsnn.core.errors import UserError
from bkdsnn.models import build, count_parameters, feature_shapes
from bkdsnn.models.metaspikeformer import PaddedNorm
from bkdsnn.models.neurons import Spiking

ROOT = Path(__file__).resolve().parents[2]
SIZES = {"8-256": (64, 128, 256, 360), "8-384": (96, 192, 384, 480), "8-512": (128, 256, 512, 640)}
TINY = {"dims": (8, 12, 16, 24), "conv_blocks": (1, 1, 1), "attention_blocks": (1, 1), "heads": 4, "neuron": EAGER}


def network(timesteps=3, **changes):
    return config.MetaSpikeformer(name="mformer-tiny", timesteps=timesteps, **{**TINY, **changes})


def dataset(classes=10, size=32):
    common = {"name": "x", "format": "image-folder", "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    return config.Dataset(classes=classes, image_size=size, **common)


def seeded(configuration, classes=10, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build(configuration, dataset(classes))


def images(batch=2, size=32, dtype=torch.float32):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=dtype)


# --- geometry -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "distilled", "expected"),
    [
        ("8-256", False, 15_112_208),
        ("8-384", False, 31_333_864),
        ("8-512", False, 55_350_248),
        ("8-256", True, 15_112_208 + 361_000),
        ("8-384", True, 31_333_864 + 481_000),
        ("8-512", True, 55_350_248 + 641_000),
    ],
)
def test_parameter_counts_equal_the_published_ones(size, distilled, expected):
    published = config.MetaSpikeformer(name=size, dims=SIZES[size], neuron=LIF, distilled_head=distilled)
    with torch.device("meta"):
        net = build(published, dataset(1000, 224))
    assert count_parameters(net) == expected
    assert len(net.taps) == 8


def test_multiplications_equal_the_published_ones():
    """6.47 G at 224 pixels and T = 1, with the cheaper order of attention's product."""
    with torch.device("meta"):
        net = build(config.MetaSpikeformer(name="8-256", dims=SIZES["8-256"], neuron=LIF), dataset(1000, 224)).eval()
    with FlopCounterMode(display=False) as counter:
        net(torch.empty(1, 3, 224, 224, device="meta"))
    assert counter.get_total_flops() / 2 == pytest.approx(6.47e9, rel=2e-3)


@pytest.mark.parametrize("timesteps", [1, 4])
@pytest.mark.parametrize("distilled", [False, True])
def test_shapes_over_time(timesteps, distilled):
    net = seeded(network(timesteps, distilled_head=distilled), classes=7)
    outputs = net(images(size=48), taps=net.taps)
    assert outputs.logits.shape == (timesteps, 2, 7)
    assert outputs.pooled.shape == (timesteps, 2, 24)
    assert feature_shapes(net, 48) == {"block1": (16, 3, 3), "block2": (24, 3, 3)}
    for tap, shape in feature_shapes(net, 48).items():
        assert outputs.features[tap].shape == (timesteps, 2, *shape)
    torch.testing.assert_close(outputs.pooled, outputs.features["block2"].mean((-2, -1)))


def test_features_are_only_those_asked_for():
    net = seeded(network())
    assert list(net(images(), taps=["block2"]).features) == ["block2"]
    assert net(images()).features == {}
    assert net.get_submodule(net.last_layer).out_features == 10
    with pytest.raises(UserError, match=r"unknown tap 'block3' .*expected one of: block1, block2"):
        net(images(), taps=["block3"])


def test_images_must_be_divisible_by_sixteen():
    network().check_image(48)
    with pytest.raises(ValueError, match=r"'mformer-tiny': 'image_size' must be a multiple of 16, found 40"):
        network().check_image(40)


def test_heads_must_divide_both_widths_of_attention():
    for dims, width in (((8, 12, 18, 24), 18), ((8, 12, 16, 26), 26)):
        with pytest.raises(ValidationError, match=rf"'heads' must divide 'dims', found 4 heads for a width of {width}"):
            network(dims=dims)


# --- agreement with a plain reference -------------------------------------------------------------------------------


def settled(configuration, seed=3):
    """Our network in float64 with norms that are not what they begin as, so that it fires in evaluation too."""
    net = seeded(configuration, seed=seed).double()
    generator = torch.Generator().manual_seed(seed)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor, low in ((layer.weight, 0.5), (layer.bias, -0.5), (layer.running_mean, -0.5)):
                tensor.data.uniform_(low, low + 1, generator=generator)
            layer.running_var.uniform_(0.5, 2, generator=generator)
    return net


def twins(configuration):
    """Our network and the reference with the same weights."""
    ours, reference = settled(configuration), Reference(configuration, 10).double()
    names = list(reference.state_dict())
    assert len(names) == len(ours.state_dict())
    reference.load_state_dict(dict(zip(names, ours.state_dict().values())))
    return ours, reference


def outcome(net, x):
    """Both heads' logits, features, and the gradient of a fixed weighting of them for every parameter."""
    if isinstance(net, Reference):
        logits, distilled, features = net(x)
        for layer in net.modules():
            if isinstance(layer, sj.LIFNode):
                layer.reset()
    else:
        outputs = net(x, taps=net.taps)
        logits, distilled, features = outputs.logits, outputs.distilled, list(outputs.features.values())
    weights = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)
    total = (weights * logits).sum() + (weights**2 * distilled).sum() + sum(f.square().mean() for f in features)
    return [logits, distilled, *features], torch.autograd.grad(total, net.parameters())


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 48, "attention_scale": 0.5},  # more tokens than channels of a head
        {"size": 32, "timesteps": 1, "attention_scale": 1.0},
        {"size": 32, "conv_blocks": (0, 2, 1), "attention_scale": 1.0, "attention_threshold": 0.4},
    ],
    ids=["k^T v first", "one step", "no block at half size"],
)
def test_equals_a_reference_that_repeats_the_image(changes):
    size = changes["size"]
    configuration = network(distilled_head=True, **{key: changes[key] for key in changes if key != "size"})
    ours, reference = twins(configuration)
    x = images(batch=3, size=size, dtype=torch.float64)
    rates = {}
    for block in (layer for layer in reference.modules() if isinstance(layer, ReferenceAttentionBlock)):
        block.fired.register_forward_hook(lambda module, _, spikes: rates.update({module: spikes.mean().item()}))
    expected, expected_gradients = outcome(reference, x)
    results, gradients = outcome(ours, x)
    assert len(rates) == 2 and min(rates.values()) > 0.01  # attention takes part
    for result, other in zip(results, expected):
        torch.testing.assert_close(result, other, rtol=1e-9, atol=1e-10)
    for (name, _), gradient, other in zip(ours.named_parameters(), gradients, expected_gradients):
        torch.testing.assert_close(gradient, other, rtol=1e-6, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")
    for (name, buffer), other in zip(ours.named_buffers(), reference.buffers()):  # as of the repeated image
        torch.testing.assert_close(buffer, other, rtol=1e-9, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")
    with torch.no_grad():
        one, other, _ = reference.eval()(x)
        torch.testing.assert_close(ours.eval()(x).logits, (one + other) / 2, rtol=1e-9, atol=1e-10)


def test_border_holds_what_the_norm_makes_of_zero():
    norm = PaddedNorm(2)
    norm.running_mean.copy_(torch.tensor([1.0, -2.0]))
    norm.running_var.copy_(torch.tensor([4.0, 1.0]) - norm.eps)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([3.0, 0.5]))
        norm.bias.copy_(torch.tensor([0.5, 0.25]))
    padded = norm.eval()(torch.full((1, 2, 1, 2), 5.0))
    first = [[-1.0] * 4, [-1.0, 6.5, 6.5, -1.0], [-1.0] * 4]  # 0.5 + 3 (x - 1) / 2
    second = [[1.25] * 4, [1.25, 3.75, 3.75, 1.25], [1.25] * 4]  # 0.25 + 0.5 (x + 2)
    torch.testing.assert_close(padded, torch.tensor([[first, second]]))


def test_border_behind_a_convolution_equals_a_zero_border_before_it():
    layers = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), PaddedNorm(4))
    x = images(4, 8)[:, :1].expand(-1, 4, -1, -1)
    layers(x)  # statistics that are not the initial ones
    layers.eval()
    plain = nn.functional.batch_norm(
        layers[0](nn.functional.pad(x, (1, 1, 1, 1))), layers[1].running_mean, layers[1].running_var
    )
    torch.testing.assert_close(layers(x), plain)


# --- behaviour ------------------------------------------------------------------------------------------------------


def test_neurons_emit_spikes():
    net = seeded(network())
    spikes = {}
    for name, module in net.named_modules():
        if isinstance(module, Spiking):
            module.register_forward_hook(lambda _, __, output, name=name: spikes.update({name: output.detach()}))
    net(images())
    assert len(spikes) == 3 * 4 + 4 + 2 * 7 + 1  # blocks of convolutions, downsamplings, attention blocks, head
    assert all(set(fired.unique().tolist()) <= {0.0, 1.0} for fired in spikes.values())
    assert all(fired.any() for name, fired in spikes.items() if "mixed" not in name)
    thresholds = {name: net.get_submodule(name).neuron.v_threshold for name in spikes}
    assert {name for name, value in thresholds.items() if value == 0.5} == {
        "trunk.block1.attention.mixed",
        "trunk.block2.attention.mixed",
    }


def test_stem_runs_once_per_image():
    net = seeded(network(timesteps=4))
    batches = {}
    for name in ("stem.0", "stem.1", "trunk.conv1.separable.1", "trunk.down2.1"):
        net.get_submodule(name).register_forward_hook(
            lambda _, inputs, __, name=name: batches.update({name: len(inputs[0])})
        )
    net(images())
    assert batches == {"stem.0": 2, "stem.1": 2, "trunk.conv1.separable.1": 8, "trunk.down2.1": 8}


def undone_by_the_next_norm(net):
    """Parameters whose effect a batch norm removes: biases before it, and scale and bias of a norm before it."""
    names = set()
    for prefix, module in net.named_modules():
        children = list(module.named_children()) if isinstance(module, nn.Sequential) else []
        for (name, layer), (_, after) in pairwise(children):
            if isinstance(after, nn.BatchNorm2d):
                kinds = ("weight", "bias") if isinstance(layer, nn.BatchNorm2d) else ("bias",)
                names |= {f"{prefix}.{name}.{kind}" for kind in kinds}
    return names & {name for name, _ in net.named_parameters()}


def test_every_parameter_gets_a_gradient_and_the_network_learns():
    net = seeded(network(distilled_head=True, attention_scale=1.0))
    x, labels = images(batch=16, size=32), torch.arange(16) % 10
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    losses, moved = [], set()
    for _ in range(20):
        optimizer.zero_grad()
        outputs = net(x)
        loss = cross_entropy(outputs.logits.mean(0), labels) + cross_entropy(outputs.distilled.mean(0), labels)
        loss.backward()
        for name, parameter in net.named_parameters():
            assert parameter.grad.isfinite().all(), name
            moved |= {name} if parameter.grad.abs().max() > 1e-5 else set()
        optimizer.step()
        losses.append(loss.item())
    undone = undone_by_the_next_norm(net)
    assert len(undone) == 1 + 4 + 2 * 2 + 2 * 4 * 2  # biases of stem, downsamplings, MLPs; inner norms of attention
    assert moved | undone == {name for name, _ in net.named_parameters()}
    assert losses[-1] < 0.8 * losses[0]


def test_heads_are_apart_in_training_and_averaged_in_evaluation():
    net = seeded(network(distilled_head=True))
    seen = {}
    for name in ("head", "distilled_head"):
        net.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: seen.update({name: output.unflatten(0, (3, -1))})
        )
    outputs = net(images())
    assert torch.equal(outputs.logits, seen["head"]) and torch.equal(outputs.distilled, seen["distilled_head"])
    assert not torch.allclose(seen["head"], seen["distilled_head"])
    outputs = net.eval()(images())
    assert outputs.distilled is None
    torch.testing.assert_close(outputs.logits, (seen["head"] + seen["distilled_head"]) / 2)
    assert seeded(network())(images()).distilled is None


def test_weights_of_one_step_serve_four():
    one, four = settled(network(1)), seeded(network(4)).double()
    four.load_state_dict(one.state_dict())
    x = images(dtype=torch.float64)
    with torch.no_grad():
        first, steps = one.eval()(x, one.taps), four.eval()(x, four.taps)
    torch.testing.assert_close(steps.features["block2"][:1], first.features["block2"])
    torch.testing.assert_close(steps.logits[:1], first.logits)
    assert not torch.allclose(steps.logits[1:], first.logits)


def test_nothing_survives_a_call():
    net = settled(network()).eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x = images(dtype=torch.float64)
    first = net(x).logits
    assert first.std(0).max() > 0  # steps differ: there is a state to forget
    net(images(batch=5, dtype=torch.float64))
    assert torch.equal(net(x).logits, first)
    assert torch.equal(x, images(dtype=torch.float64))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not [name for name, _ in net.named_buffers() if not name.endswith(("mean", "var", "tracked"))]


def test_heads_are_drawn_as_by_the_reference_and_the_second_changes_no_other_weight():
    plain, distilled = (seeded(network(dims=(8, 12, 16, 400), distilled_head=d), 100) for d in (False, True))
    for head in (plain.head, distilled.distilled_head):
        assert float(head.weight.detach().std()) == pytest.approx(0.02, rel=0.02)
        assert not head.bias.any()
    shared = {name: value for name, value in distilled.state_dict().items() if "distilled" not in name}
    assert shared.keys() == plain.state_dict().keys()
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in shared.items())


def test_training_imports_no_heavy_package():
    probe = (
        "import sys, torch; from bkdsnn import config, models;"
        "neuron = config.Neuron(kind='lif', surrogate='sigmoid', alpha=4.0);"
        "data = config.Dataset(name='x', format='image-folder', classes=3, "
        "image_size=16, mean=(0, 0, 0), std=(1, 1, 1));"
        "net = models.build(config.MetaSpikeformer(name='x', dims=(4, 4, 8, 8), neuron=neuron), data);"
        "net(torch.zeros(2, 3, 32, 32)).logits.sum().backward();"
        "print({'torchvision', 'timm', 'spikingjelly', 'pandas', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "set()"

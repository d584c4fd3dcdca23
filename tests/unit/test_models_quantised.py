"""QCFS: the activation, its gradient, and the conversion that loads one state dict into another form."""

import pytest
import torch

from bkdsnn import config
from bkdsnn.models import build
from bkdsnn.models.quantised import ClipFloor, SpikingClipFloor

DATASET = config.Dataset(name="data", format="cifar-binary", classes=5, image_size=32, mean=(0, 0, 0), std=(1, 1, 1))


def network(form, levels=4, timesteps=1, **changes):
    fields = {"stem": "imagenet", "stem_width": 8, "block": "basic", "blocks": (1, 1), "widths": (8, 16), **changes}
    quantised = config.Quantised(levels=levels, init=3.0)
    return config.ResNet(name="tiny", form=form, quantised=quantised, timesteps=timesteps, **fields)


def grid():
    """Inputs from below 0 to above theta = 3, none on the edge of a level."""
    return torch.linspace(-1.0, 4.0, 4001, dtype=torch.float64)[1::2] + 1e-5


@pytest.mark.parametrize("levels", [1, 4, 7])
def test_activation_is_the_formula(levels):
    module, x = ClipFloor(config.Quantised(levels=levels, init=3.0)).double(), grid()
    expected = 3.0 * torch.clip(torch.floor(x * levels / 3.0 + 0.5) / levels, 0, 1)
    torch.testing.assert_close(module(x), expected, rtol=1e-15, atol=0)
    assert len(module(x).unique()) == levels + 1


def test_gradient_is_straight_through_and_theta_learns():
    module = ClipFloor(config.Quantised(levels=4, init=3.0)).double()
    x = torch.tensor([-0.5, 1.0, 3.5], dtype=torch.float64, requires_grad=True)
    module(x).backward(torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64))
    assert x.grad.tolist() == [0.0, 2.0, 0.0]
    # below: 0; inside: (activation - x) / theta = (0.75 - 1) / 3; above: 1
    assert module.theta.grad.item() == pytest.approx(2.0 * (0.75 - 1.0) / 3.0 + 4.0)


@pytest.mark.parametrize("levels", [1, 4, 7])
def test_neurons_reproduce_a_layer_exactly_after_as_many_steps_as_levels(levels):
    quantised = config.Quantised(levels=levels, init=3.0)
    activation, x = ClipFloor(quantised).double(), grid()
    spikes = SpikingClipFloor(quantised, timesteps=levels, static=True).double()(x).unflatten(0, (levels, -1))
    assert set(spikes.unique().tolist()) == {0.0, 3.0}
    torch.testing.assert_close(spikes.mean(0), activation(x), rtol=1e-12, atol=0)


@pytest.mark.parametrize("changes", [{}, {"stem": "cifar", "shortcut": "pad", "hidden": 6}, {"block": "bottleneck"}])
def test_conversion_is_loading_the_state_dict(changes):
    source = build(network("qcfs", **changes), DATASET)
    for name, parameter in source.named_parameters():
        if name.endswith("theta"):
            torch.nn.init.constant_(parameter, 1.5)
    target = build(network("qcfs-snn", timesteps=4, **changes), DATASET)
    target.load_state_dict(source.state_dict())
    assert {"act1.theta", "layer1.0.act.theta", "layer1.0.act1.theta"} <= set(target.state_dict())
    assert target.layer2[0].act.theta == 1.5


def test_converted_network_approaches_its_source_as_time_grows():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        source = build(network("qcfs", levels=256), DATASET)
    x = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    for _ in range(20):
        source(x)  # gives the norms their statistics
    errors = []
    with torch.no_grad():
        expected = source.eval()(x).logits[0]
        for timesteps in (4, 32, 256):
            target = build(network("qcfs-snn", levels=256, timesteps=timesteps), DATASET).eval()
            target.load_state_dict(source.state_dict())
            errors.append(float((target(x).logits.mean(0) - expected).norm() / expected.norm()))
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < 0.02


def test_average_pool_replaces_max_pool():
    kinds = {form: type(build(network(form), DATASET).pool) for form in ("qcfs", "qcfs-snn")}
    assert set(kinds.values()) == {torch.nn.AvgPool2d}

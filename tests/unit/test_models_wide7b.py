"""Wide-7B-Net: geometry, agreement with a plain construction from spikingjelly's layers, behaviour."""

import subprocess
import sys

import pytest
import torch
import yaml
from events_example import PLIF, dataset, frames, seeded, wide
from reference import wide7b
from torch import nn
from torch.nn.functional import cross_entropy
from transformers_example import ROOT, compare, fired, lively

from bkdsnn.core.errors import UserError
from bkdsnn.models import build, count_parameters, feature_shapes
from bkdsnn.models.neurons import Spiking

PAPER = yaml.safe_load((ROOT / "config/networks.yaml").read_text())["wide-7b-net"]["widths"]

# --- geometry ---------------------------------------------------------------------------------------------------------


def paper(classes=10):
    with torch.device("meta"):
        return build(wide(widths=PAPER), dataset(128, classes))


def test_parameters_are_the_published_1_192_218():
    """Of them 16 are the time constants of the layers: stem, twice seven in the blocks, and where 64 becomes 128."""
    net = paper()
    constants = [parameter for parameter in net.parameters() if parameter.dim() == 0]
    assert count_parameters(net) == 1_192_218
    assert len(constants) == sum(isinstance(module, Spiking) for module in net.modules()) == 16
    assert count_parameters(paper(classes=11)) == 1_192_218 + 129


def test_maps_are_the_published_ones():
    """The last before the last layer: 128 channels of 2 x 2, in front of the last pooling."""
    maps = feature_shapes(paper(), 128)
    assert list(maps) == [f"unit{index}" for index in range(1, 8)]
    assert list(maps.values()) == [
        (64, 128, 128), (64, 64, 64), (64, 32, 32), (64, 16, 16), (128, 8, 8), (128, 4, 4), (128, 2, 2)
    ]  # fmt: skip


@pytest.mark.parametrize("timesteps", [1, 4])
def test_shapes_over_time(timesteps):
    net = seeded(wide(timesteps, widths=(4, 8, 8)))
    outputs = net(frames(2, timesteps), taps=net.taps)
    assert feature_shapes(net, 32) == {"unit1": (4, 32, 32), "unit2": (8, 16, 16), "unit3": (8, 8, 8)}
    assert {tap: feature.shape for tap, feature in outputs.features.items()} == {
        tap: (timesteps, 2, *shape) for tap, shape in feature_shapes(net, 32).items()
    }
    assert outputs.pooled.shape == (timesteps, 2, 8 * 4 * 4)
    assert outputs.logits.shape == (timesteps, 2, 10)
    assert outputs.distilled is None
    assert net.blank(32).shape == (1, timesteps, 2, 32, 32)


def test_a_convolution_stands_first_and_wherever_the_width_changes():
    net = seeded(wide(widths=(2, 2, 4, 4)))
    projections = [isinstance(net.get_submodule(tap).project, nn.Sequential) for tap in net.taps]
    assert isinstance(net.stem[0], nn.Conv2d)
    assert projections == [False, False, True, False]


def test_images_that_do_not_halve_evenly_are_refused():
    with pytest.raises(ValueError, match=r"halves the image 5 times .* must be a multiple of 32, found 48"):
        wide().check_image(48)


def test_other_inputs_and_taps_are_refused():
    net = seeded(wide())
    with pytest.raises(UserError, match=r"runs 4 time-steps .* found \(4, 16, 2, 32, 32\); integrate .* to 4 frames"):
        net(frames(timesteps=16))
    with pytest.raises(UserError, match=r"takes frames \(B, T, 2, H, W\) .*found \(4, 3, 32, 32\)"):
        net(torch.zeros(4, 3, 32, 32))
    with pytest.raises(UserError, match=r"unknown tap 'unit6' .*expected one of: unit1"):
        net(frames(), taps=["unit6"])


# --- a plain construction ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("widths", "size"), [((4, 4, 8), 16), ((4, 8, 8, 8), 16), ((8,), 8)])
def test_equals_the_plain_construction(widths, size):
    configuration = wide(widths=widths)
    ours, reference = lively(seeded(configuration, size)), lively(wide7b.build(configuration, dataset(size))[0])
    with torch.no_grad():
        for index, (name, value) in enumerate(ours.named_parameters()):
            if name.endswith(".w"):
                value.fill_(0.1 * index - 1)
    reference.load_state_dict(ours.state_dict())
    x = frames(3, size=size, events=0.5, dtype=torch.float64)
    compare(ours, reference, x, lambda state: state.items(), repeated=x.transpose(0, 1))


def test_mean_of_the_logits_is_the_published_head_of_the_mean():
    net = lively(seeded(wide()))
    outputs = net(frames(dtype=torch.float64), taps=["unit5"])
    pooled = nn.functional.max_pool2d(outputs.features["unit5"].flatten(0, 1), 2).flatten(1).unflatten(0, (4, -1))
    assert torch.equal(outputs.pooled, pooled)
    torch.testing.assert_close(outputs.logits.mean(0), net.head(pooled.mean(0)))


# --- behaviour --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timesteps", [4, 16])
@pytest.mark.parametrize("events", [0.01, 0.3])
def test_every_layer_of_neurons_fires_from_the_start_on_sparse_frames(timesteps, events):
    for widths in ((4, 4, 4, 8, 8), (8, 8, 16, 16, 16)):
        spikes, _ = fired(seeded(wide(timesteps, widths)), frames(8, timesteps, events=events))
        assert len(spikes) == 1 + 2 * 5 + 1
        for name, output in spikes.items():
            assert set(output.unique().tolist()) == {0.0, 1.0}, name
            assert 0.001 < output.mean() < 0.5, name


def test_features_are_sums_of_spikes():
    """At most 1 from the stem and 1 more from each block; a projection begins anew."""
    _, features = fired(lively(seeded(wide())), frames(dtype=torch.float64))
    for feature, most in zip(features.values(), (2, 3, 2, 3, 4)):
        assert torch.equal(feature, feature.round())
        assert feature.min() == 0
        assert 1 < feature.max() <= most


def test_every_parameter_gets_a_finite_gradient_and_learns():
    net = seeded(wide(widths=(8, 8, 16)), size=16).double()
    x, labels = frames(16, size=16, events=0.3, dtype=torch.float64), torch.arange(16) % 10
    optimizer, losses = torch.optim.Adam(net.parameters(), lr=0.01), []
    for _ in range(20):
        optimizer.zero_grad()
        loss = cross_entropy(net(x).logits.mean(0), labels)
        loss.backward()
        for name, parameter in net.named_parameters():
            assert parameter.grad.isfinite().all() and parameter.grad.abs().max() > 1e-5, name
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_nothing_survives_a_call_and_frames_stay():
    net, x = lively(seeded(wide())), frames(dtype=torch.float64)
    before = x.clone()
    net(x)  # gives the norms their statistics
    first = net.eval()(x).logits
    net(x.flip(0))
    assert first.std() > 0
    assert torch.equal(net(x).logits, first)
    assert torch.equal(x, before)


def test_same_seed_same_network():
    first, second, other = (seeded(wide(), seed=seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(a, b) for a, b in zip(first.values(), second.values()))
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_a_learned_time_constant_that_cannot_begin_is_refused():
    with pytest.raises(UserError, match="'tau' 1"):
        seeded(wide().model_copy(update={"neuron": PLIF.model_copy(update={"tau": 1.0})}))


def test_importing_it_loads_no_heavy_package():
    probe = (
        "import sys, bkdsnn.models.wide7b;"
        "print({'torchvision', 'timm', 'spikingjelly', 'pandas', 'matplotlib', 'scipy', 'sklearn'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "set()"

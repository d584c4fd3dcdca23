"""Spikformer and Spikingformer on frames of events; what all networks on events have in common."""

from functools import partial

import pytest
import torch
from events_example import LIF, NETWORKS, TRANSFORMERS, dataset, frames, seeded, transformer
from reference import spikformer, spikingformer
from torch.nn.functional import cross_entropy
from transformers_example import LIF as SLOW_LIF
from transformers_example import cancelled, compare, fired, lively

from bkdsnn.core.errors import UserError
from bkdsnn.models import build, count_parameters, feature_shapes
from bkdsnn.models.neurons import Spiking
from bkdsnn.models.transformer import StillNorm

HALF = {"dim": 32, "depth": 2, "pools": (3, 4)}

# --- transformers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_parameters_and_maps_are_the_published_ones(family):
    with torch.device("meta"):
        net = build(transformer(family, base="sformer-2-256"), dataset(128))
    assert count_parameters(net) == 2_566_666
    assert feature_shapes(net, 128) == {"block1": (256, 8, 8), "block2": (256, 8, 8)}


@pytest.mark.parametrize("heads", [2, 8])
@pytest.mark.parametrize("cml", [True, False])
@pytest.mark.parametrize("pools", [(3, 4), (1, 2, 3, 4)])
def test_spikingformer_equals_the_plain_construction(cml, pools, heads):
    configuration = transformer("spikingformer", cml=cml, **HALF | {"pools": pools, "heads": heads})
    assert configuration.neuron == LIF and LIF.tau == 1.75
    reference = lively(spikingformer.build(configuration, dataset(16))[0])
    pairs, ours = partial(spikingformer.pairs, net=reference), lively(seeded(configuration, 16))
    reference.load_state_dict(dict(pairs(ours.state_dict())))
    x = frames(3, size=16, events=0.5, dtype=torch.float64)
    compare(ours, reference, x, pairs, repeated=x.transpose(0, 1))


@pytest.mark.parametrize("pools", [(3, 4), (1, 2, 3, 4)])
def test_spikformer_equals_spikingjelly_zoo(pools):
    """The zoo's has CML, and neurons of its own: those of still images."""
    configuration = transformer("spikformer", neuron=SLOW_LIF, **HALF | {"pools": pools})
    reference = lively(spikformer.build(configuration, dataset(16))[0])
    pairs, ours = partial(spikformer.pairs, net=reference), lively(seeded(configuration, 16))
    for name, parameter in ours.named_parameters():
        if cancelled(name):
            parameter.data.zero_()
    reference.load_state_dict(dict(pairs(ours.state_dict())))
    x = frames(3, size=16, events=0.5, dtype=torch.float64)
    compare(ours, reference, x, pairs, repeated=x.transpose(0, 1))


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_nothing_is_done_once_for_all_steps(family):
    net, batches = seeded(transformer(family)), {}
    for name in ("0.0", "0.1", "0.2", "0.3"):
        layer = net.stem.get_submodule(name)
        layer.register_forward_hook(lambda m, inputs, _: batches.update({type(m).__name__: inputs[0].shape[:2]}))
    net(frames())
    assert batches == {"Conv2d": (16, 2), "BatchNorm2d": (16, 3), "MaxPool2d": (16, 3), "Spiking": (16, 3)}
    assert not any(isinstance(module, StillNorm) for module in net.modules())
    assert not any(module.static for module in net.modules() if isinstance(module, Spiking))


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_the_twin_without_spikes_takes_one_frame(family):
    configuration = type(transformer(family))(name="ann", form="ann", dim=24, depth=1, heads=4, pools=(1, 2, 3, 4))
    net = seeded(configuration)
    assert net(frames(timesteps=1)).logits.shape == (1, 4, 10)
    assert net.blank(32).shape == (1, 1, 2, 32, 32)


# --- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_every_step_sees_its_own_frame_and_those_before_it(name):
    """In evaluation; another frame t of recording 1 changes its logits from step t on, and nothing else."""
    net, x = lively(seeded(NETWORKS[name])), frames(events=0.3, dtype=torch.float64)
    net(x)  # gives the norms their statistics
    net.eval()
    expected = net(x).logits
    for t in range(4):
        other = x.clone()
        other[1, t] = frames(1, 1, events=3.0, dtype=torch.float64)[0, 0]
        changed = (net(other).logits != expected).any(-1)
        assert changed[t:, 1].any()
        changed[t:, 1] = False
        assert not changed.any()


@pytest.mark.parametrize("name", NETWORKS)
def test_shapes_are_found_without_leaving_a_trace(name):
    net = seeded(NETWORKS[name]).train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    shapes = feature_shapes(net, 32)
    outputs = net(frames(), taps=net.taps)
    assert net.blank(32).shape == (1, 4, 2, 32, 32)
    assert {tap: tuple(feature.shape[2:]) for tap, feature in outputs.features.items()} == shapes
    assert net.training
    feature_shapes(fresh := seeded(NETWORKS[name]), 32)
    assert all(torch.equal(value, before[key]) for key, value in fresh.state_dict().items())


@pytest.mark.parametrize("name", NETWORKS)
def test_another_number_of_frames_is_refused(name):
    with pytest.raises(UserError, match=r"runs 4 time-steps .* found \(4, 16, 2, 32, 32\); integrate .* to 4 frames"):
        seeded(NETWORKS[name])(frames(timesteps=16))


@pytest.mark.parametrize("family", TRANSFORMERS)
@pytest.mark.parametrize("timesteps", [4, 16])
@pytest.mark.parametrize("events", [0.01, 0.3])
def test_every_layer_of_neurons_fires_from_the_start_on_sparse_frames(family, timesteps, events):
    spikes, _ = fired(seeded(transformer(family, timesteps)), frames(16, timesteps, events=events))
    assert len(spikes) == {"spikformer": 10, "spikingformer": 9}[family]
    for name, output in spikes.items():
        assert set(output.unique().tolist()) == {0.0, 1.0}, name


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_every_parameter_gets_a_finite_gradient_and_learns(family):
    net = seeded(transformer(family, dim=32)).double()
    x, labels = frames(16, events=0.3, dtype=torch.float64), torch.arange(16) % 10
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
    assert losses[-1] < 0.85 * losses[0]


@pytest.mark.parametrize("name", NETWORKS)
def test_frames_without_events_give_finite_logits_and_gradients(name):
    net = seeded(NETWORKS[name])
    cross_entropy(net(torch.zeros(2, 4, 2, 32, 32)).logits.mean(0), torch.tensor([3, 7])).backward()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters() if parameter.grad is not None)
    assert net.head.bias.grad.any()

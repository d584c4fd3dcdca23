"""Our neurons against spikingjelly's, in float64: the same spikes, the same gradients."""

from functools import partial
from itertools import product

import pytest
import torch
from spikingjelly.activation_based import neuron as sj
from spikingjelly.activation_based import surrogate

from bkdsnn import config
from bkdsnn.models import neurons
from bkdsnn.models.neurons import Spiking, implementation

T, B = 5, 3
IF_ATAN = config.Neuron(kind="if", surrogate="atan", alpha=2.0)
SURROGATES = {
    "atan": (1.7, surrogate.ATan(1.7)),
    "sigmoid": (4.0, surrogate.Sigmoid(4.0)),
    "triangle": (1.0, surrogate.PiecewiseQuadratic(1.0)),
    "rectangle": (1.6, surrogate.Rect(1 / 1.6)),
}
KINDS = {
    "if": {"kind": "if"},
    "decayed": {"kind": "lif", "tau": 1.75},
    "leak": {"kind": "lif", "decay_input": False},
    "learned": {"kind": "plif", "tau": 1.75},
    "learned-leak": {"kind": "plif", "tau": 3.0, "decay_input": False},
}
COMBINATIONS = list(product(KINDS, SURROGATES, (0.0, -0.25, None), (True, False)))


def make(kind, name, v_reset, detach):
    """The same neuron, ours and spikingjelly's, in float64."""
    options = dict(KINDS[kind], v_threshold=0.8, v_reset=v_reset, detach_reset=detach)
    ours = config.Neuron(**options, v_init=v_reset or 0.0, surrogate=name, alpha=SURROGATES[name][0])
    common = {key: options[key] for key in ("v_threshold", "v_reset", "detach_reset")}
    common |= {"surrogate_function": SURROGATES[name][1], "step_mode": "m"}
    nodes = {
        "if": sj.IFNode,
        "lif": partial(sj.LIFNode, ours.tau, ours.decay_input),
        "plif": partial(sj.ParametricLIFNode, ours.tau, ours.decay_input),
    }
    return Spiking(ours, T).double(), nodes[ours.kind](**common).double()


@pytest.fixture(params=["native", "loop"], autouse=True)
def engine(request, monkeypatch):
    """Neurons run by both of a CPU's implementations."""
    if request.param == "loop":
        monkeypatch.setattr(neurons, "_engine", lambda *_: None)
    elif implementation(torch.device("cpu"), torch.float64, IF_ATAN) != "native":
        pytest.skip("no C compiler")


def currents(dtype=torch.float64, steps=T, device="cpu"):
    generator = torch.Generator().manual_seed(7)
    return (0.4 + torch.randn(steps * B, 4, 6, 6, generator=generator, dtype=dtype)).to(device)


def run(fire, x, *parameters):
    """Spikes, and the gradients of a fixed weighting of them by `x` and the parameters."""
    x = x.detach().requires_grad_()
    spikes = fire(x)
    weights = torch.linspace(-1, 1, spikes.numel(), dtype=spikes.dtype, device=x.device).view_as(spikes)
    return spikes, *torch.autograd.grad(spikes, (x, *parameters), weights)


def bound(fire, arguments):
    """`fire` as a function of the currents alone."""
    return lambda x: fire(x, *arguments)


@pytest.mark.parametrize(("kind", "name", "v_reset", "detach"), COMBINATIONS)
def test_equals_spikingjelly(kind, name, v_reset, detach):
    ours, node = make(kind, name, v_reset, detach)
    spikes, *gradients = run(ours, currents(), *ours.parameters())
    expected, *expected_gradients = run(
        lambda x: node(x.unflatten(0, (T, B))).flatten(0, 1), currents(), *node.parameters()
    )
    assert len(gradients) == (2 if ours.neuron.kind == "plif" else 1)
    assert 0.05 < expected.mean() < 0.95
    assert torch.equal(spikes, expected)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-12, atol=1e-13)


def test_half_threshold_start_equals_spikingjelly():
    start = config.Neuron(kind="if", v_threshold=1.3, v_reset=None, v_init=0.65, surrogate="atan", alpha=2.0)
    node = sj.HalfThresholdIFNode(1.3, surrogate_function=surrogate.ATan(2.0), detach_reset=True, step_mode="m")
    spikes, gradient = run(Spiking(start, T), currents())
    expected, expected_gradient = run(lambda x: node(x.unflatten(0, (T, B))).flatten(0, 1), currents())
    assert torch.equal(spikes, expected)
    assert not torch.equal(spikes, Spiking(start.model_copy(update={"v_init": 0.0}), T)(currents()))
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-12, atol=1e-13)


def test_fires_at_the_threshold_itself():
    assert Spiking(IF_ATAN, 1)(torch.tensor([[1.0], [1.0 - 1e-7]])).tolist() == [[1.0], [0.0]]


@pytest.mark.parametrize("kind", KINDS)
def test_static_currents_equal_repeated_ones(kind):
    folded, _ = make(kind, "atan", 0.0, True)
    static, once = Spiking(folded.neuron, T, static=True).double(), currents(steps=1)
    spikes, *gradients = run(static, once, *static.parameters())
    expected, *expected_gradients = run(lambda x: folded(x.repeat(T, 1, 1, 1)), once, *folded.parameters())
    assert spikes.shape == (T * B, 4, 6, 6)
    assert torch.equal(spikes, expected)
    torch.testing.assert_close(gradients, expected_gradients)


def test_nothing_survives_a_call_and_inputs_stay():
    layer, x = Spiking(IF_ATAN, T), currents()
    before = x.clone()
    assert torch.equal(layer(x), layer(x))
    assert torch.equal(x, before)


def test_backward_can_run_twice():
    x = currents().requires_grad_()
    total = Spiking(IF_ATAN, T)(x).sum()
    first = torch.autograd.grad(total, x, retain_graph=True)
    assert torch.equal(first[0], torch.autograd.grad(total, x)[0])


def test_half_precision_currents_meet_a_float32_membrane():
    x = currents(torch.float32).bfloat16()
    spikes, gradient = run(Spiking(IF_ATAN, T), x)
    assert spikes.dtype == gradient.dtype == torch.bfloat16
    assert torch.equal(spikes.float(), Spiking(IF_ATAN, T)(x.float()))


def test_memory_layout_is_kept():
    x = currents().contiguous(memory_format=torch.channels_last)
    assert Spiking(IF_ATAN, T)(x).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(Spiking(IF_ATAN, T)(x), Spiking(IF_ATAN, T)(currents()))


def test_features_without_pixels_fire_too():
    x = currents()[:, :, 0, 0]
    assert torch.equal(Spiking(IF_ATAN, T)(x), Spiking(IF_ATAN, T)(currents())[:, :, 0, 0])

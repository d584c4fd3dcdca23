"""Our neurons against spikingjelly's, in float64: the same spikes, the same gradients."""

from itertools import product

import pytest
import torch
from spikingjelly.activation_based import neuron as sj
from spikingjelly.activation_based import surrogate

from bkdsnn import spec
from bkdsnn.models import neurons
from bkdsnn.models.neurons import OWN, Spiking

T, B = 5, 3
IF_ATAN = spec.Neuron(kind="if", surrogate="atan", alpha=2.0)
SURROGATES = {
    "atan": (1.7, surrogate.ATan(1.7)),
    "sigmoid": (4.0, surrogate.Sigmoid(4.0)),
    "triangle": (1.0, surrogate.PiecewiseQuadratic(1.0)),
    "rectangle": (1.6, surrogate.Rect(1 / 1.6)),
}
KINDS = {"if": {"kind": "if"}, "decayed": {"kind": "lif", "tau": 1.75}, "leak": {"kind": "lif", "decay_input": False}}
COMBINATIONS = list(product(KINDS, SURROGATES, (0.0, -0.25, None), (True, False)))


def make(kind, name, v_reset, detach):
    """The same neuron, ours and spikingjelly's."""
    options = dict(KINDS[kind], v_threshold=0.8, v_reset=v_reset, detach_reset=detach)
    ours = spec.Neuron(**options, v_init=v_reset or 0.0, surrogate=name, alpha=SURROGATES[name][0])
    common = {key: options[key] for key in ("v_threshold", "v_reset", "detach_reset")}
    common |= {"surrogate_function": SURROGATES[name][1], "step_mode": "m"}
    node = sj.IFNode(**common) if kind == "if" else sj.LIFNode(ours.tau, ours.decay_input, **common)
    return Spiking(ours, T), node


def currents(dtype=torch.float64, steps=T, device="cpu"):
    generator = torch.Generator().manual_seed(7)
    return (0.4 + torch.randn(steps * B, 4, 6, 6, generator=generator, dtype=dtype)).to(device)


def run(fire, x):
    """Spikes, and the gradient of a fixed weighting of them."""
    x = x.detach().requires_grad_()
    spikes = fire(x)
    weights = torch.linspace(-1, 1, spikes.numel(), dtype=spikes.dtype, device=x.device).view_as(spikes)
    (gradient,) = torch.autograd.grad(spikes, x, weights)
    return spikes, gradient


@pytest.mark.parametrize(("kind", "name", "v_reset", "detach"), COMBINATIONS)
def test_equals_spikingjelly(kind, name, v_reset, detach):
    ours, node = make(kind, name, v_reset, detach)
    spikes, gradient = run(ours, currents())
    expected, expected_gradient = run(lambda x: node(x.unflatten(0, (T, B))).flatten(0, 1), currents())
    assert 0.05 < expected.mean() < 0.95
    assert torch.equal(spikes, expected)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-12, atol=1e-13)


def test_half_threshold_start_equals_spikingjelly():
    start = spec.Neuron(kind="if", v_threshold=1.3, v_reset=None, v_init=0.65, surrogate="atan", alpha=2.0)
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
    once = currents(steps=1)
    spikes, gradient = run(Spiking(folded.neuron, T, static=True), once)
    expected, expected_gradient = run(lambda x: folded(x.repeat(T, 1, 1, 1)), once)
    assert spikes.shape == (T * B, 4, 6, 6)
    assert torch.equal(spikes, expected)
    torch.testing.assert_close(gradient, expected_gradient)


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


@pytest.mark.parametrize("kind", KINDS)
def test_call_of_the_fused_operator_agrees(kind):
    """The same call that a GPU gets, on a CPU, where spikingjelly runs its loop: arguments are in their places."""
    layer, _ = make(kind, "sigmoid", -0.25, False)
    for static, steps in ((False, T), (True, 1)):
        arguments = (layer.neuron, T, static)
        spikes, gradient = run(lambda x, a=arguments: neurons._fused(x, *a), currents(torch.float32, steps))
        expected, expected_gradient = run(Spiking(*arguments), currents(torch.float32, steps))
        assert torch.equal(spikes, expected)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-5)


def test_each_device_names_its_implementation():
    rectangle = spec.Neuron(kind="if", surrogate="rectangle", alpha=1.0)
    assert Spiking(IF_ATAN, T).implementation(torch.device("cpu")) == OWN
    assert Spiking(rectangle, T).implementation(torch.device("cuda")) == OWN


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kind", "name"), [*product(KINDS, ("atan", "sigmoid", "triangle")), ("leak", "rectangle")])
def test_gpu_equals_cpu_and_runs_fused(kind, name, dtype, monkeypatch):
    from spikingjelly._ops.if_ import reference as if_loop
    from spikingjelly._ops.lif import reference as lif_loop

    for loop in (if_loop, lif_loop):  # what spikingjelly falls back to
        monkeypatch.setattr(loop, "multi_step", lambda *_: pytest.fail("the loop in Python ran"))
    layer, _ = make(kind, name, 0.0, True)
    expected = {OWN} if name == "rectangle" else {"cuda", "triton"}
    assert layer.implementation(torch.device("cuda")) in expected
    for static, steps in ((False, T), (True, 1)):
        fire = Spiking(layer.neuron, T, static)
        x = currents(torch.float32, steps).to(dtype)
        on_cpu, on_gpu = run(fire, x.float()), run(fire, x.cuda())
        assert on_gpu[0].dtype == dtype
        assert torch.equal(on_gpu[0].float().cpu(), on_cpu[0])
        tolerance = 1e-5 if dtype == torch.float32 else 2e-2
        torch.testing.assert_close(on_gpu[1].float().cpu(), on_cpu[1], rtol=tolerance, atol=tolerance)

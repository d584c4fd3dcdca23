"""Neurons that learn 1 / tau = sigmoid(w): w, and its gradient against autograd of the equations, step by step."""

import math
from itertools import product

import pytest
import torch
from test_neurons import IF_ATAN, KINDS, T, currents, run

from bkdsnn import config
from bkdsnn.core.errors import UserError
from bkdsnn.models.neurons import Spiking

ALPHA = 2.0
OPTIONS = list(product((True, False), (0.0, -0.25, None), (True, False), (True, False)))


def layer(static=False, **changes):
    """A layer in float64 whose w has left its first value."""
    fields = {"kind": "plif", "v_threshold": 0.8, "v_init": 0.1, "surrogate": "atan", "alpha": ALPHA} | changes
    made = Spiking(config.Neuron(**fields), T, static).double()
    made.w.data.fill_(-0.6)
    return made


class Step(torch.autograd.Function):
    """0 or 1, with the derivative of arctan(pi x a / 2) / pi + 1 / 2."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x >= 0).to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * ALPHA / 2 / (1 + (math.pi / 2 * ALPHA * x) ** 2)


def loop(x, w, neuron):
    """The equations of the neuron for currents (T, B, ...)."""
    rest, v, spikes = neuron.v_reset or 0.0, torch.full_like(x[0], neuron.v_init), []
    for current in x:
        share = 1 / (1 + torch.exp(-w))
        h = v - share * (v - rest) + (share * current if neuron.decay_input else current)
        spikes.append(Step.apply(h - neuron.v_threshold))
        fired = spikes[-1].detach() if neuron.detach_reset else spikes[-1]
        v = h - neuron.v_threshold * fired if neuron.v_reset is None else h * (1 - fired) + rest * fired
    return torch.cat(spikes)


@pytest.mark.parametrize(("decay_input", "v_reset", "detach", "static"), OPTIONS)
def test_gradients_are_those_of_the_equations(decay_input, v_reset, detach, static):
    ours = layer(static, decay_input=decay_input, v_reset=v_reset, detach_reset=detach)
    x, w = 2 * currents(steps=1 if static else T), ours.w.detach().clone().requires_grad_()
    spikes, *gradients = run(ours, x, ours.w)
    expected, *expected_gradients = run(
        lambda x: loop(x.expand(T, *x.shape) if static else x.unflatten(0, (T, -1)), w, ours.neuron), x, w
    )
    assert 0.05 < expected.mean() < 0.95
    assert torch.equal(spikes, expected)
    assert abs(expected_gradients[1]) > 0.1
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("decay_input", [True, False])
def test_gradient_of_w_is_the_slope_of_a_membrane_that_never_fires(decay_input):
    """With dL/dS of the last step only, dL/dw is the surrogate's slope times dH[T]/dw, taken by central differences."""
    neuron = layer(decay_input=decay_input, v_threshold=50.0).neuron
    x = torch.rand(T, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def charged(w):
        share, h = 1 / (1 + math.exp(-w)), neuron.v_init
        for current in x.flatten().tolist():
            h += share * (current - h) if decay_input else current - share * h
        return h

    ours = layer(decay_input=decay_input, v_threshold=50.0)
    (gradient,) = torch.autograd.grad(ours(x)[-1].sum(), ours.w)
    slope = ALPHA / 2 / (1 + (math.pi / 2 * ALPHA * (charged(-0.6) - 50.0)) ** 2)
    difference = (charged(-0.6 + 1e-5) - charged(-0.6 - 1e-5)) / 2e-5
    assert gradient.item() == pytest.approx(slope * difference, rel=1e-7)


def test_one_over_tau_begins_as_the_spec_says_and_is_one_number():
    for tau in (1.01, 1.75, 2.0, 10.0):
        w = Spiking(config.Neuron(kind="plif", tau=tau, surrogate="atan", alpha=2.0), T).w
        assert w.shape == () and w.requires_grad
        assert w.sigmoid().item() == pytest.approx(1 / tau, rel=1e-6)


def test_at_its_first_value_it_is_the_neuron_that_does_not_learn():
    for decay_input in (True, False):
        fields = {"tau": 2.0, "decay_input": decay_input, "surrogate": "atan", "alpha": 2.0}
        learned, fixed = (Spiking(config.Neuron(kind=kind, **fields), T).double() for kind in ("plif", "lif"))
        (spikes, gradient), (expected, expected_gradient) = run(learned, currents()), run(fixed, currents())
        assert torch.equal(spikes, expected)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-12, atol=1e-14)


def test_other_neurons_have_nothing_to_learn():
    for kind in ("if", "decayed", "leak"):
        assert not Spiking(IF_ATAN.model_copy(update=KINDS[kind]), T).state_dict()


def test_a_tau_that_no_w_gives_is_refused():
    with pytest.raises(UserError, match="'plif' has 'tau' 1, expected more"):
        Spiking(config.Neuron(kind="plif", tau=1.0, surrogate="atan", alpha=2.0), T)


def test_learning_finds_the_time_constant_of_a_teacher():
    """w alone is trained to give the rates of a layer whose tau is 4, from 2."""
    slow, fast = (config.Neuron(kind="plif", tau=tau, surrogate="atan", alpha=2.0) for tau in (4.0, 2.0))
    teacher, student = Spiking(slow, T), Spiking(fast, T)
    x = 3 * currents(torch.float32)
    target = teacher(x).detach().unflatten(0, (T, -1)).mean(0)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        (student(x).unflatten(0, (T, -1)).mean(0) - target).square().mean().backward()
        optimizer.step()
    assert 1 / student.w.sigmoid().item() == pytest.approx(4.0, rel=0.1)


def test_half_precision_currents_leave_w_in_float32():
    neuron = config.Neuron(kind="plif", tau=1.75, surrogate="atan", alpha=2.0)
    ours, x = Spiking(neuron, T), currents(torch.float32).bfloat16()
    spikes, gradient, of_w = run(ours, x, ours.w)
    assert (spikes.dtype, gradient.dtype, of_w.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    assert torch.equal(spikes.float(), ours(x.float()))


def test_a_membrane_that_holds_for_ever_has_finite_gradients():
    """1 / tau is 0 in float32."""
    ours = Spiking(config.Neuron(kind="plif", surrogate="atan", alpha=2.0), T)
    ours.w.data.fill_(-200.0)
    spikes, *gradients = run(ours, currents(torch.float32), ours.w)
    assert spikes.max() == 0
    assert all(gradient.isfinite().all() for gradient in gradients)

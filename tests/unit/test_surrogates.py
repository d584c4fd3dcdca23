"""What a new surrogate, kind or field of neurons costs: torch's operations run it and say so, or an error tells."""

import math
from typing import Literal

import pytest
import torch
from pydantic import ValidationError

from bkdsnn import config
from bkdsnn.config.surrogates import SURROGATES
from bkdsnn.core.errors import UserError
from bkdsnn.models import neurons
from bkdsnn.models.firing import gpu, native
from bkdsnn.models.neurons import Spiking, implementation, implementations

T = 3


def gauss(u, alpha):
    """The density of a normal distribution with deviation `alpha`."""
    return u.div_(alpha).square_().div_(-2).exp_().div_(alpha * math.sqrt(2 * math.pi))


@pytest.fixture
def neuron(monkeypatch):
    """A neuron with a surrogate that neither C nor Triton has."""
    monkeypatch.setitem(SURROGATES, "gauss", gauss)
    neurons._warn.cache_clear()
    return config.Neuron(kind="lif", tau=2.0, detach_reset=False, surrogate="gauss", alpha=0.7)


def by_autograd(x, neuron):
    """Spikes (T, B) of currents (T, B), their gradient that of the surrogate's own integral, from autograd alone."""
    v, spikes = torch.zeros_like(x[0]), []
    for current in x:
        h = v + (current - v) / neuron.tau
        smooth = torch.special.ndtr((h - neuron.v_threshold) / neuron.alpha)
        spike = (h >= neuron.v_threshold).to(x.dtype) + smooth - smooth.detach()
        v = h * (1 - spike)
        spikes.append(spike)
    return torch.stack(spikes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_surrogate_that_c_lacks_runs_by_torch_s_operations_with_its_own_gradient(neuron, dtype, caplog):
    x = 1 + torch.randn(T * 50, generator=torch.Generator().manual_seed(0), dtype=dtype)
    ours, plain = x.clone().requires_grad_(), x.clone().requires_grad_()
    layer, weights = Spiking(neuron, T), torch.arange(T * 50.0, dtype=dtype)
    for _ in range(2):
        spikes = layer(ours)
    expected = by_autograd(plain.unflatten(0, (T, -1)), neuron).flatten()
    (spikes * weights).sum().backward()
    (expected * weights).sum().backward()
    assert torch.equal(spikes, expected.round()) and 0 < spikes.mean() < 1
    torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-4, atol=1e-5)
    assert caplog.messages == [
        "neurons run as single operations on 'cpu', and training is slower: native.c has no surrogate 'gauss'"
    ]


def test_the_warning_comes_once_and_provenance_names_what_runs(neuron, caplog):
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), *(Spiking(neuron, steps) for steps in (1, 2)))
    other = neuron.model_copy(update={"tau": 3.0})
    assert implementations(network) == ["loop"]
    assert implementation(torch.device("cpu"), torch.float32, other) == "loop"
    assert len(caplog.messages) == 1


def test_triton_falls_back_as_c_does(neuron):
    assert gpu.missing(neuron, torch.float32) == "kernels.py has no surrogate 'gauss'"


def test_a_surrogate_that_is_nowhere_is_refused_where_the_neuron_is_stated():
    with pytest.raises(
        ValidationError, match=r"unknown surrogate 'gaus'; expected one of: atan, rectangle, sigmoid, tri"
    ):
        config.Neuron(kind="if", surrogate="gaus", alpha=1.0)


class Adaptive(config.Neuron):
    """Neurons with a kind and a reset that nothing implements."""

    kind: Literal["if", "adaptive"]
    reset_to_mean: bool = False


NEW = {"kind": "has no kind 'adaptive'", "reset_to_mean": "does not know 'reset_to_mean' of a neuron"}


@pytest.mark.parametrize(("field", "value"), [("kind", "adaptive"), ("reset_to_mean", True)])
def test_kinds_and_fields_that_nothing_implements_are_refused(field, value):
    plain = Adaptive(kind="if", surrogate="atan", alpha=2.0)
    new = plain.model_copy(update={field: value})
    assert Spiking(plain, 1)(torch.ones(1)) == 1
    assert native.missing(new, torch.float32) == f"native.c {NEW[field]}"
    assert gpu.missing(new, torch.float32) == f"kernels.py {NEW[field]}"
    with pytest.raises(UserError, match=f"loop.py {NEW[field]}.*add it there"):
        Spiking(new, 1)

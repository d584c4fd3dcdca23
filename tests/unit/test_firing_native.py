"""Neurons in C: the same spikes as by torch's operations, whatever the sizes and threads; what lacks is told."""

import resource
import subprocess
import sys
from functools import partial

import pytest
import torch
from test_neurons import COMBINATIONS, IF_ATAN, KINDS, SURROGATES, T, bound, make, run

from bkdsnn import config
from bkdsnn.config import surrogates
from bkdsnn.models.firing import fused, loop, native
from bkdsnn.models.neurons import Spiking, implementation

pytestmark = pytest.mark.skipif(
    native.missing(IF_ATAN, torch.float32) is not None, reason=f"{native.missing(IF_ATAN, torch.float32)}"
)


@pytest.fixture
def threads():
    """Give torch another number of threads, for a while."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def both(layer, count, dtype=torch.float32):
    """Spikes and gradients of `count` neurons in C, and by torch's operations."""
    steps = 1 if layer.static else layer.timesteps
    x = 0.4 + torch.randn(steps, count, generator=torch.Generator().manual_seed(3), dtype=dtype)
    arguments = (layer.w, layer.neuron, layer.timesteps, layer.static)
    return [run(bound(fire, arguments), x, *layer.parameters()) for fire in (partial(fused.fire, native), loop.fire)]


@pytest.mark.parametrize(("kind", "name", "v_reset", "detach"), COMBINATIONS)
def test_float32_neurons_equal_the_loop(kind, name, v_reset, detach):
    folded = make(kind, name, v_reset, detach)[0].float()
    for layer in (folded, Spiking(folded.neuron, T, static=True)):
        (spikes, *gradients), (expected, *expected_gradients) = both(layer, 2500)  # two blocks and a part of one
        assert torch.equal(spikes, expected)
        for found, gradient in zip(gradients, expected_gradients, strict=True):
            error = 1e-5 * (spikes.numel() / found.numel()) ** 0.5  # of w, whose gradient sums that of all neurons
            torch.testing.assert_close(found, gradient, rtol=1e-5, atol=error)


@pytest.mark.parametrize("name", SURROGATES)
def test_surrogates_are_right_far_from_the_threshold(name):
    neuron = config.Neuron(kind="if", surrogate=name, alpha=SURROGATES[name][0])
    u = torch.cat([torch.linspace(-60, 60, 4001), torch.tensor([-1e4, 1e4])]).requires_grad_()
    fused.fire(native, u + 1, None, neuron, 1, False).sum().backward()
    expected = loop.surrogate_derivative(((u.detach() + 1) - 1).double(), neuron).float()
    torch.testing.assert_close(u.grad, expected, rtol=3e-6, atol=1e-14)


def test_every_surrogate_of_a_spec_is_in_c():
    assert tuple(surrogates.SURROGATES) == native.SURROGATES


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, native.BLOCK, 3 * native.SHARE + 17])
def test_threads_change_nothing(kind, count, threads):
    layer, results = make(kind, "atan", 0.0, True)[0].float(), []
    for number in (1, 2, 5):
        threads(number)
        (spikes, gradient, *learned), _ = both(layer, count)
        results.append((spikes, gradient, [total.double() for total in learned]))
    for spikes, gradient, learned in results[1:]:
        assert torch.equal(spikes, results[0][0]) and torch.equal(gradient, results[0][1])
        torch.testing.assert_close(learned, results[0][2], rtol=1e-6, atol=0)


def test_dtypes_that_c_does_not_have_run_the_loop():
    named = [implementation(torch.device("cpu"), dtype, IF_ATAN) for dtype in (torch.float32, torch.float16)]
    assert named == ["native", "loop"]


NO_COMPILER = ({"PATH": "/nowhere"}, "no C compiler: neither gcc, clang nor cc is installed, nor is one named in $CC")
BROKEN = ({"CC": f"{sys.executable} -c 'raise SystemExit(3)'"}, f"{sys.executable} ended with 3: no message")


@pytest.mark.parametrize(("environment", "reason"), [NO_COMPILER, BROKEN], ids=["none", "broken"])
def test_a_compiler_that_is_missing_or_fails_is_told_once(environment, reason):
    code = """
import torch
from bkdsnn.models.neurons import Spiking
from bkdsnn.config import Neuron
for surrogate in "atan", "sigmoid":
    print(Spiking(Neuron(kind="if", surrogate=surrogate, alpha=2.0), 2)(torch.ones(4, 1)).tolist())
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[[1.0], [1.0], [1.0], [1.0]]"] * 2
    (line,) = done.stderr.splitlines()
    assert f"neurons run as single operations on 'cpu', and training is slower: {reason}" in line


@pytest.mark.parametrize("times", [1, native.TRIES - 1])
def test_a_compiler_that_is_killed_is_started_again(times, tmp_path, monkeypatch):
    """As by the signal that ends a job's slice: neurons must not run otherwise in that slice than in the next."""
    script = f"""
from pathlib import Path
import os, signal, sys
count = Path({str(tmp_path / "count")!r})
count.write_text(count.read_text() + "x" if count.exists() else "x")
if len(count.read_text()) <= {times}:
    os.kill(os.getpid(), signal.SIGTERM)
os.execvp("gcc", ["gcc", *sys.argv[1:]])
"""
    (tmp_path / "compiler.py").write_text(script)
    monkeypatch.setattr(native, "compiler", lambda: [sys.executable, str(tmp_path / "compiler.py")])
    native.Library(("-DIF", "-DREAL=float", "-DDECAY=1", "-DSOFT=0", "-DDETACH=1", "-DSURROGATE=0"))
    assert len((tmp_path / "count").read_text()) == times + 1


def test_no_room_to_compile_is_an_error():
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    code = """
import torch
from bkdsnn.core.errors import UserError
from bkdsnn.models.firing import native
from bkdsnn.config import Neuron
try:
    native.missing(Neuron(kind="if", surrogate="atan", alpha=2.0), torch.float32)
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, preexec_fn=limit)
    assert done.stdout.startswith("cannot write /") and "File too large" in done.stdout
    assert done.stdout.endswith("free space or fix the permissions, then rerun\n")

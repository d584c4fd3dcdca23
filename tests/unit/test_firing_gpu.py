"""The kernels of a GPU: interpreted and compiled on any machine, and run where there is one."""

import importlib.util
import subprocess
import sys
from functools import partial

import pytest
import torch
import triton
import triton.language as tl
from test_neurons import COMBINATIONS, IF_ATAN, KINDS, SURROGATES, T, bound, currents, make, run
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from bkdsnn import config
from bkdsnn.models.firing import fused, gpu, kernels, loop
from bkdsnn.models.neurons import Spiking, implementation

COMPILED = {
    "if": IF_ATAN,
    "lif": config.Neuron(kind="lif", tau=1.75, surrogate="sigmoid", alpha=4.0),
    "plif": config.Neuron(kind="plif", surrogate="triangle", alpha=1.0),
    "leak": config.Neuron(kind="lif", decay_input=False, detach_reset=False, surrogate="rectangle", alpha=1.0),
    "soft": config.Neuron(kind="if", v_reset=None, v_init=0.5, detach_reset=False, surrogate="atan", alpha=2.0),
}


@pytest.fixture
def interpreted(monkeypatch):
    """Have Triton interpret the kernels on the CPU, where it would compile them for a GPU."""
    monkeypatch.setattr(triton.knobs.runtime, "interpret", True)
    found = importlib.util.spec_from_file_location("interpreted", kernels.__file__)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    monkeypatch.setattr(gpu, "kernels", module)


def both(layer, x):
    """Spikes and gradients by the kernels, and by the plain loop."""
    arguments = (layer.w, layer.neuron, layer.timesteps, layer.static)
    return [run(bound(fire, arguments), x, *layer.parameters()) for fire in (partial(fused.fire, gpu), loop.fire)]


@pytest.mark.parametrize(("kind", "name", "v_reset", "detach"), COMBINATIONS)
def test_interpreted_kernels_equal_the_loop(kind, name, v_reset, detach, interpreted):
    folded, _ = make(kind, name, v_reset, detach)
    for layer, steps in ((folded, T), (Spiking(folded.neuron, T, static=True).double(), 1)):
        (spikes, *gradients), (expected, *expected_gradients) = both(layer, currents(steps=steps))
        assert torch.equal(spikes, expected)
        torch.testing.assert_close(gradients, expected_gradients, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_interpreted_kernels_have_a_float32_membrane(kind, dtype, interpreted):
    layer = make(kind, "atan", 0.0, True)[0].float()
    (spikes, *gradients), _ = both(layer, currents(dtype))
    _, (expected, *expected_gradients) = both(layer, currents(dtype).float())
    assert spikes.dtype == gradients[0].dtype == dtype
    assert torch.equal(spikes.float(), expected)
    assert_near(gradients, expected_gradients, dtype, spikes.numel())


def assert_near(gradients, expected, dtype, size):
    """Gradients of `dtype` are those of float32; that of w sums those of all `size` neurons."""
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}[dtype]
    for found, gradient in zip(gradients, expected, strict=True):
        error = tolerance * (size / found.numel()) ** 0.5
        torch.testing.assert_close(found.float().cpu(), gradient, rtol=tolerance, atol=error)


def test_interpreted_kernels_keep_the_memory_layout(interpreted):
    x = currents().contiguous(memory_format=torch.channels_last)
    (spikes, gradient), (expected, expected_gradient) = both(Spiking(IF_ATAN, T).double(), x)
    assert spikes.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(spikes, expected)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-12, atol=1e-13)


def test_interpreted_kernels_take_what_is_not_dense_and_more_than_one_program(interpreted, monkeypatch):
    monkeypatch.setattr(gpu, "BLOCK", 64)
    (spikes, gradient), (expected, expected_gradient) = both(Spiking(IF_ATAN, T), currents().transpose(1, 3)[:, ::2])
    assert torch.equal(spikes, expected)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("name", COMPILED)
def test_kernels_compile_for_a_gpu(name, capability):
    """To machine code, by the compiler that a GPU's machine has; nothing runs."""
    constants = gpu.constants(fused.Run(COMPILED[name], timesteps=4, static=False))
    for kernel, more in ((kernels.forward, {}), (kernels.backward, gpu.slopes(COMPILED[name]))):
        for pointers in ("*bf16", "*fp32"):
            code = compiled(kernel, {**constants, **more}, pointers, capability)
            assert len(code["cubin"]) > 1000
            assert "fma.rn.f32" not in code["ptx"]  # a fused charge would round otherwise than the loop's


def compiled(kernel, constants, pointers, capability):
    """Compile as a launch would."""
    how = gpu.how(torch.empty(0))
    constants |= {name: how[name] for name in ("MEMBRANE", "SIZE")}
    learned = "*fp32" if constants["KIND"] == "plif" else None
    arguments = {"N": "i32", "learned": learned, "parts": learned}
    types = {name: arguments.get(name, pointers) for name in kernel.arg_names if name not in constants}
    constants |= {name: None for name, kind in types.items() if kind is None}
    signature = {name: "constexpr" if name in constants else types[name] for name in kernel.arg_names}
    options = {name: how[name] for name in ("num_warps", "enable_fp_fusion")}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options).asm


def test_membranes_are_as_wide_as_float64_currents():
    assert gpu.how(torch.empty(0, dtype=torch.float64))["MEMBRANE"] == tl.float64
    assert gpu.how(torch.empty(0, dtype=torch.bfloat16))["MEMBRANE"] == tl.float32


LACKS = {
    "compiler": ({"PATH": "/nowhere"}, "", "Triton needs a C compiler"),
    "headers": ({}, "import sysconfig; sysconfig.get_paths = lambda: {'include': '/nowhere'}", "/nowhere/Python.h"),
    "triton": ({}, "import sys; sys.modules['triton'] = None", "triton"),
}


@pytest.mark.parametrize(("environment", "first", "reason"), LACKS.values(), ids=LACKS)
def test_kernels_that_cannot_be_compiled_are_told_once(environment, first, reason):
    code = f"""
import torch
from bkdsnn.models.neurons import implementation
from bkdsnn.config import Neuron
{first}
for alpha in 1.0, 2.0:
    print(implementation(torch.device("cuda"), torch.float32, Neuron(kind="if", surrogate="atan", alpha=alpha)))
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["loop"] * 2
    (line,) = done.stderr.splitlines()
    assert "neurons run as single operations on 'cuda', and training is slower: " in line and reason in line


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.parametrize("kind", KINDS)
def test_gpu_equals_cpu_and_runs_the_kernels(kind, name, dtype, monkeypatch):
    layer, _ = make(kind, name, 0.0, True)
    assert implementation(torch.device("cuda"), dtype, layer.neuron) == "gpu"
    for static, steps in ((False, T), (True, 1)):
        on_cpu, on_gpu = Spiking(layer.neuron, T, static), Spiking(layer.neuron, T, static).cuda()
        x = currents(torch.float32, steps).to(dtype)
        with monkeypatch.context() as patched:
            patched.setattr(loop, "fire", lambda *_: pytest.fail("the loop ran"))
            spikes, *gradients = run(on_gpu, x.cuda(), *on_gpu.parameters())
        expected, *expected_gradients = run(on_cpu, x.float(), *on_cpu.parameters())
        assert spikes.dtype == dtype
        assert torch.equal(spikes.float().cpu(), expected)
        assert_near(gradients, expected_gradients, dtype, spikes.numel())

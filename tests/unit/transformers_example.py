"""Small transformers that several test files share."""

from pathlib import Path

import torch
import yaml

from bkdsnn import config
from bkdsnn.models import build
from bkdsnn.models.neurons import Spiking

ROOT = Path(__file__).resolve().parents[2]
SIZES = yaml.safe_load((ROOT / "config/networks.yaml").read_text())
LIF = config.Neuron(**yaml.safe_load((ROOT / "config/neurons.yaml").read_text())["lif-sigmoid"])
FAMILIES = {"spikformer": config.Spikformer, "spikingformer": config.Spikingformer}
TINY = {"dim": 32, "depth": 2, "heads": 4, "pools": (3, 4)}
EVERY_POOL = (1, 2, 3, 4)


def network(family, form="spiking", base=None, timesteps=4, **changes):
    """The spec of a named network, or of the tiny one, in a form; what it changes on single datasets is left out."""
    fields = {**(SIZES[base] if base else TINY), **changes}
    fields.pop("datasets", None)
    spiking = {"neuron": LIF, "timesteps": timesteps} if form == "spiking" else {}
    return FAMILIES[family](name=base or "tiny", form=form, **spiking, **fields)


def dataset(classes=10):
    return config.Dataset(
        name="data", format="cifar-binary", classes=classes, image_size=32, mean=(0, 0, 0), std=(1, 1, 1)
    )


def seeded(configuration, classes=10, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build(configuration, dataset(classes))


def lively(net, seed=1):
    """The network in float64, with norms drawn so that neurons of every layer fire, in evaluation too."""
    generator = torch.Generator().manual_seed(seed)
    net.double()
    for module in net.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.weight.data.uniform_(1.0, 2.0, generator=generator)
            module.bias.data.uniform_(0.0, 1.0, generator=generator)
            module.momentum = 0.9
    return net


def images(batch=2, size=16, dtype=torch.float32):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=dtype)


def fired(net, x):
    """Outputs of all layers of neurons by name, and the features."""
    outputs = {}
    for name, module in net.named_modules():
        if isinstance(module, Spiking):
            module.register_forward_hook(lambda _, __, output, name=name: outputs.update({name: output.detach()}))
    return outputs, net(x, taps=net.taps).features


def cancelled(name):
    """Whether a parameter is the bias of a convolution whose norm subtracts it again."""
    return name.endswith(("qkv.0.bias", "project.0.bias", "mlp.0.0.bias", "mlp.2.0.bias"))


def compare(ours, reference, x, pairs, repeated):
    """Assert equal logits, gradients and running statistics in training, and equal logits in evaluation.

    `pairs(state)` yields, for each tensor of the reference, its name and the tensor of `state`, which has our names.
    """
    from spikingjelly.activation_based import functional

    expected, logits = reference(repeated), ours(x).logits
    assert expected.std() > 0.01
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-11)
    for output in (expected, logits):
        output.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in ours.named_parameters()}
    theirs = dict(reference.named_parameters())
    for name, gradient in pairs(gradients):
        torch.testing.assert_close(gradient, theirs[name].grad.reshape(gradient.shape), rtol=1e-6, atol=1e-9)
    buffers = dict(reference.named_buffers())
    for name, buffer in pairs(dict(ours.named_buffers())):
        torch.testing.assert_close(buffer, buffers[name], rtol=1e-9, atol=1e-12)
    functional.reset_net(reference)
    with torch.no_grad():
        expected, logits = reference.eval()(repeated), ours.eval()(x).logits
    assert expected.std() > 0.01
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-11)

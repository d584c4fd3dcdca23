"""The residual networks: geometry, agreement with reference implementations, behaviour in time."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch.nn.functional import cross_entropy
from trained_example import cifar10_test, trained_resnet20

from bkdsnn import config
from bkdsnn.core.errors import UserError
from bkdsnn.models import build, count_parameters, feature_shapes
from bkdsnn.models.neurons import Spiking
from bkdsnn.models.resnet import PadShortcut, Projection

ROOT = Path(__file__).resolve().parents[2]
NETWORKS = yaml.safe_load((ROOT / "config/networks.yaml").read_text())
NEURONS = {
    name: config.Neuron(**fields)
    for name, fields in yaml.safe_load((ROOT / "config/neurons.yaml").read_text()).items()
    if name not in ("lif-sigmoid", "lif-sigmoid-events", "plif-atan")  # of other families
}
FORMS = ("ann", "spiking", "sew", "qcfs", "qcfs-snn")
TINY = {"stem_width": 4, "block": "basic", "blocks": (1, 2), "widths": (4, 8)}


def network(form, base=None, timesteps=3, neuron="if-atan", **changes):
    """The spec of a named network, or of the tiny one, in a form."""
    fields = {**(NETWORKS[base] if base else TINY | {"stem": "cifar"}), **changes}
    if form in ("spiking", "sew"):
        fields["neuron"] = NEURONS[neuron]
    if form.startswith("qcfs"):
        fields["quantised"] = config.Quantised(levels=4, init=2.0)
    spiking = form in ("spiking", "sew", "qcfs-snn")
    return config.ResNet(name=base or "tiny", form=form, timesteps=timesteps if spiking else 1, **fields)


def dataset(classes=10):
    return config.Dataset(
        name="data", format="cifar-binary", classes=classes, image_size=32, mean=(0, 0, 0), std=(1, 1, 1)
    )


def seeded(configuration, classes=10, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build(configuration, dataset(classes))


def copied(configuration, reference):
    """Our network in float64 with the weights of another."""
    with torch.device("meta"):  # draws no weights
        net = build(configuration, dataset())
    net.to_empty(device="cpu").double().load_state_dict(reference.state_dict())
    return net


def images(batch=2, size=32, dtype=torch.float32):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=dtype)


# --- geometry -------------------------------------------------------------------------------------------------------

COUNTS = [
    ("resnet18", 1000, "conv", 11_689_512),
    ("resnet34", 1000, "conv", 21_797_672),
    ("resnet50", 1000, "conv", 25_557_032),
    ("resnet19", 10, "conv", 12_630_858),
    ("resnet19", 100, "conv", 12_653_988),
    ("resnet20", 10, "conv", 272_474),
    ("resnet20", 100, "conv", 278_324),
    ("resnet20", 10, "pad", 269_722),
]


@pytest.mark.parametrize("form", ["ann", "spiking", "sew"])
@pytest.mark.parametrize(("base", "classes", "shortcut", "expected"), COUNTS)
def test_parameter_counts_equal_the_published_ones(base, classes, shortcut, expected, form):
    with torch.device("meta"):
        net = build(network(form, base, shortcut=shortcut), dataset(classes))
    assert count_parameters(net) == expected


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
@pytest.mark.parametrize("form", FORMS)
def test_shapes_over_time(form, stem):
    for timesteps in range(1, 5) if form in ("spiking", "sew", "qcfs-snn") else (1,):
        net = seeded(network(form, timesteps=timesteps, stem=stem), classes=7)
        outputs = net(images(size=16), taps=net.taps)
        shapes = feature_shapes(net, 16)
        assert outputs.logits.shape == (timesteps, 2, 7)
        assert list(outputs.features) == list(shapes) == ["stage1", "stage2"] == list(net.taps)
        for tap, feature in outputs.features.items():
            assert feature.shape == (timesteps, 2, *shapes[tap])


def test_stages_halve_the_image_but_for_the_first():
    for base, expected in (
        ("resnet20", {"stage1": (16, 32, 32), "stage2": (32, 16, 16), "stage3": (64, 8, 8)}),
        ("resnet19", {"stage1": (128, 32, 32), "stage2": (256, 16, 16), "stage3": (512, 8, 8)}),
    ):
        assert feature_shapes(seeded(network("ann", base)), 32) == expected
    assert feature_shapes(seeded(network("ann", "resnet50")), 64)["stage4"] == (2048, 2, 2)


def test_feature_shapes_leaves_no_trace():
    net = seeded(network("sew"))
    net.bn1.eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    modes, generator = [module.training for module in net.modules()], torch.get_rng_state()
    feature_shapes(net, 16)
    assert modes == [module.training for module in net.modules()]
    assert torch.equal(generator, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_features_are_only_those_asked_for():
    net = seeded(network("sew"))
    assert list(net(images(), taps=["stage2"]).features) == ["stage2"]
    assert net(images()).features == {}
    with pytest.raises(UserError, match=r"unknown tap 'stage3' .*expected one of: stage1, stage2"):
        net(images(), taps=["stage3"])


@pytest.mark.parametrize("form", FORMS)
def test_pooled_is_the_mean_of_the_last_feature(form):
    net = seeded(network(form, hidden=6))
    outputs = net(images(size=16), taps=["stage2"])
    assert outputs.pooled.shape == (net.timesteps, 2, 8)
    assert outputs.pooled.std() > 0
    torch.testing.assert_close(outputs.pooled, outputs.features["stage2"].mean((-2, -1)))
    assert outputs.distilled is None


# --- agreement with reference implementations -----------------------------------------------------------------------


def zoo(form, depth):
    """spikingjelly's network, equal to the authors' reference, with the neuron of `if-atan`."""
    from spikingjelly.activation_based import functional, neuron, surrogate
    from spikingjelly.activation_based.model import sew_resnet, spiking_resnet

    options = {"spiking_neuron": neuron.IFNode, "surrogate_function": surrogate.ATan(2.0), "detach_reset": True}
    family = {"sew": sew_resnet, "spiking": spiking_resnet}[form]
    if form == "sew":
        options["cnf"] = "ADD"
    net = getattr(family, f"{form}_resnet{depth}")(num_classes=10, **options)
    functional.set_step_mode(net, "m")
    return net.double()


@pytest.mark.parametrize("depth", [18, 34, 50])
@pytest.mark.parametrize("form", ["sew", "spiking"])
def test_equals_spikingjelly_zoo(form, depth):
    from spikingjelly.activation_based import functional

    with torch.random.fork_rng():
        torch.manual_seed(3)
        reference = zoo(form, depth)
    ours = copied(network(form, f"resnet{depth}", timesteps=4), reference)
    x = images(dtype=torch.float64)
    repeated = x.expand(4, *x.shape)
    ours_loss, reference_loss = (logits.square().mean() for logits in (ours(x).logits, reference(repeated)))
    torch.testing.assert_close(ours_loss, reference_loss, rtol=1e-9, atol=0)
    expected = dict(
        zip(dict(reference.named_parameters()), torch.autograd.grad(reference_loss, reference.parameters()))
    )
    gradients = dict(zip(dict(ours.named_parameters()), torch.autograd.grad(ours_loss, ours.parameters())))
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-6, atol=1e-9 * float(expected[name].abs().max()))
    functional.reset_net(reference)
    ours.load_state_dict(reference.state_dict())
    with torch.no_grad():
        logits = ours.eval()(x).logits
        torch.testing.assert_close(logits, reference.eval()(repeated), rtol=1e-9, atol=1e-12)
    assert logits.std() > 0


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_equals_torchvision(depth):
    import torchvision

    with torch.random.fork_rng():
        torch.manual_seed(3)
        reference = getattr(torchvision.models, f"resnet{depth}")(num_classes=10).double()
    ours = copied(network("ann", f"resnet{depth}"), reference)
    x = images(size=64, dtype=torch.float64)
    for mode in (True, False):
        logits = ours.train(mode)(x).logits
        torch.testing.assert_close(logits[0], reference.train(mode)(x), rtol=1e-8, atol=1e-10)


def test_published_weights_classify_real_images(samples):
    net, (images, labels) = trained_resnet20(samples), cifar10_test(samples)
    with torch.no_grad():
        predicted = net(images).logits[0].argmax(1)
    assert len(predicted) == 1017
    assert (predicted == labels).float().mean() > 0.9


@pytest.mark.parametrize("stride", [1, 2])
def test_projection_is_the_convolution_of_torch(stride):
    torch.manual_seed(0)
    ours = Projection(5, 7, 1, stride, bias=False).double()
    plain = torch.nn.Conv2d(5, 7, 1, stride, bias=False).double()
    plain.load_state_dict(ours.state_dict())
    for size in (8, 9):
        x = torch.randn(3, 5, size, size, dtype=torch.float64, requires_grad=True)
        y = torch.randn(plain(x).shape, dtype=torch.float64)
        for a, b in zip(
            torch.autograd.grad((ours(x) * y).sum(), (x, ours.weight)),
            torch.autograd.grad((plain(x) * y).sum(), (x, plain.weight)),
        ):
            torch.testing.assert_close(a, b)


def test_projection_of_few_channels_writes_where_it_may():
    """With the convolution of torch, glibc stops this process, or it dies otherwise."""
    probe = """
import torch
from bkdsnn.models.resnet import Projection
x = torch.randn(32, 4, 64, 64).to(memory_format=torch.channels_last)
layer = Projection(4, 8, 1, 2, bias=False).to(memory_format=torch.channels_last)
for _ in range(20):
    layer(x).sum().backward()
    kept = [torch.empty(size) for size in (10, 100, 1000, 5000, 20000)]
"""
    ended = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_pad_shortcut_takes_every_second_pixel_and_pads_both_sides():
    x = torch.arange(32.0).view(1, 2, 4, 4)
    padded = PadShortcut(extra=3, stride=2)(x)
    assert padded[0, 1:3].tolist() == [[[0, 2], [8, 10]], [[16, 18], [24, 26]]]
    assert padded.shape == (1, 5, 2, 2)
    assert padded[0, [0, 3, 4]].abs().sum() == 0


# --- behaviour --------------------------------------------------------------------------------------------------------


def fired(net, x):
    """Outputs of all layers of neurons, by name."""
    outputs = {}
    for name, module in net.named_modules():
        if isinstance(module, Spiking):
            module.register_forward_hook(lambda _, __, output, name=name: outputs.update({name: output.detach()}))
    features = net(x, taps=net.taps).features
    return outputs, features


@pytest.mark.parametrize("form", ["spiking", "sew"])
def test_neurons_emit_spikes_and_features_are_what_the_form_says(form):
    outputs, features = fired(seeded(network(form)), images(size=16))
    assert len(outputs) == {"spiking": 7, "sew": 8}[form]  # stem, two per block; SEW: one on the projection
    for name, spikes in outputs.items():
        assert set(spikes.unique().tolist()) == {0.0, 1.0}, name
    for feature in features.values():
        assert torch.equal(feature, feature.round())
        assert feature.min() == 0
        assert (feature.max() > 1) == (form == "sew")


HIDDEN = {"ann": [0.4], "spiking": [0, 0, 1], "sew": [0, 0, 1], "qcfs": [0.5], "qcfs-snn": [0, 0, 2]}


@pytest.mark.parametrize("form", FORMS)
def test_hidden_layer_has_its_own_activation(form):
    net = seeded(network(form, hidden=6))
    torch.nn.init.zeros_(net.hidden[0].weight)
    torch.nn.init.constant_(net.hidden[0].bias, 0.4)
    seen = []
    net.fc.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    net(images(size=16))
    expected = torch.tensor(HIDDEN[form]).repeat_interleave(2).unsqueeze(1).expand(-1, 6)  # T*B, hidden
    torch.testing.assert_close(seen[0], expected.float())


def test_qcfs_neurons_emit_spikes_of_height_theta():
    _, features = fired(seeded(network("qcfs-snn")).eval(), images(size=16))
    assert set(features["stage2"].unique().tolist()) == {0.0, 2.0}


@pytest.mark.parametrize("form", ["spiking", "sew", "qcfs-snn"])
def test_stem_runs_once_per_image(form):
    net = seeded(network(form, timesteps=4))
    batches = {}
    for name in ("conv1", "bn1", "layer1.0.conv1"):
        net.get_submodule(name).register_forward_hook(
            lambda _, inputs, __, name=name: batches.update({name: len(inputs[0])})
        )
    net(images())
    assert batches == {"conv1": 2, "bn1": 2, "layer1.0.conv1": 8}


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
@pytest.mark.parametrize(
    ("form", "neuron"),
    [("ann", ""), ("qcfs", ""), *(("sew", name) for name in NEURONS), *(("spiking", name) for name in NEURONS)],
)
def test_every_parameter_gets_a_finite_gradient_and_learns(form, neuron, stem):
    net = seeded(network(form, stem=stem, neuron=neuron, norm="tdbn" if neuron == "tdbn-lif" else "bn"))
    x, labels = images(batch=16, size=16), torch.arange(16) % 10
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    losses, moved = [], set()
    for _ in range(25):
        optimizer.zero_grad()
        loss = cross_entropy(net(x).logits.mean(0), labels)
        loss.backward()
        for name, parameter in net.named_parameters():
            assert parameter.grad.isfinite().all(), name
            moved |= {name} if parameter.grad.abs().sum() > 0 else set()
        optimizer.step()
        losses.append(loss.item())
    assert moved == {name for name, _ in net.named_parameters()}
    assert losses[-1] < 0.8 * losses[0]


def test_convolutions_are_drawn_as_by_the_reference():
    """Normal with variance 2 / fan-out."""
    net = seeded(network("sew", "resnet19"))
    for name, fan_out in (("layer1.0.conv1", 9 * 128), ("layer2.0.conv1", 9 * 256), ("layer2.0.downsample.0", 256)):
        weight = net.get_submodule(name).weight.detach()
        assert float(weight.std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.02), name


def test_residual_branches_of_imagenet_spiking_resnets_begin_at_zero():
    net = seeded(network("spiking", "resnet50"))
    for name, module in net.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.weight.unique().tolist() == [0.0 if name.endswith("bn3") else 1.0], name
    for form, base in (("sew", "resnet18"), ("ann", "resnet18"), ("spiking", "resnet20")):
        norms = [m for m in seeded(network(form, base)).modules() if isinstance(m, torch.nn.BatchNorm2d)]
        assert all(bool((norm.weight == 1).all()) for norm in norms)


def test_tdbn_scales_norms_by_the_threshold():
    net = seeded(network("spiking", "resnet19", neuron="tdbn-lif", norm="tdbn"))
    scales = {name: float(net.get_submodule(name).weight[0].detach()) for name in ("bn1", "layer2.0.bn1")}
    assert scales == {"bn1": 0.5, "layer2.0.bn1": 0.5}
    for name in ("layer2.0.bn2", "layer2.0.downsample.1", "layer3.1.bn2"):
        assert float(net.get_submodule(name).weight[0].detach()) == pytest.approx(0.5 / 2**0.5)
    with pytest.raises(UserError, match=r"network 'resnet19': norm 'tdbn' needs a neuron, form 'ann' has none"):
        build(network("ann", "resnet19", norm="tdbn"), dataset())


def test_same_seed_same_network_same_outputs():
    first, second, other = (seeded(network("sew"), seed=seed) for seed in (5, 5, 6))
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values()))
    assert torch.equal(first(images()).logits, second(images()).logits)
    assert not torch.equal(first.conv1.weight, other.conv1.weight)


def test_forms_share_their_initial_weights():
    ann, sew = (seeded(network(form)).state_dict() for form in ("ann", "sew"))
    assert list(ann) == list(sew)
    assert all(torch.equal(ann[name], sew[name]) for name in ann)


def test_training_imports_no_heavy_package():
    probe = (
        "import sys, torch; from bkdsnn import config, models;"
        "data = config.Dataset(name='x', format='cifar-binary', classes=3, "
        "image_size=8, mean=(0, 0, 0), std=(1, 1, 1));"
        "neuron = config.Neuron(kind='if', surrogate='atan', alpha=2.0);"
        "net = models.build(config.ResNet(name='x', form='sew', stem='cifar', stem_width=4, block='basic', blocks=(1,),"
        " widths=(4,), neuron=neuron, timesteps=2), data);"
        "net(torch.zeros(1, 3, 8, 8)).logits.sum().backward();"
        "print({'torchvision', 'timm', 'spikingjelly', 'pandas', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "set()"

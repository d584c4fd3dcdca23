"""A family of networks from outside: what it must state, and that it is refused, by name, where it does not."""

from typing import ClassVar, Literal

import pytest
import torch
from torch import nn
from torch.nn import functional

from bkdsnn import config
from bkdsnn.analysis import energy
from bkdsnn.analysis.activity import count_activity
from bkdsnn.analysis.cams import Cams
from bkdsnn.analysis.completeness import check_counted
from bkdsnn.config import paper
from bkdsnn.config.networks import Architecture
from bkdsnn.core.errors import UserError
from bkdsnn.models import count_parameters, feature_shapes
from bkdsnn.models.folded import Folded
from bkdsnn.models.neurons import Spiking
from bkdsnn.models.outputs import Attended

T, SIZE = 2, 8
NEURON = config.Neuron(kind="if", surrogate="atan", alpha=2.0)


class Options(Architecture):
    """Options of the toy family."""

    fires: ClassVar[frozenset[str]] = frozenset({"spiking"})
    family: Literal["toy"] = "toy"
    form: Literal["spiking", "ann"] = "spiking"


class Attention(nn.Module):
    """q k^T v of one head, whose q, k and v are spikes of one layer."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Conv2d(4, 12, 1, bias=False)
        self.neuron, self.mixed = Spiking(NEURON, T), Spiking(NEURON, T)

    def forward(self, x):
        q, k, v = self.neuron(self.qkv(x)).flatten(2).mT.chunk(3, 2)
        return self.mixed((q @ (k.mT @ v)).mT.reshape(x.shape))


class Toy(Folded):
    """A convolution, neurons, a block, a head; `extra` lies behind the block."""

    last_layer = "head"
    taps = ("block",)

    def __init__(self, extra=None):
        super().__init__()
        self.timesteps = T
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), Spiking(NEURON, T, static=True))
        self.block, self.extra = nn.Sequential(nn.Conv2d(4, 4, 1), Spiking(NEURON, T)), extra
        self.head = nn.Linear(4, 10)

    def mac_layers(self):
        return {"stem.0": 3}

    def segments(self):
        return [(self.block, "forward")]

    def enter(self, x):
        return self.stem(x)

    def chain(self):
        return [("block", self.block), *([("extra", self.extra)] if self.extra else [])]


class Attending(Toy):
    """The toy with an attention, which it states."""

    def __init__(self):
        super().__init__()
        self.block = Attention()

    def attentions(self):
        layers = {part: (self.block.neuron, third) for third, part in enumerate("qkv")}
        return {"block": Attended(self.block, {**layers, "attention": (self.block.mixed, None)}, 1, True)}


class Loader:
    """Two test images."""

    test_size = 2

    def test(self):
        images = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
        yield 3 * images, torch.tensor([1, 2])


def measured(network):
    spec = paper.plan("table2a", "smoke").cell("sew-resnet", "resnet20-cifar10").runs[0]
    fields = {"dataset": spec.dataset.model_copy(update={"image_size": SIZE})}
    fields["network"] = spec.network.model_copy(update={"timesteps": T})  # of it the measurement takes T alone
    torch.manual_seed(0)
    return count_activity(spec.model_copy(update=fields), network, Loader())


def test_a_family_whose_options_do_not_say_when_it_fires_is_refused_as_it_is_defined():
    with pytest.raises(TypeError, match=r"family Silent must state `fires: ClassVar\[frozenset\[str\]\]`, the values"):

        class Silent(Architecture):
            family: Literal["silent"] = "silent"


def test_options_that_say_it_have_form_time_and_slug():
    toy = Options(name="toy-4", timesteps=T)
    assert (toy.spiking, toy.slug, toy.model_copy(update={"form": "ann"}).spiking) == (True, "toy-4", False)


@pytest.mark.parametrize("missing", ["mac_layers", "segments", "enter"])
def test_a_network_that_leaves_a_statement_out_cannot_be_built(missing):
    class Partial(Toy):
        """The toy as it would be without one method."""

    members = {name: value for name, value in vars(Toy).items() if name != missing and not name.startswith("_abc")}
    partial = type("Partial", (Folded,), {**members, "__init__": lambda self: Folded.__init__(self)})
    with pytest.raises(TypeError, match=f"abstract class Partial with abstract method {missing}"):
        partial()


def test_a_family_that_states_all_passes_through_every_analysis():
    network = Toy()
    found = measured(network)
    stem, block, head = found.layers
    assert (stem.macs, block.macs, head.macs) == (3 * 9 * 4 * SIZE**2, 4 * 4 * SIZE**2, 40)
    assert energy.paper(found) == (3 * stem.macs, block.rate * T * block.macs + head.rate * T * head.macs)
    assert 0 < block.rate < 1 and block.binary and set(found.neurons) == {"stem.1", "block.1"}
    assert feature_shapes(network, SIZE) == {"block": (4, SIZE, SIZE)} and count_parameters(network) == 108 + 20 + 50
    images, labels = next(Loader().test())
    assert Cams(network, network.taps).of(images, labels).maps.shape == (2, 1, SIZE, SIZE)


def test_an_attention_that_is_stated_is_counted_and_one_that_is_not_is_refused():
    products = [layer for layer in measured(Attending()).layers if layer.kind == "attention"]
    assert {layer.name: layer.macs for layer in products} == dict.fromkeys(("block:kv", "block:q(kv)"), 4 * 4 * SIZE**2)

    class Unsaid(Attending):
        attentions = Toy.attentions

    with pytest.raises(
        UserError, match=rf"'block' of Unsaid multiplies {T * 80 * SIZE**2} times .*{T * 48 * SIZE**2} are"
    ):
        measured(Unsaid())


class Own(nn.Module):
    """A linear map whose weights are its own, not those of a layer of torch."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4))

    def forward(self, x):
        return functional.conv2d(x, self.weight[..., None, None])


REFUSED = {
    "own": (Own(), r"module 'extra' of Toy is a Own, whose weights are in no count .* or name it in 'uncounted'"),
    "transposed": (nn.Sequential(nn.ConvTranspose2d(4, 4, 1)), r"module 'extra\.0' of Toy is a ConvTranspose2d"),
}


@pytest.mark.parametrize(("extra", "message"), REFUSED.values(), ids=REFUSED)
def test_layers_that_nothing_counts_are_refused_by_name(extra, message):
    with pytest.raises(UserError, match=message):
        measured(Toy(extra))


def test_a_layer_said_to_cost_nothing_must_multiply_with_nothing():
    class Free(Toy):
        def uncounted(self):
            return [self.extra]

    with pytest.raises(
        UserError, match=rf"module 'extra' of Free multiplies {T * 16 * SIZE**2} times .* of which 0 are"
    ):
        check_counted(Free(Own()), SIZE)


def test_a_layer_that_is_counted_as_the_first_must_be_one():
    class Elsewhere(Toy):
        def mac_layers(self):
            return {"stem": 1}

    with pytest.raises(UserError, match=r"unknown layer 'stem' in 'mac_layers' of Elsewhere.*stem\.0"):
        measured(Elsewhere())

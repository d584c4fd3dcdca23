"""Operations and energy: the paper's rows from paper-scale networks, and both countings by hand."""

import csv
import functools
import io

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bkdsnn import models
from bkdsnn.analysis import energy
from bkdsnn.analysis.activity_records import Activity, Feature, LayerActivity
from bkdsnn.analysis.counts import counting
from bkdsnn.analysis.energy import Constants, Operations
from bkdsnn.config import Neuron, paper
from bkdsnn.models.neurons import Spiking

FEATURE = Feature(tap="stage4", mean=0.1, nonzero=0.1, binary=True, integer=True)


def activity(layers, family="resnet", spiking=True, timesteps=4):
    """An activity whose first and last layer count as those of a network of that family do."""
    return Activity(
        run="r", spec="d", mac_layers=stated(family, timesteps, layers[0].name, layers[-1].name),
        spiking=spiking, timesteps=timesteps, test_images=1, top1=0.0,
        feature=FEATURE, blocks=[], neurons={}, layers=layers,
    )  # fmt: skip


@functools.cache
def stated(family, timesteps, first, last):
    """What the smallest spiking network of a family says of its first and last layer, here by other names."""
    runs = paper.all_runs("smoke", seeds=[0]).values()
    spec = next(run for run in runs if run.network.family == family and run.network.spiking)
    network = models.build(spec.network.model_copy(update={"timesteps": timesteps}), spec.dataset)
    return {last if name == network.last_layer else first: times for name, times in network.mac_layers().items()}


@pytest.fixture(scope="module")
def at_paper_scale():
    """Layers of an untrained network of table 5b at the paper's size, by one image of noise; a function of the row."""
    plan = paper.plan("table5b", "paper", seeds=[0])
    known = {}

    def measure(row):
        if row not in known:
            spec = plan.cell(row, "operations").runs[0]
            network = models.build(spec.network, spec.dataset).eval()
            with torch.inference_mode(), counting(network) as counts, FlopCounterMode(display=False) as flops:
                network(torch.randn(1, 3, 224, 224))
            shape = (spec.network.family, spec.network.spiking, spec.network.timesteps)
            measured = activity(counts.layers(images=1), *shape)
            known[row] = measured.model_copy(update={"mac_layers": network.mac_layers()}), flops.get_total_flops() / 2
        return known[row]

    return measure


def with_sops(found: Activity, sops: float) -> Activity:
    """The activity with one rate for all layers, such that the SOPS are `sops`."""
    full = [layer.model_copy(update={"rate": 1.0}) for layer in found.layers]
    rate = sops / energy.paper(found.model_copy(update={"layers": full})).acs
    assert 0 < rate < 1
    return found.model_copy(update={"layers": [layer.model_copy(update={"rate": rate}) for layer in full]})


@pytest.mark.parametrize(
    ("row", "sops", "first", "printed"),
    [
        ("sew-resnet50", 4.83e9, 118_013_952, "4.89"),
        ("sformer-8-768", 12.54e9, 4 * 130_056_192 + 768_000, "13.68"),
    ],
)
def test_the_paper_s_snn_rows_from_its_sops(at_paper_scale, row, sops, first, printed):
    found = with_sops(at_paper_scale(row)[0], sops)
    total = energy.paper(found)
    assert total.macs == first
    assert total.acs == pytest.approx(sops)
    assert f"{total.millijoules(Constants()):.2f}" == printed


@pytest.mark.parametrize(
    ("row", "flops", "tolerance", "millijoules"),
    [("resnet50", 4.12, 0.02, 18.95), ("transformer-8-768", 18.60, 0.1, 85.56)],
)
def test_the_paper_s_ann_rows_within_the_spread_of_counters(at_paper_scale, row, flops, tolerance, millijoules):
    total = energy.paper(at_paper_scale(row)[0])
    assert total.acs == 0
    assert total.macs / 1e9 == pytest.approx(flops, abs=tolerance)
    assert total.millijoules(Constants()) == pytest.approx(millijoules, abs=tolerance * 4.6)


def test_multiply_accumulates_are_those_that_torch_counts(at_paper_scale):
    found, flops = at_paper_scale("resnet50")
    assert sum(layer.macs * layer.passes for layer in found.layers if layer.kind != "norm") == flops
    found, flops = at_paper_scale("sew-resnet50")
    assert {layer.passes for layer in found.layers if layer.name == "conv1"} == {1}
    assert {layer.passes for layer in found.layers if layer.kind != "norm" and layer.name != "conv1"} == {4}
    assert sum(layer.macs * layer.passes for layer in found.layers if layer.kind != "norm") == flops


def test_products_of_attention_take_the_cheaper_order(at_paper_scale):
    tokens, width, heads = 196, 768, 8
    found, _ = at_paper_scale("sformer-8-768")
    assert {layer.macs for layer in found.layers if layer.kind == "attention"} == {tokens * width * width // heads}
    found, _ = at_paper_scale("transformer-8-768")  # softmax stands between its products
    assert {layer.macs for layer in found.layers if layer.kind == "attention"} == {tokens * tokens * width}


LAYERS = [
    LayerActivity(name="conv1", kind="conv", macs=1000, passes=1, rate=0.9, binary=False, integer=False),
    LayerActivity(name="bn1", kind="norm", macs=50, passes=1, rate=1.0, binary=False, integer=False),
    LayerActivity(name="a", kind="conv", macs=100, passes=4, rate=0.25, binary=True, integer=True),
    LayerActivity(name="b", kind="conv", macs=200, passes=4, rate=0.5, binary=False, integer=True),
    LayerActivity(name="x:kv", kind="attention", macs=40, passes=4, rate=0.1, binary=True, integer=True),
    LayerActivity(name="head", kind="linear", macs=10, passes=4, rate=0.8, binary=False, integer=False),
]


def test_countings_by_hand():
    resnet, sformer = activity(LAYERS), activity(LAYERS, "spikingformer")
    assert energy.paper(resnet) == pytest.approx((1000, 0.25 * 4 * 100 + 0.5 * 4 * 200 + 0.8 * 4 * 10))
    assert energy.paper(sformer) == pytest.approx((4 * 1000 + 10, 0.25 * 4 * 100 + 0.5 * 4 * 200))
    assert energy.strict(resnet) == pytest.approx((1000 + 4 * 200 + 4 * 10, 0.25 * 4 * 100 + 0.1 * 4 * 40))


@pytest.mark.parametrize(
    ("family", "macs"),
    [("resnet", 1000), ("meta-spikeformer", 4000), ("wide-7b", 4000), ("spikformer", 4010), ("spikingformer", 4010)],
)
def test_the_first_layer_is_counted_as_each_family_runs_it(family, macs):
    assert energy.paper(activity(LAYERS, family)).macs == macs


class Tiny(models.Network):
    """One pixel map of four, two steps: neurons, a convolution to two channels, a sum of spikes, a head."""

    taps = ("sum",)
    last_layer = "head"

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 1, 1, bias=False)
        self.neuron = Spiking(Neuron(kind="if", surrogate="atan", alpha=2.0), timesteps=2, static=True)
        self.conv = nn.Conv2d(1, 2, 1, bias=False)
        self.sum = nn.Identity()
        self.head = nn.Linear(8, 1)
        for layer in (self.stem, self.conv):
            nn.init.ones_(layer.weight)

    def forward(self, images, taps=()):
        spikes = self.neuron(self.stem(images))
        doubled = self.sum(self.conv(spikes) + spikes)
        return models.Outputs(self.head(doubled.flatten(1)).unflatten(0, (2, -1)), {}, doubled)

    def segments(self):
        return [(self.conv, "forward")]

    def mac_layers(self):
        return {"stem": 1}


def test_a_tiny_network_by_hand():
    network = Tiny()
    with torch.no_grad(), counting(network) as counts:
        network(torch.tensor([[[[0.0, 1.0], [2.5, 3.0]]]]))  # all but the first pixel fire at both steps
    found = activity(counts.layers(images=1), timesteps=2)
    stem, conv, head = found.layers
    assert counts.neurons() == {"neuron": 0.75}
    assert (stem.macs, stem.passes, stem.rate, stem.binary, stem.integer) == (4, 1, 0.75, False, False)
    assert (conv.macs, conv.passes, conv.rate, conv.binary, conv.integer) == (8, 2, 0.75, True, True)
    assert (head.macs, head.passes, head.rate, head.binary, head.integer) == (8, 2, 0.75, False, True)  # 0 or 2
    assert energy.paper(found) == (4, 0.75 * 2 * 8 + 0.75 * 2 * 8)
    assert energy.strict(found) == (4 + 2 * 8, 0.75 * 2 * 8)
    assert energy.paper(found).millijoules(Constants()) == pytest.approx(40.0e-9)
    assert energy.strict(found).millijoules(Constants()) == pytest.approx(102.8e-9)


def test_an_ann_has_no_accumulates():
    layers = [layer.model_copy(update={"passes": 1, "binary": False}) for layer in LAYERS]
    ann = activity(layers, spiking=False, timesteps=1)
    assert energy.paper(ann) == Operations(macs=1000 + 2 * 50 + 100 + 200 + 10)
    assert energy.strict(ann) == Operations(macs=1000 + 100 + 200 + 40 + 10)


def test_energy_is_that_of_its_constants():
    assert Operations(2e9, 3e9).millijoules(Constants(4.6, 0.9)) == pytest.approx(2 * 4.6 + 3 * 0.9)
    assert Operations(2e9, 3e9).millijoules(Constants(1.0, 0.0)) == pytest.approx(2)


def test_the_layers_of_the_csv_add_up_to_the_totals():
    found = activity(LAYERS)
    other = found.model_copy(update={"run": "other"})
    both = list(csv.DictReader(io.StringIO(energy.layers_csv([found, other], Constants()))))
    assert [(line["run"], line["layer"]) for line in both] == [
        (run, one.name) for run in ("r", "other") for one in LAYERS
    ]
    lines = both[: len(LAYERS)]
    third = LAYERS[2].model_copy(update={"rate": 1 / 3})
    line = list(csv.DictReader(io.StringIO(energy.layers_csv([activity([*LAYERS[:2], third])], Constants()))))[2]
    assert float(line["input_rate"]) == 1 / 3 and float(line["paper_acs"]) == 1 / 3 * 4 * 100  # not rounded
    assert (line["input_binary"], line["input_integer"], line["macs_per_pass"], line["passes"]) == (
        "true",
        "true",
        "100",
        "4",
    )
    for name, total in (("paper", energy.paper(found)), ("strict", energy.strict(found))):
        assert sum(float(line[f"{name}_macs"]) for line in lines) == pytest.approx(total.macs)
        assert sum(float(line[f"{name}_acs"]) for line in lines) == pytest.approx(total.acs)
        assert sum(float(line[f"{name}_nj"]) for line in lines) == pytest.approx(1e6 * total.millijoules(Constants()))

"""Operations and energy: the paper's rows from paper-scale networks, and both countings by hand."""

import csv
import io

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bkdsnn import models, paper
from bkdsnn.analysis import energy
from bkdsnn.analysis.activity import Counts
from bkdsnn.analysis.energy import Constants, Operations
from bkdsnn.analysis.records import Activity, Feature, Layer

FEATURE = Feature(tap="stage4", mean=0.1, nonzero=0.1, binary=True)


def activity(layers, family="resnet", spiking=True, timesteps=4):
    return Activity(
        run="r", spec="d", family=family, spiking=spiking, timesteps=timesteps, test_images=1, top1=0.0,
        feature=FEATURE, blocks=[], neurons={}, layers=layers,
    )  # fmt: skip


@pytest.fixture(scope="module")
def at_paper_scale():
    """Layers of an untrained network of table 5b at the paper's size, by one image of noise; a function of the row."""
    plan = paper.plan("table5b", "paper", seeds=[0])
    known = {}

    def measure(row):
        if row not in known:
            spec = plan.cell(row, "operations").runs[0]
            network = models.build(spec.network, spec.dataset).eval()
            counts = Counts(network)
            counts.images = 1
            with torch.inference_mode(), FlopCounterMode(display=False) as flops:
                network(torch.randn(1, 3, 224, 224))
            counts.remove()
            shape = (spec.network.family, spec.network.spiking, spec.network.timesteps)
            known[row] = activity(counts.layers(), *shape), flops.get_total_flops() / 2
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
    Layer(name="conv1", kind="conv", macs=1000, passes=1, rate=0.9, binary=False),
    Layer(name="bn1", kind="norm", macs=50, passes=1, rate=1.0, binary=False),
    Layer(name="a", kind="conv", macs=100, passes=4, rate=0.25, binary=True),
    Layer(name="b", kind="conv", macs=200, passes=4, rate=0.5, binary=False),
    Layer(name="x.first", kind="attention", macs=40, passes=4, rate=0.1, binary=True),
    Layer(name="head", kind="linear", macs=10, passes=4, rate=0.8, binary=False),
]


def test_countings_by_hand():
    resnet, sformer = activity(LAYERS), activity(LAYERS, "spikingformer")
    assert energy.paper(resnet) == pytest.approx((1000, 0.25 * 4 * 100 + 0.5 * 4 * 200 + 0.8 * 4 * 10))
    assert energy.paper(sformer) == pytest.approx((4 * 1000 + 10, 0.25 * 4 * 100 + 0.5 * 4 * 200))
    assert energy.strict(resnet) == pytest.approx((1000 + 4 * 200 + 4 * 10, 0.25 * 4 * 100 + 0.1 * 4 * 40))


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
    lines = list(csv.DictReader(io.StringIO(energy.layers_csv([found], Constants()))))
    assert [line["layer"] for line in lines] == [layer.name for layer in LAYERS]
    for counting, total in (("paper", energy.paper(found)), ("strict", energy.strict(found))):
        assert sum(float(line[f"{counting}_macs"]) for line in lines) == pytest.approx(total.macs)
        assert sum(float(line[f"{counting}_acs"]) for line in lines) == pytest.approx(total.acs)
        assert sum(float(line[f"{counting}_nj"]) for line in lines) == pytest.approx(
            1e6 * total.millijoules(Constants())
        )

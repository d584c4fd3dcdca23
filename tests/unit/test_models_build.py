"""Every network that some table uses, at every scale: it can be built, its parts fire, its teacher fits it."""

import functools

import pytest
import torch
from torch.nn import functional

from bkdsnn import data, models
from bkdsnn.config import Augment, catalogue, paper
from bkdsnn.core import streams
from bkdsnn.data.events.frames import convert
from bkdsnn.distill import Criterion
from bkdsnn.models.neurons import Spiking

CPU = torch.device("cpu")
NEURONS = {neuron: name for name, neuron in paper.Expansion("demo").neurons.items()}
SMALL = ("smoke", "demo")
# By network and neuron, layers of which none may fire at first. TET's ResNet-19 has a fully connected layer without a
# norm before its last neurons, at paper scale too; their surrogate is wide enough for such currents, so they learn to.
SILENT = {("spiking-resnet19", "tet-lif"): {"hidden.1"}}


def all_runs(scale):
    return paper.all_runs(scale, seeds=[0]).values()


def distinct(runs, *parts):
    """One run of all that share these parts of their specs."""
    return list({tuple(str(part(run)) for part in parts): run for run in runs}.values())


def network(run):
    return run.network


def teacher(run):
    return run.teacher.network


def dataset(run):
    return run.dataset


def label(run):
    return f"{run.dataset.name}-{run.network.slug}-t{run.network.timesteps}"


def built(network, dataset):
    """The network; those of real data, which are large, without memory for their weights."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu" if dataset.embedded else "meta"):
        return models.build(network, dataset)


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", catalogue.scale_names())
def test_every_network_can_be_built_and_names_its_last_layer(scale):
    runs = distinct(all_runs(scale), network, dataset)
    assert {run.network.family for run in runs} == set(paper.FAMILIES)
    for run in runs:
        net = built(run.network, run.dataset)
        assert net.get_submodule(net.last_layer).out_features == run.dataset.classes, label(run)


def printed_sizes():
    """Cells whose column prints the size of the student; those of the teachers' own networks are not meant."""
    for table in catalogue.table_names():
        for cell in paper.plan(table, "paper", seeds=[0]).cells:
            if cell.column.parameters_m and cell.runs[0].network.name == cell.column.network:
                yield cell


def test_parameters_are_as_many_as_the_paper_prints():
    """It prints the same size beside CIFAR-10 and CIFAR-100; we take it to be that for CIFAR-10."""
    networks = {}
    for cell in printed_sizes():
        run = cell.runs[0]
        classes = {"cifar100": 10}.get(run.dataset.name, run.dataset.classes)
        data = run.dataset.model_copy(update={"classes": classes})
        networks[run.network, classes] = (built(run.network, data), cell.column.parameters_m)
    assert {network.family for network, _ in networks} == {"resnet", "spikformer", "spikingformer"}
    for (network, _), (net, printed) in networks.items():
        assert models.count_parameters(net) / 1e6 == pytest.approx(printed, abs=0.011), network.slug


# --- firing -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def batches(tmp_path_factory):
    """The first training batch that a run is shown of its embedded dataset: images or frames, and labels (B,)."""
    folder = tmp_path_factory.mktemp("data")

    @functools.cache
    def prepared(dataset):
        manifest = folder / f"{dataset.name}.json"
        data.prepare(dataset, None, manifest)
        return manifest

    @functools.cache
    def first(dataset, timesteps):
        manifest = prepared(dataset)
        if dataset.events:
            convert(dataset, manifest, timesteps)
        options = {"batch_size": 20, "augment": Augment(), "seed": 0, "device": CPU, "timesteps": timesteps}
        images, _, labels = next(data.open_data(dataset, manifest, **options).train(0))
        return images, labels

    return lambda run: first(run.dataset, run.network.timesteps)


def spiking_networks(scale):
    """Trained ones: a converted network fires as its source's activations say."""
    return distinct((run for run in all_runs(scale) if run.network.spiking and run.recipe), network, dataset)


def seeded(run):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(streams.key(0, "init", 0))
        return models.build(run.network, run.dataset)


def fired(net):
    """The firing rates of all layers of neurons by name, filled by a forward pass."""
    rates = {}
    for name, module in net.named_modules():
        if isinstance(module, Spiking):
            module.register_forward_hook(lambda _, __, spikes, name=name: rates.update({name: spikes.mean().item()}))
    return rates


def silent(run):
    """Names of the layers that need not fire at first."""
    return SILENT.get((run.network.slug, NEURONS[run.network.neuron]), set())


@pytest.mark.parametrize("run", [run for scale in SMALL for run in spiking_networks(scale)], ids=label)
def test_every_layer_of_neurons_fires_from_the_start_and_never_all_of_it(run, batches):
    net = seeded(run).train()
    rates = fired(net)
    with torch.no_grad():
        net(batches(run)[0])
    assert {name for name, rate in rates.items() if rate == 0} <= silent(run) < rates.keys()
    assert max(rates.values()) < 1


@pytest.mark.parametrize("run", [run for scale in SMALL for run in spiking_networks(scale) if silent(run)], ids=label)
def test_layers_that_are_silent_at_first_learn_to_fire(run, batches):
    images, labels = batches(run)
    net = seeded(run).train()
    rates = fired(net)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(10):
        optimizer.zero_grad()
        functional.cross_entropy(net(images).logits.mean(0), labels).backward()
        optimizer.step()
    assert all(rates[name] > 0 for name in silent(run))


# --- pairs of student and teacher -------------------------------------------------------------------------------------


@functools.cache
def shapes(network, dataset):
    return models.feature_shapes(built(network, dataset), dataset.image_size)


def paired(run):
    """The taps that the criterion of a run compares."""
    with torch.device("meta"):
        criterion = Criterion(run, shapes(run.network, run.dataset), shapes(run.teacher.network, run.dataset))
    return criterion.taps, criterion.teacher_taps


def terms(run):
    return [(term.method, term.model_dump(exclude={"weight", "tau"})) for term in run.distill]


@pytest.mark.parametrize("scale", [*SMALL, "paper"])  # lite has the paper's networks and image sizes
def test_features_of_every_student_and_its_teacher_can_be_compared(scale):
    runs = distinct((run for run in all_runs(scale) if run.teacher), network, teacher, dataset, terms)
    last_met_last = 0
    for run in runs:
        taps, teacher_taps = paired(run)
        if taps:
            assert taps[-1] == list(shapes(run.network, run.dataset))[-1], label(run)
            assert teacher_taps[-1] == list(shapes(run.teacher.network, run.dataset))[-1], label(run)
            last_met_last += 1
    assert last_met_last > len(runs) / 2


@pytest.mark.parametrize(
    ("table", "row", "column", "expected"),
    [
        ("table2b", "kdsnn", "sformer-4-384-cifar10", ((1, 2, 3, 4), (3, 6, 9, 12))),
        ("table2b", "lasnn", "sformer-2-384-cifar100", ((1, 2), (6, 12))),
        ("table2d", "kdsnn", "sformer-8-768-imagenet", ((1, 2, 3, 4, 5, 6, 7, 8), (2, 3, 5, 6, 8, 9, 11, 12))),
        ("table2d", "bkdsnn", "sformer-8-384-imagenet", ((8,), (12,))),
        ("table3a", "bkdsnn", "mformer-8-512-imagenet", ((8,), (12,))),
        ("table4c", "kdsnn-last", "sformer-8-384-imagenet", ((8,), (12,))),
        ("table4c", "lasnn-bkd", "sformer-8-384-imagenet", ((1, 2, 3, 4, 5, 6, 7, 8), (2, 3, 5, 6, 8, 9, 11, 12))),
    ],
)
def test_blocks_of_the_papers_transformers_meet_these_of_the_vit(table, row, column, expected):
    run = paper.plan(table, "paper", seeds=[0]).cell(row, column).runs[0]
    assert paired(run) == tuple(tuple(f"block{number}" for number in numbers) for numbers in expected)


def test_grids_of_the_papers_transformers_and_of_the_vit():
    """(C, h, w) of the last feature: the teacher's map is resampled on CIFAR, and fits as it is on ImageNet."""
    found = {}
    for table, column in (
        ("2b", "sformer-4-384-cifar10"),
        ("2d", "sformer-8-512-imagenet"),
        ("3a", "mformer-8-256-imagenet"),
    ):
        run = paper.plan(f"table{table}", "paper", seeds=[0]).cell("bkdsnn", column).runs[0]
        found[column] = [list(shapes(net, run.dataset).values())[-1] for net in (run.network, run.teacher.network)]
    assert found == {
        "sformer-4-384-cifar10": [(384, 8, 8), (384, 14, 14)],
        "sformer-8-512-imagenet": [(512, 14, 14), (768, 14, 14)],
        "mformer-8-256-imagenet": [(360, 14, 14), (768, 14, 14)],
    }

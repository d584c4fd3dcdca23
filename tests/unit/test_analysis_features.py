"""Histograms of features: exact counts against NumPy, and of real runs against a recount."""

import json

import numpy as np
import pytest
import torch
from figures_example import R18, figure_plan

from bkdsnn import models
from bkdsnn.analysis.feature_histograms import WIDTH, FeatureCounts, analyse, features_path, read_features, tallied
from bkdsnn.core.errors import UserError
from bkdsnn.data import prepare
from bkdsnn.runs import checkpoint
from bkdsnn.training.execute import execute, open_loader

CPU = torch.device("cpu")
PANELS = (
    {**R18, "curves": [{"label": "Student", "row": "none"}, {"label": "Teacher", "row": "ann"}]},
    {
        "title": "S",
        "table": "table4b",
        "column": "sformer-8-384-imagenet",
        "curves": [{"label": "Student", "row": "none"}],
    },
)
RUN = figure_plan("histogram", PANELS[0]).panels[0].curves[0].runs[0]


def drawn(shape, kind, seed=0):
    """A feature (T, N, C, h, w): small integers as sums of spikes are, or real numbers."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "spikes":
        return torch.randint(0, 4, shape, generator=generator).float() * (torch.rand(shape, generator=generator) < 0.5)
    return torch.randn(shape, generator=generator)


def counted(feature, batches, spiking=True):
    """The histogram of a feature that is added in batches of these sizes."""
    tally = FeatureCounts(len(feature), spiking)
    for part in feature.split(batches, dim=1):
        tally.add(part)
    return tally.histogram(RUN, "stage4")


@pytest.mark.parametrize("timesteps", [1, 3, 4, 32])
def test_sums_of_spikes_are_counted_value_by_value(timesteps):
    feature = drawn((timesteps, 13, 3, 2, 2), "spikes")
    found = counted(feature, [7, 5, 1])
    values, counts = np.unique(feature.numpy().sum(0, dtype=np.int64), return_counts=True)
    assert found.discrete and found.step == 1 / timesteps
    assert found.counts == dict(zip(values.tolist(), counts.tolist()))
    assert (found.entries, found.zeros) == (13 * 12, counts[values == 0].sum())
    assert found.mean == pytest.approx(feature.double().mean().item(), rel=1e-12)


@pytest.mark.parametrize("timesteps", [1, 4])
def test_real_numbers_are_counted_in_bins_below_zero_too(timesteps):
    feature = drawn((timesteps, 13, 3, 2, 2), "membrane")
    feature[:, 3] = 0.0
    feature[:, 4] = 400.0
    found = counted(feature, [7, 5, 1])
    mean = feature.numpy().astype(np.float64).mean(0)
    bins, counts = np.unique(np.floor(mean / 0.05).astype(int), return_counts=True)
    assert not found.discrete and found.step == WIDTH == 0.05
    assert found.counts == dict(zip(bins.tolist(), counts.tolist()))
    assert min(found.counts) < 0 and max(found.counts) >= 7999
    assert (found.entries, found.zeros) == (13 * 12, 12)
    assert sum(found.counts.values()) == found.entries


@pytest.mark.parametrize("kind", ["spikes", "membrane"])
def test_batches_change_nothing(kind):
    feature = drawn((4, 13, 3, 2, 2), kind)
    one, *others = (counted(feature, batches) for batches in ([13], [1] * 13, [6, 7], [12, 1]))
    for other in others:
        assert other.model_dump(exclude={"mean"}) == one.model_dump(exclude={"mean"})
        assert other.mean == pytest.approx(one.mean, rel=1e-12)


def test_one_value_between_the_steps_makes_all_of_them_real():
    feature = drawn((4, 13, 3, 2, 2), "spikes")
    feature[0, 12, 0, 0, 0] += 0.5
    found = counted(feature, [7, 5, 1])  # in the last batch
    assert not found.discrete
    bins, counts = np.unique(np.floor(feature.double().mean(0).numpy() / 0.05).astype(int), return_counts=True)
    assert found.counts == dict(zip(bins.tolist(), counts.tolist()))


def test_a_network_without_spikes_is_never_discrete():
    assert not counted(torch.ones(1, 4, 3, 2, 2), [4], spiking=False).discrete


def test_counts_are_exact_beyond_single_precision():
    tally = FeatureCounts(1, spiking=True)
    feature = torch.zeros(1, 1, 1, 2**13, 2**11)
    feature[0, 0, 0, 0, 0] = 1
    for _ in range(2):
        tally.add(feature)
    assert tally.histogram(RUN, "stage4").counts == {0: 2**25 - 2, 1: 2}


def test_features_that_are_not_finite_are_refused():
    images = torch.zeros(2, 3, 32, 32)
    ann = figure_plan("histogram", PANELS[0]).panels[0].curves[1].runs[0]
    teacher = models.build(ann.network, ann.dataset)
    torch.nn.init.constant_(next(teacher.layer4.parameters()), float("inf"))
    with pytest.raises(UserError, match="teacher: feature 'stage4' of a test image is not finite"):
        tallied(teacher, [images, images], FeatureCounts(1, spiking=False), "teacher")


@pytest.fixture(scope="module")
def plan():
    return figure_plan("histogram", *PANELS, epochs=1)


@pytest.fixture(scope="module")
def results(plan, tmp_path_factory):
    """A folder with the data, the finished runs and the analysis of the plan."""
    folder = tmp_path_factory.mktemp("results")
    dataset = next(iter(plan.runs().values())).dataset
    prepare(dataset, None, folder / "data" / f"{dataset.name}.json")
    for run in plan.runs().values():
        execute(run, folder, folder, CPU, None)
    assert analyse(plan, folder, CPU) == folder / "analyses" / "fig9z.json"
    return folder


@torch.inference_mode()
def recounted(run, results):
    """The time-averaged feature of every test image, float64 (N, C, h, w), from the whole test set at once."""
    network = models.build(run.network, run.dataset).eval()
    checkpoint.load_run(network, run, results / "runs" / run.name)
    images = torch.cat([images for images, _ in open_loader(run, results, CPU).test()])
    kept = []
    network.layer(network.taps[-1]).register_forward_hook(lambda _, __, output: kept.append(output))
    network(images)
    (folded,) = kept
    return folded.unflatten(0, (run.network.timesteps, -1)).double().mean(0).numpy(), len(images)


def test_the_analysis_of_real_runs_is_what_a_recount_gives(plan, results):
    found = read_features(plan, results)
    student, teacher, transformer = plan.runs().values()
    assert [found[run.name].discrete for run in (student, teacher, transformer)] == [True, False, False]
    for run in (student, teacher, transformer):
        feature, images = recounted(run, results)
        histogram = found[run.name]
        width = 1 / 4 if histogram.discrete else 0.05
        values, counts = np.unique(np.floor(feature / width), return_counts=True)
        assert images == run.dataset.digits.test
        assert (histogram.entries, histogram.zeros) == (feature.size, (feature == 0).sum())
        assert histogram.mean == pytest.approx(feature.mean(), abs=1e-6)
        assert (histogram.run, histogram.spec, histogram.step) == (run.name, run.digest, width)
        if histogram.discrete:
            assert np.array_equal(feature * 4, np.round(feature * 4))
            assert histogram.counts == dict(zip(values.astype(int).tolist(), counts.tolist()))
        else:  # another batch size may round an entry at the border of two bins otherwise
            differences = {k: histogram.counts.get(k, 0) for k in histogram.counts}
            for value, count in zip(values.astype(int).tolist(), counts.tolist()):
                differences[value] = differences.get(value, 0) - count
            assert sum(map(abs, differences.values())) <= 2e-3 * feature.size
    assert min(found[transformer.name].counts) < 0


def test_a_second_analysis_is_the_same(plan, results):
    before = features_path(plan, results).read_bytes()
    analyse(plan, results, CPU)
    assert features_path(plan, results).read_bytes() == before


def test_an_unfinished_run_is_named_and_nothing_is_written(plan, results, tmp_path):
    run = next(iter(plan.runs().values()))
    with pytest.raises(UserError, match=f"run {run.name} is not finished"):
        analyse(plan, tmp_path, CPU)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content["histograms"][0]["counts"].update({"0": 5}), r"'histograms\.0': 'counts' add up to"),
        (lambda content: content["histograms"][0].update(entries=0), r"'histograms\.0\.entries'"),
        (lambda content: content["histograms"][0]["counts"].update({"0": 1.5}), r"'histograms\.0\.counts\.0'"),
        (lambda content: content["histograms"][0].update(step=0), r"'histograms\.0\.step'"),
        (lambda content: content["histograms"][0].update(spec="0" * 64), "it was made for other runs and has no"),
        (lambda content: content["histograms"].pop(1), "it was made for other runs and has no histogram of"),
        (lambda content: content.clear(), "'figure'"),
    ],
)
def test_a_damaged_or_foreign_analysis_is_refused(plan, results, tmp_path, damage, message):
    content = json.loads(features_path(plan, results).read_text())
    damage(content)
    path = features_path(plan, tmp_path)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"analyses/fig9z\.json: .*{message}") as told:
        read_features(plan, tmp_path)
    assert "remove it and make it with `snakemake --cores all fig9z" in str(told.value)


def test_a_missing_or_broken_analysis_is_refused(plan, tmp_path):
    with pytest.raises(UserError, match=r"no .*analyses/fig9z\.json; make it with `snakemake --cores all fig9z"):
        read_features(plan, tmp_path)
    path = features_path(plan, tmp_path)
    path.parent.mkdir(parents=True)
    path.write_text('{"figure": "fig9z", "histo')
    with pytest.raises(UserError, match=r"fig9z\.json: Invalid JSON"):
        read_features(plan, tmp_path)

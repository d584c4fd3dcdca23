"""Grad-CAM of real networks against gradients worked out by hand and the package; similarities against NumPy."""

import dataclasses
import json
import re
import shutil
import statistics
import subprocess
import sys

import numpy as np
import pytest
import torch
from gradcam_example import BATCH, CNN, CPU, SIZE, TRANSFORMER, finish, gradcam_plan, lively
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn
from torch.nn import functional

from bkdsnn import cli, models
from bkdsnn.analysis.cams import Cams, Classifier
from bkdsnn.analysis.gradcam import analyse
from bkdsnn.analysis.maps import maps_paths, read_maps
from bkdsnn.analysis.similarity import cosines, mean_and_std, overlaps, top
from bkdsnn.config import paper
from bkdsnn.core.errors import UserError
from bkdsnn.runs import checkpoint
from bkdsnn.training.execute import open_loader

# One run of each family and form: table, row, column.
RUNS = {
    "ann": ("table2c", "ann", "resnet18-imagenet"),
    "ann-50": ("table2c", "ann", "resnet50-imagenet"),
    "sew": ("table2c", "sew-resnet", "resnet18-imagenet"),
    "sew-50": ("table2c", "sew-resnet", "resnet50-imagenet"),
    "spiking": ("table2a", "tet", "resnet19-cifar10"),
    "qcfs-snn": ("table2a", "qcfs", "resnet20-cifar10"),
    "spikformer": ("table2b", "spikformer", "sformer-4-256-cifar10"),
    "spikingformer": ("table2d", "spikingformer-cml", "sformer-8-384-imagenet"),
    "meta": ("table3a", "meta-spikeformer", "mformer-8-256-imagenet"),
}
VIT = ("table2d", "ann", "sformer-8-384-imagenet")
IMAGES = (2, 99, 31)  # of the first batch, the last and the second


def opened(table, row, column):
    """A network whose layers fire, its T, images, and labels from among what it holds most likely, so that maps show.

    The images are so large that every map has several places. A ViT resizes them.
    """
    spec = paper.plan(table, "smoke").cell(row, column).runs[0]
    network = lively(spec)
    images = torch.randn(8, 3, SIZE, SIZE)
    with torch.no_grad():
        best = network(images).logits.mean(0).argsort(1, descending=True)
    return network, spec.network.timesteps, images, best[torch.arange(8), torch.arange(8) % 4]


def scaled(raw, images):
    """Maps (B, h, w) at the size of the images, from 0 to 1 each; torch and the package's OpenCV interpolate alike."""
    maps = functional.interpolate(raw.clamp_min(0)[:, None].double(), images.shape[-2:], mode="bilinear")[:, 0]
    low, high = (f(maps.flatten(1), 1)[..., None, None] for f in (torch.amin, torch.amax))
    return ((maps - low) / (high - low).clamp_min(1e-30)).numpy()


def behind(network, tap, x):
    """Logits (B, K) of a residual network from the output of a stage on, or of a Spikingformer from its last block."""
    if hasattr(network, "fc"):
        for later in network.taps[network.taps.index(tap) + 1 :]:
            x = network.layer(later)(x)
        logits = network.fc(network.hidden(x.mean((-2, -1))))
    else:
        logits = network.head(x.mean((-2, -1)))
    return logits.unflatten(0, (network.timesteps, -1)).mean(0)


# ---- Maps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ann", "ann-50", "sew"])
def test_maps_of_every_stage_are_the_features_weighted_by_their_gradients(name):
    network, timesteps, images, labels = opened(*RUNS[name])
    features = network(images, network.taps).features
    views = Cams(network, network.taps).of(images, labels)
    for index, tap in enumerate(network.taps):
        leaf = features[tap].detach().flatten(0, 1).requires_grad_()
        behind(network, tap, leaf).gather(1, labels[:, None]).sum().backward()
        feature, gradient = (x.unflatten(0, (timesteps, -1)).mean(0) for x in (leaf.detach(), leaf.grad))
        raw = (gradient.mean((-2, -1), keepdim=True) * feature).sum(1)
        np.testing.assert_allclose(views.maps[:, index], scaled(raw, images), atol=1e-3)
        assert views.positive[:, index].tolist() == (raw > 0).any(2).any(1).tolist()
        assert views.maps[:, index].any()
    assert views.maps.dtype == np.float32
    assert views.predicted.tolist() == network(images).logits.mean(0).argmax(1).tolist()


@pytest.mark.parametrize("name", ["ann", "sew", "spikingformer"])
def test_before_a_linear_head_the_map_is_that_of_the_averaged_feature_weighted_by_the_head(name):
    """The classic CAM, in NumPy: no gradient at all."""
    network, _, images, labels = opened(*RUNS[name])
    tap = network.taps[-1]
    head = (network.fc if hasattr(network, "fc") else network.head).weight.detach().numpy()
    averaged = network(images, [tap]).features[tap].detach().numpy().mean(0)
    raw = np.einsum("bc,bchw->bhw", head[labels.numpy()], averaged)
    views = Cams(network, [tap]).of(images, labels)
    np.testing.assert_allclose(views.maps[:, 0], scaled(torch.from_numpy(raw), images), atol=1e-3)
    assert views.maps.any()


def test_a_vit_is_seen_in_the_norm_before_its_last_attention():
    network, _, images, labels = opened(*VIT)
    kept = []

    def replaced(module, inputs, output):
        kept.append(output.detach().requires_grad_())
        return kept[-1]

    hook = network.blocks[-1].norm1.register_forward_hook(replaced)
    network(images).logits[0].gather(1, labels[:, None]).sum().backward()
    hook.remove()
    size = network.image_size // 12
    tokens, gradient = (x[:, 1:].detach().unflatten(1, (size, size)) for x in (kept[0], kept[0].grad))
    raw = (tokens * gradient.mean((1, 2), keepdim=True)).sum(-1)
    network.zero_grad()
    views = Cams(network, network.taps[-1:]).of(images, labels)
    assert views.maps.shape == (8, 1, *images.shape[-2:]) and images.shape[-1] != network.image_size
    np.testing.assert_allclose(views.maps[:, 0], scaled(raw, images), atol=1e-3)
    assert views.maps.any()


@pytest.mark.parametrize("name", [*RUNS, "vit"])
def test_all_taps_at_once_give_what_the_package_gives_for_each_alone(name):
    network, timesteps, images, labels = opened(*RUNS.get(name, VIT))
    targets = [ClassifierOutputTarget(label) for label in labels.tolist()]
    if name == "vit":
        size = network.image_size // 12
        layers = [*(network.layer(tap) for tap in network.taps[:-1]), network.blocks[-1].norm1]
        reshape = lambda x: x[:, 1:].unflatten(1, (size, size)).permute(0, 3, 1, 2)  # noqa: E731
    else:
        layers = [network.layer(tap) for tap in network.taps]
        reshape = lambda x: x.reshape(timesteps, -1, *x.shape[1:]).mean(0)  # noqa: E731
    expected = [GradCAM(Classifier(network), [layer], reshape)(images, targets) for layer in layers]
    network.zero_grad()
    cams = Cams(network, network.taps)
    views = cams.of(images, labels)
    np.testing.assert_allclose(views.maps, np.stack(expected, axis=1), atol=2e-4)
    assert views.maps.any()
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not hasattr(cams, "outputs")


@pytest.mark.parametrize("name", RUNS)
def test_what_is_looked_at_is_the_tap(name):
    network, timesteps, images, _ = opened(*RUNS[name])
    seen = {}
    for tap in network.taps:
        network.layer(tap).register_forward_hook(lambda _, __, x, tap=tap: seen.update({tap: (x, x.clone())}))
    features = network(images, network.taps).features
    for tap, (after, before) in seen.items():
        assert torch.equal(after, before)  # nothing overwrote it
        assert torch.equal(after.unflatten(0, (timesteps, -1)), features[tap])
    assert len(seen) == len(network.taps)


@pytest.mark.parametrize("name", ["sew", "spiking", "spikingformer", "meta", "vit"])
def test_nothing_survives_a_pass(name):
    network, _, images, labels = opened(*RUNS.get(name, VIT))
    cams = Cams(network, network.taps)
    whole, again = cams.of(images, labels), cams.of(images, labels)
    parts = [cams.of(images[part], labels[part]) for part in (slice(0, 3), slice(3, 8))]
    for first, second, *split in zip(whole, again, *parts):
        np.testing.assert_array_equal(first, second)
        np.testing.assert_allclose(np.concatenate(split), first, atol=2e-3)


def dead(layer, bias):
    for module in layer.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.bias, bias)
            nn.init.zeros_(module.weight)


def test_why_a_map_is_empty():
    network, _, images, labels = opened(*RUNS["sew"])
    dead(network.layer("stage4"), -100.0)
    views = Cams(network, network.taps).of(images, labels)
    assert views.silent[:, -1].all() and not views.maps[:, -1].any() and not views.positive[:, -1].any()
    assert not views.silent[:, 0].any()
    network, _, images, labels = opened(*RUNS["sew"])
    nn.init.constant_(network.fc.weight, -1.0)
    views = Cams(network, network.taps[-1:]).of(images, labels)
    assert not views.maps.any() and not views.silent.any() and not views.positive.any()
    network, _, images, labels = opened(*RUNS["ann"])
    dead(network.layer("stage4"), 1.0)
    nn.init.constant_(network.fc.weight, 1.0)
    views = Cams(network, network.taps[-1:]).of(images, labels)
    assert not views.maps.any() and not views.silent.any() and views.positive.all()


@pytest.mark.parametrize("seed", range(3))
def test_a_network_as_it_is_drawn_may_be_silent(seed):
    spec = paper.plan("table2c", "smoke").cell("sew-resnet", "resnet18-imagenet").runs[0]
    torch.manual_seed(seed)
    network = models.build(spec.network, spec.dataset).eval()
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    features = network(images, network.taps).features
    views = Cams(network, network.taps).of(images, labels)
    expected = [(~features[tap].transpose(0, 1).flatten(1).any(1)).tolist() for tap in network.taps]
    assert views.silent.T.tolist() == expected
    assert not views.maps[views.silent].any() and np.isfinite(views.maps).all()
    assert views.silent.any() and not views.silent.all()


def test_the_scale_of_the_gradient_does_not_matter():
    network, _, images, labels = opened(*RUNS["ann"])
    maps = Cams(network, network.taps).of(images, labels).maps
    with torch.no_grad():
        network.fc.weight *= 1e-5
    small = Cams(network, network.taps).of(images, labels).maps
    np.testing.assert_allclose(small, maps, atol=0.05)
    np.testing.assert_allclose(small.max((2, 3))[maps.any((2, 3))], 1, atol=1e-3)


# ---- Likeness --------------------------------------------------------------------------------------------------------


def test_cosines():
    rng = np.random.default_rng(0)
    one, other = rng.random((2, 3, 2, 4, 5), dtype=np.float32)
    other[0, 0], one[1, 1], other[1, 1], one[2, 0] = 0, 0, 0, 0
    found = cosines(one, other)
    for image, tap in np.ndindex(3, 2):
        a, b = (maps[image, tap].ravel().astype(float) for maps in (one, other))
        expected = a @ b / np.linalg.norm(a) / np.linalg.norm(b) if a.any() and b.any() else 0.0
        assert found[image, tap] == pytest.approx(expected if a.any() or b.any() else np.nan, nan_ok=True)
    assert cosines(one, one)[0] == pytest.approx(1)
    assert cosines(one * np.float32(1e-30), one)[0] == pytest.approx(1)  # squares that float32 does not have


def slow_top(one):
    """The highest 20 % of a map that are not zero, by sorting pixels by value and then by place."""
    order = sorted(range(one.size), key=lambda place: (-one.flat[place], place))[: round(one.size / 5)]
    return {place for place in order if one.flat[place] > 0}


@pytest.mark.parametrize("levels", [2, 4, 1000])
def test_top_pixels_and_their_overlap(levels):
    rng = np.random.default_rng(levels)
    one, other = (rng.integers(0, levels, (2, 20, 3, 6, 7)) / levels).astype(np.float32)
    one[0], other[0] = 0, 0
    one[1] *= rng.random((6, 7)) < 0.1
    chosen, found = top(one), overlaps(one, other)
    for image, tap in np.ndindex(20, 3):
        a, b = slow_top(one[image, tap]), slow_top(other[image, tap])
        assert set(np.flatnonzero(chosen[image, tap])) == a
        expected = len(a & b) / max(len(a), len(b)) if a or b else np.nan
        assert found[image, tap] == pytest.approx(expected, nan_ok=True)
    assert chosen.any(0).any(0).any()


def test_overlap_by_hand():
    one, other, sparse = np.zeros((3, 1, 1, 2, 5), np.float32)
    one[0, 0, 0, :3] = 3, 2, 1
    other[0, 0, 0, 1:4] = 5, 1, 4
    sparse[0, 0, 1, 4] = 1
    assert top(one)[0, 0].sum() == 2 and top(sparse)[0, 0].sum() == 1  # 20 % of 10 pixels; zeros are never among them
    assert overlaps(one, other)[0, 0] == 0.5
    assert overlaps(one, one)[0, 0] == overlaps(sparse, sparse)[0, 0] == 1
    assert overlaps(one, np.zeros_like(one))[0, 0] == 0
    assert np.isnan(overlaps(np.zeros_like(one), np.zeros_like(one))[0, 0])


def test_unrelated_maps_share_a_fifth_of_their_top_pixels():
    one, other = np.random.default_rng(1).random((2, 200, 1, 20, 20), dtype=np.float32)
    assert overlaps(one, other).mean() == pytest.approx(0.2, abs=0.005)


def test_means_and_deviations_leave_out_images_whose_maps_are_both_empty():
    rng = np.random.default_rng(2)
    student, teacher = rng.random((2, 7, 2, 5, 5), dtype=np.float32)
    student[3, 1], teacher[3, 1] = 0, 0
    parts = (slice(0, 3), slice(3, 6), slice(6, 7))
    for tap, images in ((0, range(7)), (1, (0, 1, 2, 4, 5, 6))):
        for measure in (cosines, overlaps):
            found = np.concatenate([measure(student[part], teacher[part])[:, tap] for part in parts])
            assert (~np.isnan(found)).sum() == len(images)
            values = [float(measure(student[[i]], teacher[[i]])[0, tap]) for i in images]
            expected = statistics.fmean(values), statistics.stdev(values)
            assert mean_and_std(found) == pytest.approx(expected)
    assert mean_and_std(np.full(3, np.nan)) == (None, None)
    assert mean_and_std(np.array([0.5, np.nan])) == (0.5, None)


# ---- A figure --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plan():
    return gradcam_plan(CNN, TRANSFORMER, images=IMAGES)


@pytest.fixture(scope="module")
def results(plan, tmp_path_factory):
    """The folder of a scale with the runs of the plan, and their analysis."""
    results = finish(plan, tmp_path_factory.mktemp("results") / "smoke")
    analyse(plan, results, CPU)
    return results


@pytest.fixture
def copy(results, tmp_path):
    return shutil.copytree(results, tmp_path / "smoke")


def by_the_package(spec, results):
    """Every test image by itself through the package: maps (100, H, W), predictions."""
    network = models.build(spec.network, spec.dataset)
    checkpoint.load_run(network, spec, results / "runs" / spec.name)
    network.eval()
    if spec.network.family == "vit":
        cam = GradCAM(
            Classifier(network), [network.blocks[-1].norm1], lambda x: x[:, 1:].unflatten(1, (3, 3)).permute(0, 3, 1, 2)
        )
    else:
        cam = GradCAM(Classifier(network), [network.layer(network.taps[-1])], lambda x: x.mean(0, keepdim=True))
    maps, predicted = [], []
    for images, labels in open_loader(spec, results, CPU).test():
        for image, label in zip(images, labels.tolist()):
            maps.append(cam(image[None], [ClassifierOutputTarget(label)])[0])
            predicted.append(int(cam.outputs.argmax()))
    return np.stack(maps), np.array(predicted)


def test_every_test_image_counts_once(plan, results):
    shown, summary = read_maps(plan, results)
    labels = np.concatenate([one for _, one in open_loader(plan.panels[0].curves[0].runs[0], results, CPU).test()])
    assert len(labels) == 100 and 100 % BATCH
    for panel, picture in zip(plan.panels, shown):
        teacher = None
        for network, curve in enumerate(panel.curves):
            (run,) = curve.runs
            maps, predicted = by_the_package(run, results)
            (found,) = summary.of(panel.title, curve.label)
            assert (found.run, found.spec, found.images) == (run.name, run.digest, 100)
            assert found.top1 == pytest.approx(100 * (predicted == labels).mean())
            assert found.empty == pytest.approx(np.mean([not one.any() for one in maps]))
            if teacher is None:
                teacher = maps
                assert (found.compared, found.cosine, found.overlap) == (0, None, None)
            else:
                both = cosines(maps[:, None], teacher[:, None])[:, 0], overlaps(maps[:, None], teacher[:, None])[:, 0]
                assert found.compared == (~np.isnan(both[0])).sum() > 50
                assert found.cosine == pytest.approx(np.nanmean(both[0]), abs=2e-3)
                assert found.cosine_std == pytest.approx(np.nanstd(both[0], ddof=1), abs=2e-3)
                assert found.overlap == pytest.approx(np.nanmean(both[1]), abs=5e-3)
                assert found.overlap_std == pytest.approx(np.nanstd(both[1], ddof=1), abs=5e-3)
            assert picture.predicted[:, network].tolist() == predicted[list(IMAGES)].tolist()
            np.testing.assert_allclose(picture.maps[:, network, 0], maps[list(IMAGES)], atol=2e-3)
        assert picture.labels.tolist() == labels[list(IMAGES)].tolist()


def test_images_are_those_of_the_data_in_the_order_of_the_figure(plan, results):
    name = plan.panels[0].curves[0].runs[0].dataset.name
    with np.load(results / "data" / f"{name}.npz") as data:
        expected = data["test_images"][list(IMAGES)]
    for picture in read_maps(plan, results)[0]:
        np.testing.assert_array_equal(picture.images, expected.transpose(0, 2, 3, 1))


def test_all_taps_in_order_of_depth(plan, copy):
    every = dataclasses.replace(plan, panels=plan.panels[:1], figure=plan.figure.model_copy(update={"taps": "all"}))
    with pytest.raises(UserError, match=r"'taps' is last, expected all; remove it and make it with `snakemake"):
        read_maps(every, copy)
    analyse(every, copy, CPU)
    (shown,), summary = read_maps(every, copy)
    stages = ["stage1", "stage2", "stage3", "stage4"]
    assert [one.tap for one in summary.of("CNN", "BKDSNN")] == stages
    assert shown.maps.shape == (3, 3, 4, SIZE, SIZE)
    assert [one.tap for one in summary.methods] == 3 * stages


def test_a_silent_network_is_counted_as_such(plan, tmp_path):
    one = dataclasses.replace(plan, panels=plan.panels[:1])

    def silence(name, network):
        if "bkdsnn" in name:
            dead(network.layer("stage4"), -100.0)

    results = finish(one, tmp_path / "smoke", silence)
    analyse(one, results, CPU)
    (shown,), summary = read_maps(one, results)
    (found,) = summary.of("CNN", "BKDSNN")
    teacher = summary.of("CNN", "ANN")[0]
    assert (found.silent, found.empty) == (1, 1)
    assert found.compared == round(100 * (1 - teacher.empty)) > 0
    assert (found.cosine, found.overlap) == (0, 0)
    assert shown.silent[:, 2].all() and not shown.maps[:, 2].any() and not shown.silent[:, :2].any()


def test_the_same_analysis_gives_the_same_files(plan, copy):
    before = [path.read_bytes() for path in maps_paths(plan, copy)]
    analyse(plan, copy, CPU)
    assert [path.read_bytes() for path in maps_paths(plan, copy)] == before


def edited(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_what_cannot_be_measured_is_refused(plan, copy):
    for path in maps_paths(plan, copy):
        path.unlink()
    runs = [curve.runs[0] for panel in plan.panels for curve in panel.curves]
    last, teacher = (copy / "runs" / run.name for run in (runs[-1], runs[0]))
    kept = (last / "metrics.json").read_text()

    edited(last / "metrics.json", dataset={**json.loads(kept)["dataset"], "digest": "0" * 64})
    with pytest.raises(
        UserError, match=rf"{last.name}/metrics.json: the run used data with digest 0{{10}}, but .* has"
    ):
        analyse(plan, copy, CPU)
    (last / "metrics.json").write_text(kept)

    metrics = json.loads(kept)
    (last / "predictions.npz").unlink()
    wrong = metrics["top1"]["last"] + 10
    steps = [*metrics["top1_by_timestep"][:-1], wrong]
    edited(last / "metrics.json", top1={**metrics["top1"], "last": wrong}, top1_by_timestep=steps)
    with pytest.raises(UserError, match=r"weights.safetensors: classifies .* % of .* images right, expected"):
        analyse(plan, copy, CPU)

    (last / "metrics.json").unlink()
    with pytest.raises(UserError, match=rf"run {last.name} is not finished; .* train {last.name}"):
        analyse(plan, copy, CPU)
    (last / "metrics.json").write_text(kept)

    far = dataclasses.replace(plan, figure=plan.figure.model_copy(update={"images": (5, 100)}))
    with pytest.raises(UserError, match=r"'images' has 100, expected numbers below 100"):
        analyse(far, copy, CPU)

    mixed = [{"label": "ViT", "row": "ann", "table": "table2d", "column": "sformer-8-384-imagenet"}, CNN["curves"][1]]
    uneven = gradcam_plan({**CNN, "curves": mixed}, taps="all")
    with pytest.raises(UserError, match=r"different numbers of features: .* 3, .* 4; compare 'taps: last'"):
        analyse(uneven, copy, CPU)

    weights = models.build(runs[0].network, runs[0].dataset).state_dict()
    weights["fc.weight"][:] = torch.nan
    checkpoint.write_tensors(teacher / "weights.safetensors", weights, {"spec": runs[0].digest})
    with pytest.raises(UserError, match=rf"{teacher.name}: its maps are not finite numbers"):
        analyse(plan, copy, CPU)
    assert not any(path.exists() for path in maps_paths(plan, copy))


def test_recordings_are_refused(plan, copy):
    events = {"title": "events", "table": "table3b", "column": "wide-7b-net-t4"}
    figure = gradcam_plan({**events, "curves": [{"label": "SNN", "row": "none"}]})
    folder = copy / "runs" / next(iter(figure.runs()))
    shutil.copytree(next((copy / "runs").iterdir()), folder)
    for path in (folder / "spec.json", folder / "weights.safetensors"):
        path.unlink()
    edited(folder / "metrics.json", run=folder.name, spec=figure.runs()[folder.name].digest)
    with pytest.raises(UserError, match=r"fig9y, events: '.*' has recordings of events, expected images"):
        analyse(figure, copy, CPU)


def test_what_is_not_of_the_figure_is_not_read(plan, copy):
    npz, summary = maps_paths(plan, copy)
    again = r"; remove it and make it with `snakemake --cores all fig9y"
    whole = npz.read_bytes()
    with np.load(npz) as stored:
        arrays = dict(stored)
    text = summary.read_text()

    def refused(message):
        with pytest.raises(UserError, match=rf"{message}.*{again}"):
            read_maps(plan, copy)

    for key, changed in (
        ("0/images", arrays["0/images"][:2]),
        ("1/maps", arrays["1/maps"].astype(np.float64)),
        ("1/maps", arrays["1/maps"] * 2),
        ("1/maps", np.where(arrays["1/maps"] > 0.5, np.float32(np.nan), arrays["1/maps"])),
        ("1/silent", arrays["1/silent"][:, :1]),
        ("0/predicted", arrays["0/predicted"].astype(object)),
        ("0/labels", arrays["0/labels"] + 1),
    ):
        np.savez(npz, **{**arrays, key: changed})
        refused(r"fig9y\.npz: ")
    np.savez(npz, **{key: array for key, array in arrays.items() if key != "1/labels"})
    refused(r"fig9y\.npz: ")
    for damaged in (b"", b"not an archive", whole[:-200]):
        npz.write_bytes(damaged)
        refused(r"fig9y\.npz: ")
    npz.write_bytes(whole)
    assert read_maps(plan, copy)

    digest = next(iter(plan.runs().values())).digest
    for damaged, message in (
        (text.replace(digest, "0" * 64), r"fig9y\.json: was made for other runs"),
        (text.replace('"fig9y"', '"fig2a"'), r"'figure' is fig2a, expected fig9y"),
        (re.sub(r'"top1": [\d.]+', '"top1": 101', text), r"fig9y\.json: .*top1"),
        (text[:200], r"fig9y\.json"),
        ("", r"fig9y\.json"),
    ):
        summary.write_text(damaged)
        refused(message)
    summary.write_text(text)
    fewer = dataclasses.replace(plan, figure=plan.figure.model_copy(update={"images": (2, 99)}))
    with pytest.raises(UserError, match=r"'shown' is \[2, 99, 31\], expected \[2, 99\]"):
        read_maps(fewer, copy)
    npz.unlink()
    with pytest.raises(UserError, match=r"no .*fig9y\.npz; make it with `snakemake --cores all fig9y"):
        read_maps(plan, copy)


# ---- The command -----------------------------------------------------------------------------------------------------


def test_the_command_refuses_other_figures_and_unfinished_runs(tmp_path, capsys):
    line = ["gradcam", "fig4", "--scale", "smoke", "--results", str(tmp_path), "--device", "cpu"]
    assert cli.main(line) == 1
    assert "fig4 is of kind 'accuracy-by-epoch', expected 'gradcam': fig2a, fig3a" in capsys.readouterr().err
    assert cli.main([line[0], "fig2a", *line[2:]]) == 1
    assert "is not finished; make it with `python -m bkdsnn train smoke-" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_neither_training_nor_reading_imports_the_package():
    heavy = ["pytorch_grad_cam", "cv2", "ttach", "matplotlib", "pandas"]
    code = (
        "import sys, bkdsnn.cli, bkdsnn.config.settings, bkdsnn.config.figure_plans, bkdsnn.analysis.maps;"
        f"print([name for name in [*{heavy}, 'torch'] if name in sys.modules]);"
        "import bkdsnn.training.execute, bkdsnn.training.train;"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n[]\n"

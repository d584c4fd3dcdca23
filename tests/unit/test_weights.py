"""Published weights from a folder of the user's: checked, stored without pickle, evaluated; no network is touched."""

import hashlib
import json
import logging
import os
import socket

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bkdsnn import data, models
from bkdsnn.config import Pretrained, ViT, paper
from bkdsnn.core import streams
from bkdsnn.core.errors import UserError
from bkdsnn.data.published import fetch, stored
from bkdsnn.runs import checkpoint
from bkdsnn.runs.run_folder import RunFolder
from bkdsnn.training.execute import execute

CPU = torch.device("cpu")
NAME = "torchvision/ResNet18_Weights.IMAGENET1K_V1"
FILE = "resnet18-f37072fd.pth"
TEACHER = paper.plan("table2c", "smoke").cell("ann", "resnet18-imagenet").runs[0]
STUDENT = paper.plan("table2c", "smoke").cell("bkdsnn", "resnet18-imagenet").runs[0]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Every attempt to reach the network fails, and the test with it unless it expects that."""

    def refuse(*_, **__):
        raise OSError("the network was touched")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def network():
    """The teacher of the smoke scale with statistics of its norms that are not the initial ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(streams.key(1, "init"))
        net = models.build(TEACHER.network, TEACHER.dataset)
        for layer in net.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.1)
                layer.running_var.uniform_(0.5, 2)
    return net.eval()


def publish(folder, content, name=NAME, file=FILE):
    """Save `content` as the publisher of the weights does; return the weights with the checksum of this file."""
    folder.mkdir(exist_ok=True)
    torch.save(content, folder / file)
    return Pretrained(name=name, sha256=hashlib.sha256((folder / file).read_bytes()).hexdigest())


def evaluation(pretrained, network=TEACHER.network):
    """The run that evaluates these weights, as a teacher of the paper scale on embedded data."""
    return TEACHER.model_copy(update={"recipe": None, "source": pretrained, "network": network})


def run(spec, folder):
    """Prepare the data and carry out the run; return its folder."""
    data.prepare(spec.dataset, None, folder / "data" / f"{spec.dataset.name}.json")
    execute(spec, folder, folder / "resources", CPU, None)
    return RunFolder(folder / "runs", spec).path


def take(pretrained, folder):
    """Fetch from `folder / 'mine'` to where runs expect the weights; return that file."""
    target = stored(folder / "resources" / "weights", pretrained)
    fetch(pretrained, target, folder / "mine")
    return target


def without_counters(tensors):
    """A state dict as torchvision's files of 2017 have it."""
    return {key: value for key, value in tensors.items() if not key.endswith("num_batches_tracked")}


@pytest.mark.parametrize("form", [dict, without_counters])
def test_weights_with_the_right_checksum_are_stored_and_evaluated(tmp_path, form):
    net = network()
    pretrained = publish(tmp_path / "mine", form(net.state_dict()))
    target = take(pretrained, tmp_path)
    tensors, header = checkpoint.read_tensors(target)
    assert header.items() >= {"sha256": pretrained.sha256, "name": NAME}.items()
    assert tensors.keys() == form(net.state_dict()).keys()
    assert all(torch.equal(tensors[key], value) for key, value in form(net.state_dict()).items())
    assert [path.name for path in target.parent.iterdir()] == ["torchvision-ResNet18_Weights.IMAGENET1K_V1.safetensors"]

    spec = evaluation(pretrained)
    path = run(spec, tmp_path)
    loader = data.open_data(
        spec.dataset,
        tmp_path / "data" / f"{spec.dataset.name}.json",
        batch_size=100,
        augment=TEACHER.recipe.augment,
        seed=0,
        device=CPU,
    )
    with torch.no_grad():
        predicted = torch.cat([net(images).logits[0].argmax(1) for images, _ in loader.test()])
    assert np.array_equal(np.load(path / "predictions.npz")["predicted"], predicted.numpy())
    assert json.loads((path / "metrics.json").read_text())["epochs"] == 0
    assert "-pretrained-" in path.name


def test_a_student_learns_from_published_weights(tmp_path):
    pretrained = publish(tmp_path / "mine", network().state_dict())
    take(pretrained, tmp_path)
    teacher = evaluation(pretrained)
    run(teacher, tmp_path)
    path = run(STUDENT.model_copy(update={"teacher": teacher}), tmp_path)
    losses = json.loads((path / "history.jsonl").read_text())["losses"]
    assert losses.keys() == {"ce", "ld", "bkd"} and losses["bkd"] > 0


def test_the_checksum_is_part_of_the_identity_and_the_folder_is_not(tmp_path):
    first, again = (publish(tmp_path / name, {"fc.bias": torch.zeros(2)}) for name in ("mine", "elsewhere"))
    other = publish(tmp_path / "mine", {"fc.bias": torch.ones(2)})
    assert evaluation(first).digest == evaluation(again).digest != evaluation(other).digest


def refused(pretrained, folder, message):
    """Fetching raises one UserError with `message` and writes nothing."""
    with pytest.raises(UserError, match=message):
        take(pretrained, folder)
    assert not (folder / "resources").exists()


def test_a_file_with_another_checksum_is_refused(tmp_path):
    pretrained = publish(tmp_path / "mine", network().state_dict())
    found = pretrained.sha256[:8]
    with (tmp_path / "mine" / FILE).open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"x")
    expected = pretrained.model_copy(update={"sha256": found})
    refused(expected, tmp_path, rf"{FILE}: SHA-256 begins [0-9a-f]{{8}}, expected {found} for '{NAME}'")


def test_a_missing_file_is_named_with_the_key_to_set(tmp_path):
    (tmp_path / "mine").mkdir()
    pretrained = Pretrained(name=NAME, sha256="f37072fd")
    refused(
        pretrained, tmp_path, rf"mine/{FILE}: no such file; expected the weights '{NAME}' \(key 'weights.root'\): https"
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm/vit_base", "timm has no such weights; expected a full name, such as torchvision/ResNet18"),
        ("timm/vit_small_patch16_224", "timm has no such weights"),  # without a tag
        ("timm/vit_small_patch16_224.augreg_in21k_ft_in2k", "timm has no such weights"),
        ("torchvision/ResNet18_Weights.IMAGENET1K_V9", "torchvision has no such weights"),
        ("torchvision/ResNet17_Weights.IMAGENET1K_V1", "torchvision has no such weights"),
        ("torchvision/nonsense", "torchvision has no such weights"),
    ],
)
def test_weights_that_nobody_publishes_are_refused(tmp_path, name, message):
    refused(Pretrained(name=name, sha256="f37072fd"), tmp_path, rf"weights '{name}': {message}")


def test_an_unknown_publisher_is_named_with_the_known_ones(tmp_path):
    name = "timn/vit_base"
    message = rf"unknown publisher 'timn' in weights '{name}' \(did you mean 'timm'\?\); expected one of: timm, torchv"
    refused(Pretrained(name=name), tmp_path, message)


class Payload:
    """What runs a command when it is unpickled without restrictions."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_file_that_would_run_a_command_is_refused_and_nothing_runs(tmp_path):
    pretrained = publish(tmp_path / "mine", {"fc.weight": Payload(tmp_path / "ran")})
    refused(pretrained, tmp_path, rf"{FILE}: damaged, or holds more than tensors; expected a state dict")
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "mine" / FILE, weights_only=False)
    assert (tmp_path / "ran").exists()  # the payload works


def test_arrays_of_objects_in_place_of_weights_run_nothing(tmp_path):
    (tmp_path / "mine").mkdir()
    np.savez(tmp_path / "payload.npz", weight=np.array([Payload(tmp_path / "ran")], dtype=object))
    (tmp_path / "payload.npz").rename(tmp_path / "mine" / FILE)
    pretrained = Pretrained(name=NAME, sha256=hashlib.sha256((tmp_path / "mine" / FILE).read_bytes()).hexdigest())
    refused(pretrained, tmp_path, rf"{FILE}: damaged, or holds more than tensors; expected a state dict")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"state_dict": {"fc.bias": torch.zeros(1)}}, {"epoch": 3}])
def test_a_file_that_is_no_state_dict_is_refused(tmp_path, content):
    refused(publish(tmp_path / "mine", content), tmp_path, rf"{FILE}: expected a state dict, a tensor by name")


@pytest.mark.parametrize("keep", [0, 10, 1000])
def test_a_truncated_file_is_refused_even_if_its_checksum_is_expected(tmp_path, keep):
    publish(tmp_path / "mine", network().state_dict())
    content = (tmp_path / "mine" / FILE).read_bytes()[:keep]
    (tmp_path / "mine" / FILE).write_bytes(content)
    refused(Pretrained(name=NAME, sha256=hashlib.sha256(content).hexdigest()), tmp_path, rf"{FILE}: damaged")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fc.weight": torch.zeros(7, 8)}, r"'fc.weight' has shape \(7, 8\), expected \(100, 8\)"),
        ({"extra": torch.zeros(1)}, r"has unknown tensor 'extra' \(1 in all\)"),
    ],
)
def test_weights_of_another_network_are_named_with_both_shapes(tmp_path, change, message):
    pretrained = publish(tmp_path / "mine", {**network().state_dict(), **change})
    target = take(pretrained, tmp_path)
    with pytest.raises(UserError, match=rf"{target.name}: {message}"):
        run(evaluation(pretrained), tmp_path)


def test_an_absent_tensor_is_named(tmp_path):
    tensors = network().state_dict()
    pretrained = publish(tmp_path / "mine", {key: tensors[key] for key in tensors if key != "bn1.running_var"})
    take(pretrained, tmp_path)
    with pytest.raises(UserError, match=r"lacks tensor 'bn1.running_var' \(1 in all\)"):
        run(evaluation(pretrained), tmp_path)


def test_stored_weights_made_from_another_file_are_refused(tmp_path):
    first = publish(tmp_path / "mine", network().state_dict())
    target = take(first, tmp_path)
    second = Pretrained(name=NAME, sha256="0" * 64)
    assert target == stored(tmp_path / "resources" / "weights", second)
    with pytest.raises(UserError, match=rf"made from SHA-256 {first.sha256}, expected 0{{64}}; delete it"):
        run(evaluation(second), tmp_path)


def test_stored_weights_that_were_never_fetched_are_named(tmp_path):
    with pytest.raises(UserError, match=r"torchvision-ResNet18_Weights\.IMAGENET1K_V1\.safetensors: no such file"):
        run(evaluation(Pretrained(name=NAME, sha256="f37072fd")), tmp_path)


def test_without_a_network_the_message_says_how_to_do_without(tmp_path):
    target = stored(tmp_path, Pretrained(name=NAME, sha256="f37072fd"))
    message = rf"cannot download https://\S+/{FILE}: .*; download it yourself, as {FILE}, and set 'weights.root'"
    with pytest.raises(UserError, match=message):
        fetch(Pretrained(name=NAME, sha256="f37072fd"), target, None)
    assert list(tmp_path.iterdir()) == []


# --- timm -------------------------------------------------------------------------------------------------------------

BASE, BASE_FILE = "timm/vit_base_patch16_224.orig_in21k_ft_in1k", "jx_vit_base_p16_224-80ecf9dd.pth"
SMALL = "timm/vit_small_patch16_224.augreg_in21k_ft_in1k"
SMALL_FILE = "vit_small_patch16_224.augreg_in21k_ft_in1k.safetensors"
OWN = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
VIT = ViT(name="vit", image_size=16, patch=8, dim=16, depth=2, heads=2, **OWN)


def transformer(seed=0, network=VIT):
    """State dict of a ViT with timm's names."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return models.build(network, TEACHER.dataset).state_dict()


def publish_small(folder):
    """A file of safetensors as timm publishes it, under the name expected of a local copy; return its SHA-256."""
    folder.mkdir(exist_ok=True)
    save_file(transformer(), folder / SMALL_FILE)
    return hashlib.sha256((folder / SMALL_FILE).read_bytes()).hexdigest()


def hub(monkeypatch, folder, etag):
    """Let the calls of huggingface_hub find the file in `folder`, and state `etag` for it."""
    repository, revision = SMALL, "3c5e0b2d"

    def metadata(url):
        assert url.endswith(f"/{repository}/resolve/main/model.safetensors")
        return huggingface_hub.HfFileMetadata(revision, etag, url, None, None)

    def download(repo_id, filename, *, revision, local_dir):
        assert (repo_id, filename, revision) == (repository, "model.safetensors", "3c5e0b2d")
        local_dir.mkdir(parents=True)
        (local_dir / filename).write_bytes((folder / SMALL_FILE).read_bytes())
        return str(local_dir / filename)

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", metadata)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)


def test_weights_of_timm_with_a_checksum_serve_our_transformer(tmp_path):
    pretrained = publish(tmp_path / "mine", transformer(), BASE, BASE_FILE)
    target = take(pretrained, tmp_path)
    assert target.name == "timm-vit_base_patch16_224.orig_in21k_ft_in1k.safetensors"
    path = run(evaluation(pretrained, VIT), tmp_path)
    weights, _ = checkpoint.read_tensors(path / "weights.safetensors")
    assert weights.keys() == transformer().keys()
    assert all(torch.equal(weights[key], value) for key, value in transformer().items())


def test_a_local_file_of_unknown_checksum_is_used_with_advice(tmp_path, caplog):
    digest = publish_small(tmp_path / "mine")
    target = take(Pretrained(name=SMALL), tmp_path)
    tensors, header = checkpoint.read_tensors(target)
    assert header.items() >= {"sha256": digest, "name": SMALL}.items()
    assert all(torch.equal(tensors[key], value) for key, value in transformer().items())
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"SHA-256 is {digest}: add it as 'sha256' where config/paper/ names '{SMALL}'" in record.message
    run(evaluation(Pretrained(name=SMALL), VIT), tmp_path)


def test_a_checksum_added_to_the_configuration_binds(tmp_path, caplog):
    digest = publish_small(tmp_path / "mine")
    take(Pretrained(name=SMALL, sha256=digest), tmp_path)
    assert not caplog.records
    with pytest.raises(UserError, match=rf"{SMALL_FILE}: SHA-256 begins {digest[:8]}, expected 00000000 for '{SMALL}'"):
        take(Pretrained(name=SMALL, sha256="0" * 8), tmp_path)


def test_a_missing_file_of_a_repository_is_named_with_its_origin(tmp_path):
    (tmp_path / "mine").mkdir()
    message = rf"mine/{SMALL_FILE}: no such file; .* \(key 'weights.root'\): model.safetensors of '{SMALL}' on the Hug"
    refused(Pretrained(name=SMALL), tmp_path, message)


@pytest.mark.parametrize("keep", [0, 7, 300])
def test_a_damaged_file_of_safetensors_is_refused(tmp_path, keep):
    publish_small(tmp_path / "mine")
    content = (tmp_path / "mine" / SMALL_FILE).read_bytes()[:keep]
    (tmp_path / "mine" / SMALL_FILE).write_bytes(content)
    refused(Pretrained(name=SMALL), tmp_path, rf"{SMALL_FILE}: damaged, or not safetensors")


def test_the_hub_states_the_checksum_of_its_file(tmp_path, monkeypatch, caplog):
    digest = publish_small(tmp_path / "there")
    hub(monkeypatch, tmp_path / "there", digest)
    caplog.set_level(logging.INFO, "bkdsnn")
    target = stored(tmp_path / "weights", Pretrained(name=SMALL))
    fetch(Pretrained(name=SMALL), target, None)
    tensors, header = checkpoint.read_tensors(target)
    assert header.items() >= {"sha256": digest, "name": SMALL}.items()
    assert tensors.keys() == transformer().keys()
    assert [record.message for record in caplog.records] == [
        f"weights '{SMALL}': SHA-256 {digest}, as the publisher states"
    ]
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize(
    ("etag", "sha256", "message"),
    [
        ("0" * 64, None, r"model.safetensors: SHA-256 begins [0-9a-f]{8}, expected 0{64}"),
        ("right", "0" * 8, r"model.safetensors: SHA-256 begins [0-9a-f]{8}, expected 0{8} for"),
        ("9c1185a5c5e9fc54612808977ee8f548b2258d31", None, r"expected a SHA-256 from the hub, found '9c1185a5"),
        (None, None, r"expected a SHA-256 from the hub, found 'None'"),
    ],
    ids=["another file", "another than configured", "no SHA-256", "nothing stated"],
)
def test_a_file_that_is_not_what_the_hub_states_is_refused(tmp_path, monkeypatch, etag, sha256, message):
    digest = publish_small(tmp_path / "there")
    hub(monkeypatch, tmp_path / "there", digest if etag == "right" else etag)
    pretrained = Pretrained(name=SMALL, sha256=sha256)
    (tmp_path / "weights").mkdir()
    with pytest.raises(UserError, match=message):
        fetch(pretrained, stored(tmp_path / "weights", pretrained), None)
    assert list((tmp_path / "weights").iterdir()) == []


def test_without_a_network_the_message_names_the_repository_and_the_file(tmp_path):
    message = (
        rf"cannot download model\.safetensors of '{SMALL}' on the Hugging Face hub: .*touched.*; "
        rf"download it yourself, as {SMALL_FILE}, and set 'weights\.root'"
    )
    with pytest.raises(UserError, match=message):
        fetch(Pretrained(name=SMALL), stored(tmp_path, Pretrained(name=SMALL)), None)
    assert list(tmp_path.iterdir()) == []

"""A trained network and the real images that it classifies, from the sample data."""

import io
import pickle
import tarfile

import torch

from bkdsnn.config import paper
from bkdsnn.models import build


def trained_resnet20(samples):
    """ResNet-20 of akamaster/pytorch_resnet_cifar10, 91.78 % on the whole test set of CIFAR-10."""
    weights = torch.load(samples("weights/resnet20-12fca82f.th"), weights_only=True, map_location="cpu")["state_dict"]
    run = paper.plan("table2a", "paper", seeds=[0]).cell("ann", "resnet20-cifar10").runs[0]
    net = build(run.network.model_copy(update={"shortcut": "pad"}), run.dataset).eval()
    net.load_state_dict(
        {name.removeprefix("module.").replace("linear.", "fc."): value for name, value in weights.items()}
    )
    return net


def cifar10_test(samples):
    """1,017 original test images, as that network takes them, and their labels."""
    with tarfile.open(samples("cifar10/cifar-10-python-lossless-subset.tar.gz")) as archive:
        member = archive.extractfile("cifar-10-batches-py/test_batch")
        batch = pickle.load(io.BytesIO(member.read()), encoding="latin1")  # noqa: S301 - CIFAR-10 comes as pickles
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    pixels = torch.from_numpy(batch["data"]).view(-1, 3, 32, 32) / 255
    return (pixels - mean) / std, torch.tensor(batch["labels"])

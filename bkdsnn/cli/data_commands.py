"""Subcommands that prepare the inputs of runs: datasets, frames, published weights."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

from bkdsnn.cli import arguments
from bkdsnn.cli.arguments import positive
from bkdsnn.config import Dataset, catalogue, paper, resolution
from bkdsnn.config.settings import data_root, weights_root
from bkdsnn.core import errors, progress
from bkdsnn.core.errors import UserError


def add(commands: arguments.Commands) -> None:
    """Add these subcommands to the parser."""
    one = arguments.command(commands, "data", data)
    one.add_argument("dataset", help="name in config/datasets.yaml, such as cifar10")
    arguments.described(one)
    arguments.common(one)
    said = "folder in which the folders of your datasets lie (default: $BKDSNN_DATA_ROOT; embedded data need none)"
    one.add_argument("--root", type=Path, metavar="FOLDER", help=said)
    arguments.logged(one)

    one = arguments.command(commands, "frames", frames)
    one.add_argument("dataset", help="name in config/datasets.yaml, such as cifar10-dvs")
    arguments.described(one)
    said = "T, number of frames of each recording (required)"
    one.add_argument("--timesteps", type=positive(int), required=True, metavar="T", help=said)
    arguments.common(one)
    arguments.logged(one)

    one = arguments.command(commands, "weights", weights)
    one.add_argument("name", help="such as torchvision/ResNet18_Weights.IMAGENET1K_V1")
    said = "folder that already holds the file (default: $BKDSNN_WEIGHTS_ROOT, else the file is downloaded)"
    one.add_argument("--root", type=Path, metavar="FOLDER", help=said)
    arguments.resourced(one)
    arguments.logged(one)

    one = arguments.command(commands, "convert", convert)
    one.add_argument(
        "source",
        type=Path,
        help="cifar-10-batches-py or cifar-100-python (folder, .tar.gz or .zip), or a folder or archive of images",
    )
    one.add_argument("target", type=Path, help="folder to make, such as data/cifar-10-batches-bin")


def data(options: argparse.Namespace) -> None:
    """Check your copy of a dataset, or build an embedded one, and write the manifest that its runs need."""
    from bkdsnn.data import prepare

    dataset = _dataset(options)
    prepare(dataset, None if dataset.embedded else data_root(options.root), _manifest(options))


def frames(options: argparse.Namespace) -> None:
    """Integrate the recordings of a prepared event-camera dataset into T frames each."""
    dataset = _dataset(options)
    if not dataset.events:
        raise UserError(f"dataset '{options.dataset}' has images; expected one with recordings of events")
    from bkdsnn.data.events.frames import convert as convert_events

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # raise, so that unfinished arrays are removed
    convert_events(dataset, _manifest(options), options.timesteps)


def weights(options: argparse.Namespace) -> None:
    """Copy or download published weights, verify their checksum, and store them in the resources folder."""
    from bkdsnn.data.published import fetch, stored

    known = {one.name: one for one in catalogue.published_weights()}
    if options.name not in known:
        raise errors.unknown("weights", options.name, known)
    target = stored(options.resources / "weights", known[options.name])
    fetch(known[options.name], target, weights_root(options.root))


def convert(options: argparse.Namespace) -> None:
    """Convert pickled CIFAR or image folders to the binary layout that the pipeline reads."""
    from bkdsnn.data.convert import convert as convert_data

    progress.log.info("%s", convert_data(options.source, options.target))


def _dataset(options: argparse.Namespace) -> Dataset:
    """Return the named dataset; every dataset can be used at every scale."""
    datasets = paper.Expansion(options.scale).datasets
    datasets |= resolution.datasets_of(options.spec, options.scale) if options.spec else {}
    return datasets[catalogue.known("dataset", options.dataset, datasets, "config/datasets.yaml")]


def _manifest(options: argparse.Namespace) -> Path:
    return options.results / options.scale / "data" / f"{options.dataset}.json"

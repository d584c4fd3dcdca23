"""Images a second that the loader gives from files of ImageNet's size, augmented as its tables are at scale paper.

    python benchmarks/decoding.py
    python benchmarks/decoding.py --images <folder of JPEG files>

Without `--images` the files are made: noise of 500 x 375 pixels in about 100 kB, the mean of ImageNet. They lie in the
file cache. Workers are the processes of the loader, each with one core; 0 is the process itself. `cores` is how many of
them feed a GPU that trains 1000 images a second.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch
from PIL import Image

from bkdsnn.config import RunSpec, paper
from bkdsnn.data.images import rgb
from bkdsnn.data.views import Batches, RandomView, ViewSplit

CASES = {
    "ResNet, crop and mirror": ("table2c", "resnet18-imagenet"),
    "Spikingformer": ("table2d", "sformer-8-384-imagenet"),
}
BATCH, BATCHES, FILES = 32, 8, 64


class Pictures:
    """Image files by number, again and again."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return BATCH * BATCHES

    def __getitem__(self, index: int) -> tuple[Image.Image, torch.Tensor]:
        return rgb(self._paths[index % len(self._paths)]), torch.tensor(0)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and write."""
    parser = harness.parser(__doc__, rounds=5)
    parser.add_argument("--images", type=Path, help="folder with image files, searched whole (default: made)")
    options = parser.parse_args(arguments)
    machine = harness.machine()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        paths = found(options.images) if options.images else made(Path(folder))
        sides = {
            f"{name}; {workers}": harness.clocked(reader(Pictures(paths), run(*case), workers))
            for name, case in CASES.items()
            for workers in sorted({0, 1, os.cpu_count() or 1})
        }
        seconds = harness.in_turn(sides, options.rounds)
        size = sum(path.stat().st_size for path in paths) / len(paths) / 1000
    rows = [row(name, took) for name, took in seconds.items()]
    harness.show(rows)
    about = {"files": str(options.images or "made"), "mean_kb": size}
    print(f"{len(paths)} files, {about['files']}, {size:.0f} kB on average")
    harness.finish("decoding", "cpu", options.out, rows, machine=machine, **about)


def run(table: str, column: str) -> RunSpec:
    """Return BKDSNN's run in that column, at the scale of the paper."""
    return paper.plan(table, "paper", seeds=[0]).cell("bkdsnn", column).runs[0]


def reader(pictures: Pictures, spec: RunSpec, workers: int) -> Callable[[], None]:
    """Return a function that reads all batches once."""
    view = RandomView(spec.dataset, spec.recipe.augment, spec.network.view, seed=0)
    order, steps = torch.arange(len(pictures)), range(BATCHES)
    if not workers:
        batches = Batches(pictures, view, order.split(BATCH), 0)
        return lambda: [batches[step] for step in steps]
    split = ViewSplit(pictures, view, torch.device("cpu"), workers)
    return lambda: list(split.read(order, BATCH, steps, 0))


def row(name: str, seconds: list[float]) -> dict[str, Any]:
    """Return median, least and greatest images a second, and the cores that 1000 of them take."""
    case, workers = name.split("; ")
    rates = harness.spread([BATCH * BATCHES / took for took in seconds])
    return {
        "augmentation": case,
        "workers": int(workers),
        **rates,
        "cores": 1000 * max(1, int(workers)) / rates["median"],
    }


def found(folder: Path) -> list[Path]:
    """Return the image files below a folder."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpeg", ".jpg", ".png"))


def made(folder: Path) -> list[Path]:
    """Write noise of two sizes as JPEG files."""
    draw = functools.partial(np.random.default_rng(0).integers, 256, dtype=np.uint8)
    paths = [folder / f"{index}.JPEG" for index in range(FILES)]
    for path in paths:
        coarse, fine = (Image.fromarray(draw(size=(*size, 3))).resize((500, 375)) for size in ((12, 16), (125, 166)))
        Image.blend(coarse, fine, 0.33).save(path, quality=95)
    return paths


if __name__ == "__main__":
    main()

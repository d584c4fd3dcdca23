"""RandAugment (Cubuk et al., 2020) by timm, from its notation."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from PIL import Image, ImageOps

from bkdsnn.config import Augment, Dataset
from bkdsnn.core.errors import UserError
from bkdsnn.data.images import FILTERS

SECTIONS = {
    "m": r"\d+",  # magnitude
    "n": r"[1-9]\d*",  # operations an image
    "p": r"1|0?\.\d+",  # probability of each
    "mstd": r"\d+(\.\d+)?",  # standard deviation of the magnitude
    "mmax": r"[1-9]\d*",  # largest magnitude
    "inc": r"[01]",  # operations whose strength grows with the magnitude
}


def check_notation(notation: str) -> None:
    """Raise UserError unless it is `rand` and timm's sections, each at most once; timm itself ignores most mistakes."""
    first, *sections = notation.split("-")
    names = [re.match("[a-z]*", section)[0] for section in sections]  # type: ignore[index]
    known = [re.fullmatch(SECTIONS.get(name, "(?!)"), text[len(name) :]) for name, text in zip(names, sections)]
    if first != "rand" or not sections or not all(known) or len(set(names)) < len(names):
        raise UserError(
            f"recipe key 'augment.randaugment' is '{notation}'; expected 'rand' and any of the sections "
            f"{', '.join(f'{name}<number>' for name in SECTIONS)}, joined by '-', such as 'rand-m9-n1-mstd0.4-inc1'"
        )


def randaugment(dataset: Dataset, augment: Augment) -> Callable[[Image.Image], Image.Image]:
    """Return the function that distorts an RGB image as `augment.randaugment` says; it uses the global generators.

    Shift and fill colour are those of timm's `create_transform`: 0.45 of the image's side, the mean colour. Images are
    resampled by the filter of `resized_crop`; without one bicubically, as in the published CIFAR recipes (D-084).
    """
    from timm.data.auto_augment import rand_augment_transform

    settings: dict[str, Any] = {
        "translate_const": int(dataset.image_size * 0.45),
        "img_mean": tuple(min(255, round(255 * value)) for value in dataset.mean),
        "interpolation": FILTERS[augment.resized_crop.interpolation if augment.resized_crop else "bicubic"],
    }
    transform = rand_augment_transform(str(augment.randaugment), settings)
    for operation in transform.ops:
        if operation.name.startswith("Posterize"):
            operation.aug_fn = posterise
    return transform


def posterise(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """Keep the leading `bits` (0-8) of each value; 0 bits, which occur at full magnitude, give black (D-083)."""
    return ImageOps.posterize(image, bits) if bits else Image.new("RGB", image.size)

"""Decode image files; filters to scale them."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from bkdsnn.config import Interpolation
from bkdsnn.core.errors import UserError

FILTERS: dict[Interpolation, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def rgb(path: Path) -> Image.Image:
    """Return the image at `path` in RGB, also if it is greyscale; UserError if it cannot be decoded."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError for a broken PNG
        raise UserError(f"{path}: cannot be read as an image ({error}); restore it from the original") from error

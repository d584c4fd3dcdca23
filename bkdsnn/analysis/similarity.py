"""Similarity of two Grad-CAM maps. Pure NumPy.

Shapes: B images, L taps, H W pixels; maps are float32 (B, L, H, W), not negative. A map is empty if it is zero
everywhere.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Maps = NDArray[np.float32]

TOP = 0.2  # share of the pixels whose intersection is measured


def mean_and_std(values: NDArray[np.float64]) -> tuple[float | None, float | None]:
    """Return mean and sample standard deviation of the numbers that are not NaN; None where there are too few."""
    kept = values[~np.isnan(values)]
    mean = float(kept.mean()) if len(kept) else None
    return mean, float(kept.std(ddof=1)) if len(kept) > 1 else None


def cosines(one: Maps, other: Maps) -> NDArray[np.float64]:
    """Return the cosine similarity of corresponding maps, (B, L): 0 if one of them is empty, NaN if both are."""
    both, first, second = (
        np.einsum("blhw,blhw->bl", a, b, dtype=np.float64) for a, b in ((one, other), (one, one), (other, other))
    )
    sizes = np.sqrt(first * second)
    found = both / np.where(sizes == 0, 1.0, sizes)
    return np.where((first == 0) & (second == 0), np.nan, found)


def overlaps(one: Maps, other: Maps) -> NDArray[np.float64]:
    """Return the share of top pixels that corresponding maps have in common, (B, L); NaN if both are empty.

    The top sets A and B are the highest 20 % of the pixels, and the share is |A n B| / |A|. If a map has fewer non-zero
    pixels, its set is smaller, and the share is of the larger set. For unrelated maps it is 20 % on average.
    """
    a, b = top(one), top(other)
    larger = np.maximum(a.sum((-2, -1)), b.sum((-2, -1)))
    return np.where(larger == 0, np.nan, (a & b).sum((-2, -1)) / np.maximum(larger, 1))


def top(maps: Maps) -> NDArray[np.bool_]:
    """Return which pixels, bool (B, L, H, W), are among the highest 20 % of their map.

    Ties at the threshold go to the first pixels in reading order; pixels of value zero are never included.
    """
    flat = maps.reshape(*maps.shape[:2], -1)
    size = round(TOP * flat.shape[-1])
    lowest = np.partition(flat, -size, axis=-1)[..., -size, None]
    above, level = flat > lowest, flat == lowest
    room = size - above.sum(-1, keepdims=True)
    chosen = above | (level & (level.cumsum(-1) <= room))
    return np.asarray(chosen & (flat > 0)).reshape(maps.shape)

"""Random streams: one per purpose, each a pure function of (seed, role, purpose, counters).

The role enters in the place of the seed: a run that teaches has there a key of the stream `teacher` (`RunSpec.root`).
No generator state is ever stored: the numbers of epoch 7, step 3 are the same whether the run was resumed or not, and
two students at the same seed see the same images in the same order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Purpose = Literal["init", "order", "augmentation", "randaugment", "erasing", "mixing", "blur", "data", "teacher"]


def key(seed: int, purpose: Purpose, *counters: int) -> int:
    """Return a 63-bit seed for the stream `purpose` at the given counters (epoch, step, sample, ...)."""
    text = "/".join(map(str, (seed, purpose, *counters)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, purpose: Purpose, *counters: int) -> torch.Generator:
    """Return a CPU generator positioned at the start of that stream."""
    import torch

    return torch.Generator().manual_seed(key(seed, purpose, *counters))


@contextmanager
def seeded(seed: int, purpose: Purpose, *counters: int) -> Iterator[None]:
    """Seed the global generators of Python, NumPy and torch (CPU) from that stream; restore their states afterwards.

    For libraries that draw from the global generators and do not accept one as an argument.
    """
    import random

    import numpy as np
    import torch

    number = key(seed, purpose, *counters)
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(number)
    np.random.seed((number >> 32, number & 0xFFFFFFFF))
    torch.default_generator.manual_seed(number)  # torch.manual_seed would also seed every GPU
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])

"""Small networks for frames of events, and such frames, that several test files share."""

import torch
from transformers_example import SIZES

from bkdsnn import config
from bkdsnn.config import paper
from bkdsnn.models import build

NEURONS = paper.Expansion("paper").neurons
PLIF, LIF = (config.Neuron.model_validate(NEURONS[name]) for name in ("plif-atan", "lif-sigmoid-events"))
TRANSFORMERS = {"spikformer": config.Spikformer, "spikingformer": config.Spikingformer}
TINY = {"dim": 24, "depth": 1, "heads": 4, "pools": (1, 2, 3, 4), "attention_scale": 1.0}


def dataset(size=32, classes=10):
    events = config.Events(layout="cifar10-dvs", sensor=(size, size))
    return config.Dataset(name="events", format="events", classes=classes, image_size=size, events=events)


def wide(timesteps=4, widths=(8, 8, 16, 16, 16), **changes):
    return config.Wide7B(name="tiny", widths=widths, neuron=PLIF, timesteps=timesteps, **changes)


def transformer(family, timesteps=4, base=None, **changes):
    """The spec of a named transformer, or of the tiny one, with CML."""
    fields = {"cml": True, "neuron": LIF, "timesteps": timesteps} | (SIZES[base] if base else TINY) | changes
    return TRANSFORMERS[family](name=base or "tiny", form="spiking", **fields)


NETWORKS = {"wide-7b": wide(), **{family: transformer(family) for family in TRANSFORMERS}}


def seeded(network, size=32, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build(network, dataset(size))


def frames(batch=4, timesteps=4, size=32, events=0.05, dtype=torch.float32):
    """Counts (B, T, 2, H, W) of Poisson events, `events` of them per place and frame on average."""
    generator = torch.Generator().manual_seed(1)
    rates = 2 * events * torch.rand(batch, 1, 2, size, size, generator=generator)
    return torch.poisson(rates.expand(-1, timesteps, -1, -1, -1), generator=generator).to(dtype)

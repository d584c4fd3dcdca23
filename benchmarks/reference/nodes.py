"""spikingjelly's neurons."""

from __future__ import annotations

from typing import Any

from spikingjelly.activation_based import neuron, surrogate
from torch import nn

from bkdsnn import config

SURROGATES = {"atan": surrogate.ATan, "sigmoid": surrogate.Sigmoid, "triangle": surrogate.PiecewiseQuadratic}


def node(configuration: config.Neuron, **changes: float) -> nn.Module:
    """Return the neuron for a configuration with `changes` to it, multi-step."""
    kind, options = node_options(configuration.model_copy(update=changes))
    return kind(**options, step_mode="m")


def node_options(configuration: config.Neuron) -> tuple[type[nn.Module], dict[str, Any]]:
    """Return the class of a neuron and its options."""
    options = {
        "v_threshold": configuration.v_threshold,
        "v_reset": configuration.v_reset,
        "detach_reset": configuration.detach_reset,
        "surrogate_function": SURROGATES[configuration.surrogate](configuration.alpha),
    }
    if configuration.kind == "if":
        return neuron.IFNode, options
    kind, tau = {"lif": (neuron.LIFNode, "tau"), "plif": (neuron.ParametricLIFNode, "init_tau")}[configuration.kind]
    return kind, {tau: configuration.tau, "decay_input": configuration.decay_input, **options}

"""Operations and energy of one image, Eqs. A4-A5, by two countings. Pure, and free of torch.

counting  an operation is an AC where                               else a MAC
paper     the layer is not among those of FLOPS(1):                 FLOPS(1), all their products
          SOPS(l) = rate T FLOPS(l), integers count as spikes
strict    the layer's inputs are all 0 or 1: rate passes MACs       passes MACs, all its products

FLOPS(1) covers the layers that each family lists in `mac_layers` of its network. The first layer counts as often as the
family's reference code runs it: once per image in ResNets, T times in networks that repeat the image before it
(Spikformer, Spikingformer, Meta-SpikeFormer) or take T frames (all networks on events). The head of Spikformer and
Spikingformer takes means over map and time, which are no spikes: it is in FLOPS(1), once (D-169).

The paper's counting includes convolutions and linear layers only; for an ANN also two operations per element of a norm,
as the usual counters did then. The strict counting includes the products of attention but no norms, because these can
be folded into the convolutions (D-170 to D-172).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from bkdsnn.analysis.activity_records import Activity, LayerActivity
from bkdsnn.core.files import csv_text


class Constants(NamedTuple):
    """Energy of one operation, pJ; the paper's, for 45 nm."""

    mac_pj: float = 4.6
    ac_pj: float = 0.9


class Operations(NamedTuple):
    """Operations per image. In the paper's counting `macs` are FLOPS(1), or all FLOPS of an ANN, and `acs` the SOPS."""

    macs: float = 0.0
    acs: float = 0.0

    def millijoules(self, constants: Constants) -> float:
        """Return the energy, mJ (Eq. A5)."""
        return (self.macs * constants.mac_pj + self.acs * constants.ac_pj) * 1e-9


def paper(activity: Activity) -> Operations:
    """Return the paper's counting: FLOPS(1) as MACs, and as ACs the sum of SOPS(l) of Eq. A4 over the other layers."""
    return _total(paper_layer(activity, layer) for layer in activity.layers)


def strict(activity: Activity) -> Operations:
    """Return the strict counting: inputs that are sums of spikes need MACs, because they are not only 0 and 1."""
    return _total(strict_layer(activity, layer) for layer in activity.layers)


def paper_layer(activity: Activity, layer: LayerActivity) -> Operations:
    """Return the operations of one layer as the paper counts them."""
    if layer.kind == "attention" or (layer.kind == "norm" and activity.spiking):
        return Operations()
    if not activity.spiking:
        return Operations(macs=layer.macs * (2 if layer.kind == "norm" else 1))
    if layer.name in activity.mac_layers:
        return Operations(macs=layer.macs * activity.mac_layers[layer.name])
    return Operations(acs=layer.rate * activity.timesteps * layer.macs)


def strict_layer(activity: Activity, layer: LayerActivity) -> Operations:
    """Return the operations of one layer with ACs for binary inputs only."""
    if layer.kind == "norm":
        return Operations()
    if activity.spiking and layer.binary:
        return Operations(acs=layer.rate * layer.passes * layer.macs)
    return Operations(macs=layer.passes * layer.macs)


def layers_csv(activities: Iterable[Activity], constants: Constants) -> str:
    """Return CSV with one line per layer and both countings, for one or more activities; energies in nJ."""
    return csv_text([_record(activity, layer, constants) for activity in activities for layer in activity.layers])


def _record(activity: Activity, layer: LayerActivity, constants: Constants) -> dict[str, Any]:
    record = {"run": activity.run, "layer": layer.name, "kind": layer.kind, "macs_per_pass": layer.macs}
    record |= {"passes": layer.passes, "input_rate": layer.rate}
    record |= {"input_binary": str(layer.binary).lower(), "input_integer": str(layer.integer).lower()}
    countings: dict[str, Callable[[Activity, LayerActivity], Operations]] = {
        "paper": paper_layer,
        "strict": strict_layer,
    }
    for name, count in countings.items():
        found = count(activity, layer)
        record |= {f"{name}_macs": found.macs, f"{name}_acs": found.acs}
        record[f"{name}_nj"] = 1e6 * found.millijoules(constants)
    return record


def _total(parts: Iterable[Operations]) -> Operations:
    macs, acs = 0.0, 0.0
    for part in parts:
        macs, acs = macs + part.macs, acs + part.acs
    return Operations(macs, acs)

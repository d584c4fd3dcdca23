"""What a column may measure of a finished run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bkdsnn.analysis import energy
from bkdsnn.analysis.activity_records import Activity, read_activity
from bkdsnn.analysis.energy import Constants
from bkdsnn.config.declarations import MetricName
from bkdsnn.runs.records import Finished


@dataclass(frozen=True)
class Metric:
    """A number of a run; `fine` ones may be small, and are printed with three digits at least."""

    value: Callable[[Activity, Constants], float]
    fine: bool = True

    def decimals(self, values: Iterable[float | None]) -> int:
        """Return how many decimals the values of a column take: two, or what shows three digits of the smallest."""
        sizes = [abs(value) for value in values if value]
        if not (self.fine and sizes):
            return 2
        return max(2, 2 - math.floor(math.log10(min(sizes))))


def _operations(activity: Activity, constants: Constants) -> float:
    """SOPS of an SNN, FLOPS of an ANN, in G an image."""
    total = energy.paper(activity)
    return (total.acs if activity.spiking else total.macs) / 1e9


METRICS: dict[MetricName, Metric] = {
    "firing-rate": Metric(lambda activity, _: 100 * activity.feature.mean, fine=False),
    "operations": Metric(_operations),
    "energy": Metric(lambda activity, constants: energy.paper(activity).millijoules(constants)),
    "strict-macs": Metric(lambda activity, _: energy.strict(activity).macs / 1e9),
    "strict-acs": Metric(lambda activity, _: energy.strict(activity).acs / 1e9),
    "strict-energy": Metric(lambda activity, constants: energy.strict(activity).millijoules(constants)),
}


def measured(name: MetricName, run: Finished, constants: Constants) -> float | None:
    """Return what a column measures of a run, None where its analysis is missing.

    Accuracies are in per cent, firing rates in 10^-2 (Eq. 11), operations in G and energies in mJ an image.
    """
    if name == "top1":
        return run.metrics.top1.last
    activity = read_activity(run.spec, run.folder.parents[1])
    return None if activity is None else METRICS[name].value(activity, constants)


def decimals(name: MetricName, values: Iterable[float | None]) -> int:
    """Return how many decimals a column takes in print."""
    return METRICS[name].decimals(values) if name in METRICS else 2

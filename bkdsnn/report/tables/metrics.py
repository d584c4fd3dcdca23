"""The metrics that a column of a table can show for a finished run."""

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
    """A metric of a run; `fine` metrics may have small values, and are printed with at least three digits."""

    value: Callable[[Activity, Constants], float]
    fine: bool = True

    def decimals(self, values: Iterable[float | None]) -> int:
        """Return the number of decimals for a column: two, or as many as show three digits of its smallest value."""
        sizes = [abs(value) for value in values if value]
        if not (self.fine and sizes):
            return 2
        return max(2, 2 - math.floor(math.log10(min(sizes))))


def _operations(activity: Activity, constants: Constants) -> float:
    """SOPS of an SNN or FLOPS of an ANN, in 10^9 per image."""
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
    """Return the value of a metric for a run, or None if the run's analysis is missing.

    Accuracies are in per cent, firing rates in 10^-2 (Eq. 11), operations in 10^9 and energies in mJ per image.
    """
    if name == "top1":
        return run.metrics.top1.last
    activity = read_activity(run.spec, run.folder.parents[1])
    return None if activity is None else METRICS[name].value(activity, constants)


def decimals(name: MetricName, values: Iterable[float | None]) -> int:
    """Return how many decimals the values of a column are printed with."""
    return METRICS[name].decimals(values) if name in METRICS else 2

"""The budget in words, and the caps. Free of torch."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable

from bkdsnn.budget.estimate import Budget, Priced, Span
from bkdsnn.budget.evidence import Source
from bkdsnn.config.catalogue import table_names
from bkdsnn.config.figure_plans import figure_names
from bkdsnn.config.paper import command as paper_command
from bkdsnn.config.settings import Caps, Settings
from bkdsnn.core.progress import duration

NETWORKS = 6  # lines of single networks, at most
SOURCES: dict[Source, str] = {
    "measured": "finished runs",
    "calibrated": "calibration",
    "related": "other losses around the same network",
}


class Advice:
    """What to do about runs of which nothing is known; `rules` are those of the jobs, targets among them."""

    def __init__(self, rules: Collection[str], settings: Settings) -> None:
        self._settings = settings
        self._targets = [name for name in (*table_names(), *figure_names()) if name in rules and "all" not in rules]

    def for_time(self, unknown: Collection[Priced]) -> str:
        """Return the commands that would tell the time of these runs."""
        data = sorted({run.run.spec.dataset.name for run in unknown if run.size is None})
        return f"`{self._count_images(data)}`, then {self.calibrate}" if data else self.calibrate

    @property
    def calibrate(self) -> str:
        """The command that times the runs of these targets."""
        words = ["python -m bkdsnn calibrate", *self._targets, "--scale", self._settings.scale, self._settings.variant]
        return f"`{' '.join(filter(None, words))}`"

    def _count_images(self, names: Iterable[str]) -> str:
        scale = self._settings.scale
        files = " ".join(f"results/{scale}/data/{name}.json" for name in names)
        return paper_command(files, scale, "reference", None, self._settings.datasets)


def summary(budget: Budget, advice: Advice) -> list[str]:
    """Return the lines that a user reads."""
    lines = [f"budget: {_count(len(budget.runs), 'run')}"]
    if len(budget.unknown) < len(budget.runs):
        lines[0] += f" on {budget.device}; device time, one run after another, with its 90 % interval"
        lines += _table(budget)
    if budget.unknown:
        step = advice.for_time(budget.unknown)
        lines.append(f"  no estimate of {_count(len(budget.unknown), 'run')}; to know more: {step}")
    lines += _disk(budget)
    if budget.others:
        lines.append(f"  not counted: {_count(budget.others, 'job')} for data, analyses, tables and figures")
    return lines


def excess(budget: Budget, caps: Caps, advice: Advice) -> str | None:
    """Say which cap the call would exceed, with the upper end of the interval; None if it keeps them."""
    hours, gigabytes = budget.seconds.high / 3600, budget.peak_bytes / 1e9
    unsized = [run for run in budget.runs if run.bytes is None]
    return (
        _missing("cap_hours", caps.cap_hours, budget.unknown, advice.for_time(budget.unknown))
        or _missing("cap_disk_gb", caps.cap_disk_gb, unsized, advice.calibrate)
        or _above("cap_hours", caps.cap_hours, hours, "hours on the device (the upper end of the interval)")
        or _above("cap_disk_gb", caps.cap_disk_gb, gigabytes, "GB of disk")
    )


def _missing(key: str, cap: float | None, unknown: list[Priced], step: str) -> str | None:
    if cap is None or not unknown:
        return None
    return (
        f"'budget.{key}' is {cap:g}, but there is no estimate of {_count(len(unknown), 'run')}, such as "
        f"{unknown[0].run.name}; run {step}, or set the key to null"
    )


def _above(key: str, cap: float | None, found: float, what: str) -> str | None:
    if cap is None or found <= cap:
        return None
    return (
        f"needs up to {found:.3g} {what}, more than 'budget.{key}', which is {cap:g}; raise the key in "
        "config/config.yaml or by --config, or choose fewer targets, fewer seeds or a smaller scale"
    )


def _table(budget: Budget) -> list[str]:
    known = [run for run in budget.runs if run.seconds]
    by_rule = _grouped(known, lambda run: run.run.rule)
    networks = _grouped(known, lambda run: f"{run.run.spec.dataset.name}, {run.run.spec.network.slug}")
    shown = [*by_rule, *networks[:NETWORKS]] if len(networks) > 1 else by_rule
    rows = [*shown, ("all", known)]
    width = max(len(name) for name, _ in rows)
    lines = [f"  {name:<{width}}  {len(runs):>5}  {_span(_seconds(runs))}" for name, runs in rows]
    if len(networks) > NETWORKS:
        lines.insert(len(shown), f"  ({len(networks) - NETWORKS} more networks)")
    longest = budget.longest
    if longest and longest.seconds:
        lines.append(f"  longest: {_span(longest.seconds)}, {longest.run.name}")
    sources = Counter(run.source for run in known)
    lines.append("  from " + ", ".join(f"{text} ({sources[name]})" for name, text in SOURCES.items() if sources[name]))
    return lines


def _disk(budget: Budget) -> list[str]:
    unsized = sum(run.bytes is None for run in budget.runs)
    if unsized == len(budget.runs):
        return []
    at_once = f"{_count(budget.at_once, 'run')} at a time"
    rest = f", without {_count(unsized, 'run')} of unknown size" if unsized else ""
    needed = f"{_size(budget.left_bytes)} stay, {_size(budget.peak_bytes)} at the peak with {at_once}{rest}"
    return [f"  disk: {needed}; {_size(budget.free_bytes)} are free"]


def _grouped(runs: Iterable[Priced], key: Callable[[Priced], str]) -> list[tuple[str, list[Priced]]]:
    """Return the runs by key, the most expensive group first."""
    groups: dict[str, list[Priced]] = defaultdict(list)
    for run in runs:
        groups[key(run)].append(run)
    return sorted(groups.items(), key=lambda item: -_seconds(item[1]).middle)


def _seconds(runs: Iterable[Priced]) -> Span:
    return Span.total(run.seconds for run in runs if run.seconds)


def _span(span: Span) -> str:
    return f"{_time(span.middle)} ({_time(span.low)} to {_time(span.high)})"


def _time(seconds: float) -> str:
    return f"{seconds / 3600:,.1f} h" if seconds >= 3600 else duration(max(seconds, 1))


def _size(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"

"""The budget as text, and the check against the caps. Free of torch."""

from __future__ import annotations

from collections import Counter, defaultdict

from bkdsnn.budget.estimate import Budget, Span
from bkdsnn.budget.evidence import Source
from bkdsnn.config.settings import Caps
from bkdsnn.core.progress import duration

SOURCES: dict[Source, str] = {"measured": "finished runs", "calibrated": "calibration"}


def summary(budget: Budget, step: str) -> list[str]:
    """Return the budget as lines for the user; `step` has the commands that would measure runs of unknown time."""
    lines = [f"budget: {_count(len(budget.runs), 'run')}"]
    if len(budget.unknown) < len(budget.runs):
        lines[0] += f" on {budget.device}; device time, one run after another, with its 90 % interval"
        lines += _table(budget)
    if budget.unknown:
        lines.append(f"  no estimate of {_count(len(budget.unknown), 'run')}; to know more: {step}")
    return [*lines, *_disk(budget), "  not counted: jobs for data, analyses, tables and figures"]


def excess(budget: Budget, caps: Caps, step: str) -> str | None:
    """Return a message if the upper end of an estimate exceeds a cap of the user, or is unknown; None otherwise."""
    unsized = [run for run in budget.runs if run.bytes is None]
    hours = "hours on the device (the upper end of the interval)"
    for key, cap, unknown, found, unit in (
        ("cap_hours", caps.cap_hours, budget.unknown, budget.seconds.high / 3600, hours),
        ("cap_disk_gb", caps.cap_disk_gb, unsized, budget.peak_bytes / 1e9, "GB of disk"),
    ):
        if cap is not None and unknown:
            return (
                f"'budget.{key}' is {cap:g}, but there is no estimate of {_count(len(unknown), 'run')}, such as "
                f"{unknown[0].spec.name}; run {step}, or set the key to null"
            )
        if cap is not None and found > cap:
            return (
                f"needs up to {found:.3g} {unit}, more than 'budget.{key}', which is {cap:g}; raise the key in "
                "config/config.yaml or by --config, or choose fewer targets, fewer seeds or a smaller scale"
            )
    return None


def _table(budget: Budget) -> list[str]:
    """One line per kind of run and data set, the most expensive first, and their sum."""
    known = [(run, run.seconds) for run in budget.runs if run.seconds]
    groups: dict[str, list[Span]] = defaultdict(list)
    for run, seconds in known:
        groups[f"{run.spec.kind}, {run.spec.dataset.name}"].append(seconds)
    rows = sorted(groups.items(), key=lambda row: -Span.total(row[1]).middle)
    rows.append(("all", [seconds for _, seconds in known]))
    width = max(len(name) for name, _ in rows)
    lines = [f"  {name:<{width}}  {len(spans):>5}  {_span(Span.total(spans))}" for name, spans in rows]
    run, longest = max(known, key=lambda pair: pair[1])
    sources = Counter(run.source for run, _ in known)
    shown = ", ".join(f"{text} ({sources[name]})" for name, text in SOURCES.items() if sources[name])
    return [*lines, f"  longest: {_span(longest)}, {run.spec.name}", f"  from {shown}"]


def _disk(budget: Budget) -> list[str]:
    unsized = sum(run.bytes is None for run in budget.runs)
    if unsized == len(budget.runs):
        return []
    at_once = f"{_count(budget.at_once, 'run')} at a time"
    rest = f", without {_count(unsized, 'run')} of unknown size" if unsized else ""
    needed = f"{_size(budget.left_bytes)} stay, {_size(budget.peak_bytes)} at the peak with {at_once}{rest}"
    return [f"  disk: {needed}; {_size(budget.free_bytes)} are free"]


def _span(span: Span) -> str:
    return f"{_time(span.middle)} ({_time(span.low)} to {_time(span.high)})"


def _time(seconds: float) -> str:
    return f"{seconds / 3600:,.1f} h" if seconds >= 3600 else duration(max(seconds, 1))


def _size(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"

"""The ledger as a table: one line per attempt in the CSV, one line per kind of run in LaTeX and Markdown."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from bkdsnn.core import files
from bkdsnn.report.tables import latex
from bkdsnn.runs.ledger import read, under_way
from bkdsnn.runs.schema import Attempt

KIND = ["device", "kind", "dataset", "network"]
STATES = ("finished", "interrupted", "failed", "killed", "running")
NOTE = (
    "Attempts at runs of scale {scale}. Interrupted ones were saved, to be continued; of killed and running ones the "
    "time is that of their last checkpoint, a lower bound. Memory: the largest peak of a process."
)


def emit(results: Path, folder: Path) -> dict[str, Path]:
    """Write `<folder>/ledger.{csv,tex,md}` from `results`, the folder of a scale; return the paths by suffix."""
    attempts = [one for path in sorted((results / "ledger").glob("*.jsonl")) for one in _attempts(path, results)]
    table = pd.DataFrame(attempts, columns=[*Attempt.model_fields, "state"]).drop(columns=["attempt", "event"])
    shown, note = summary(table), NOTE.format(scale=results.name)
    texts = {
        "csv": table.to_csv(index=False, lineterminator="\n"),
        "tex": _float(shown.to_latex(index=False, escape=True, float_format="%.3f"), note, f"ledger-{results.name}"),
        "md": f"{note}\n\n{shown.to_markdown(index=False, floatfmt='.3f')}\n",
    }
    for suffix, text in texts.items():
        files.write_text(folder / f"ledger.{suffix}", text)
    return {suffix: folder / f"ledger.{suffix}" for suffix in texts}


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Count attempts by device and kind of run; a last line has the total."""
    groups = [(*key, part) for key, part in table.groupby(KIND)]
    lines = [dict(zip(KIND, key)) | _sums(part) for *key, part in groups]
    return pd.DataFrame([*lines, dict.fromkeys(KIND, "") | {"device": "all"} | _sums(table)])


def _float(tabular: str, caption: str, label: str) -> str:
    """Return the LaTeX float around a tabular, at most as wide as the page."""
    lines = [
        f"% Needs: {latex.NEEDS}",
        r"\begin{table*}[tbp]",
        r"  \centering",
        rf"  \caption{{{latex.escape(caption)}}}",
        rf"  \label{{tab:{label}}}",
        r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        tabular.rstrip() + "}",
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def _sums(part: pd.DataFrame) -> dict[str, float]:
    states = {state: int((part["state"] == state).sum()) for state in STATES}
    peak = part["peak_memory_mb"].max() / 1024 if len(part) else 0.0
    hours = float(part["seconds"].sum()) / 3600
    return {"runs": part["run"].nunique(), "attempts": len(part), **states, "hours": hours, "memory (GiB)": peak}


def _attempts(path: Path, results: Path) -> list[dict[str, object]]:
    """Return the attempts of one run with their states; only the last can be running."""
    every = read(path)
    running = under_way(results / "runs" / path.stem / "checkpoints" / "lock")
    states = [one.event if one.event in STATES else "killed" for one in every]
    if every and running and every[-1].event in ("began", "saved"):
        states[-1] = "running"
    return [one.model_dump() | {"state": state} for one, state in zip(every, states)]

"""Shared fixtures."""

import csv
import os
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
os.environ.pop("BKDSNN_OWN", None)  # what a developer adds elsewhere is no part of the project


@pytest.fixture(scope="session")
def samples() -> Callable[[str], Path]:
    """Return a function that finds a file of the real sample data, or skips the test."""
    base = Path(os.environ.get("BKDSNN_SAMPLES", ROOT.parent / "shared" / "data"))

    def find(relative: str) -> Path:
        if not (base / relative).exists():
            pytest.skip(f"sample data absent: {base / relative}")
        return base / relative

    return find


@pytest.fixture(scope="session")
def printed() -> list[dict[str, str]]:
    """The values that the paper's tables print, a line each, read from the paper; our declarations have no part in it.

    `value` is empty where the paper has a dash. `note` says where its text is unclear, or does not print the value.
    """
    return lines(ROOT / "tests" / "data" / "reported_values.csv")


@pytest.fixture(scope="session")
def emitted(tmp_path_factory) -> Callable[[str], list[dict[str, str]]]:
    """Return a function that writes a table of the paper without results, and reads the lines of its CSV."""
    from bkdsnn.analysis.energy import Constants
    from bkdsnn.config import paper
    from bkdsnn.report.tables import emit

    def read(name: str) -> list[dict[str, str]]:
        folder = tmp_path_factory.mktemp(name)
        return lines(emit(paper.plan(name, "paper", seeds=[0]), folder, folder, Constants())["csv"])

    return read


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))

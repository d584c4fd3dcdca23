"""Shared fixtures."""

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

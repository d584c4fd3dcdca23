"""A table of three runs, long enough to be disturbed, and how tests follow them."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from bkdsnn.config import RunSpec, catalogue, paper
from bkdsnn.runs import ledger
from bkdsnn.runs.run_folder import RunFolder

SMALL_TABLE = ("table9z", "--config", "scale=smoke")
PATIENCE = 300  # seconds


def with_small_table(root: Path, epochs: int, **recipe: Any) -> Path:
    """Add a table 9z to a repository: a teacher and a student alone of so many epochs, and a taught one of few.

    `recipe` has more fields of the recipes of the first two.
    """
    table = yaml.safe_load((root / "config" / "paper" / "table2c.yaml").read_text()) | {"number": "9z"}
    table["columns"] = table["columns"][:1]
    rows = {row["method"]: row for row in table["rows"] if row["method"] in ("sew-resnet", "ann", "bkdsnn")}
    rows["bkdsnn"]["delta_against"] = ["sew-resnet"]
    rows["bkdsnn"]["columns"] = {"recipes": {"student": "sew-cifar", "teacher": "ann-imagenet"}}
    table["rows"] = [{**row, "paper": row["paper"][:1]} for row in rows.values()]
    (root / "config" / "paper" / "table9z.yaml").write_text(yaml.safe_dump(table, sort_keys=False))
    scale = root / "config" / "scales" / "smoke.yaml"
    content = yaml.safe_load(scale.read_text())
    content["recipes"] |= {name: {"epochs": epochs, **recipe} for name in ("sew-imagenet", "ann-imagenet")}
    scale.write_text(yaml.safe_dump(content, sort_keys=False))
    return root


def runs_of_small_table(root: Path) -> list[RunSpec]:
    """The student alone, the teacher, the student that it teaches."""
    config = root / "config"
    cells = paper.Expansion("smoke", config=config).plan(catalogue.load_table("table9z", config)).cells
    return [cell.runs[0] for cell in cells]


def in_training(folder: RunFolder) -> ledger.Attempt:
    """Wait until an attempt at a run has trained for a few epochs, and return it."""

    def found() -> ledger.Attempt | None:
        attempts = ledger.read(folder.ledger)
        epochs = len(history.read_text().splitlines()) if (history := folder.path / "history.jsonl").exists() else 0
        running = attempts and attempts[-1].event in ("began", "saved")
        return attempts[-1] if running and epochs >= 3 + (attempts[-1].origin or (0, 0))[0] else None

    return wait_for(found)


def wait_for(condition: Callable[[], Any]) -> Any:
    """Wait until the condition holds, and return its value."""
    limit = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < limit, "nothing happened"
        time.sleep(0.1)
    return value

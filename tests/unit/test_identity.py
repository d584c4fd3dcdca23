"""Names of runs change on purpose only.

`BKDSNN_GOLDEN=write pytest tests/unit/test_identity.py` records new fields in `bkdsnn/config/identity.json` and the
names of all runs in `tests/golden/run-names/`; read the difference before it is committed.
"""

import difflib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from pydantic import ValidationError

from bkdsnn.config import (
    BKD,
    Augment,
    Dataset,
    Events,
    LaSNN,
    Part,
    Recipe,
    ResNet,
    RunSpec,
    Spikformer,
    Spikingformer,
    View,
    identity,
)
from bkdsnn.config.catalogue import scale_names
from bkdsnn.config.paper import all_runs
from bkdsnn.config.run_spec import CHANGES
from bkdsnn.core.errors import UserError
from bkdsnn.runs.artefacts import expect_spec

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "run-names"
WRITE = os.environ.get("BKDSNN_GOLDEN") == "write"
REWRITE = "`BKDSNN_GOLDEN=write pytest tests/unit/test_identity.py`"


@pytest.fixture(scope="module")
def runs() -> dict[str, RunSpec]:
    """Every run of the demo scale by the name that it has as the code stands."""
    return all_runs("demo", seeds=[0])


def renamed(runs: dict[str, RunSpec]) -> set[str]:
    return {name for name, run in runs.items() if run.model_copy().name != name}  # a copy computes it anew


def having(runs: dict[str, RunSpec], wanted: Callable[[RunSpec], bool]) -> set[str]:
    """Names of the runs that are such a run or are built on one."""
    return {name for name, run in runs.items() if any(wanted(one) for one in run.lineage())}


# The names of all runs


@pytest.mark.parametrize("scale", scale_names())
def test_the_names_of_all_runs_change_on_purpose_only(scale):
    reference, text = (all_runs(scale, seeds=[0], neurons=preset) for preset in ("reference", "paper-text"))
    found = sorted([*reference, *(f"{name} (paper-text)" for name in text if name not in reference)])
    path = GOLDEN / f"{scale}.txt"
    if WRITE:
        path.write_text("\n".join(found) + "\n")
    known = path.read_text().splitlines() if path.exists() else []
    gone, new = sorted(set(known) - set(found)), sorted(set(found) - set(known))
    assert (gone, new) == ([], []), f"other names than in {path.name}; {REWRITE} writes those that the code gives now"


# The baseline


def ours(part: type[Part] = Part) -> list[type[Part]]:
    found = [one for one in part.__subclasses__() if one.__module__.startswith("bkdsnn.")]
    return list(dict.fromkeys([*found, *(below for one in found for below in ours(one))]))


def brought_up_to_date(recorded: dict[str, Any], part: type[Part]) -> dict[str, Any]:
    """The record with new fields added and vanished ones removed; what is recorded of the others stays."""
    now = identity.record(part)
    old = recorded.get(part.__name__, now)
    names = [*now["always"], *now["defaults"]]
    always = [
        name for name in names if name in old["always"] or (name not in old["defaults"] and name in now["always"])
    ]
    defaults = {name: old["defaults"].get(name, now["defaults"].get(name)) for name in names if name not in always}
    return {"always": sorted(always), "defaults": defaults}


def test_every_field_of_every_part_is_recorded():
    recorded = json.loads(identity.BASELINE.read_text())
    expected = {part.__name__: brought_up_to_date(recorded, part) for part in sorted(ours(), key=lambda p: p.__name__)}
    if WRITE:
        identity.BASELINE.write_text(json.dumps(expected, indent=1) + "\n")
    known, wanted = (json.dumps(one, indent=1, sort_keys=True).splitlines() for one in (recorded, expected))
    changes = "\n".join(line for line in difflib.unified_diff(known, wanted, "identity.json", "models", "", "", 4, ""))
    assert WRITE or not changes, (
        f"fields came or went. A new one is recorded by {REWRITE}; where one went or has a new name, runs that left it "
        f"at its default keep their names: if they compute something else now, raise `version` of the class.\n{changes}"
    )


def test_no_two_parts_share_a_name_for_they_would_share_a_record():
    names = [part.__name__ for part in ours()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("part", list(ours()), ids=lambda part: part.__name__)
def test_what_is_revised_is_a_value_that_the_field_can_have(part):
    for option in part.revised:
        name, _, value = option.partition("=")
        assert f"'{value}'" in str(part.model_fields[name].annotation)


# New fields and changed defaults: a copy of the code with other lines


DESCRIBE = """
import json
from bkdsnn.config.paper import all_runs
from bkdsnn.core.errors import UserError
from bkdsnn.runs.artefacts import expect_spec
print(json.dumps({name: run.canonical() for name, run in all_runs("demo", seeds=[0]).items()}))
"""


def described(changes: dict[str, tuple[str, str]], place: Path) -> dict[str, str]:
    """The runs of the demo scale as code with the changed lines (old, new) has them: description by name, in order."""
    for part in ("bkdsnn/config", "bkdsnn/core", "config"):
        shutil.copytree(ROOT / part, place / part)
    shutil.copy(ROOT / "bkdsnn" / "__init__.py", place / "bkdsnn")
    for module, (old, new) in changes.items():
        path = place / "bkdsnn" / "config" / f"{module}.py"
        assert path.read_text().count(old) == 1
        path.write_text(path.read_text().replace(old, new))
    call, env = [sys.executable, "-W", "error", "-c", DESCRIBE], {"PYTHONPATH": str(place)}
    return json.loads(subprocess.run(call, cwd=place, env=env, stdout=subprocess.PIPE, check=True).stdout)


def test_one_more_defaulted_field_in_any_part_renames_no_run(tmp_path, runs):
    later = "    later: float = 0.5\n"
    changes = {
        "recipes": ("    epochs: int", f"{later}    epochs: int"),
        "datasets": ("    crop_padding: int", f"{later}    crop_padding: int"),
        "losses": ('    method: Literal["bkd"]', f'{later}    method: Literal["bkd"]'),
        "networks": ('    kind: Literal["if"', f'{later}    kind: Literal["if"'),
        "run_spec": ("    loss: TaskLoss", f"{later}    loss: TaskLoss"),
    }
    found = described(changes, tmp_path)
    assert list(found) == list(runs)
    assert sum(text.count('"later":0.5') for text in found.values()) > len(runs)


def test_a_changed_default_renames_the_runs_that_rely_on_it_and_no_other(tmp_path, runs):
    changes = {"recipes": ("momentum: float = Field(default=0.9", "momentum: float = Field(default=0.8")}
    found = described(changes, tmp_path)
    changed = {old for old, new in zip(runs, found, strict=True) if old != new}
    assert changed == {old for old, text in zip(runs, found.values(), strict=True) if text != runs[old].canonical()}
    assert 0 < len(changed) < len(runs)


# Versions


@pytest.mark.parametrize(
    ("part", "uses"),
    [
        (LaSNN, lambda run: any(isinstance(term, LaSNN) for term in run.distill)),
        (BKD, lambda run: any(isinstance(term, BKD) for term in run.distill)),
        (ResNet, lambda run: isinstance(run.network, ResNet)),
        (Spikingformer, lambda run: isinstance(run.network, Spikingformer)),
        (Events, lambda run: run.dataset.events is not None),
    ],
    ids=lambda one: one.__name__ if isinstance(one, type) else "",
)
def test_a_raised_version_renames_the_runs_that_use_that_part_and_no_other(runs, monkeypatch, part, uses):
    monkeypatch.setattr(part, "version", 2)
    assert renamed(runs) == having(runs, uses)
    assert 0 < len(renamed(runs)) < len(runs)


@pytest.mark.parametrize("part", [RunSpec, Recipe, Dataset, View])
def test_a_raised_version_of_what_all_runs_use_renames_them_all(runs, monkeypatch, part):
    monkeypatch.setattr(part, "version", part.version + 1)
    assert renamed(runs) == set(runs)


@pytest.mark.parametrize(
    ("part", "option", "uses"),
    [
        (Events, "layout=n-mnist", lambda run: run.dataset.events and run.dataset.events.layout == "n-mnist"),
        (Events, "layout=dvs-lip", lambda run: run.dataset.events and run.dataset.events.layout == "dvs-lip"),
        (Dataset, "format=digits", lambda run: run.dataset.format == "digits"),
        (BKD, "mask=pixel", lambda run: any(isinstance(term, BKD) and term.mask == "pixel" for term in run.distill)),
    ],
)
def test_a_revised_value_of_an_option_renames_the_runs_that_have_it_and_no_other(runs, monkeypatch, part, option, uses):
    monkeypatch.setattr(part, "revised", {option: 2})
    assert renamed(runs) == having(runs, uses)


def test_versions_of_parts_that_a_run_does_not_use_are_not_told(runs, monkeypatch):
    monkeypatch.setattr(LaSNN, "version", 3)
    monkeypatch.setattr(Augment, "version", 2)
    lasnn = next(run for run in runs.values() if any(isinstance(term, LaSNN) for term in run.distill))
    common = {"Augment.version": 2, "RunSpec.version": RunSpec.version}
    assert lasnn.versions == {**common, "LaSNN.version": 3}
    assert lasnn.teacher.versions == common


def test_a_description_of_another_version_is_refused(runs, monkeypatch):
    lasnn = next(run for run in runs.values() if any(isinstance(term, LaSNN) for term in run.distill))
    before = lasnn.canonical()
    monkeypatch.setattr(LaSNN, "version", 2)
    with pytest.raises(
        ValidationError, match=r"'versions' of the run's parts are {'RunSpec.version': \d}, but in this code {'LaSNN"
    ):
        RunSpec.model_validate_json(before)
    assert RunSpec.model_validate_json(lasnn.canonical()).digest == lasnn.model_copy().digest


def test_a_description_of_an_older_version_of_all_runs_is_refused_with_what_has_changed_since(runs):
    earlier = json.loads(next(iter(runs.values())).canonical()) | {"versions": {}}
    told = (
        f"of version 1, expected {RunSpec.version} (version 2: a run that teaches draws from random streams of its own"
    )
    with pytest.raises(ValidationError, match=re.escape(told)):
        RunSpec.model_validate(earlier)


def test_every_version_above_the_first_says_in_words_what_has_changed():
    assert list(CHANGES) == list(range(2, RunSpec.version + 1)) and all(CHANGES.values())


def test_a_run_that_was_named_by_all_its_fields_is_refused_with_one_message(runs, tmp_path):
    run = next(iter(runs.values()))
    earlier = json.loads(run.canonical()) | {"versions": {"data": 1, "model": 1, "method": 1, "trainer": 1}}
    (tmp_path / "spec.json").write_text(json.dumps(earlier))
    with pytest.raises(UserError, match=rf"{tmp_path}/spec.json: 'versions' of the run's parts are .* remove that"):
        expect_spec(tmp_path, run)


def test_every_run_is_read_back_from_its_description(runs):
    assert [RunSpec.model_validate_json(run.canonical()).name for run in runs.values()] == list(runs)


# A user's own parts, which no file records


class Own(Part):
    method: Literal["own"] = "own"
    weight: float
    power: float = 2.0
    view: View = View()


class Spikformer2(Spikformer):
    family: Literal["spikformer-2"] = "spikformer-2"
    gates: int = 1


def test_an_own_part_tells_its_tag_what_must_be_given_and_what_differs_from_the_defaults():
    assert Own(weight=1).identity() == {"method": "own", "weight": 1.0}
    assert Own(weight=1, power=1).identity() == {"method": "own", "weight": 1.0, "power": 1.0}


def test_an_own_part_has_a_version_and_tells_a_raised_one_within_it(monkeypatch):
    class Raised(Own):
        version: ClassVar[int] = 2

    assert Raised(weight=1).identity() == {"method": "own", "weight": 1.0, "version": 2}
    identity._left_out.cache_clear()
    monkeypatch.setattr(View, "version", 2)
    assert Own(weight=1).identity()["view"] == {"version": 2}
    identity._left_out.cache_clear()


def test_an_own_part_with_the_name_of_one_of_ours_is_not_taken_for_it():
    renamed = type("LaSNN", (Own,), {"__module__": __name__})
    assert renamed(weight=1).identity() == Own(weight=1).identity()


def test_an_own_part_built_on_one_of_ours_keeps_its_record(runs):
    spikformer = next(run.network for run in runs.values() if isinstance(run.network, Spikformer))
    fields = spikformer.model_dump(exclude={"family"})
    own = spikformer.identity() | {"family": "spikformer-2"}
    assert Spikformer2(**fields).identity() == own
    assert Spikformer2(**fields, gates=2).identity() == own | {"gates": 2}

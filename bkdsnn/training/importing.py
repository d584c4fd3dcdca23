"""Import finished runs from another machine: each is verified before it is copied into the results."""

from __future__ import annotations

import contextlib
import functools
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import get_args

from bkdsnn import models
from bkdsnn.config import RUN_NAME, RunSpec, paper, plans
from bkdsnn.config.catalogue import scale_names
from bkdsnn.core import files
from bkdsnn.core.archives import half_of_the_disk, unpack
from bkdsnn.core.errors import Interrupted, UserError
from bkdsnn.core.progress import log
from bkdsnn.models.finished import finished_network
from bkdsnn.runs import schema
from bkdsnn.runs.artefacts import ARTEFACTS, SEALED, data_records, expect_sealed, expect_version
from bkdsnn.runs.records import expect_here, read_run
from bkdsnn.runs.run_folder import RunFolder
from bkdsnn.runs.schema import Import, Provenance, Top1
from bkdsnn.runs.slices import Slice

ACCEPTED = "a run folder, a folder of runs, or an archive (.tar, .tar.gz, .zip) of either"
MOST = dict.fromkeys(ARTEFACTS, 1 << 26) | {"weights.safetensors": 1 << 32}  # largest accepted size of each file, bytes
SPEC = (
    " or at any other: it is a run of `train --spec`, of tables in an own folder that is not named here, or of another "
    "version of the project; to keep it, copy its folder to results/<scale>/runs, where `show` finds it"
)


def import_runs(source: Path, scale: str, results: Path) -> None:
    """Copy the finished runs of `source` (see `ACCEPTED`) into `results`, the folder of a scale.

    Runs that are already finished here are skipped. A run that fails verification is logged, and the others are still
    imported. Raises `UserError` at once if `source` holds no finished run, and at the end if any run was refused.
    """
    with _opened(source, results.parent) as folder:
        found = _found(folder)
        if not found:
            raise UserError(f"{source}: no finished run in it (a folder with metrics.json); expected {ACCEPTED}")
        refused = _Import(found, source.resolve().name, scale, results).all()
    if refused:
        raise UserError(f"{source}: {refused} of {len(found)} runs refused; the reasons are above")


@contextlib.contextmanager
def _opened(source: Path, beside: Path) -> Iterator[Path]:
    """Yield `source` as a folder; an archive's artefacts are unpacked into a temporary folder in `beside`."""
    if source.is_dir():
        yield source
        return
    beside.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=beside, prefix=".import-") as temporary:
        folder = Path(temporary)
        unpack(source, folder, ACCEPTED, half_of_the_disk(folder), lambda name: MOST.get(Path(name).name, 0))
        yield folder


def _found(folder: Path) -> dict[str, Path]:
    """Folders of finished runs by run name; if several have the same name, the first in path order is used."""
    return {path.parent.name: path.parent for path in sorted(folder.resolve().rglob("metrics.json"), reverse=True)}


class _Import:
    """One import: the runs that were found, and for each whether it was imported or refused."""

    def __init__(self, found: dict[str, Path], origin: str, scale: str, results: Path) -> None:
        self.found, self.origin, self.scale = found, origin, scale
        self.results = results
        self.specs = _planned(found, scale)
        self.done: dict[str, bool] = {}  # by run name: whether it is now finished here
        self.absent: set[Path] = set()  # missing manifests, so that the run's data could not be compared

    def all(self) -> int:
        """Import every run, ancestors first, and return how many were refused."""
        for name in self.found:
            self._settle(name)
        if self.absent:
            shown = ", ".join(map(str, sorted(self.absent)))
            log.warning("not compared with the runs, because absent here: %s; tables compare once they are here", shown)
        return [self.done[name] for name in self.found].count(False)

    def _settle(self, name: str) -> bool:
        """Import a run, its parents first; return whether it is now finished here."""
        if name not in self.done:
            try:
                self._import(name)
                self.done[name] = True
            except (UserError, OSError, Interrupted) as error:
                log.error("refused %s: %s", name, error)
                self.done[name] = False
        return self.done[name]

    def _import(self, name: str) -> None:
        if name not in self.specs:
            expect_version(self.found[name])
            raise UserError(f"no table names this run at scale '{self.scale}'{self.elsewhere.get(name) or SPEC}")
        spec = self.specs[name]
        target = RunFolder(self.results / "runs", spec)
        if target.finished:
            log.info("%s: here already, left alone", name)
            return
        for parent in spec.parents():
            self._expect_parent(parent)
        verify(spec, self.found[name], self.results)
        records = (self.results / "data" / name for name in data_records(spec))
        self.absent.update(path for path in records if not path.is_file())
        _take(self.found[name], target, self.origin)
        log.info("%s: imported", name)

    @functools.cached_property
    def elsewhere(self) -> dict[str, str]:
        """What to do about each run that only tables of another scale name."""
        others, unplanned = set(scale_names()) - {self.scale}, self.found.keys() - self.specs.keys()
        named = {name: scale for scale in others for name in _planned(unplanned, scale)}
        return {name: f", but one does at scale '{scale}': give --scale {scale}" for name, scale in named.items()}

    def _expect_parent(self, parent: RunSpec) -> None:
        """Import a parent before its child, so that its files are older and Snakemake sees the child as up to date."""
        here = RunFolder(self.results / "runs", parent).finished
        if not here and not (parent.name in self.found and self._settle(parent.name)):
            raise UserError(
                f"it builds on run {parent.name}, which is neither here nor imported; import both, for Snakemake "
                "would make that run, and then this one, again"
            )


def verify(spec: RunSpec, folder: Path, results: Path) -> None:
    """Raise `UserError` for the first file that contradicts the spec, the run's other files, or the data here."""
    for name in ARTEFACTS:
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: no such file; expected all of {', '.join(ARTEFACTS)}")
    run = read_run(spec, folder)
    expect_sealed(folder, run.metrics.files, SEALED)
    expect_here(run, results)
    run.predicted()
    run.provenance()
    if (best := Top1.of(run.metrics.top1.last, run.history())) != run.metrics.top1:
        told = f"{folder / 'history.jsonl'}: best top-1 is {best.best} in epoch {best.best_epoch}"
        stated = f"{run.metrics.top1.best} in epoch {run.metrics.top1.best_epoch}"
        raise UserError(f"{told}, but metrics.json says {stated}")
    if (found := models.count_parameters(finished_network(spec, folder))) != run.metrics.parameters:
        stated = f"{found} parameters, but metrics.json says {run.metrics.parameters}"
        raise UserError(f"{folder / 'weights.safetensors'}: {stated}")


def _take(source: Path, target: RunFolder, origin: str) -> None:
    """Copy the artefacts of a verified run, metrics last; the files are dated by the import."""
    with target.locked(Slice(0.0, target.path)):  # a time slice of 0 minutes: refuse instead of waiting
        for name in SEALED:
            _copy(source / name, target.path / name)
        provenance = schema.read(Provenance, source / "provenance.json")
        entry = Import.model_validate({"when": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "from": origin})
        provenance = provenance.model_copy(update={"imported": [*provenance.imported, entry]})
        schema.write(target.path / "provenance.json", provenance)
        _copy(source / "metrics.json", target.path / "metrics.json")
        target.failure.unlink(missing_ok=True)
        target.clear_checkpoints()


def _copy(source: Path, target: Path) -> None:
    with files.replacing(target) as temporary:
        shutil.copyfile(source, temporary)


def _planned(names: Collection[str], scale: str) -> dict[str, RunSpec]:
    """All runs of a scale by name, for every neuron preset and for the seeds and datasets that occur in `names`."""
    seeds = sorted({int(match["seed"]) for name in names if (match := RUN_NAME.match(name))})
    planned: dict[str, RunSpec] = {}
    for preset in get_args(plans.Preset):
        planned |= paper.all_runs(scale, seeds=seeds, neurons=preset)
    return planned | paper.copied(set(names) - planned.keys(), planned, scale)

"""The provenance of a run: its code, environment and machine, as they are at its end."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

import bkdsnn
from bkdsnn.runs.schema import Attempt, Epoch, Provenance, Start

SOURCES = Path(bkdsnn.__file__).resolve().parents[1]
OURS = ["bkdsnn/__init__.py", "pyproject.toml"]  # files that identify this project's repository, in git's order


def provenance(
    attempts: Iterable[Attempt], device: str, neurons: list[str], data_digest: str, history: Sequence[Epoch]
) -> Provenance:
    """Return the content of a run's `provenance.json`."""
    processor = cpu(Path("/proc/cpuinfo"))
    return Provenance(
        bkdsnn=bkdsnn.__version__,
        commit=commit(SOURCES),
        python=platform.python_version(),
        platform=platform.platform(),
        packages=packages(),
        device=device,
        cpu=processor.get("model name"),
        cpu_flags=processor.get("flags") or processor.get("Features"),  # x86, ARM
        threads=torch.get_num_threads(),
        interop_threads=torch.get_num_interop_threads(),
        cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version(),
        driver=driver(Path("/sys/module/nvidia/version")),
        neurons=neurons,
        data_digest=data_digest,
        attempts=[Start.model_validate(attempt, from_attributes=True) for attempt in attempts],
        seconds=sum(epoch.seconds for epoch in history),
        peak_memory_mb=max((epoch.peak_memory_mb or 0.0 for epoch in history), default=None),
    )


@functools.cache  # a quarter of a second, which the fork server spends once for all runs
def packages() -> dict[str, str]:
    """Return the versions of all installed packages; if one is installed twice, the version that Python imports."""
    found: dict[str, str] = {}
    for about in (distribution.metadata for distribution in importlib.metadata.distributions()):
        found.setdefault(about["Name"], about["Version"])
    return dict(sorted(found.items(), key=lambda one: one[0].lower()))


def cpu(info: Path) -> dict[str, str]:
    """Return the fields of the first processor in Linux's /proc/cpuinfo; an empty mapping on other systems."""
    first = info.read_text().partition("\n\n")[0] if info.is_file() else ""
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def driver(version: Path) -> str | None:
    """Return the version of NVIDIA's kernel module, or None if it is not loaded."""
    return version.read_text().strip() if version.is_file() else None


def commit(folder: Path = SOURCES) -> str | None:
    """Return the commit of the source, with `+` if it was changed since, or None if this is no clone of the project.

    `folder` must be the top of a repository that tracks this project's files, so that a copy that is unpacked or
    installed inside another repository does not report that repository's commit.
    """
    try:
        if _git(folder, "ls-files", "--full-name", "--error-unmatch", *OURS).splitlines() != OURS:
            return None
        return _git(folder, "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    """Run git on the repository around a folder; git's own variables, which its hooks set, are ignored."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.strip()

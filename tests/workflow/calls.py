"""Snakemake as a user runs it: a process in the repository, with results in a folder of the test."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def environment() -> dict[str, str]:
    """The environment without what a developer may have set for this project."""
    return {key: value for key, value in os.environ.items() if not key.startswith("BKDSNN_")}


def snakemake(folder: Path, *arguments: str, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run the workflow of `root` on the results below `folder`; `stdout` has both streams as a terminal shows them."""
    command = [sys.executable, "-m", "snakemake", "--directory", str(folder), *arguments]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.run(command, cwd=root, env=environment(), text=True, check=False, **streams)


def jobs(output: str) -> dict[str, int]:
    """Number of jobs by rule, as Snakemake announces them; empty when there is nothing to be done."""
    block = output.partition("Job stats:\n")[2].partition("\n\n")[0]
    counts = {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", block, flags=re.MULTILINE)}
    assert counts.pop("total", 0) == sum(counts.values())
    assert counts or "Nothing to be done" in output, output
    return counts


def results(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Time of change and content of every file below `results`."""
    files = (path for path in sorted((folder / "results").rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def repository(folder: Path) -> Path:
    """Copy what git tracks or would track to `folder`."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder

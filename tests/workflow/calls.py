"""Snakemake as a user runs it: a process in the repository, with results in a folder of the test."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def environment(root: Path = ROOT) -> dict[str, str]:
    """The environment in which jobs use the code of `root`, without what a developer may have set for this project."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("BKDSNN_")}
    return kept | {"PYTHONPATH": str(root)}


def snakemake(folder: Path, *arguments: str, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run the workflow of `root` on the results below `folder`; `stdout` has both streams as a terminal shows them."""
    command = [sys.executable, "-m", "snakemake", "--directory", str(folder), *arguments]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.run(command, cwd=root, env=environment(root), text=True, check=False, **streams)


@contextlib.contextmanager
def started(folder: Path, *arguments: str, root: Path = ROOT) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Start snakemake and end it; yields the process and the file that has what it prints."""
    command = [sys.executable, "-m", "snakemake", "--directory", str(folder), *arguments]
    output = folder.with_suffix(".txt")
    with output.open("a") as stream:
        process = subprocess.Popen(command, cwd=root, env=environment(root), stdout=stream, stderr=subprocess.STDOUT)
    try:
        yield process, output
    finally:
        process.terminate()
        process.wait()


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

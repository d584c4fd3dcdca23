"""The process of the fork server, with everything imported that a training needs.

`python -m bkdsnn.cli.preloaded <descriptor of a listening socket> <process ID of Snakemake>`; `machine.fork_server`
starts it.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import signal
import socket
import sys
from pathlib import Path

from bkdsnn.cli import main
from bkdsnn.config import RunSpec, own, paper
from bkdsnn.machine.fork_server import ForkServer


def serve() -> int:
    """Serve until the Snakemake has ended; in each child, run its command and return the exit code."""
    server = ForkServer(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
    load()
    os.dup2(0, 2)  # from here on its errors go nowhere, for those who read a client's until its end
    gc.freeze()  # a tenth of what a child needs until its first step would be for looking through the imports again
    sys.argv[1:] = server.serve(expand)
    code = main()
    if code == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as in `bkdsnn/__main__.py`
    return code


def load() -> None:
    """Import and find what trainings and analyses use.

    Raises `RuntimeError` if this process then has more than one thread.
    """
    import torch

    import bkdsnn.analysis.activity
    import bkdsnn.training.execute  # noqa: F401
    from bkdsnn.runs.provenance import packages

    packages()
    torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])  # the first optimiser imports torch's compiler
    if len(list(Path("/proc/self/task").iterdir())) > 1 or torch.cuda.is_initialized():
        raise RuntimeError("the fork server has several threads or a GPU, and cannot fork")


def expand(arguments: list[str]) -> None:
    """Expand the tables for the run of a command, and compile its neurons, so that each child has them at once.

    Not with a folder of the user's own: its code is for the children alone.
    """
    if arguments[0] in ("train", "activity") and own.OWN not in os.environ:
        options = dict(itertools.pairwise(arguments))
        with contextlib.suppress(Exception):  # the child will say so
            compile_neurons(paper.find_run(arguments[1], options.get("--scale", "demo")))


def compile_neurons(spec: RunSpec) -> None:
    """Compile the spiking neurons of a run and of the runs that it builds on."""
    import torch

    from bkdsnn.models.firing import native

    for run in spec.lineage():
        if neuron := getattr(run.network, "neuron", None):
            native.missing(neuron, torch.float32)


if __name__ == "__main__":
    raise SystemExit(serve())

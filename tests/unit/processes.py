"""Two processes on the CPU that call one function, as members of one group."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

PROCESSES = 2


def together(function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Return what `function(group, *arguments)` returned in each process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "bkdsnn.training.execute", "timm.data.mixup"])
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    pipes = [context.Pipe(duplex=False) for _ in range(PROCESSES)]
    started = [
        context.Process(target=_call, args=(rank, port, pipes[rank][1], function, arguments))
        for rank in range(PROCESSES)
    ]
    for process in started:
        process.start()
    try:
        found = [receiver.recv() for receiver, _ in pipes]
    finally:
        for process in started:
            process.join(60)
            process.kill()
    assert not (failed := [one for one in found if isinstance(one, str) and "Traceback" in one]), "\n".join(failed)
    return found


def _call(rank, port, pipe, function, arguments):
    import torch

    from bkdsnn.machine.distributed import join

    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(PROCESSES)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        pipe.send(function(join(PROCESSES, torch.device("cpu")), *arguments))
    except Exception:
        pipe.send(traceback.format_exc())

"""Run a command, wait for all that it leaves running, print the CPU seconds of all of these, and exit with its code.

    python benchmarks/reaper.py <command>

Only Linux tells a process about descendants whose parents have ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import subprocess
import sys

PR_SET_CHILD_SUBREAPER = 36  # as in Linux's prctl.h


def main() -> int:
    """Run, wait, print."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    code = subprocess.call(sys.argv[1:])
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(used.ru_utime + used.ru_stime)
    return code


if __name__ == "__main__":
    raise SystemExit(main())

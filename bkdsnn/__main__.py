"""`python -m bkdsnn`."""

import signal
import sys

from bkdsnn.machine import fork_server

code = fork_server.served(sys.argv[1:])
if code is None:
    from bkdsnn.cli import main

    code = main()
if code == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # all is done: no signal to the exiting process makes it a failure
raise SystemExit(code)

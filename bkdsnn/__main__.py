"""`python -m bkdsnn`."""

import sys

from bkdsnn.machine import fork_server

code = fork_server.served(sys.argv[1:])
if code is None:
    from bkdsnn.cli import main

    code = main()
raise SystemExit(code)

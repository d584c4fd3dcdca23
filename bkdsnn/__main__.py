"""`python -m bkdsnn`."""

from bkdsnn.cli import main

raise SystemExit(main())

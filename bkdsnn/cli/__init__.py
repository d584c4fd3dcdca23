"""The command line: parsing only; each subcommand calls one function of the other parts."""

from bkdsnn.cli.main import main

__all__ = ["main"]

"""The command line. It only parses arguments; each subcommand calls one function of another package."""

from bkdsnn.cli.main import main

__all__ = ["main"]

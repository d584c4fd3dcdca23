"""The command line. Parsing and checks come first and do not import torch, so that mistakes are reported at once."""

from __future__ import annotations

import argparse
import os
import sys

from bkdsnn.cli import analysis_commands, data_commands, report_commands, run_commands
from bkdsnn.core import errors, progress
from bkdsnn.core.errors import Interrupted, UserError
from bkdsnn.machine import launch


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand and return its exit code: 0 success, 1 bad input, 75 saved to be continued, 130 Ctrl-C."""
    try:
        options = parser().parse_args(arguments)
        options.arguments = sys.argv[1:] if arguments is None else arguments
        progress.configure(getattr(options, "log", None) if launch.main() else None)
        _write(options.command(options) or "")
    except UserError as error:
        progress.log.error("error: %s", error)
        return 1
    except Interrupted as pause:
        progress.log.info("%s", pause)
        return errors.RESUMABLE
    except KeyboardInterrupt:
        progress.log.info("stopped")
        return 130
    return 0


def _write(text: str) -> None:
    """Write a subcommand's text to standard output, and accept that its reader may close it early, as `head` does.

    If it cannot be written for another reason, such as a full device, `UserError` is raised.
    """
    if text and not sys.stdout:
        raise UserError("cannot write to standard output: it is closed")
    try:
        print(text, end="", flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes at exit
        if not isinstance(error, BrokenPipeError):
            raise UserError(f"cannot write to standard output: {error.strerror}") from error


def parser() -> argparse.ArgumentParser:
    """Return the parser; every subcommand has --help."""
    top = argparse.ArgumentParser(prog="python -m bkdsnn", description=sys.modules["bkdsnn"].__doc__)
    commands = top.add_subparsers(required=True, metavar="command")
    for module in (run_commands, data_commands, analysis_commands, report_commands):
        module.add(commands)
    return top

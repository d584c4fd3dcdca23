"""Carrying out one run: from its spec to the files that it leaves."""

"""Helpers that all other packages use: errors, files, logging, random streams. It imports none of the others."""

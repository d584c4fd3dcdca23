"""Recordings of event cameras: native file formats, folders of published sets, a simulated sensor, and frames.

Importing this package loads neither torch nor NumPy.
"""

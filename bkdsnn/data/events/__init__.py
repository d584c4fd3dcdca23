"""Recordings of event cameras: their native files, the folders of published sets, a simulated sensor, frames.

Importing this package loads neither torch nor NumPy.
"""

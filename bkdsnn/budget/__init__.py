"""Estimates the cost of a call of the workflow, in device time and disk space, before anything runs.

Only `calibrate` needs torch; the workflow uses the rest at parse time, so that must not import it.
"""

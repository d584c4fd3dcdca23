"""What a call of the workflow will cost: time on the device and disk, before anything runs.

`calibrate` needs torch; everything else is free of it, for the workflow asks at the end of a dry run.
"""

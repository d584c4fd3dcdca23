"""The hardware that runs compute on: devices, GPU locks, processes."""

"""Where it is computed: devices, GPUs, processes."""

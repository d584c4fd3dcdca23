"""Implementations of spiking neurons: torch's operations (`loop`), C on a CPU (`native`), Triton on a GPU (`gpu`)."""

"""BKDSNN: blurred knowledge distillation for spiking neural networks, every table from one command."""

__version__ = "0.1.0"

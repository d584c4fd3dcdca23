"""Measurements on finished runs: firing rates, operations, features, Grad-CAM. Nothing here trains."""

"""How neurons fire: by torch's operations (`loop`); `fused`, in C on a CPU (`native`) or by Triton on a GPU (`gpu`)."""

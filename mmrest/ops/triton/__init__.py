"""ResT's attention as Triton kernels for GPUs."""

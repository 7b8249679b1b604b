"""The weights and the data that all routes of a workload start from, without JAX and PyTorch."""

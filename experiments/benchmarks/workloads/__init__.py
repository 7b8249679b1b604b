"""The workloads: cases, data, and the routes in JAX."""

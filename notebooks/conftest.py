"""Notebooks compile quickly, as the tests do. Whoever opens them compiles as users do."""

import os

SAMPLED = "08_training_noise_is_an_sde"
"""This notebook draws so many samples that it waits for them longer than for XLA."""


def pytest_runtest_setup(item):
    # The kernel of a notebook inherits the variable.
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "0" if item.path.stem == SAMPLED else "1"

"""Input as a user hands it over: nobody but the library itself looks at it."""

import jaxtyping
import pytest


@pytest.fixture(autouse=True)
def alone():
    """The check of shapes is off that `tests/conftest.py` puts before every function."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)

"""One study of a small problem for all tests of the deep limit."""

import pytest
from support.deep_limit import SCHEMES, small

from neuralflow.labs import deep_limit as D


@pytest.fixture(scope="session")
def kept():
    """What the study keeps, by name."""
    return {}


@pytest.fixture(scope="session")
def study(kept):
    """The last state of the study, whose minimisers are in `kept`."""
    *_, (_, last) = D.study(small(2), SCHEMES, (8, 32, 64), starts=6, kept=kept)
    return last

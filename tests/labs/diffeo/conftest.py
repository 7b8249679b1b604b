"""What the tests of diffeomorphisms share as fixtures."""

import pytest

import neuralflow as nf


@pytest.fixture
def field(mlp):
    """A stationary field."""
    return mlp(nf.PiecewiseConstant(1), time=False)

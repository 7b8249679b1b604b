"""Pictures of paths."""

import numpy as np
import pytest
from support.paths import X, network

from neuralflow.labs import paths


def test_a_picture_of_the_gradient():
    pytest.importorskip("matplotlib")

    net = network(12)
    lengths, through = paths.plots.gradient_paths({"net": (net, X)}).axes
    drawn, number = (line.get_ydata() for line in lengths.lines)
    np.testing.assert_allclose(drawn, paths.length_shares(paths.gradients(net, X)))
    np.testing.assert_allclose(number, np.asarray(paths.counts(12)) / 2**12)
    with_skips, without = (line.get_ydata() for line in through.lines)
    assert with_skips[-1] == without[-1] == 1
    assert without[0] < 1e-2 < with_skips[0]

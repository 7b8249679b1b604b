"""Pictures of schemes."""

import numpy as np

import neuralflow as nf
from neuralflow import plots, schemes as S


def test_pictures_of_regions_and_coefficients():
    figure = plots.stability(
        {"Euler": nf.Euler(), "leapfrog": S.leapfrog(), "trapezoid": S.ImplicitTrapezoid()},
        columns=2,
    )
    titles = [axis.get_title() for axis in figure.axes if axis.get_visible()]
    assert titles == ["Euler: decay to 2", "leapfrog: hardly any decay", "trapezoid: any decay"]
    (axis,) = plots.coefficients({"stage 1": [-0.1, -0.2], "stage 2": [0.3, 0.1, 0.0]}).axes
    assert [np.asarray(line.get_xdata()).tolist() for line in axis.lines[:2]] == [[1, 2], [1, 2, 3]]

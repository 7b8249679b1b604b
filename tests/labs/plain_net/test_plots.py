"""Pictures of flows."""

import numpy as np
from flax import nnx
from support.plain_net import output, points, relu

import neuralflow as nf
from neuralflow.labs import plain_net


def test_pictures():
    """There is a panel for a depth, a frame for a motion and a row for a data set.

    The frames show the points where the flow has taken them.
    """
    from neuralflow import plots
    from neuralflow.transport import Transport

    data = nf.data.moons(20)
    field = nf.fields.MLP(2, hidden=4, rngs=nnx.Rngs(0))
    layer = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=4))
    u = Transport(layer, lambda x: x[:, 0])
    assert len(plots.transported(u, data["x"], data["y"], [0.0, 0.5, 1.0], size=5).axes) == 3
    assert len(plots.characteristics(layer, data["x"], data["y"], steps=3).axes) == 2
    drawn = plots.densities({"moons": (data["x"], np.ones((4, 4)), data["x"])}, (-2.0, 2.0))
    assert [axis.get_title() for axis in drawn.axes] == ["moons", "density", "samples"]
    net = [(np.array([[0.0, -2.0], [1.0, 0.0]]), np.array([0.5, 0.0]), relu)]
    flow = plain_net.as_flow(net, solve=nf.FixedGrid(nf.Euler(), steps=5 * 400))
    frames = plain_net.plots.motions(flow, np.asarray(points(2, 8))).axes
    assert [axis.get_title() for axis in frames] == ["before", *plain_net.MOTIONS]
    shown = np.asarray(frames[-1].collections[0].get_offsets())
    np.testing.assert_allclose(shown, output(net, points(2, 8)), atol=0.1)

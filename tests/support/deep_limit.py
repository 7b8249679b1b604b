"""Problems of the deep limit."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

import neuralflow as nf
from neuralflow.labs import deep_limit as D


class Drift(nnx.Module):
    """The field x' = b, the layer of the problem with a closed form."""

    def __init__(self):
        self.b = nnx.Param(jnp.zeros(1))

    def __call__(self, x):
        return x * 0 + self.b.get_value()


X0, Y, A, TAU = 0.3, 2.0, 0.7, 1.3


def states(readout, x):
    return x


def anchor():
    return D.Problem(
        x=np.asarray([[X0]]),
        y=np.asarray([[Y]]),
        layer=Drift,
        predict=states,
        loss=D.squared_error,
        weights={"b": A},
        penalty=D.Sobolev(TAU),
    )


def closed_form(t, n=None):
    """Minimiser and residual of the paper's objective with sigma = id and K = 0.

    They are those of n Euler layers, or of the continuum for n=None.
    """
    tail = 1 / (3 * A) if n is None else (n - 1) * (2 * n - 1) / (6 * n**2 * A)
    r = (X0 - Y) / (1 + 1 / (A * TAU) + tail)
    shift = 0 if n is None else t / (2 * n)
    return -r / (A * TAU) + (r / A) * (t**2 / 2 - t + shift), r


def energy(t, b, r, n=None):
    rough = np.trapezoid(np.gradient(b, t) ** 2, t) if n is None else n * np.sum(np.diff(b) ** 2)
    return r**2 + A * (rough + TAU * b[0] ** 2)


def small(seed, **options):
    """The notes' nonlinear problem: ten points in the plane."""
    x = np.random.default_rng(seed).standard_normal((10, 2))
    return D.thorpe_van_gennip(x, (x[:, 0] * x[:, 1] + 0.5 * x[:, 0] > 0).astype(float), **options)


SCHEMES = {"euler": nf.Euler(), "heun": nf.Heun()}

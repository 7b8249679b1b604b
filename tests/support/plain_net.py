"""Plain nets, drawn and evaluated."""

import itertools

import jax
import numpy as np

from neuralflow.labs import plain_net

relu, tanh = jax.nn.relu, jax.nn.tanh


def drawn(widths, activation, seed=0):
    """A random net of these widths, whose last layer is linear."""
    rng = np.random.default_rng(seed)
    pairs = list(itertools.pairwise(widths))
    kinds = [activation] * (len(pairs) - 1) + [plain_net.identity]
    scaled = [rng.normal(size=(b, a)) / np.sqrt(a) for a, b in pairs]
    return [(w, 0.3 * rng.normal(size=len(w)), kind) for w, kind in zip(scaled, kinds, strict=True)]


def output(net, x):
    for weight, bias, activation in net:
        x = activation(x @ weight.T + bias)
    return x


def points(width, count=50):
    return jax.random.normal(jax.random.key(2), (count, width))


NET = drawn([5, 7, 4, 6], relu)

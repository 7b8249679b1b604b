"""The error of a compressed network is exactly the sum of its parts."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import neuralflow as nf
from neuralflow.inference import Candidate, error_split

X = jax.random.normal(jax.random.key(0), (5, 3))


class Rate(nnx.Module):
    """The field rate * x."""

    def __init__(self, rate):
        self.rate = nnx.Param(jnp.asarray(rate))

    def __call__(self, x):
        return self.rate[...] * x


def network(*rates):
    field = nf.DepthVarying.from_modules(
        [Rate(rate) for rate in rates], nf.PiecewiseConstant(len(rates))
    )
    return nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=len(rates)))


def blocks(*rates, steps):
    """What Euler steps multiply x by, each of the rates in as many of them."""
    return np.prod([(1 + rate / steps) ** (steps / len(rates)) for rate in rates])


MODEL = network(0.5, -0.2, 0.3, 0.7)  # The means of pairs are 0.15 and 0.5.
BASIS = nf.PiecewiseConstant(2)
NETWORKS: dict[str, Any] = {
    "basis": Candidate(basis=BASIS).applied_to(MODEL),
    "discretisation": Candidate(nf.FixedGrid(nf.Euler(), steps=2), BASIS).applied_to(MODEL),
    "fit": network(0.2, 0.4),
}
FACTORS = np.asarray(
    [
        blocks(0.5, -0.2, 0.3, 0.7, steps=4),
        blocks(0.15, 0.5, steps=4),
        blocks(0.15, 0.5, steps=2),
        blocks(0.2, 0.4, steps=2),
    ]
)


def test_the_parts_are_differences_of_consecutive_networks():
    split = error_split(MODEL, X, **NETWORKS, batch=2)
    steps, whole = np.diff(FACTORS), FACTORS[-1] - FACTORS[0]
    assert list(split.parts) == list(NETWORKS)
    for part, step in zip(split.parts.values(), steps, strict=True):
        np.testing.assert_allclose(part, step * X, rtol=1e-11)
    sizes, distances = abs(steps) / FACTORS[0], abs(FACTORS[1:] - FACTORS[0]) / FACTORS[0]
    np.testing.assert_allclose(list(split.sizes.values()), sizes, rtol=1e-11)
    np.testing.assert_allclose(list(split.shares.values()), steps / whole, rtol=1e-11)
    np.testing.assert_allclose(list(split.distances.values()), distances, rtol=1e-11)
    np.testing.assert_allclose(split.distance, distances[-1], rtol=1e-11)


def test_the_parts_add_up():
    split = error_split(MODEL, X, **NETWORKS)
    np.testing.assert_allclose(split.total, NETWORKS["fit"](X) - MODEL(X), rtol=0, atol=1e-15)
    np.testing.assert_allclose(sum(split.shares.values()), 1, rtol=1e-14)


def test_the_order_of_samples_does_not_matter():
    one, two = error_split(MODEL, X, **NETWORKS), error_split(MODEL, X[::-1], **NETWORKS)
    np.testing.assert_allclose(list(one.sizes.values()), list(two.sizes.values()), rtol=1e-13)


def test_the_sentence_follows_the_parts():
    split = error_split(MODEL, X, **NETWORKS)
    told = [
        f"the {name} moves them by {split.sizes[name]:.2%} and leaves them {off:.2%} off"
        for name, off in split.distances.items()
    ]
    assert f"are {split.distance:.2%} off. {'; '.join(told).capitalize()}." in split.sentence()
    lines = str(split).splitlines()
    assert [line.split()[0] for line in lines[1:4]] == list(NETWORKS)
    assert lines[-2] == split.record()["sentence"] == split.sentence()


def test_parts_without_a_network_are_left_out():
    split = error_split(MODEL, X, fit=NETWORKS["fit"])
    assert list(split.parts) == ["fit"] and split.shares == {"fit": 1.0}
    split = error_split(MODEL, X, basis=MODEL, discretisation=MODEL)
    assert split.distance == 0 and split.shares == {"basis": 0.0, "discretisation": 0.0}

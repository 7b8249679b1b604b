"""Candidates change the steps and the weights of a whole model, and nothing else."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.stochastic import KEY, depth

import neuralflow as nf
from neuralflow.checks import InputError
from neuralflow.inference import Candidate
from neuralflow.labs import stochastic as st

X = jnp.asarray([[0.5, -1.0], [2.0, 0.3], [-0.4, 0.1]])


def euler(steps):
    return nf.FixedGrid(nf.Euler(), steps=steps)


def stack(cells, init=nf.independent):
    def make(rngs):
        return nnx.Linear(2, 2, param_dtype=jnp.float64, rngs=rngs)

    return nf.DepthVarying(make, nf.PiecewiseConstant(cells), rngs=nnx.Rngs(0), init=init)


class Model(nnx.Module):
    """Two layers with one field, and a third with another."""

    def __init__(self):
        field = stack(4)
        self.first = nf.NeuralODE(field, euler(4))
        self.second = nf.NeuralODE(field, euler(4), 0.0, 2.0).reverse()
        self.third = nf.NeuralODE(stack(4), euler(8))


def test_every_layer_has_the_new_steps_and_weights():
    model: Any = Model()
    new: Any = Candidate(euler(2), nf.PiecewiseLinear(2)).applied_to(model)
    for layer in (new.first, new.second, new.third):
        assert str(layer.discretisation) == "FixedGrid(Euler(), steps=2)"
    assert new.first.field is new.second.field
    assert (new.second.t1, new.second.backward, new.third.backward) == (2.0, True, False)
    for name in ("first", "third"):
        wanted = getattr(model, name).field.project(nf.PiecewiseLinear(2))
        field = getattr(new, name).field
        assert field.basis == wanted.basis
        assert (field.stack.kernel[...] == wanted.stack.kernel[...]).all()
    assert model.third.discretisation.steps == 8 and model.first.field.basis.count == 4


def test_what_is_not_given_stays():
    model: Any = Model()
    new: Any = Candidate(basis=nf.PiecewiseConstant(2)).applied_to(model)
    assert [layer.discretisation.steps for layer in (new.first, new.third)] == [4, 8]
    new = Candidate().applied_to(model)
    assert (new.first.field.stack.kernel[...] == model.first.field.stack.kernel[...]).all()
    new.first.field.stack.kernel[...] = jnp.zeros((4, 2, 2))
    assert model.first.field.stack.kernel[...].all()


class Doubled(nf.NeuralODE):
    def __call__(self, x, *, context=None):
        return 2 * super().__call__(x, context=context)


def test_classes_and_shared_coefficients_stay():
    field = stack(4)
    twin = nf.DepthVarying.from_stack(field.stack, field.basis)
    model: Any = nnx.Sequential(Doubled(field, euler(4)), nf.NeuralODE(twin, euler(4)))
    one, two = Candidate(euler(2), nf.PiecewiseConstant(2)).applied_to(model).layers
    assert one.field.stack is two.field.stack and one.field.stack.kernel.shape == (2, 2, 2)
    np.testing.assert_array_equal(one(X), 2 * two(X))


def test_a_random_network_knows_the_length_of_its_new_steps():
    network = st.RandomNetwork(depth(0.8), 4, t1=2.0)
    fewer = Candidate(euler(2)).applied_to(network)
    built = st.RandomNetwork(depth(0.8), 2, t1=2.0)
    np.testing.assert_array_equal(fewer.sample(X, KEY), built.sample(X, KEY))
    for solve in (nf.Adaptive(nf.Tsit5()), nf.FixedGrid(nf.RK4(), steps=4)):
        other = Candidate(solve).applied_to(network)
        with pytest.raises(InputError, match="draws once in a step"):
            other.sample(X, KEY)
    other.eval()
    assert np.isfinite(other(X)).all()


@pytest.mark.parametrize(
    "basis", [nf.PiecewiseConstant(2), nf.PiecewiseLinear(3), nf.Legendre(1)], ids=str
)
def test_weights_that_do_not_vary_are_the_same_on_every_basis(basis):
    field = stack(4, nf.tied)
    new = Candidate(euler(6), basis).applied_to(nf.NeuralODE(field, euler(4)))
    plain = nf.NeuralODE(field.at(0.5), euler(6))
    np.testing.assert_allclose(new(X), plain(X), rtol=1e-12)


@pytest.mark.parametrize(
    ("candidate", "said"),
    [
        (Candidate(), "as trained"),
        (Candidate(euler(1)), "Euler, 1 step"),
        (Candidate(euler(8), nf.Legendre(3)), "Euler, 8 steps, Legendre(terms=3)"),
        (
            Candidate(nf.FixedGrid(nf.RK4(), times=(0.0, 0.1, 1.0)), nf.PiecewiseLinear(2)),
            "RK4, 2 uneven steps, PiecewiseLinear(2)",
        ),
        (Candidate(nf.Adaptive(nf.Tsit5(), 1e-3, 1e-3)), "Tsit5, 0.001"),
        (Candidate(nf.Adaptive(nf.Tsit5(), 1e-3, 0.0)), "Tsit5, 0.001 and 0"),
    ],
)
def test_a_candidate_has_a_name(candidate, said):
    assert str(candidate) == said

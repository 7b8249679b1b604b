"""The check of a layer's gradient: exact choices, inexact ones, and wrong derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from refusals import refuses
from support.wrong import wrong

import neuralflow as nf

X = jax.random.normal(jax.random.key(3), (4, 2))


def field(dtype=jnp.float64):
    return nf.fields.MLP(2, hidden=4, time=True, param_dtype=dtype, rngs=nnx.Rngs(0))


def rotation(a, x):
    return jnp.sin(a * x[..., ::-1])


def grid(memory, scheme=None):
    return nf.FixedGrid(scheme or nf.Heun(), steps=4, memory=memory)


@jax.custom_vjp
def doubled(x):
    return jnp.sin(x)


doubled.defvjp(lambda x: (jnp.sin(x), x), lambda x, ct: (2 * jnp.cos(x) * ct,))

EXACT = {
    "full": grid("full"),
    "remat": grid("remat"),
    "two_level": grid("two_level"),
    "reversible": grid("reversible", nf.schemes.Reversible(nf.Euler())),
    "steps": nf.Adaptive(nf.Bosh3(), 1e-2, 1e-2),
    "direct": nf.Adaptive(nf.Bosh3(), 1e-2, 1e-2, gradient="direct", max_steps=16),
}


@pytest.mark.parametrize("name", EXACT)
def test_an_exact_choice_is_exact(name):
    report = nf.check_gradient(
        nf.NeuralODE(
            nf.from_function(rotation, jnp.asarray(0.7)), EXACT[name], jnp.zeros(()), jnp.ones(())
        ),
        X,
    )
    assert set(report.exact) == {"weights", "x", "interval"} == set(report.directional)
    assert max(report.exact.values()) < 1e-10
    assert max(report.directional.values()) < 1e-2
    assert report.sentence == f"{report.choice} is the exact gradient of what the layer computes."
    assert report.status == nf.Status.SUCCESSFUL
    assert report.finer is not None and 0 < max(report.finer.values()) < 0.2


def test_the_continuous_adjoint_is_as_far_off_as_by_hand():
    layer = nf.NeuralODE(
        nf.from_function(rotation, jnp.asarray(0.7)),
        nf.Adaptive(nf.Bosh3(), 1e-1, 1e-1, gradient="continuous"),
    )

    def loss(y):
        return jnp.sum(y**3)

    def slope(layer):
        graphdef, state = nnx.split(layer.field)
        return jax.grad(lambda state: loss(layer.with_field(nnx.merge(graphdef, state))(X)))(state)

    exact = layer.with_solve(nf.Adaptive(nf.Bosh3(), 1e-1, 1e-1))
    a, b = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(slope(each))])
        for each in (layer, exact)
    )
    by_hand = np.linalg.norm(a - b) / max(np.linalg.norm(a), np.linalg.norm(b))
    report = nf.check_gradient(layer, X, loss=loss)
    assert by_hand > 1e-6
    assert report.exact["weights"] == pytest.approx(by_hand, rel=1e-6)
    assert 'take gradient="steps"' in report.sentence and 'gradient="continuous"' in str(report)


def test_the_finer_solve_shows_the_error_of_discretisation():
    """x' = a x in Euler steps: the derivative by x0 is (1 + a/n)^n."""
    layer = nf.NeuralODE(
        nf.from_function(lambda a, x: a * x, jnp.asarray(1.0)), nf.FixedGrid(nf.Euler(), steps=2)
    )
    report = nf.check_gradient(layer, X)
    assert report.finer is not None
    assert report.finer["x"] == pytest.approx(1 - 1.5**2 / 1.125**8, rel=1e-10)
    assert report.finer["weights"] == pytest.approx(1 - 1.5 / 1.125**7, rel=1e-10)


@pytest.mark.parametrize("solve", [grid("remat"), nf.Adaptive(nf.Bosh3(), 1e-2, 1e-2)])
def test_a_wrong_derivative_in_the_field_is_caught(solve):
    layer = nf.NeuralODE(nf.from_function(lambda a, x: doubled(a * x), jnp.asarray(0.5)), solve)
    report = nf.check_gradient(layer, X)
    assert max(report.exact.values()) < 1e-10
    assert min(report.directional.values()) > 0.1
    assert "not that of its values" in report.sentence


def test_a_gradient_that_is_stopped_is_caught():
    layer = nf.NeuralODE(
        nf.from_function(lambda a, x: jax.lax.stop_gradient(a) * x, jnp.asarray(0.5)), grid("full")
    )
    report = nf.check_gradient(layer, X)
    assert report.exact["weights"] == 0
    assert report.directional["weights"] == pytest.approx(1) and report.directional["x"] < 1e-6


def test_contexts_and_complex_states():
    layer = nf.NeuralODE(
        nf.from_function(lambda a, z, context: 1j * a * jnp.conj(z) * context[1], jnp.asarray(0.5)),
        grid("remat"),
    )
    report = nf.check_gradient(
        layer, X + 1j * X[::-1], context=(jnp.arange(3), jnp.asarray([1.0, 2.0]))
    )
    assert set(report.exact) == {"weights", "x", "context"}
    assert max(*report.exact.values(), *report.directional.values()) < 1e-6


def test_single_precision_counts_in_its_own_roundings():
    layer = nf.NeuralODE(
        nf.from_function(rotation, jnp.asarray(0.7, jnp.float32)), grid("two_level", nf.Euler())
    )
    report = nf.check_gradient(layer, X.astype(jnp.float32))
    assert report.rounding == np.finfo(np.float32).eps
    assert max(report.exact.values()) < 20 * report.rounding
    assert max(report.directional.values()) < 1e-2


def test_rounding_is_not_taken_for_a_wrong_derivative():
    """Many steps of a wide field in single precision, with a loss of size 1,000."""
    wide = nf.fields.MLP(16, hidden=64, time=True, rngs=nnx.Rngs(0))
    layer = nf.NeuralODE(wide, nf.FixedGrid(nf.Euler(), steps=6), 0.0, 6.0)
    x = jax.random.normal(jax.random.key(0), (64, 16), jnp.float32)
    report = nf.check_gradient(layer, x)
    assert max(report.directional.values()) < 1e-2
    assert "is the exact gradient" in report.sentence


def test_single_precision_says_to_rule_out_rounding():
    field = nf.from_function(lambda a, x: doubled(a * x), jnp.asarray(0.5, jnp.float32))
    report = nf.check_gradient(nf.NeuralODE(field, grid("remat")), X.astype(jnp.float32))
    assert "float64 arrays first, then look at custom_vjp" in report.sentence


def test_a_failed_solve_is_named():
    layer = nf.NeuralODE(nf.from_function(lambda a, x: a * x**2, jnp.asarray(1.0)), grid("remat"))
    report = nf.check_gradient(layer, jnp.full((1, 1), 1e100))
    assert report.status != nf.Status.SUCCESSFUL and np.isnan(report.exact["x"])
    assert report.status.name in str(report) and "NaN" in str(report)


def test_a_gradient_that_is_not_finite_is_named():
    layer = nf.NeuralODE(
        nf.from_function(lambda a, x: a * jnp.sqrt(jnp.abs(x)), jnp.asarray(1.0)), grid("remat")
    )
    report = nf.check_gradient(layer, jnp.zeros((1, 2)))
    assert report.status == nf.Status.SUCCESSFUL and "not finite" in report.sentence


def test_coefficients_of_steps_have_gradients_and_no_finer_solve():
    scheme = nf.schemes.LMResNet.learned(4, rngs=nnx.Rngs(0))
    report = nf.check_gradient(nf.NeuralODE(field(), nf.FixedGrid(scheme, steps=4)), X)
    assert report.finer is None and max(report.directional.values()) < 1e-3


LAYER = nf.NeuralODE(field(), grid("remat"))
test_bad_input_is_refused = refuses(
    {
        "no layer": (lambda: nf.check_gradient(wrong(field()), X), "must be a NeuralODE"),
        "no function": (lambda: nf.check_gradient(LAYER, X, loss=wrong(1)), "must be a function"),
        "many numbers": (
            lambda: nf.check_gradient(LAYER, X, loss=lambda y: y),
            r"one real number, got float64 of shape \(4, 2\)",
        ),
        "no seed": (lambda: nf.check_gradient(LAYER, X, seed=-1), "at least 0"),
        "integers": (lambda: nf.check_gradient(LAYER, X.astype(int)), "hand them over as context"),
        "traced": (lambda: jax.jit(lambda x: nf.check_gradient(LAYER, x).rounding)(X), "outside"),
    }
)

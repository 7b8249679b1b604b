"""The errors and the stiffness that the accepted steps of an adaptive solve show."""

import itertools

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from refusals import refuses
from support.wrong import wrong

import neuralflow as nf
from neuralflow.regularisers import step_costs

X = jax.random.normal(jax.random.key(0), (3, 2))
T0, T1, TOL = 0.2, 1.7, 1e-3


def velocity(a, x, t):
    return jnp.sin(a * x[..., ::-1]) * (1 + t)


def stiffness(walk, x, context=None):
    """The stiffness along a walk of a scheme that measures it."""
    found = step_costs(walk, x, context=context)[1].stiffness
    assert found is not None
    return found


def layer(scheme, a: jax.Array | float = 1.3, per_sample=False):
    solve = nf.Adaptive(scheme, TOL, TOL, per_sample=per_sample)
    return nf.NeuralODE(nf.from_function(velocity, jnp.asarray(a)), solve, T0, T1)


def edges(scheme, x):
    """The depth times at the edges of the accepted steps, by diffrax alone.

    The walk runs in normalised depth, as a layer's does.
    """
    span = T1 - T0
    term = diffrax.ODETerm(lambda s, x, a: span * velocity(1.3, x, T0 + span * s))
    controller, saveat = diffrax.PIDController(TOL, TOL), diffrax.SaveAt(steps=True, t0=True)
    solution = diffrax.diffeqsolve(
        term, scheme, 0.0, 1.0, None, x, saveat=saveat, stepsize_controller=controller
    )
    assert solution.ts is not None
    return T0 + span * np.asarray(solution.ts[np.isfinite(solution.ts)])


def by_hand(scheme, depths, a, x):
    """Both sums over diffrax's own steps between given depths."""
    term, error, stiffness = diffrax.ODETerm(lambda t, x, args: velocity(a, x, t)), 0, 0
    inner = np.asarray(scheme.tableau.a_lower[-2])
    for t0, t1 in itertools.pairwise(depths):
        memory = scheme.init(term, t0, t1, x, None)
        y, e, info, _, _ = scheme.step(term, t0, t1, x, None, memory, False)
        k, h = info["k"] / (t1 - t0), t1 - t0
        w = x + h * jnp.tensordot(inner, k[:-2], axes=1)
        rise, run = (jnp.linalg.norm(d, axis=1) for d in (k[-1] - k[-2], y - w))
        error, stiffness = error + h * jnp.linalg.norm(e, axis=1), stiffness + h * rise / run
        x = y
    return x, error, stiffness


# The two states at the end of a step of Dopri8 differ by few roundings.
@pytest.mark.parametrize(("scheme", "rtol"), [(nf.Tsit5(), 1e-9), (nf.Dopri8(), 1e-5)])
def test_both_sums_and_their_gradients_are_those_of_the_accepted_steps(scheme, rtol):
    depths = edges(scheme, X)
    assert len(depths) > 4

    def ours(a, x):
        y, costs = step_costs(layer(scheme, a), x)
        assert costs.stiffness is not None
        return jnp.sum(y**2) + jnp.sum(1e3 * costs.error) + jnp.sum(costs.stiffness), (y, *costs)

    def hand(a, x):
        y, error, stiffness = by_hand(scheme, depths, a, x)
        return jnp.sum(y**2) + jnp.sum(1e3 * error) + jnp.sum(stiffness), (y, error, stiffness)

    got, want = (
        jax.jit(jax.value_and_grad(f, argnums=(0, 1), has_aux=True))(jnp.asarray(1.3), X)
        for f in (ours, hand)
    )
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=10 * rtol)


@pytest.mark.parametrize("per_sample", [False, True])
def test_the_samples_and_the_work_are_those_of_the_layer_alone(per_sample):
    ode = layer(nf.Bosh3(), per_sample=per_sample)
    with nf.tally() as alone:
        y = ode(X)
    with nf.tally() as measured:
        z, costs = step_costs(ode, X)
    np.testing.assert_array_equal(y, z)
    assert costs.stiffness is None and (costs.error > 0).all()
    assert measured.evaluations == alone.evaluations
    if per_sample:
        for k in range(len(X)):
            one = step_costs(layer(nf.Bosh3()), X[k : k + 1])[1].error
            np.testing.assert_allclose(costs.error[k], one[0], rtol=1e-6)


def test_the_stiffness_of_a_linear_field_is_its_rate_for_every_tolerance_and_direction():
    field = nf.from_function(lambda a, x: a * x, jnp.asarray(-4.0))
    for tolerance in (1e-2, 1e-5):
        ode = nf.NeuralODE(field, nf.Adaptive(nf.Tsit5(), tolerance, tolerance), 0.5, 2.0)
        for walk in (ode, ode.reverse()):
            np.testing.assert_allclose(stiffness(walk, X), 6, rtol=1e-9)


def test_the_error_of_a_step_falls_with_the_order_of_the_estimate():
    """Tsit5's estimate of a step is of order h^5, and the sum takes it times h."""
    ends = T0 + np.asarray([1 / 64, 1 / 128])
    errors = [float(np.mean(by_hand(nf.Tsit5(), [T0, end], 1.3, X)[1])) for end in ends]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(6, abs=0.1)


def test_a_stationary_sample_costs_nothing_and_has_a_gradient():
    def cost(x):
        ode = layer(nf.Tsit5())
        return jnp.sum(step_costs(ode, x)[1].error) + jnp.sum(stiffness(ode, x))

    assert cost(jnp.zeros((1, 2))) == 0
    assert np.isfinite(jax.grad(cost)(jnp.zeros((1, 2)))).all()


def test_contexts_reach_the_field():
    field = nf.from_function(lambda a, x, context: a * context[:, None] * x, jnp.asarray(-1.0))
    ode = nf.NeuralODE(field, nf.Adaptive(nf.Tsit5(), TOL, TOL))
    rates = jnp.asarray([1.0, 2.0, 3.0])
    np.testing.assert_allclose(stiffness(ode, X, rates), rates, rtol=1e-9)


FIXED = nf.NeuralODE(nf.from_function(velocity, jnp.asarray(1.0)), nf.FixedGrid(nf.RK4(), steps=2))
test_bad_input_is_refused = refuses(
    {
        "no layer": (lambda: step_costs(wrong(nnx.Linear(2, 2, rngs=nnx.Rngs(0))), X), "NeuralODE"),
        "fixed grid": (lambda: step_costs(FIXED, X), "an Adaptive with an explicit scheme"),
        "implicit": (lambda: step_costs(layer(nf.Kvaerno3()), X), "with an explicit scheme"),
        "no samples": (lambda: step_costs(layer(nf.Tsit5()), X[0]), "leading axis of samples"),
        "no steps": (
            lambda: step_costs(FIXED.with_solve(nf.Adaptive(nf.Tsit5(), gradient="continuous")), X),
            'take gradient="steps"',
        ),
    }
)

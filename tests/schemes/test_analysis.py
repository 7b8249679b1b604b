"""Order conditions, stability and observed orders."""

import math
from typing import Any, ClassVar

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import neuralflow as nf
from neuralflow import schemes as S
from neuralflow.checks import InputError
from neuralflow.schemes import analysis
from neuralflow.schemes.watched import Watched


def test_runge_kutta_order_conditions_and_stability_functions():
    for scheme, order in (
        (nf.Heun(), 2),
        (nf.Bosh3(), 3),
        (nf.RK4(), 4),
        (S.ThreeEighths(), 4),
        (nf.Tsit5(), 5),
        (nf.Kvaerno3(), 3),
    ):
        assert max(map(abs, analysis.order_conditions(scheme, order).values())) < 1e-13
        assert max(map(abs, analysis.order_conditions(scheme, order + 1).values())) > 1e-4
    z = np.array([-1.0 + 0.5j, 0.3j])
    truncated = sum(z**q / math.factorial(q) for q in range(5))
    assert np.allclose(analysis.stability_function(nf.RK4(), z), truncated, rtol=0, atol=1e-14)
    assert np.allclose(
        analysis.stability_function(S.ImplicitTrapezoid(), z),
        (1 + z / 2) / (1 - z / 2),
        rtol=0,
        atol=1e-14,
    )
    assert np.allclose(
        analysis.stability_function(S.PolyNet(3), z), 1 + z + z**2 + z**3, rtol=0, atol=1e-14
    )
    # A tableau's formula and the scheme's own step agree.
    assert np.allclose(
        analysis.amplification(nf.RK4(), z)[..., 0, 0], truncated, rtol=0, atol=1e-14
    )
    assert np.isinf(analysis.stability_function(S.ImplicitTrapezoid(), np.array([2.0 + 0j])))
    assert (
        max(map(abs, analysis.order_conditions(nf.ImplicitEuler(), 1).values()))
        == 0
        == analysis.order_conditions(nf.Euler(), 1)["[]"]
    )
    assert np.allclose(analysis.growth(S.RevNet(), np.array([1.99j])), 1)
    assert np.allclose(analysis.growth(S.leapfrog(), np.array([0.99j])), 1)
    assert analysis.growth(S.leapfrog(), np.array([-0.1])) > 1


def test_observed_order_needs_no_reference():
    for scheme, order in (
        (nf.Euler(), 1),
        (nf.Heun(), 2),
        (S.adams_bashforth(3), 3),
        (S.RevNet(), 1),
        (nf.ImplicitEuler(), 1),
    ):
        assert abs(analysis.observed_order(scheme, 128) - order) < 0.1


class Theta(diffrax.AbstractSolver):
    """A user's scheme without a tableau: order 2 for theta = 1/2, and 1 otherwise."""

    theta: float
    term_structure: ClassVar = diffrax.ODETerm
    interpolation_cls: ClassVar = diffrax.LocalLinearInterpolation

    def order(self, terms):
        """Say something wrong."""
        return 7

    def init(self, terms, t0, t1, y0, args) -> Any:
        return None

    def func(self, terms, t0, y0, args):
        return terms.vf(t0, y0, args)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        h, k = t1 - t0, terms.vf(t0, y0, args)
        late = terms.vf(t1, y0 + h * k, args)
        y1 = y0 + h * ((1 - self.theta) * k + self.theta * late)
        return y1, None, {"y0": y0, "y1": y1}, None, diffrax.RESULTS.successful


class Heavy(Theta):
    """A user's scheme with a memory: v <- theta v + (1 - theta) f, and v = 0 at the start."""

    def init(self, terms, t0, t1, y0, args):
        return jnp.zeros_like(y0)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        v = self.theta * solver_state + (1 - self.theta) * terms.vf(t0, y0, args)
        y1 = y0 + (t1 - t0) * v
        return y1, None, {"y0": y0, "y1": y1}, v, diffrax.RESULTS.successful


class Borrowed(Theta):
    """A user's scheme that takes its steps by another scheme, without saying so."""

    inner: Any = nf.Heun()

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        memory = self.inner.init(terms, t0, t1, y0, args)
        y1, *_, result = self.inner.step(terms, t0, t1, y0, args, memory, made_jump)
        return y1, None, {"y0": y0, "y1": y1}, None, result


class Picky(Theta):
    """A user's scheme for states of two axes alone."""

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        raise TypeError("two axes, please")


ORDERS: dict[str, tuple[Any, int]] = {
    "ImplicitEuler": (nf.ImplicitEuler(), 1),
    "FixedPointEuler": (S.FixedPointEuler(2), 1),
    "ConsistentLM": (S.ConsistentLM(-0.3), 1),
    "FractalExpansion": (S.FractalExpansion([0.5]), 1),
    "FractalExpansion of three columns": (S.FractalExpansion([2.0, 1.0]), 2),
    "midpoint, weights at the end": (S.ConsistentFractalNet(0.0, jnp.asarray(0.5)), 1),
    "FractalNet, c1 = 2": (S.FractalNet(0.625, 0.375, 1.0, 2.0, 0.25), 1),
    "AB2": (S.adams_bashforth(2), 2),
    "AB3 after Euler": (S.adams_bashforth(3, nf.Euler()), 2),
    "leapfrog": (S.leapfrog(), 2),
    "leapfrog in every channel": (S.ConsistentLM(nnx.Param(jnp.ones(1))), 2),
    "Reversible": (S.Reversible(nf.Heun()), 2),
    "ReversibleHeun": (diffrax.ReversibleHeun(), 2),
    "a user's, order 2": (Theta(0.5), 2),
    "a user's, order 1": (Theta(0.3), 1),
    "a user's with a memory": (Heavy(0.3), 1),
    "a user's by Heun's steps": (Borrowed(0.0), 2),
    "LMResNet": (S.LMResNet(-0.3), 0),
    "PolyNet": (S.PolyNet(2), 0),
    "PolyNet, reversible": (S.Reversible(S.PolyNet(2)), 0),
    "FractalNet": (S.FractalNet(c2=0.6), 0),
    "no momentum at the start": (S.ConsistentLM(-1.0), 0),
}


@pytest.mark.parametrize("name", ORDERS)
def test_orders_are_those_of_the_errors(name):
    scheme, order = ORDERS[name]
    assert analysis.derived_order(scheme) == order

    def velocity(x, t):  # x = arctan(t + t^2/2)
        return (1 + t) * jnp.cos(x) ** 2

    @jax.jit
    def errors():
        ends = [analysis.walk(scheme, velocity, jnp.zeros(1), 1.0, n)[0] for n in (64, 128)]
        return jnp.abs(jnp.stack(ends) - jnp.arctan(1.5))

    coarse, fine = errors()
    slope = float(jnp.log2(coarse / fine))
    # An error falls by less than 7% where the limit is another equation.
    assert abs(slope - order) < 0.1
    # The order that a scheme says of itself, for those that derive it from their coefficients.
    if isinstance(scheme, S.FractalNet | S.ConsistentFractalNet | S.FractalExpansion):
        assert scheme.order(None) == order


def test_orders_of_schemes_that_are_known_without_a_step():
    for scheme, order in (
        (nf.Euler(), 1),
        (nf.Heun(), 2),
        (nf.Dopri8(), 2),
        (nf.Kvaerno3(), 2),
        (S.ImplicitTrapezoid(), 2),
        (S.adams_bashforth(1), 1),
        (S.LMResNet(0.0), 1),
        (S.LMResNet(1.5), 0),  # not zero-stable
        (Heavy(1.5), 0),  # nor is this one
        (S.LMResNet(jnp.asarray([0.0, 0.1])), 0),
        (S.RevNet(), 1),
        (Watched(nf.Tsit5()), 2),
        (diffrax.HalfSolver(nf.ImplicitEuler()), 1),
        (diffrax.HalfSolver(S.LMResNet(0.3)), 0),
        (S.LieTrotter(nf.RK4()), 1),
        (S.Strang(nf.Euler()), 1),
        (S.Strang(nf.Heun()), 2),
    ):
        assert analysis.derived_order(scheme) == order
    with jax.enable_x64(False):
        joins = [jnp.float32(0.3), jnp.float32(0.7)]
        assert analysis.derived_order(S.FractalExpansion(joins)) == 1
        assert analysis.derived_order(S.Reversible(nf.Euler())) == 1


def test_a_field_that_vanishes_at_zero_does_not_tell_the_order_of_polynet():
    # `observed_order` sees the order of convergence to the scheme's own limit.
    assert abs(analysis.observed_order(S.PolyNet(2), 128) - 1) < 0.1
    assert analysis.derived_order(S.PolyNet(2)) == 0


def test_a_scheme_without_a_known_order_is_refused():
    for scheme, words in (
        (diffrax.SemiImplicitEuler(), "integrates several terms"),
        (Picky(0.5), "order of the scheme Picky cannot be told"),
        (S.LMResNet.learned(4, rngs=nnx.Rngs(0)), "change from step to step"),
        (S.LMResNet(0.0).after(jnp.ones(2)), "without its state before"),
    ):
        with pytest.raises(InputError, match=words):
            analysis.derived_order(scheme)


def test_the_longest_stable_step_of_a_wave():
    def longest(scheme, *rates):
        return analysis.StableSteps(scheme).longest(np.asarray(rates))

    # |R(z)|^2 = 1 + 2 Re z + |z|^2 for Euler.
    rates = np.asarray([-1.0, -0.1 + 1j, -1e-9 + 1j, -3 + 4j])
    known = -2 * np.real(rates) / np.abs(rates) ** 2
    np.testing.assert_allclose(longest(nf.Euler(), *rates), known, rtol=1e-9)
    # |R(iy)|^2 = 1 + y^4 / 4 for Heun, and 1 - y^6 / 72 + y^8 / 576 for RK4.
    np.testing.assert_allclose(longest(nf.RK4(), 1j, -2j), np.sqrt(8) / np.asarray([1, 2]))
    np.testing.assert_allclose(longest(nf.Heun(), -1e-12 + 1j), 2e-4, rtol=1e-6)
    np.testing.assert_allclose(longest(S.adams_bashforth(3), 1j), 0.7236272, rtol=1e-6)
    for scheme in (nf.Euler(), nf.Heun(), S.adams_bashforth(2), S.adams_bashforth(5)):
        assert longest(scheme, 1j) == 0
    # Leapfrog keeps waves and lets decays grow. Waves of no rate are always stable.
    np.testing.assert_allclose(longest(S.leapfrog(), 1j, -1.0, 0.0), [1, 0, np.inf], rtol=1e-7)
    # The allowed growth of growing waves is that of implicit Euler. Euler bends spirals outwards.
    for scheme in (nf.ImplicitEuler(), nf.Euler(), nf.RK4()):
        assert longest(scheme, 1.0) == np.inf
    assert longest(nf.Euler(), 1 + 2j) == 0 < longest(nf.Heun(), 1 + 2j)

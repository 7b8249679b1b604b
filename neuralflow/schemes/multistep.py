"""Linear multi-step schemes: in general, and the two-step family of the LM-ResNet with its trainable coefficient."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from diffrax import AbstractERK, Euler
from flax import nnx
from jax import lax

from neuralflow import checks
from neuralflow.checks import InputError
from neuralflow.schemes.network import (
    NetworkScheme,
    PerStep,
    ReversibleScheme,
    amplified,
    check_coefficients,
    cost,
    done,
    plus,
    value,
    velocity_of,
)
from neuralflow.schemes.runge_kutta import RK4, explicit_step


class LinearMultistep(NetworkScheme):
    """u_{n+1} = sum_j alpha_j u_{n-j} + h sum_j beta_j f(u_{n-j}), j = 0, 1, ...: an explicit linear multi-step scheme.

    The velocity of an earlier step is the one it was given then, with that step's weights. `starter`: the explicit
    Runge-Kutta scheme of the first steps, until the past is long enough; the whole has at most one order more than it. Needs equal steps. Raises ValueError for coefficients that are not consistent (sum alpha = 1,
    sum beta = 1 + sum j alpha_j) or not zero-stable (Dahlquist's root condition).
    """

    alpha: tuple[float, ...] = eqx.field(static=True)
    beta: tuple[float, ...] = eqx.field(static=True)
    starter: Euler | AbstractERK

    def __init__(self, alpha: Sequence[float], beta: Sequence[float], starter: Any = None):
        starter = RK4() if starter is None else starter
        checks.instance(
            "starter",
            starter,
            (Euler, AbstractERK),
            "an explicit Runge-Kutta scheme such as nf.RK4()",
        )
        try:
            a, b = np.asarray(alpha, float), np.asarray(beta, float)
        except (TypeError, ValueError):
            a = b = np.zeros(0)
        if (
            a.ndim != 1
            or b.ndim != 1
            or not len(a)
            or not len(b)
            or not np.isfinite(np.concatenate([a, b])).all()
        ):
            raise InputError(
                f"alpha and beta are sequences of finite numbers, got {alpha!r} and {beta!r}"
            )
        slope = 1 + a @ np.arange(len(a))
        if abs(a.sum() - 1) > 1e-12 or abs(b.sum() - slope) > 1e-12:
            raise InputError(
                f"a multi-step scheme is consistent where alpha sums to 1 and beta to 1 + sum j alpha_j = {slope:g}; "
                f"these sum to {a.sum():g} and {b.sum():g}"
            )
        roots = np.roots(np.concatenate([[1], -a]))
        rim = np.abs(roots[:, None] - roots) < 1e-6
        if (np.abs(roots) > 1 + 1e-9).any() or (rim.sum(1)[np.abs(roots) > 1 - 1e-9] > 1).any():
            raise InputError(
                f"the scheme is not zero-stable: the roots of z^p = sum alpha_j z^(p-1-j) have moduli {np.abs(roots)}, "
                "which must not exceed one, nor repeat there"
            )
        self.alpha, self.beta, self.starter = tuple(a.tolist()), tuple(b.tolist()), starter

    @property
    def past(self) -> int:
        """Earlier steps that a step uses."""
        return max(len(self.alpha), len(self.beta)) - 1

    @property
    def carries(self) -> bool:
        """Whether it uses any."""
        return self.past > 0

    def evaluations(self, steps: int) -> int:
        """One a step, and those of the starter."""
        first = min(steps, self.past)
        return cost(self.starter, first) + steps - first

    def order(self, terms):
        """The order, from the coefficients, or one more than the starter's where that is less."""
        return (
            min(self._order(), (self.starter.order(terms) or 1) + 1) if self.past else self._order()
        )

    def _order(self) -> int:
        j = -np.arange(len(self.alpha), dtype=float), -np.arange(len(self.beta), dtype=float)
        order = 1
        while True:
            q = order + 1
            exact = self.alpha @ j[0] ** q + q * (self.beta @ j[1] ** order)
            if abs(exact - 1) > 1e-9:
                return order
            order = q

    def init(self, terms, t0, t1, y0, args):
        """Earlier states and velocities (none yet), and the number of steps so far."""
        empty = jax.tree.map(jnp.zeros_like, y0)
        return (
            (empty,) * (len(self.alpha) - 1),
            (empty,) * (len(self.beta) - 1),
            jnp.zeros((), jnp.int32),
        )

    def settled(self, memory):
        """With as many steps behind it as it uses."""
        states, velocities, count = memory
        return states, velocities, jnp.full_like(count, self.past)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        """diffrax's form of a step."""
        states, velocities, count = solver_state
        h, velocity = t1 - t0, velocity_of(terms, t0, t1, args)
        now = velocity(0.0, y0)
        us, fs = (y0, *states), (now, *velocities)

        def start() -> Any:
            if isinstance(self.starter, Euler):
                return plus(y0, h, now)
            return explicit_step(self.starter.tableau, velocity, y0, h, now)

        def proceed() -> Any:
            moved = _combined(self.beta, fs)
            return plus(_combined(self.alpha, us), h, moved)

        # The starter keeps nothing for the backward pass, for room would be kept for it in every step.
        y1 = lax.cond(count < self.past, jax.checkpoint(start), proceed) if self.past else proceed()
        return done(y0, y1, (us[: len(states)], fs[: len(velocities)], count + 1))


def _combined(weights: Sequence[float], trees: Sequence[Any]) -> Any:
    """The weighted sum; what has no weight is left out, what has weight one is taken as it is."""
    used = [(w, tree) for w, tree in zip(weights, trees, strict=True) if w != 0]
    total = None
    for w, tree in used:
        part = tree if w == 1 else jax.tree.map(lambda a, w=w: w * a, tree)
        total = part if total is None else jax.tree.map(jnp.add, total, part)
    return total


def adams_bashforth(order: int, starter: Any = None) -> LinearMultistep:
    """The explicit Adams scheme of an order from 1 to 5, started by RK4 (local error h^5)."""
    checks.whole("order", order)
    if order > 5:
        raise InputError(
            f"adams_bashforth goes to order 5, which RK4 can start, got {order}; take Dopri8 for more"
        )
    # The weights integrate polynomials through the last `order` velocities exactly.
    past = -np.arange(order)
    powers = np.arange(order)
    beta = np.linalg.solve(past[None, :].astype(float) ** powers[:, None], 1 / (powers + 1))
    return LinearMultistep((1.0,), beta.tolist(), starter)


class _TwoStep(ReversibleScheme):
    """What the two versions of the family share: all but the weight of the velocity."""

    past: ClassVar[Any] = 1
    carries: ClassVar[Any] = True
    k: Any
    before: Any = None

    def __init__(self, k: Any, before: Any = None):
        check_coefficients(k=k)
        self.k, self.before = k, before

    @classmethod
    def learned(cls, steps: int, *, channels: int | None = None, rngs: nnx.Rngs) -> Self:
        """With k_n of every step after the first drawn from U(-0.1, 0), as published; one per channel if `channels` is given."""
        checks.whole("steps", steps, least=2)
        checks.instance("rngs", rngs, nnx.Rngs, "nnx.Rngs(seed)")
        if channels is not None:
            checks.whole("channels", channels)
        shape = (steps - 1,) if channels is None else (steps - 1, channels)
        return cls(PerStep(jax.random.uniform(rngs.params(), shape, jnp.float32, -0.1, 0.0)))

    def after(self, before: Any) -> Self:
        """The scheme that starts with an earlier state, one step before x, in place of a plain first step.

        For a stack that goes on from another: `before` has the structure and shape of x, and k a row for every step.
        """
        return eqx.tree_at(
            lambda scheme: scheme.before, self, before, is_leaf=lambda leaf: leaf is None
        )

    @abstractmethod
    def weight(self, k: Any) -> Any:
        """The weight of h f(u_n)."""

    @property
    def plain(self) -> int:
        """The first, where there is no state before."""
        return int(self.before is None)

    @property
    def continued(self) -> bool:
        """Whether there is a state before."""
        return self.before is not None

    def settled(self, memory):
        """Past the first step."""
        before, first = memory
        return before, jnp.zeros_like(first)

    def evaluations(self, steps: int) -> int:
        """One a step."""
        return steps

    @property
    def retraced(self) -> tuple[int, ...]:
        """The only one."""
        return (0,)

    def growth(self, steps: int) -> float:
        """A power of 1/|k|; infinite for a k that is learned, which may pass through zero."""
        k = abs(self.k) if isinstance(self.k, int | float) else 0.0
        return amplified(max(1.0, 1 / k), steps) if k else math.inf

    def init(self, terms, t0, t1, y0, args):
        """The state before: without one the first step is a plain residual step."""
        if self.before is None:
            return y0, jnp.asarray(True)

        def kind(tree):
            return jax.tree.map(lambda a: f"{jnp.result_type(a)}{list(jnp.shape(a))}", tree)

        if kind(self.before) != kind(y0):
            raise InputError(
                f"the state before must have the shape of x and its dtype, {kind(y0)}, got {kind(self.before)}"
            )
        return self.before, jnp.asarray(False)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        """diffrax's form of a step."""
        before, first = solver_state
        k = jnp.where(first, 0, value(self.k, y0))
        moved = self._moved(terms, t0, t1, y0, args, k)
        y1 = jax.tree.map(lambda u, v, b: u + k * (b - u) + v, y0, moved, before)
        return done(y0, y1, (y0, jnp.zeros_like(first)))

    def unstep(self, terms, t0, t1, y1, args, solver_state):
        """The state before, from the two that follow; never the first step, whose state before is its own."""
        y0, _ = solver_state
        k = value(self.k, y0)
        moved = self._moved(terms, t0, t1, y0, args, k)
        before = jax.tree.map(lambda u, v, a: u + (a - u - v) / k, y0, moved, y1)
        return y0, (before, jnp.zeros((), bool))

    def _moved(self, terms: Any, t0: Any, t1: Any, y: Any, args: Any, k: Any) -> Any:
        h = self.weight(k) * (t1 - t0)
        return jax.tree.map(lambda v: (h * v).astype(v.dtype), terms.vf(t0, y, args))


class LMResNet(_TwoStep):
    """u_{n+1} = (1 - k_n) u_n + k_n u_{n-1} + h f(u_n), as published (Lu et al., arXiv 1710.10121; stated there).

    The first step is a plain residual step. `k`: a number, an array, or a `PerStep` that is learned; `learned` makes
    one as published. Converges to u' = f/(1 + k) for a constant -1 < k < 1, not to u' = f: the limit is consistent
    with the field only where k = 0, and learned k_n mean a field scaled by 1/(1 + k_n). `ConsistentLM` keeps the
    field. Stable on u' = -g u for 0 < h g < 2 (1 - k) (our derivation).
    """

    def order(self, terms):
        """Order 1 for k = 0, the ResNet; else 0, for the limit is another equation."""
        return 1 if isinstance(self.k, int | float) and self.k == 0 else 0

    def weight(self, k):
        """One."""
        return 1.0


class ConsistentLM(_TwoStep):
    """u_{n+1} = (1 - k_n) u_n + k_n u_{n-1} + (1 + k_n) h f(u_n): the two-step family, consistent with u' = f at every k.

    Our correction of `LMResNet`. Order 1 for -1 < k < 1, order 2 at k = 1 (the leapfrog scheme); the first step is
    Euler's. k = -gamma is the momentum ResNet. Stable on u' = -g u for 0 < h g < 2 (1 - k)/(1 + k) (our derivation).
    """

    def order(self, terms):
        """Order 1; the leapfrog scheme has order 2."""
        return 2 if isinstance(self.k, int | float) and self.k == 1 else 1

    def weight(self, k):
        """1 + k."""
        return 1.0 + k


def leapfrog() -> ConsistentLM:
    """u_{n+1} = u_{n-1} + 2 h f(u_n), started by Euler: order 2, and exactly reversible.

    Its weak instability is that of the scheme: decay grows an oscillation from step to step.
    """
    return ConsistentLM(1.0)


def momentum(gamma: float) -> ConsistentLM:
    """The momentum ResNet, v_{n+1} = gamma v_n + (1 - gamma) f(x_n), x_{n+1} = x_n + h v_{n+1} (Sander et al., arXiv 2102.07870).

    The same as `ConsistentLM(-gamma)`, our observation; the first step is Euler's (v_0 = f(x_0)). Order 1, and
    reversible: walking back multiplies rounding errors by 1 / gamma a step.
    """
    if not isinstance(gamma, int | float) or not 0 < gamma < 1:
        raise InputError(f"momentum lies between 0 and 1, got {gamma!r}")
    return ConsistentLM(-float(gamma))

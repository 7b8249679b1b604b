"""Linear multi-step schemes: the general form, and the two-step family of the LM-ResNet.

`LinearMultistep` has constant coefficients. The two-step schemes have one coefficient k, which can
be learned.

A step that uses the states and velocities of earlier steps is only as accurate as the field is
smooth over all of these steps. On weights of a basis with inner knots, a scheme of order p has the
order min(p, smoothness + 2). Here smoothness is the number of continuous derivatives of the weights
at the knots, -1 where they jump and 0 where they kink. A `LinearMultistep` can restart at such
knots, and then keeps its order.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from diffrax import AbstractERK, Euler
from flax import nnx
from jax import lax
from jaxtyping import PyTree

from neuralflow import checks
from neuralflow.annotations import Real
from neuralflow.checks import InputError
from neuralflow.depth import Basis
from neuralflow.schemes.network import (
    NetworkScheme,
    PerStep,
    ReversibleScheme,
    Traits,
    amplified,
    check_coefficients,
    cost,
    done,
    plus,
    value,
    velocity_of,
)
from neuralflow.schemes.runge_kutta import RK4, explicit_step, times


class LinearMultistep(NetworkScheme):
    """An explicit linear multi-step scheme with constant coefficients.

    The step is u_{n+1} = sum_j alpha_j u_{n-j} + h sum_j beta_j f(u_{n-j}), j = 0, 1, .... Here u_n
    is the state after n steps, h the length of a step and f the field. All steps must have the same
    length.

    The velocity of an earlier step is the velocity that the earlier step had, with the weights of
    that step. On weights that jump or kink at the knots of their basis, the scheme therefore loses
    order, as `order` says. With `restart`, the scheme forgets the earlier steps at these knots, and
    the starter takes the first steps after each of them. The scheme then keeps its order. Every
    knot of the basis counts, whether or not the weights of today jump there, so that a restarting
    scheme is another network on a refined basis. Knots at which the weights are smooth enough for
    the order are passed without a restart.

    Args:
        alpha: The weights alpha_0, alpha_1, ... of the states, the latest first.
        beta: The weights beta_0, beta_1, ... of the velocities, the latest first.
        starter: The explicit Runge-Kutta scheme of the first steps, until there are enough earlier
            steps. `RK4` by default. The order of the whole exceeds the order of the starter by at
            most one.
        restart: Whether to start anew at knots where the weights have fewer than `order` - 2
            continuous derivatives. A field with such knots needs one step more between them than
            the scheme uses earlier steps. With fewer, the starter would take all steps.

    Raises:
        InputError: `alpha` or `beta` holds no number or one that is not finite, or the coefficients
            are not consistent or not zero-stable. Consistent means sum alpha = 1 and sum beta = 1 +
            sum j alpha_j. Zero-stable means Dahlquist's root condition.
        InputTypeError: `alpha` or `beta` is not a sequence of numbers, or `starter` is not an
            explicit Runge-Kutta scheme, or `restart` is not True or False.
    """

    alpha: tuple[float, ...] = eqx.field(static=True)
    beta: tuple[float, ...] = eqx.field(static=True)
    starter: Euler | AbstractERK
    restart: bool = eqx.field(static=True)

    def __init__(
        self,
        alpha: Sequence[float],
        beta: Sequence[float],
        starter: Euler | AbstractERK | None = None,
        *,
        restart: bool = False,
    ):
        checks.flag("restart", restart)
        starter = RK4() if starter is None else starter
        checks.instance(
            "starter",
            starter,
            (Euler, AbstractERK),
            "an explicit Runge-Kutta scheme such as nf.RK4()",
        )
        a, b = (
            np.asarray(checks.row(name, weights), float)
            for name, weights in (("alpha", alpha), ("beta", beta))
        )
        if not np.isfinite(np.concatenate([a, b])).all():
            raise InputError(
                f"alpha and beta are sequences of finite numbers, got {alpha!r} and {beta!r}"
            )
        slope = 1 + a @ np.arange(len(a))
        if abs(a.sum() - 1) > 1e-12 or abs(b.sum() - slope) > 1e-12:
            raise InputError(
                "a multi-step scheme is consistent where alpha sums to 1 and beta to "
                f"1 + sum j alpha_j = {slope:g}; these sum to {a.sum():g} and {b.sum():g}"
            )
        roots = np.roots(np.concatenate([[1], -a]))
        rim = np.abs(roots[:, None] - roots) < 1e-6
        if (np.abs(roots) > 1 + 1e-9).any() or (rim.sum(1)[np.abs(roots) > 1 - 1e-9] > 1).any():
            raise InputError(
                "the scheme is not zero-stable: the roots of z^p = sum alpha_j z^(p-1-j) have "
                f"moduli {np.abs(roots)}, which must not exceed one, nor repeat there"
            )
        self.alpha, self.beta, self.starter = tuple(a.tolist()), tuple(b.tolist()), starter
        self.restart = bool(restart)

    @property
    def traits(self) -> Traits:
        """The scheme uses as many earlier steps as its longer list of coefficients asks for."""
        past = max(len(self.alpha), len(self.beta)) - 1
        restart = self.order(None) - 2 if self.restart else -1
        return Traits(past=past, carries=past > 0, restart=restart)

    def evaluations(self, steps: int) -> int:
        """Return the number of evaluations of the field in a number of steps without a restart.

        The starter takes the first `past` steps with its own number of evaluations. Every later
        step takes one evaluation.
        """
        first = min(steps, self.traits.past)
        return cost(self.starter, first) + steps - first

    def order(self, terms, basis: Basis | None = None) -> int:
        """Return the order of the scheme with its starter.

        The order p on smooth weights follows from the coefficients. p is at most one more than the
        order of the starter. On a basis with inner knots, the order is min(p, smoothness + 2).
        Here smoothness is that of the basis: -1 where functions jump at the knots, 0 where they
        kink. A scheme that restarts has the order p on every basis.

        Args:
            terms: The field, as diffrax's terms, or None. The order does not depend on it.
            basis: The basis of the weights, the least smooth one if there are several. None stands
                for weights that are smooth over the whole depth.

        Returns:
            The order.

        Raises:
            InputTypeError: `basis` is not a depth basis.
        """
        order = min(self._order(), (self.starter.order(terms) or 1) + 1)
        left = _order_on(basis, order)
        return order if self.restart else left

    def _order(self) -> int:
        """Return the order that the coefficients give."""
        j = -np.arange(len(self.alpha), dtype=float), -np.arange(len(self.beta), dtype=float)
        order = 1
        while True:
            q = order + 1
            exact = self.alpha @ j[0] ** q + q * (self.beta @ j[1] ** order)
            if abs(exact - 1) > 1e-9:
                return order
            order = q

    def init(self, terms, t0, t1, y0, args):
        """Return the memory before the first step, in the form of `diffrax.AbstractSolver.init`.

        The memory holds the earlier states, the earlier velocities and the number of steps so far.
        The states and velocities are zeros at the start.
        """
        empty = jax.tree.map(jnp.zeros_like, y0)
        return (
            (empty,) * (len(self.alpha) - 1),
            (empty,) * (len(self.beta) - 1),
            jnp.zeros((), jnp.int32),
        )

    def settled(self, memory):
        """Return a memory that counts as many earlier steps as a step uses."""
        states, velocities, count = memory
        return states, velocities, jnp.full_like(count, self.traits.past)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        """Take one step, in the form of `diffrax.AbstractSolver.step`."""
        states, velocities, count = solver_state
        if self.traits.restart >= 0:
            count = jnp.where(made_jump, 0, count)
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

        # The starter keeps nothing for the backward pass. Otherwise every step would reserve room
        # for what the starter keeps.
        y1 = (
            lax.cond(count < self.traits.past, jax.checkpoint(start), proceed)
            if self.traits.past
            else proceed()
        )
        return done(y0, y1, (us[: len(states)], fs[: len(velocities)], count + 1))


def _order_on(basis: Basis | None, order: int) -> int:
    """Return what is left of an order on weights of a basis, where steps use earlier steps."""
    if basis is None:
        return order
    checks.instance("basis", basis, Basis, "a depth basis such as nf.PiecewiseConstant(4)")
    return order if basis.count == 1 else min(order, basis.smoothness + 2)


def _combined(weights: Sequence[float], trees: Sequence[Any]) -> Any:
    """Return the weighted sum of pytrees.

    A pytree of weight zero is left out. A pytree of weight one is added as it is.
    """
    used = [(w, tree) for w, tree in zip(weights, trees, strict=True) if w != 0]
    total = None
    for w, tree in used:
        part = tree if w == 1 else jax.tree.map(lambda a, w=w: w * a, tree)
        total = part if total is None else jax.tree.map(jnp.add, total, part)
    return total


def adams_bashforth(
    order: int, starter: Euler | AbstractERK | None = None, *, restart: bool = False
) -> LinearMultistep:
    """Make the explicit Adams scheme of an order from 1 to 5.

    The scheme has this order on weights that are smooth in depth. On weights that jump at knots the
    order is 1. On weights that kink the order is at most 2. With `restart` the scheme keeps its
    order on both.

    Args:
        order: The order, from 1 to 5. A step uses the velocities of the last `order` steps.
        starter: The explicit Runge-Kutta scheme of the first steps. `RK4` by default, whose local
            error is O(h^5), with h the length of a step.
        restart: Whether to start anew at knots where the weights are not smooth enough for the
            order, as in `LinearMultistep`. A field with such knots needs at least `order` steps
            from one knot to the next.

    Returns:
        The scheme. A step takes one evaluation of the field, once the first steps are taken.

    Raises:
        InputError: `order` is below 1 or above 5.
        InputTypeError: `order` is not a whole number, `starter` is not an explicit Runge-Kutta
            scheme, or `restart` is not True or False.

    Example:
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> scheme = nf.schemes.adams_bashforth(2)
        >>> [round(weight, 2) for weight in scheme.beta]
        [1.5, -0.5]
        >>> layer = nf.NeuralODE(nf.from_function(lambda p, x: -x), nf.FixedGrid(scheme, steps=32))
        >>> round(float(layer(jnp.ones(()))), 2)  # exp(-1)
        0.37
        >>> jumps = nf.PiecewiseConstant(4)
        >>> [nf.schemes.adams_bashforth(2, restart=r).order(None, jumps) for r in (False, True)]
        [1, 2]
    """
    checks.whole("order", order)
    if order > 5:
        raise InputError(
            f"adams_bashforth goes to order 5, which RK4 can start, got {order}; "
            "take Dopri8 for more"
        )
    # The weights integrate polynomials through the last `order` velocities exactly.
    past = -np.arange(order)
    powers = np.arange(order)
    beta = np.linalg.solve(past[None, :].astype(float) ** powers[:, None], 1 / (powers + 1))
    return LinearMultistep((1.0,), beta.tolist(), starter, restart=restart)


class TwoStep(ReversibleScheme):
    """What the two versions of the two-step family share: all but the weight of the velocity.

    The step is u_{n+1} = (1 - k_n) u_n + k_n u_{n-1} + weight(k_n) h f(u_n).
    """

    k: Any
    before: Any = None

    def __init__(self, k: Real | nnx.Param, before: Real | None = None):
        check_coefficients(k=k)
        if before is not None:
            checks.states("before", before)
        self.k, self.before = k, before

    @classmethod
    def learned(cls, steps: int, *, channels: int | None = None, rngs: nnx.Rngs) -> Self:
        """Make a scheme that learns k_n in every step after the first.

        Each k_n is drawn from U(-0.1, 0), as published.

        Args:
            steps: The number of steps of the grid, at least 2.
            channels: The size of the last axis of the state, for one coefficient per channel. By
                default a step has one coefficient.
            rngs: The random streams that draw the coefficients.

        Returns:
            The scheme, with k of shape `(steps - 1,)` or `(steps - 1, channels)`.

        Raises:
            InputError: `steps` is below 2, or `channels` is below 1. Or there would be more than
                2^28 coefficients.
            InputTypeError: `steps` or `channels` is not a whole number, or `rngs` is not an
                `nnx.Rngs`.
        """
        checks.whole("steps", steps, least=2, most=checks.MOST_STEPS)
        checks.instance("rngs", rngs, nnx.Rngs, "nnx.Rngs(seed)")
        if channels is not None:
            checks.whole("channels", channels, most=2**28 // steps)
        shape = (steps - 1,) if channels is None else (steps - 1, channels)
        return cls(PerStep(jax.random.uniform(rngs.params(), shape, jnp.float32, -0.1, 0.0)))

    def after(self, before: Real) -> Self:
        """Return the scheme that goes on from an earlier state instead of a plain first step.

        A stack of blocks that goes on from another stack needs this form. A k that is a `PerStep`
        then has a row for every step.

        Args:
            before: The state one step before x, of the structure and shape of x.

        Returns:
            The scheme with this state before.

        Raises:
            InputTypeError: `before` is not an array or a pytree of arrays.
        """
        checks.states("before", before)
        return eqx.tree_at(
            lambda scheme: scheme.before, self, before, is_leaf=lambda leaf: leaf is None
        )

    @abstractmethod
    def weight(self, k: Real | nnx.Param) -> Any:
        """Return the weight of h f(u_n) for a coefficient k."""

    @property
    def traits(self) -> Traits:
        """A step uses the state before; without one the first step is plain and has no k."""
        continued = self.before is not None
        return Traits(past=1, carries=True, plain=int(not continued), continued=continued)

    def settled(self, memory):
        """Return the memory with the mark of the first step removed."""
        before, first = memory
        return before, jnp.zeros_like(first)

    def evaluations(self, steps: int) -> int:
        """Return the number of steps, because a step evaluates the field once."""
        return steps

    def retraced(self, parts: int = 1) -> tuple[int, ...]:
        """Return the number of the only evaluation in a step, 0."""
        return (0,)

    def growth(self, steps: int) -> float:
        """Return the factor by which walking back may multiply a rounding error.

        Returns:
            (1/|k|)^steps, but at least 1. Infinite where k is learned or an array, because such a k
            may pass through zero.
        """
        k = abs(self.k) if isinstance(self.k, int | float) else 0.0
        return amplified(max(1.0, 1 / k), steps) if k else math.inf

    def init(self, terms, t0, t1, y0, args):
        """Return the memory before the first step, in the form of `diffrax.AbstractSolver.init`.

        The memory holds the state before, and a mark that the next step is a plain first step.
        Without a state before, the first step is a plain residual step.

        Raises:
            InputError: The state before does not have the shape and dtype of x.
        """
        if self.before is None:
            return y0, jnp.asarray(True)

        def kind(tree):
            """Write dtypes and shapes of a pytree."""
            return jax.tree.map(lambda a: f"{jnp.result_type(a)}{list(jnp.shape(a))}", tree)

        if kind(self.before) != kind(y0):
            raise InputError(
                f"the state before must have the shape of x and its dtype, {kind(y0)}, "
                f"got {kind(self.before)}"
            )
        return self.before, jnp.asarray(False)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        """Take one step, in the form of `diffrax.AbstractSolver.step`."""
        before, first = solver_state
        k = jnp.where(first, 0, value(self.k, y0))
        moved = self._moved(terms, t0, t1, y0, args, k)
        y1 = jax.tree.map(lambda u, v, b: u + k * (b - u) + v, y0, moved, before)
        return done(y0, y1, (y0, jnp.zeros_like(first)))

    def unstep(self, terms, t0, t1, y1, args, solver_state):
        """Return the state and the memory before the step.

        The state before follows from the two states after it. The result is not valid for the first
        step, which has no state before.
        """
        y0, _ = solver_state
        k = value(self.k, y0)
        moved = self._moved(terms, t0, t1, y0, args, k)
        before = jax.tree.map(lambda u, v, a: u + (a - u - v) / k, y0, moved, y1)
        return y0, (before, jnp.zeros((), bool))

    def _moved(
        self, terms: Any, t0: Real, t1: Real, y: PyTree, args: PyTree, k: Real | nnx.Param
    ) -> Any:
        """Return the weighted velocity term of a step, in the dtype of the velocity."""
        h = self.weight(k) * (t1 - t0)
        return jax.tree.map(lambda v: times(h, v), terms.vf(t0, y, args))


class LMResNet(TwoStep):
    """The LM-ResNet: u_{n+1} = (1 - k_n) u_n + k_n u_{n-1} + h f(u_n), as published.

    Here u_n is the state after n steps, h the length of a step and f the field. The first step is a
    plain residual step.

    The scheme converges to u' = f/(1 + k) for a constant -1 < k < 1. The scheme is consistent with
    u' = f only for k = 0. Where learned k_n vary slowly with n, the network follows
    u' = f/(1 + k_n). Where k_n jumps from step to step, the increment also depends on the earlier
    k_n. `ConsistentLM` keeps the field.

    The grid must have equal steps over the whole interval. A layer with this scheme has no
    `invert` and no `per_step`, since a step needs the state before the last one.

    The scheme is stable on u' = -g u for 0 < h g < 2 (1 - k) (our derivation).

    Args:
        k: The coefficient. A number is the same in every step. An array or an `nnx.Variable` is
            too, and may hold one number for each channel, the last axis of the state. A `PerStep`
            has one row for every step after the first; `TwoStep.learned` makes one as published.
        before: The state one step before x, if the scheme goes on from one. `TwoStep.after` sets
            this state.

    Raises:
        InputError: The coefficient is a number that is not finite.
        InputTypeError: The coefficient is neither a number nor an array nor an `nnx.Variable`, or
            the state before x is not made of arrays.

    Example:
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> from flax import nnx
        >>> scheme = nf.schemes.LMResNet.learned(8, rngs=nnx.Rngs(0))  # no k in the first step
        >>> field = nf.fields.MLP(2, hidden=16, rngs=nnx.Rngs(1))
        >>> layer = nf.NeuralODE(field, nf.FixedGrid(scheme, steps=8))
        >>> layer(jnp.ones((5, 2))).shape
        (5, 2)

    Source:
        Lu et al., arXiv 1710.10121; stated there.
    """

    def order(self, terms, basis: Basis | None = None) -> int:
        """Return 1 for k = 0, which is the ResNet, and 0 otherwise.

        0 says that the limit is another equation than u' = f. The order is the same on every basis.

        Args:
            terms: The field, as diffrax's terms, or None. The order does not depend on it.
            basis: The basis of the weights, or None.

        Returns:
            The order.

        Raises:
            InputTypeError: `basis` is not a depth basis.
        """
        return _order_on(basis, 1 if isinstance(self.k, int | float) and self.k == 0 else 0)

    def weight(self, k):
        """Return 1, the weight of h f(u_n), whatever k is."""
        return 1.0


class ConsistentLM(TwoStep):
    """The two-step family, u_{n+1} = (1 - k_n) u_n + k_n u_{n-1} + (1 + k_n) h f(u_n).

    Here u_n is the state after n steps, h the length of a step and f the field. The scheme is
    consistent with u' = f at every k. The scheme is our correction of `LMResNet`. The first step is
    Euler's.

    The order is 1 for -1 < k < 1, and 2 at k = 1, which is the leapfrog scheme. Where weights jump
    at knots, the order is 1 at k = 1 too. k = -gamma is the momentum ResNet. The scheme is stable
    on u' = -g u for 0 < h g < 2 (1 - k)/(1 + k) (our derivation).

    Args:
        k: The coefficient, of the same kinds as in `LMResNet`.
        before: The state one step before x, if the scheme goes on from one. `TwoStep.after` sets
            this state.

    Raises:
        InputError: The coefficient is a number that is not finite.
        InputTypeError: The coefficient is neither a number nor an array nor an `nnx.Variable`, or
            the state before x is not made of arrays.
    """

    def order(self, terms, basis: Basis | None = None) -> int:
        """Return 2 for k = 1, which is the leapfrog scheme, and 1 otherwise.

        On a basis with inner knots at which functions jump, the order is 1.

        Args:
            terms: The field, as diffrax's terms, or None. The order does not depend on it.
            basis: The basis of the weights, the least smooth one if there are several. None stands
                for weights that are smooth over the whole depth.

        Returns:
            The order.

        Raises:
            InputTypeError: `basis` is not a depth basis.
        """
        return _order_on(basis, 2 if isinstance(self.k, int | float) and self.k == 1 else 1)

    def weight(self, k):
        """Return 1 + k, the weight of h f(u_n)."""
        return 1.0 + k


def leapfrog(*, restart: bool = False) -> ConsistentLM | LinearMultistep:
    """Make the leapfrog scheme u_{n+1} = u_{n-1} + 2 h f(u_n), with Euler's first step.

    Here u_n is the state after n steps, h the length of a step and f the field. The scheme has
    order 2 and is exactly reversible. The scheme itself is weakly unstable: where the solution
    decays, an oscillation from step to step grows. On weights that jump at knots the order is 1.

    Args:
        restart: Whether to start anew with a step of Euler's scheme at knots where the weights
            jump, as in `LinearMultistep`. The scheme then keeps its order 2, but is not reversible,
            because a restart forgets the state before.

    Returns:
        The scheme: `ConsistentLM(1.0)`, or the same scheme as a `LinearMultistep` that restarts.

    Raises:
        InputTypeError: `restart` is not True or False.
    """
    checks.flag("restart", restart)
    if restart:
        return LinearMultistep((0.0, 1.0), (2.0,), Euler(), restart=True)
    return ConsistentLM(1.0)


def momentum(gamma: float) -> ConsistentLM:
    """Make the momentum ResNet v_{n+1} = gamma v_n + (1 - gamma) f(x_n), x_{n+1} = x_n + h v_{n+1}.

    Here x_n is the state and v_n the velocity after n steps, h the length of a step and f the
    field. The scheme is the same as `ConsistentLM(-gamma)`, which is our observation. The first
    step is Euler's (v_0 = f(x_0)).

    The scheme has order 1 and is reversible. Walking back multiplies rounding errors by 1/gamma a
    step.

    Args:
        gamma: The momentum, a number between 0 and 1, both excluded.

    Returns:
        The scheme.

    Raises:
        InputError: `gamma` is not a number between 0 and 1.

    Source:
        Sander et al., arXiv 2102.07870.
    """
    if not checks.is_number(gamma) or not 0 < gamma < 1:
        raise InputError(f"gamma, the momentum, lies between 0 and 1, got {gamma!r}")
    return ConsistentLM(-float(gamma))

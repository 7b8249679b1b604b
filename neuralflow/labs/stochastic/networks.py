"""Random fields in blocks: random residual networks, and the SDEs that are their limits.

The kinds of noise stand in `fields`.
"""

from __future__ import annotations

import functools
from fractions import Fraction
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from diffrax import AbstractSolver
from flax import nnx
from jax import Array, core, lax
from jax.flatten_util import ravel_pytree
from jax.sharding import PartitionSpec
from jaxtyping import PyTree

from neuralflow import checks
from neuralflow.annotations import Real, Reals
from neuralflow.checks import InputError, InputTypeError
from neuralflow.depth import field_at
from neuralflow.fields import evaluate
from neuralflow.labs.stochastic.fields import RandomField, Stepped, check_samples
from neuralflow.layers import NeuralODE
from neuralflow.refinement import HoldsSteps
from neuralflow.schemes import Euler
from neuralflow.schemes.network import cost, is_explicit
from neuralflow.solve import FixedGrid, Memory, Solution, SolveError, Status
from neuralflow.solve.context import as_arrays, check_axes, leaf_axes
from neuralflow.solve.form import split
from neuralflow.solve.meshes import is_spec, spread

MOST_STEPS = 2**24
"""The largest number of steps. Depth times in float32 tell no more steps apart."""


class RandomNetwork(HoldsSteps):
    """A random field in equal blocks: a residual network with a random branch in every block.

    The kind of noise, such as stochastic depth or dropout, is the choice of the field. In training,
    every call draws anew from the field's stream. After `nnx.Module.eval()`, the network is the
    network of the expectations and draws nothing. `sample(x, key)` draws from the given key, in
    training and in evaluation. The attribute `layer`, a `neuralflow.NeuralODE`, carries the weights
    and the memory mode, and gives the states along depth.

    Args:
        field: The random field.
        steps: The number of blocks.
        scheme: The scheme, with one evaluation of the field a step and therefore one draw a step:
            `neuralflow.Euler()` (the default), or a network such as `neuralflow.schemes.LMResNet`.
        t0: The depth time where the interval starts.
        t1: The depth time where the interval ends, greater than `t0`.
        memory: What the backward pass keeps; see `neuralflow.FixedGrid`.

    Raises:
        InputError: The scheme has another number of evaluations a step, `t1` is not greater than
            `t0`, the law of the field does not exist at the start of a step, `steps` is below one
            or above 2^24, or `memory` is unknown.
        InputTypeError: `field` is not a random field, or `steps` is not a whole number.

    Attributes:
        field: The random field.
        layer: The network as a `neuralflow.NeuralODE` on a fixed grid.

    Example:
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> from flax import nnx
        >>> decay = nf.from_function(lambda rate, x: -rate * x, jnp.asarray(0.5))
        >>> field = nf.labs.stochastic.StochasticDepth(decay, 0.8, rngs=nnx.Rngs(0))
        >>> network = nf.labs.stochastic.RandomNetwork(field, steps=4)
        >>> network(jnp.ones((3, 1))).shape  # one random draw for each of three samples
        (3, 1)
        >>> network.eval()  # the network of the expectations
        >>> round(network(jnp.ones((3, 1)))[0].item(), 2)
        0.66
    """

    def __init__(
        self,
        field: RandomField,
        steps: int,
        scheme: diffrax.AbstractSolver | None = None,
        t0: float = 0.0,
        t1: float = 1.0,
        *,
        memory: Memory = "remat",
    ):
        checks.instance(
            "field",
            field,
            RandomField,
            "a random field such as nf.labs.stochastic.StochasticDepth(...)",
        )
        checks.whole("steps", steps, most=MOST_STEPS)
        scheme = Euler() if scheme is None else scheme
        grid = FixedGrid(scheme, steps=steps, memory=memory)
        if not is_explicit(scheme) or cost(scheme, steps) != steps:
            raise InputError(
                "a step of a random network has one draw, so one evaluation of its field; the "
                f"scheme {type(scheme).__name__} has others: take nf.Euler() or "
                "nf.schemes.LMResNet"
            )
        checks.forward("a random network", t0, t1)
        _check_law(field, t0, t1, steps)
        self.field = field
        self.layer = NeuralODE(Stepped(field, float(t1 - t0) / steps), grid, float(t0), float(t1))

    def _change_steps(self, factor: Fraction | None) -> None:
        """Check the law of the field on other steps; `layer` holds the steps themselves."""
        t0, t1 = map(float, self.layer.ends)
        if factor is not None:
            _check_law(self.field, t0, t1, int(factor * self.layer.plan().steps))

    def __call__(self, x: PyTree, *, context: PyTree = None) -> Any:
        """Return the states at the end of the interval.

        Args:
            x: The states at the start, `(batch, ...)` or a pytree of such arrays.
            context: The context of the field, as in a call of a `neuralflow.NeuralODE`.

        Returns:
            The states at `t1`, in the form of x: one draw in training, the network of the
            expectations in evaluation.

        Raises:
            SolveError: The states left the range of floating point, in a call outside any trace.

        @public
        """
        return self.layer(x, context=context)

    def sample(self, x: PyTree, key: Array, *, context: PyTree = None) -> Any:
        """Return the states at the end of the interval, with the draws of a key.

        Equal keys give equal draws, whatever the field has drawn before. The network draws in
        training and in evaluation.

        Args:
            x: The states at the start, `(batch, ...)` or a pytree of such arrays.
            key: The random key of the draws.
            context: The context of the field, as in a call of a `neuralflow.NeuralODE`.

        Returns:
            The states at `t1`, in the form of x.

        Raises:
            InputTypeError: `key` is not one random key.
            SolveError: The states left the range of floating point, in a call outside any trace.
        """
        checks.key(key)
        return seeded(self, key).layer(x, context=context)


def seeded(module: nnx.Module, key: Array) -> Any:
    """Return a copy of a module in training mode, whose random streams start anew from a key.

    Args:
        module: The module, which stays as it is.
        key: The random key. Every stream of the copy gets a key of its own from this key.

    Raises:
        InputTypeError: `module` is not an nnx.Module, or `key` is not one random key.
    """
    checks.instance("module", module, nnx.Module, "an nnx.Module such as a RandomNetwork")
    checks.key(key)
    key = key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)
    graphdef, keys, counts, rest = nnx.split(module, nnx.RngKey, nnx.RngCount, ...)
    leaves, form = jax.tree.flatten(keys)
    folded = [
        jnp.broadcast_to(jax.random.fold_in(key, i), jnp.shape(leaf))
        for i, leaf in enumerate(leaves)
    ]
    copy: Any = nnx.merge(
        graphdef, jax.tree.unflatten(form, folded), jax.tree.map(jnp.zeros_like, counts), rest
    )
    copy.train()
    return copy


class NeuralSDE(HoldsSteps):
    """The stochastic differential equation dX = a dt + b dB, in Ito's sense, of a random field.

    A random field is a `RandomField`: a network whose blocks draw random numbers, such as a network
    with dropout. Its drift a is the mean of a block, and its diffusion b the spread of a block. In
    law, the network with shorter and shorter blocks converges to the solution of the equation. In
    training, every call draws a path from the random stream of the field. After
    `nnx.Module.eval()`, the module is the Euler network of the drift and draws nothing, whatever
    `scheme` is. `sample(x, key)` draws from the given key, in training and in evaluation.

    Brownian paths are virtual Brownian trees. Equal keys and equal resolutions give equal paths,
    whatever the number of steps. The default resolution changes with `steps`. To compare numbers of
    steps on equal paths, give one `resolution`. diffrax's stochastic Runge-Kutta solvers need more
    than the increments of a path, and draw other paths from the same key.

    Args:
        field: The random field.
        steps: The number of equal steps of the solver.
        scheme: A solver of diffrax for SDEs. The default `diffrax.Euler()` is the Euler-Maruyama
            scheme. `diffrax.ItoMilstein()` has the strong order one where the coordinates share
            their noise or b is constant, and one half elsewhere. A solver of Stratonovich's form is
            refused unless the coordinates share their noise or b is constant. The drift is then
            corrected by -(Db) b / 2, where Db is the derivative of b in x.
        t0: The depth time where the interval starts.
        t1: The depth time where the interval ends, greater than `t0`.
        resolution: The length in depth time to which the Brownian paths are resolved, at most a
            step. Half a step by default.
        context_axes: Which arrays of a context are split into samples: 0 for an array whose axis 0
            counts the samples, None for an array that the samples share, or a pytree of these as
            for `neuralflow.Adaptive`.

    Raises:
        InputError: `t1` is not greater than `t0`, `steps` is below one or above 2^24, or
            `resolution` is not positive or is longer than a step. Or the field has no drift and no
            diffusion at the depth time where a step starts.
        InputTypeError: `field` is not a random field, or `steps` is not a whole number. Or `scheme`
            is no solver for SDEs, or one for shared or constant noise alone.

    Example:
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> from flax import nnx
        >>> decay = nf.from_function(lambda rate, x: -rate * x, jnp.asarray(0.5))
        >>> field = nf.labs.stochastic.StochasticDepth(decay, 0.8, rngs=nnx.Rngs(0))
        >>> sde = nf.labs.stochastic.NeuralSDE(field, steps=4)
        >>> sde.eval()  # the drift without the noise
        >>> round(sde(jnp.ones((3, 1)))[0].item(), 2)
        0.66
    """

    def __init__(
        self,
        field: RandomField,
        steps: int,
        scheme: diffrax.AbstractSolver | None = None,
        t0: float = 0.0,
        t1: float = 1.0,
        *,
        resolution: Any = None,
        context_axes: Any = 0,
    ):
        checks.instance(
            "field",
            field,
            RandomField,
            "a random field such as nf.labs.stochastic.StochasticDepth(...)",
        )
        checks.whole("steps", steps, most=MOST_STEPS)
        scheme = diffrax.Euler() if scheme is None else scheme
        if not isinstance(scheme, diffrax.AbstractItoSolver | diffrax.AbstractStratonovichSolver):
            raise InputTypeError(
                "scheme must be one of diffrax's Ito or Stratonovich solvers, such as "
                f"diffrax.Euler() or diffrax.ItoMilstein(), got {scheme!r}"
            )
        if (
            isinstance(scheme, diffrax.AbstractStratonovichSolver)
            and not field.shared
            and not field.additive
        ):
            raise InputTypeError(
                f"scheme {type(scheme).__name__} takes Stratonovich's form, which is known here "
                "for noise that the coordinates share, or that is constant; take an Ito solver "
                "such as diffrax.Euler()"
            )
        if (
            isinstance(scheme, diffrax.AbstractSRK)
            and scheme.tableau.is_additive_noise()
            and not field.additive
        ):
            raise InputTypeError(
                f"scheme {type(scheme).__name__} solves SDEs of constant noise, such as Noise; "
                f"take diffrax.SlowRK() or diffrax.Heun() for a {type(field).__name__}"
            )
        check_axes(context_axes)
        checks.forward("an SDE", t0, t1)
        _check_law(field, t0, t1, steps)
        step = (t1 - t0) / steps
        resolution = step / 2 if resolution is None else resolution
        checks.positive(
            "resolution", resolution, "the length in depth time to which Brownian paths are known"
        )
        if resolution > step:
            raise InputError(
                f"the resolution of the paths is a step's length, {step:g}, at most, got "
                f"{resolution:g}"
            )
        self.field, self.steps, self.scheme = field, steps, nnx.data(scheme)
        self.t0, self.t1, self.resolution = float(t0), float(t1), float(resolution)
        self.context_axes = nnx.static(split(context_axes)[0])

    def _change_steps(self, factor: Fraction | None) -> None:
        """Cut the steps, and the resolution of the Brownian paths with them."""
        if factor is None or (factor * self.steps).denominator > 1:
            raise InputError(
                f"factor must give a NeuralSDE of {self.steps} equal steps whole ones again, got "
                f"{factor}"
            )
        steps = int(factor * self.steps)
        checks.whole("the number of steps times factor", steps, most=MOST_STEPS)
        _check_law(self.field, self.t0, self.t1, steps)
        self.steps, self.resolution = steps, float(self.resolution / factor)

    def __call__(self, x: PyTree, *, context: PyTree = None) -> Any:
        """Return X(t1) from X(t0) = x: a draw in training, the drift alone in evaluation.

        Args:
            x: The states at `t0`, `(batch, ...)` or a pytree of such arrays.
            context: The context of the field, as in a call of a `neuralflow.NeuralODE`.

        Returns:
            The states at `t1`, in the form of x.

        Raises:
            InputError: The field holds batch statistics in training.
            SolveError: The states left the range of floating point, in a call outside any trace.

        @public
        """
        if not self.field.deterministic:
            return self.sample(x, self.field.rngs(), context=context)
        grid = FixedGrid(Euler(), steps=self.steps)
        return NeuralODE(Stepped(self.field), grid, self.t0, self.t1)(x, context=context)

    def sample(self, x: PyTree, key: Array, *, context: PyTree = None) -> Any:
        """Return X(t1) from X(t0) = x, with the Brownian paths of a key.

        Every sample has a path of its own. With per="batch" in the field, all samples have one path
        in common.

        Args:
            x: The states at `t0`, `(batch, ...)` or a pytree of such arrays.
            key: The random key of the paths.
            context: The context of the field, as in a call of a `neuralflow.NeuralODE`.

        Returns:
            The states at `t1`, in the form of x. In a trace, a path that failed is NaN.

        Raises:
            InputError: The field holds batch statistics in training, or an array of x has no axis
                of samples.
            InputTypeError: `key` is not one random key, or x is not made of float32 or float64
                arrays.
            SolveError: A path left the range of floating point, in a call outside any trace.
        """
        solution = self.solve(x, key, context=context)
        if not isinstance(solution.status, core.Tracer) and np.any(solution.status):
            bad = sum(
                int(np.count_nonzero(~np.isfinite(np.asarray(leaf)))) for leaf in jax.tree.leaves(x)
            )
            if bad:
                raise SolveError(
                    f"x held {bad} values that are not finite before the first step; mend them "
                    "first",
                    Status.NOT_FINITE,
                )
            raise SolveError(
                f"{int(np.count_nonzero(solution.status))} of {solution.status.size} paths left "
                f"the range of floating point within {self.steps} steps; "
                "take more steps, or look at x and at the field's parts(x, t)",
                Status.NOT_FINITE,
            )
        return solution.states

    def solve(
        self, x: PyTree, key: Array, depths: Reals | None = None, *, context: PyTree = None
    ) -> Solution:
        """Solve the equation, and return the states with the status of every sample.

        A path that leaves the range of floating point does not raise an error. Its states are NaN,
        and its status tells the failure.

        Args:
            x: The states at `t0`, `(batch, ...)` or a pytree of such arrays.
            key: The random key of the paths.
            depths: Depth times in rising order, `(m,)`, at which the states are wanted. The solver
                steps to these depth times. By default, only the states at `t1`.
            context: The context of the field, as in a call of a `neuralflow.NeuralODE`.

        Returns:
            The states (with a leading axis of m where `depths` is given), the status of every
            sample `(batch,)`, and the numbers of steps and evaluations.

        Raises:
            InputError: The field holds batch statistics in training, an array of x has no axis of
                samples, or the depths do not rise between `t0` and `t1`.
            InputTypeError: `key` is not one random key, or x is not made of float32 or float64
                arrays.
        """
        checks.key(key)
        _check_states(x)
        if not self.field.deterministic and jax.tree.leaves(nnx.state(self.field, nnx.BatchStat)):
            raise InputError(
                "batch statistics are those of a batch, and paths are solved each on its own; "
                "call eval() first, or train a RandomNetwork"
            )
        x = jax.tree.map(jnp.asarray, x)
        depths = None if depths is None else self._depths(depths)
        graphdef, state = nnx.split(self)
        context = as_arrays(context)
        axes = leaf_axes(self.context_axes.join([]), context, jax.tree.leaves(x)[0].shape[0])
        states = _solved((graphdef, depths, tuple(axes)), (state, x, key, context))
        lead = 0 if depths is None else 1
        finite = [
            jnp.isfinite(leaf).all(axis=(*range(lead), *range(lead + 1, leaf.ndim)))
            for leaf in jax.tree.leaves(states)
        ]
        failed = ~functools.reduce(jnp.logical_and, finite)

        def put(leaf):
            """Replace the states of failed samples by NaN."""
            return jnp.where(failed.reshape((-1,) + (1,) * (leaf.ndim - lead - 1)), jnp.nan, leaf)

        count = len(self._times(depths)) - 1
        return Solution(
            states=jax.tree.map(put, states),
            depths=jnp.asarray(depths or (self.t1,), float),
            status=jnp.where(failed, int(Status.NOT_FINITE), int(Status.SUCCESSFUL)),
            evaluations=jnp.asarray(count * _stages(self.scheme)),
            accepted=jnp.asarray(count),
            rejected=jnp.asarray(0),
        )

    def _depths(self, depths: Reals) -> tuple[float, ...]:
        """Check depth times, and snap each to an edge of the grid that is within 1e-4 of a step."""
        times = checks.known_numbers("depths", depths, "m")
        edges = self._times(None)
        nearest = edges[np.abs(times[:, None] - edges).argmin(axis=1)]
        times = np.where(
            np.abs(times - nearest) < 1e-4 * self.steps**-1 * (self.t1 - self.t0), nearest, times
        )
        inside = (times >= self.t0) & (times <= self.t1)  # not so for NaN
        if not inside.all() or not (np.diff(times) > 0).all():
            raise InputError(
                f"depths must rise between {self.t0:g} and {self.t1:g}, got {depths!r}"
            )
        return tuple(times.tolist())

    def _times(self, depths: tuple[float, ...] | None) -> np.ndarray:
        """Return the edges of the steps, with the given depth times among them."""
        times = np.linspace(self.t0, self.t1, self.steps + 1)
        return times if depths is None else np.union1d(times, depths)

    def _one(
        self,
        state: PyTree,
        x: PyTree,
        key: Array,
        context: PyTree,
        depths: tuple[float, ...] | None,
    ) -> Any:
        """Return the state of one sample `(...)` at the end, or its states at the given depths."""
        graphdef = nnx.graphdef(self.field)
        start, form = ravel_pytree(x)
        dtype, ito = start.dtype, isinstance(self.scheme, diffrax.AbstractItoSolver)

        def share(t):
            return (t - self.t0) / (self.t1 - self.t0)

        def both(t: Real, y: Array, args: PyTree) -> tuple[Array, Array]:
            """Return the drift and the diffusion of one sample as vectors."""
            state, context = args
            module: Any = field_at(nnx.merge(graphdef, state), share(t))
            alone = jax.tree.map(lambda leaf: leaf[None], form(y))
            drift, diffusion = evaluate(module.parts, alone, t, context)
            return ravel_pytree(drift)[0], ravel_pytree(diffusion)[0]

        def drift(t: Real, y: Array, args: PyTree) -> Array:
            """Return the drift in the form of the scheme, Ito's or Stratonovich's."""
            a, b = both(t, y, args)
            return a if ito else a - jax.jvp(lambda y: both(t, y, args)[1], (y,), (b,))[1] / 2

        def diffusion(t: Real, y: Array, args: PyTree) -> Any:
            """Return the diffusion, as a vector for shared noise and else as a diagonal matrix."""
            b = both(t, y, args)[1]
            return b if self.field.shared else lx.DiagonalLinearOperator(b)

        times = self._times(depths)
        edges = times.astype(dtype)
        shape = jax.ShapeDtypeStruct(() if self.field.shared else start.shape, dtype)
        levy = (
            diffrax.SpaceTimeLevyArea
            if isinstance(self.scheme, diffrax.AbstractSRK)
            else diffrax.BrownianIncrement
        )
        t0, t1 = float(edges[0]), float(edges[-1])
        paths: Any = _Paths  # pyright does not see the constructor that a path inherits.
        path = paths(t0, t1, tol=self.resolution, shape=shape, key=key, levy_area=levy)
        terms = diffrax.MultiTerm(diffrax.ODETerm(drift), diffrax.ControlTerm(diffusion, path))
        args = (state, context)

        def step(carry: tuple[Array, Any], ends: tuple[Array, Array]) -> Any:
            y, memory = carry
            y, _, _, memory, _ = self.scheme.step(terms, *ends, y, args, memory, False)
            return (y, memory), None if depths is None else y

        memory = self.scheme.init(terms, edges[0], edges[1], start, args)
        (end, _), passed = lax.scan(
            jax.checkpoint(step, prevent_cse=False), (start, memory), (edges[:-1], edges[1:])
        )
        if depths is None:
            return form(end)
        states = jnp.concatenate([start[None], passed])
        return jax.vmap(form)(states[np.searchsorted(times, depths)])


class _Paths(diffrax.VirtualBrownianTree):
    """Brownian paths that are asked for at the edges of known steps alone.

    diffrax looks on the host at every step whether a depth time lies inside of the interval. Such
    a look cannot be exported.
    """

    def _evaluate(self, r: Any) -> Any:
        """Return the path at a share of the interval, which lies in [0, 1]."""
        return jax.tree.map(
            lambda key, shape: self._evaluate_leaf(key, r, shape), self.key, self.shape
        )


@functools.partial(jax.jit, static_argnums=0)
def _solved(static: Any, data: Any) -> Any:
    """Return the states of every sample, with an axis of depths in front where depths are given."""
    graphdef, depths, axes = static
    state, x, key, context = data
    leaves, form = jax.tree.flatten(context)
    axis = 0 if depths is None else 1

    def solved(arrays: PyTree) -> Any:
        state, x, key, leaves = arrays
        sde = nnx.merge(graphdef, state)
        own = sde.field.per == "sample"
        keys = jax.random.split(key, jax.tree.leaves(x)[0].shape[0]) if own else key

        def one(x, key, leaves):
            # Each sample keeps a batch axis of length one, which fields expect.
            pairs = zip(leaves, axes, strict=True)
            alone = form.unflatten([a if split is None else a[None] for a, split in pairs])
            return sde._one(nnx.state(sde.field), x, key, alone, depths)

        in_axes = (0, 0 if own else None, list(axes))
        return jax.vmap(one, in_axes=in_axes, out_axes=axis)(x, keys, leaves)

    def outputs(specs: PyTree) -> PartitionSpec:
        first = jax.tree.leaves(specs, is_leaf=is_spec)[0]
        return PartitionSpec(*[None] * axis, *first[:1])

    return spread(solved, (state, x, key, leaves), x, outputs)


def _stages(scheme: AbstractSolver) -> int:
    """Return the evaluations of the field in one step of a solver of diffrax for SDEs."""
    if isinstance(scheme, diffrax.EulerHeun):
        return 2
    staged = isinstance(scheme, diffrax.AbstractRungeKutta | diffrax.AbstractSRK)
    return 1 + len(np.ravel(scheme.tableau.c)) if staged else 1  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType, reportCallIssue]


def _check_law(field: RandomField, t0: float, t1: float, steps: int) -> None:
    """Refuse a field whose law does not exist at the start of a step."""
    field.check(np.linspace(t0, t1, steps + 1)[:-1])


def _check_states(x: PyTree) -> None:
    """Refuse states that are not arrays of float32 or float64 with an axis of samples."""
    checks.states("x", x)
    for leaf in jax.tree.leaves(x):
        if leaf.dtype not in (jnp.float32, jnp.float64):
            raise InputTypeError(f"x must be float32 or float64, got {leaf.dtype}; cast it")
    check_samples(x)

"""Random fields in blocks: residual networks, and the stochastic differential equations they tend to. The kinds of noise: `fields`."""

from __future__ import annotations

import functools
from typing import Any, cast

import diffrax
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from flax import nnx
from jax import Array, core
from jax.flatten_util import ravel_pytree
from jax.sharding import NamedSharding, PartitionSpec

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError
from neuralflow.depth import field_at
from neuralflow.labs.stochastic.fields import RandomField, Stepped
from neuralflow.layers import NeuralODE
from neuralflow.schemes import Euler
from neuralflow.schemes.network import cost, is_explicit
from neuralflow.solve import FixedGrid, Memory, Solution, SolveError, Status


class RandomNetwork(nnx.Module):
    """A random field in equal blocks: a residual network with stochastic depth, shake-shake, dropout or noise.

    `scheme`: one with one evaluation of the field a step, so one draw: Euler, or a network such as `nf.schemes.LMResNet`. In training a
    call draws anew from the field's stream; after `eval()` it is the network of the expectations, and draws nothing. `sample(x, key)` draws
    from a key of yours, in either mode. Weights, memory and states along depth are those of `layer`, a NeuralODE.
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
        checks.whole("steps", steps)
        scheme = Euler() if scheme is None else scheme
        grid = FixedGrid(scheme, steps=steps, memory=memory)
        if not is_explicit(scheme) or cost(scheme, steps) != steps:
            raise InputError(
                f"a step of a random network has one draw, so one evaluation of its field; {type(scheme).__name__} has others: take nf.Euler() or "
                "nf.schemes.LMResNet"
            )
        checks.forward("a random network", t0, t1)
        field.check(np.linspace(t0, t1, steps + 1)[:-1])
        self.field = field
        self.layer = NeuralODE(Stepped(field, float(t1 - t0) / steps), grid, float(t0), float(t1))

    def __call__(self, x: Any) -> Any:
        """x at the end of the interval."""
        return self.layer(x)

    def sample(self, x: Any, key: Array) -> Any:
        """x at the end of the interval, with the draws of a key: the same for the same key, whatever has been drawn before."""
        checks.key(key)
        return seeded(self, key).layer(x)


def seeded(module: nnx.Module, key: Array) -> Any:
    """A copy in training mode whose random streams start anew from a key."""
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


class NeuralSDE(nnx.Module):
    """dX = a dt + b dB with drift and diffusion of a random field, in Ito's sense: the limit of its networks as blocks get shorter.

    `scheme`: a diffrax solver for SDEs, on `steps` equal steps: Euler (Euler and Maruyama), diffrax.ItoMilstein() (of order one where the
    coordinates share their noise, or b is constant), or one for Stratonovich's form, for which the drift is corrected by -(Db) b / 2 (shared noise
    only). In training a call draws a path from the field's stream; after `eval()` it is the drift's Euler network, and draws nothing.
    `sample(x, key)` draws from a key of yours, in either mode.

    Brownian paths are virtual Brownian trees, resolved to lengths of `resolution` in depth time: half a step unless given. Equal keys
    and resolutions give equal paths, however many steps look at them (diffrax's stochastic Runge-Kutta solvers, which ask for more than increments, have
    paths of their own).
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
    ):
        checks.instance(
            "field",
            field,
            RandomField,
            "a random field such as nf.labs.stochastic.StochasticDepth(...)",
        )
        checks.whole("steps", steps)
        scheme = diffrax.Euler() if scheme is None else scheme
        if not isinstance(scheme, diffrax.AbstractItoSolver | diffrax.AbstractStratonovichSolver):
            raise InputTypeError(
                f"an SDE is solved by diffrax's Ito or Stratonovich solvers, such as diffrax.Euler() or diffrax.ItoMilstein(), not by {scheme!r}"
            )
        if (
            isinstance(scheme, diffrax.AbstractStratonovichSolver)
            and not field.shared
            and not field.additive
        ):
            raise InputTypeError(
                "Stratonovich's form is known here for noise that the coordinates share, or that is constant; take an Ito solver such as "
                "diffrax.Euler()"
            )
        if (
            isinstance(scheme, diffrax.AbstractSRK)
            and scheme.tableau.is_additive_noise()
            and not field.additive
        ):
            raise InputTypeError(
                f"{type(scheme).__name__} solves SDEs of constant noise, such as Noise; take diffrax.SlowRK() or diffrax.Heun() for a "
                f"{type(field).__name__}"
            )
        checks.forward("an SDE", t0, t1)
        field.check(np.linspace(t0, t1, steps + 1)[:-1])
        step = (t1 - t0) / steps
        resolution = step / 2 if resolution is None else resolution
        checks.positive(
            "resolution", resolution, "the length in depth time to which Brownian paths are known"
        )
        if resolution > step:
            raise InputError(
                f"the resolution of the paths is a step's length, {step:g}, at most, got {resolution:g}"
            )
        self.field, self.steps, self.scheme = field, steps, nnx.data(scheme)
        self.t0, self.t1, self.resolution = float(t0), float(t1), float(resolution)

    def __call__(self, x: Any) -> Any:
        """X(t1) from X(t0) = x (batch, ...): a draw in training, the drift alone in evaluation."""
        if not self.field.deterministic:
            return self.sample(x, self.field.rngs())
        grid = FixedGrid(Euler(), steps=self.steps)
        return NeuralODE(Stepped(self.field), grid, self.t0, self.t1)(x)

    def sample(self, x: Any, key: Array) -> Any:
        """X(t1) from X(t0) = x (batch, ...), one path a sample (with per="batch" one for all)."""
        solution = self.solve(x, key)
        if not isinstance(solution.status, core.Tracer) and np.any(solution.status):
            bad = sum(
                int(np.count_nonzero(~np.isfinite(np.asarray(leaf)))) for leaf in jax.tree.leaves(x)
            )
            if bad:
                raise SolveError(
                    f"x held {bad} values that are not finite before the first step; mend them first",
                    Status.NOT_FINITE,
                )
            raise SolveError(
                f"{int(np.count_nonzero(solution.status))} of {solution.status.size} paths left the range of floating point within {self.steps} steps; "
                "take more steps, or look at x and at the field's parts(x, t)",
                Status.NOT_FINITE,
            )
        return solution.states

    def solve(self, x: Any, key: Array, depths: Any = None) -> Solution:
        """States and status of every sample (batch,), steps and evaluations; never raises for a path that ends in no number.

        `depths` (m,): depth times in order, which are stepped to, for states with a leading axis of m.
        """
        checks.key(key)
        _check_states(x)
        if not self.field.deterministic and jax.tree.leaves(nnx.state(self.field, nnx.BatchStat)):
            raise InputError(
                "batch statistics are those of a batch, and paths are solved each on its own; call eval() first, or train a RandomNetwork"
            )
        x = jax.tree.map(jnp.asarray, x)
        depths = None if depths is None else self._depths(depths)
        graphdef, state = nnx.split(self)
        states = _solved((graphdef, depths), (state, x, key))
        lead = 0 if depths is None else 1
        finite = [
            jnp.isfinite(leaf).all(axis=(*range(lead), *range(lead + 1, leaf.ndim)))
            for leaf in jax.tree.leaves(states)
        ]
        failed = ~functools.reduce(jnp.logical_and, finite)

        def put(leaf):
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

    def _depths(self, depths: Any) -> tuple[float, ...]:
        """Depth times on the grid's own edges where they are meant."""
        times = np.asarray(depths)
        if times.dtype.kind not in "fiu" or times.ndim != 1 or not times.size:
            raise InputError(f"depths must be depth times (m,), at least one, got {depths!r}")
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
        """The edges of the steps."""
        times = np.linspace(self.t0, self.t1, self.steps + 1)
        return times if depths is None else np.union1d(times, depths)

    def _one(self, state: Any, x: Any, key: Array, depths: tuple[float, ...] | None) -> Any:
        """The path of one sample (...), as a vector of all its numbers."""
        graphdef = nnx.graphdef(self.field)
        start, form = ravel_pytree(x)
        dtype, ito = start.dtype, isinstance(self.scheme, diffrax.AbstractItoSolver)

        def share(t):
            return (t - self.t0) / (self.t1 - self.t0)

        def both(t: Any, y: Array, state: Any) -> tuple[Array, Array]:
            module: Any = field_at(nnx.merge(graphdef, state), share(t))
            drift, diffusion = module.parts(jax.tree.map(lambda leaf: leaf[None], form(y)), t)
            return ravel_pytree(drift)[0], ravel_pytree(diffusion)[0]

        def drift(t: Any, y: Array, state: Any) -> Array:
            a, b = both(t, y, state)
            return a if ito else a - jax.jvp(lambda y: both(t, y, state)[1], (y,), (b,))[1] / 2

        def diffusion(t: Any, y: Array, state: Any) -> Any:
            b = both(t, y, state)[1]
            return b if self.field.shared else lx.DiagonalLinearOperator(b)

        times = jnp.asarray(self._times(depths), dtype)
        shape = jax.ShapeDtypeStruct(() if self.field.shared else start.shape, dtype)
        levy = (
            diffrax.SpaceTimeLevyArea
            if isinstance(self.scheme, diffrax.AbstractSRK)
            else diffrax.BrownianIncrement
        )
        path = diffrax.VirtualBrownianTree(
            times[0], times[-1], tol=self.resolution, shape=shape, key=key, levy_area=levy
        )
        terms = diffrax.MultiTerm(diffrax.ODETerm(drift), diffrax.ControlTerm(diffusion, path))
        vectors: Any = diffrax.diffeqsolve(
            terms, self.scheme, times[0], times[-1], None, start, args=state, stepsize_controller=diffrax.StepTo(times),
            saveat=diffrax.SaveAt(t1=True) if depths is None else diffrax.SaveAt(ts=jnp.asarray(depths, dtype)),
            max_steps=len(times) - 1, throw=False,
        ).ys  # fmt: skip
        return form(vectors[-1]) if depths is None else jax.vmap(form)(vectors)


@functools.partial(jax.jit, static_argnums=0)
def _solved(static: Any, data: Any) -> Any:
    """States of every sample, with an axis of depths before that of the samples where depths are given."""
    graphdef, depths = static
    state, x, key = data
    axis = 0 if depths is None else 1

    def solved(state: Any, x: Any, key: Array) -> Any:
        sde = nnx.merge(graphdef, state)
        own = sde.field.per == "sample"
        keys = jax.random.split(key, len(jax.tree.leaves(x)[0])) if own else key
        one = functools.partial(sde._one, nnx.state(sde.field), depths=depths)
        return jax.vmap(one, in_axes=(0, 0 if own else None), out_axes=axis)(x, keys)

    spread = jax.typeof(jax.tree.leaves(x)[0]).sharding
    if spread.spec and spread.spec[0] is not None:
        # diffrax's loop does not know explicit meshes: inside it the compiler spreads the samples.
        out = NamedSharding(spread.mesh, PartitionSpec(*[None] * axis, spread.spec[0]))
        return cast(Any, jax.sharding.auto_axes)(solved, out_sharding=out)(state, x, key)
    return solved(state, x, key)


def _stages(scheme: Any) -> int:
    """Evaluations of the field in one step of diffrax's solvers for SDEs."""
    if isinstance(scheme, diffrax.EulerHeun):
        return 2
    staged = isinstance(scheme, diffrax.AbstractRungeKutta | diffrax.AbstractSRK)
    return 1 + len(np.ravel(scheme.tableau.c)) if staged else 1  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType, reportCallIssue]


def _check_states(x: Any) -> None:
    leaves = jax.tree.leaves(x)
    if not leaves or any(not hasattr(leaf, "dtype") for leaf in leaves):
        raise InputTypeError(
            f"x must be an array or a pytree of arrays, got {type(x).__name__}; write jnp.asarray(x)"
        )
    for leaf in leaves:
        if leaf.dtype not in (jnp.float32, jnp.float64):
            raise InputTypeError(f"x must be float32 or float64, got {leaf.dtype}; cast it")
        if not leaf.ndim:
            raise InputError("axis 0 of x counts the samples, but x has no axis; add one")

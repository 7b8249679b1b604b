"""Random residual networks, and the stochastic differential equations they tend to."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from flax import nnx
from jax import Array, lax

from neuralflow import basis as depth_basis, checks
from neuralflow.depth import Unfolded
from neuralflow.layers import NeuralODE
from neuralflow.paths import Estimate
from neuralflow.schemes import Euler
from neuralflow.schemes.network import cost, is_explicit
from neuralflow.solve import FixedGrid
from neuralflow.stochastic.fields import RandomField, Stepped

_CHUNK = 2**14


class RandomNetwork(nnx.Module):
    """A random field in equal blocks: a residual network with stochastic depth, shake-shake, dropout or noise.

    `scheme`: one with one evaluation of the field a step, so one draw: Euler, or a network such as `nf.schemes.LMResNet`. In training a
    call draws anew from the field's stream; after `eval()` it is the network of the expectations, and draws nothing. `sample(x, key)` draws
    from a key of yours, in either mode. Weights, memory and states along depth are those of `layer`, a NeuralODE.
    """

    def __init__(
        self, field: RandomField, steps: int, scheme: Any = None, t0: float = 0.0, t1: float = 1.0, *, memory: Any = "remat"
    ):
        checks.instance("field", field, RandomField, "a random field such as nf.stochastic.StochasticDepth(...)")
        checks.whole("steps", steps)
        scheme = Euler() if scheme is None else scheme
        grid = FixedGrid(scheme, steps=steps, memory=memory)
        if not is_explicit(scheme) or cost(scheme, steps) != steps:
            raise ValueError(
                f"a step of a random network has one draw, so one evaluation of its field; {type(scheme).__name__} has others: take nf.Euler() or "
                "nf.schemes.LMResNet"
            )
        if not t0 < t1:
            raise ValueError(f"a random network runs forward, from t0 to a later t1, got {t0:g} and {t1:g}")
        self.field = field
        self.layer = NeuralODE(Stepped(field, (t1 - t0) / steps), grid, t0, t1)

    def __call__(self, x: Any) -> Any:
        """x at the end of the interval."""
        return self.layer(x)

    def sample(self, x: Any, key: Array) -> Any:
        """x at the end of the interval, with the draws of a key: the same for the same key, whatever has been drawn before."""
        return seeded(self, key).layer(x)


def seeded(module: nnx.Module, key: Array) -> Any:
    """A copy in training mode whose random streams start anew from a key."""
    graphdef, keys, counts, rest = nnx.split(module, nnx.RngKey, nnx.RngCount, ...)
    leaves, form = jax.tree.flatten(keys)
    folded = [jnp.broadcast_to(jax.random.fold_in(key, i), jnp.shape(leaf)) for i, leaf in enumerate(leaves)]
    copy: Any = nnx.merge(graphdef, jax.tree.unflatten(form, folded), jax.tree.map(jnp.zeros_like, counts), rest)
    copy.train()
    return copy


class NeuralSDE(nnx.Module):
    """dX = a dt + b dB with drift and diffusion of a random field, in Ito's sense: the limit of its networks as blocks get shorter.

    `scheme`: a diffrax solver for SDEs, on `steps` equal steps: Euler (Euler and Maruyama), diffrax.ItoMilstein(), or one for Stratonovich's
    form, for which the drift is corrected by -(Db) b / 2 (noise shared by the coordinates only). Brownian paths are virtual Brownian trees:
    one key gives one path, however many steps look at it.
    """

    def __init__(self, field: RandomField, steps: int, scheme: Any = None, t0: float = 0.0, t1: float = 1.0):
        checks.instance("field", field, RandomField, "a random field such as nf.stochastic.StochasticDepth(...)")
        checks.whole("steps", steps)
        scheme = diffrax.Euler() if scheme is None else scheme
        if not isinstance(scheme, diffrax.AbstractItoSolver | diffrax.AbstractStratonovichSolver):
            raise TypeError(
                f"an SDE is solved by diffrax's Ito or Stratonovich solvers, such as diffrax.Euler() or diffrax.ItoMilstein(), not by {scheme!r}"
            )
        if isinstance(scheme, diffrax.AbstractStratonovichSolver) and not field.shared:
            raise TypeError(
                "Stratonovich's form is known here for noise that the coordinates share; take an Ito solver such as diffrax.Euler()"
            )
        if not t0 < t1:
            raise ValueError(f"an SDE runs forward, from t0 to a later t1, got {t0:g} and {t1:g}")
        self.field, self.steps, self.scheme, self.t0, self.t1 = field, steps, nnx.data(scheme), float(t0), float(t1)

    def sample(self, x: Any, key: Array) -> Any:
        """X(t1) from X(t0) = x (batch, ...), one path a sample (with per="batch" one for all)."""
        leaves = jax.tree.leaves(x)
        keys = jax.random.split(key, len(leaves[0]))
        values = Unfolded.values(self.field)
        axis = 0 if self.field.per == "sample" else None
        return jax.vmap(self._one, in_axes=(None, 0, axis))(values, x, keys if axis == 0 else key)

    def _one(self, values: Any, x: Any, key: Array) -> Any:
        parts = Unfolded(self.field)
        dtype = jax.tree.leaves(x)[0].dtype
        share = lambda t: (t - self.t0) / (self.t1 - self.t0)

        def both(t: Any, x: Any, values: Any) -> tuple[Any, Any]:
            places = {b: depth_basis.locate_traced(b, share(t), jnp.asarray(b.knots, dtype)) for b in parts.bases}
            module: Any = parts.at(values, places)
            found = module.parts(jax.tree.map(lambda leaf: leaf[None], x), t)
            return jax.tree.map(lambda leaf: leaf[0], found)

        def drift(t: Any, x: Any, values: Any) -> Any:
            if isinstance(self.scheme, diffrax.AbstractItoSolver):
                return both(t, x, values)[0]
            across = lambda x: both(t, x, values)[1]
            a, b = both(t, x, values)
            bend = jax.jvp(across, (x,), (b,))[1]
            return jax.tree.map(lambda a, c: a - c / 2, a, bend)

        def diffusion(t: Any, x: Any, values: Any) -> Any:
            b = both(t, x, values)[1]
            return b if self.field.shared else lx.DiagonalLinearOperator(b)

        t0, t1 = jnp.asarray(self.t0, dtype), jnp.asarray(self.t1, dtype)
        h = (t1 - t0) / self.steps
        shape = jax.ShapeDtypeStruct((), dtype) if self.field.shared else jax.eval_shape(lambda: x)
        levy = diffrax.SpaceTimeLevyArea if isinstance(self.scheme, diffrax.AbstractSRK) else diffrax.BrownianIncrement
        path = diffrax.VirtualBrownianTree(t0, t1, tol=h / 2, shape=shape, key=key, levy_area=levy)
        terms = diffrax.MultiTerm(diffrax.ODETerm(drift), diffrax.ControlTerm(diffusion, path))
        times = diffrax.StepTo(t0 + h * np.arange(self.steps + 1))
        found = diffrax.diffeqsolve(
            terms, self.scheme, t0, t1, None, x, args=values, stepsize_controller=times, max_steps=self.steps, throw=False
        )
        return jax.tree.map(lambda leaf: leaf[-1], found.ys)


def expectation(
    network: RandomNetwork | NeuralSDE, functional: Callable[[Any], Array], x: Any, *, count: int, key: Array
) -> Estimate:
    """The mean of a functional of the output over `count` paths from one point x (...), with its standard error.

    `functional`: from outputs (batch, ...) to numbers (batch, *values). Paths are the samples of batches, so the field draws per sample.
    """
    return _estimate((functional,), (network,), x, count, key)


def difference(
    one: RandomNetwork, two: RandomNetwork, functional: Callable[[Any], Array], x: Any, *, count: int, key: Array
) -> Estimate:
    """The mean of functional(one) - functional(two) on common random numbers, with its standard error.

    Networks of equal steps have the same normal numbers behind their draws. With `two = RandomNetwork(Gaussian(field), steps)`, which is Euler
    and Maruyama's scheme for the limit, the difference is that of the laws alone.
    """
    return _estimate((functional, functional), (one, two), x, count, key)


def _estimate(functionals: tuple[Any, ...], networks: tuple[Any, ...], x: Any, count: int, key: Array) -> Estimate:
    checks.whole("count", count, least=2)
    for functional in functionals:
        checks.function("functional", functional)
    for network in networks:
        checks.instance("a network", network, RandomNetwork | NeuralSDE, "a RandomNetwork or a NeuralSDE")
        if network.field.per != "sample":
            raise ValueError(
                "paths are the samples of one batch, so the field must draw for each: per='sample', got per='batch'"
            )
    graphdef, state = nnx.split(networks)
    values = _paths((functionals, graphdef, count), (state, jax.tree.map(jnp.asarray, x), key))
    return Estimate(values.mean(axis=0), values.std(axis=0, ddof=1) / count**0.5)


@functools.partial(jax.jit, static_argnums=0)
def _paths(static: Any, data: Any) -> Array:
    """The functional, or the difference of two, on every path (count, *values)."""
    functionals, graphdef, count = static
    state, x, key = data
    size = min(count, _CHUNK)
    batch = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (size, *leaf.shape)), x)

    def chunk(i: Array) -> Array:
        here = jax.random.fold_in(key, i)
        networks = nnx.merge(graphdef, state)
        outputs = [n.sample(batch, here) for n in networks]
        first, *rest = [f(y) for f, y in zip(functionals, outputs, strict=True)]
        return first - rest[0] if rest else first

    values = lax.map(chunk, jnp.arange(-(-count // size)))
    return values.reshape(-1, *values.shape[2:])[:count]

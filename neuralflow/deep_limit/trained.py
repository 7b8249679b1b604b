"""Networks trained by plain gradient descent, without a penalty: does the descent itself keep neighbouring layers alike?

Marion, Wu, Sander & Biau, Implicit regularization of deep residual networks towards neural ODEs, arXiv 2309.01213: for
h_(k+1) = h_k + V_k sigma(W_k h_k / sqrt(q)) / (L sqrt(m)), V = 0 and W tied at the start, a learning rate proportional
to L and a smooth sigma, the trained weights stay within C / L of a limit ODE (stated there). Cohen, Cont, Rossier & Xu,
Scaling properties of deep residual networks, arXiv 2105.12245, tell smooth from noisy weights by how their largest norm
and largest increment scale with depth (stated there; the verdict's thresholds are ours).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from neuralflow import checks
from neuralflow.basis import PiecewiseConstant
from neuralflow.deep_limit.distances import fitted_order
from neuralflow.depth import DepthVarying, independent, tied
from neuralflow.layers import NeuralODE
from neuralflow.schemes import Euler
from neuralflow.solve import FixedGrid


class Residual(nnx.Module):
    """The branch V sigma(W x / sqrt(q)) / sqrt(m) on states of dimension q with m hidden units; V = 0 at the start."""

    def __init__(self, dimension: int, hidden: int, activation: Callable[[Array], Array], *, rngs: nnx.Rngs):
        self.V = nnx.Param(jnp.zeros((dimension, hidden)))
        self.W = nnx.Param(jax.random.normal(rngs.params(), (hidden, dimension), float))
        self.activation = activation

    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """Velocity at x."""
        hidden = self.activation(x @ self.W[...].T / np.sqrt(x.shape[-1]))
        return hidden @ self.V[...].T / np.sqrt(self.V.shape[-1])


@dataclass(frozen=True, eq=False)
class Trained:
    """Networks of one depth, one a seed: `weights` by name (seeds, depth, ...), `outputs` (seeds, samples, d), `losses`
    (seeds,)."""

    depth: int
    weights: Mapping[str, np.ndarray]
    outputs: np.ndarray
    losses: np.ndarray

    def largest(self, name: str) -> float:
        """The largest norm of a layer's weights, a mean over seeds."""
        return float(np.linalg.norm(_flat(self.weights[name]), axis=-1).max(axis=-1).mean())

    def increment(self, name: str) -> float:
        """The largest norm of the difference of neighbouring layers, a mean over seeds."""
        return float(np.linalg.norm(np.diff(_flat(self.weights[name]), axis=1), axis=-1).max(axis=-1).mean())

    def variation(self, name: str) -> float:
        """The root of the *sum* of squared differences: of order L^-1/2 where every one of them is of order 1 / L."""
        return float(np.sqrt((np.diff(_flat(self.weights[name]), axis=1) ** 2).sum(axis=(1, 2))).mean())


def _flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(*values.shape[:2], -1)


def descend(
    depths: Sequence[int],
    *,
    activation: Callable[[Array], Array] = jax.nn.gelu,
    alike: bool = True,
    seeds: int = 4,
    samples: int = 100,
    dimension: int = 16,
    hidden: int = 32,
    iterations: int = 500,
    rate: float = 0.01,
) -> Iterator[Trained]:
    """Trains networks of every depth by `iterations` of full gradient descent with the learning rate `rate` * depth.

    Inputs and targets are standard normal, another draw for every seed and the same at every depth; the loss is the
    mean over samples of |h_L - y|^2 / 2. `alike`: W starts equal in all layers, or with another draw in each. One
    compilation a depth, all seeds at once.
    """
    for depth in depths:
        checks.whole("a depth", depth, least=2)
    init = tied if alike else independent

    def one(seed: Array, depth: int) -> tuple[dict[str, Array], Array, Array]:
        x, y = jax.random.normal(jax.random.fold_in(jax.random.key(0), seed), (2, samples, dimension), float)
        make = lambda rngs: Residual(dimension, hidden, activation, rngs=rngs)
        rngs = nnx.Rngs(jax.random.fold_in(jax.random.key(1), seed))
        field = DepthVarying(make, PiecewiseConstant(depth), rngs=rngs, init=init)
        graphdef, start = nnx.split(NeuralODE(field, FixedGrid(Euler(), steps=depth, memory="full")))

        def loss(weights: nnx.State) -> tuple[Array, Array]:
            states = nnx.merge(graphdef, weights)(x)
            return jnp.sum((states - y) ** 2) / (2 * samples), states

        def step(_: int, weights: nnx.State) -> nnx.State:
            slope = jax.grad(loss, has_aux=True)(weights)[0]
            return jax.tree.map(lambda w, g: w - rate * depth * g, weights, slope)

        weights = lax.fori_loop(0, iterations, step, start)
        value, states = loss(weights)
        return {str(path[-1]): leaf.get_value() for path, leaf in nnx.to_flat_state(weights)}, states, value

    for depth in depths:
        found = jax.jit(jax.vmap(lambda seed, depth=depth: one(seed, depth)))(jnp.arange(seeds))
        weights, outputs, losses = jax.tree.map(np.asarray, found)
        yield Trained(depth, weights, outputs, losses)


def gaps(network: Trained, reference: Trained) -> dict[str, float]:
    """How far a network is from a deeper one, means over seeds: every weight (the largest norm over layers of the
    difference at equal depth k / L), the outputs (root mean square) and the loss."""
    if reference.depth % network.depth:
        raise ValueError(f"layers are compared at equal depths k / L: {reference.depth} is no multiple of {network.depth}")
    every = reference.depth // network.depth
    found = {
        name: float(np.linalg.norm(_flat(w) - _flat(reference.weights[name][:, ::every]), axis=-1).max(axis=1).mean())
        for name, w in network.weights.items()
    }
    outputs = np.sqrt(np.mean((network.outputs - reference.outputs) ** 2, axis=(1, 2)))
    return {**found, "output": float(outputs.mean()), "loss": float(np.abs(network.losses - reference.losses).mean())}


@dataclass(frozen=True)
class Scaling:
    """How trained weights scale with depth L: exponents p of L^-p.

    `gaps`: of the distance to the deepest network, corrected for its finite depth. `largest`, `increment`, `variation`:
    of the largest norm of a layer, the largest increment between layers and the root of the sum of their squares.
    """

    gaps: Mapping[str, float | None]
    largest: Mapping[str, float]
    increment: Mapping[str, float]
    variation: Mapping[str, float]

    def verdict(self) -> str:
        """ "ODE-like" where increments fall like the step 1 / L, "SDE-like" where like its root, else "no limit"; with
        the number."""
        least = min(self.increment, key=lambda name: self.increment[name])
        p = self.increment[least]
        kind = "ODE-like" if p >= 0.9 else "SDE-like" if 0.4 <= p <= 0.6 else "no limit"
        return f"{kind}: the largest increment of {least} between layers scales as L^{-p:.2f}"


def scaling(networks: Sequence[Trained]) -> Scaling:
    """Exponents over all depths; the deepest network is the reference of the gaps."""
    if len(networks) < 3:
        raise ValueError(f"exponents need three depths or more, got {len(networks)}")
    *shallow, reference = sorted(networks, key=lambda network: network.depth)
    depths = [network.depth for network in shallow]
    measured = [gaps(network, reference) for network in shallow]
    everyone = [network.depth for network in (*shallow, reference)]
    names = list(reference.weights)

    def exponents(statistic: str) -> dict[str, float]:
        series = {name: [getattr(n, statistic)(name) for n in (*shallow, reference)] for name in names}
        return {name: fitted_order(everyone, values, least=1) or 0.0 for name, values in series.items()}

    return Scaling(
        gaps={
            name: fitted_order(depths, [gap[name] for gap in measured], least=1, reference=reference.depth)
            for name in measured[0]
        },
        largest=exponents("largest"),
        increment=exponents("increment"),
        variation=exponents("variation"),
    )

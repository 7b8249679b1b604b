"""Networks trained by plain gradient descent, without a penalty: does the descent itself keep neighbouring layers alike?

Marion, Wu, Sander & Biau, Implicit regularization of deep residual networks towards neural ODEs, arXiv 2309.01213: for
h_(k+1) = h_k + V_k sigma(W_k h_k / sqrt(q)) / (L sqrt(m)), V = 0 and W tied at the start, a learning rate proportional
to L and a smooth sigma, the trained weights stay within C / L of a limit ODE (stated there). Cohen, Cont, Rossier & Xu,
Scaling properties of deep residual networks, arXiv 2105.12245, tell smooth from noisy weights by how their largest norm
and largest increment scale with depth (stated there; the verdict's thresholds are ours).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError
from neuralflow.depth import DepthVarying, depth_bases, independent, tied
from neuralflow.depth.basis import PiecewiseConstant
from neuralflow.layers import NeuralODE
from neuralflow.schemes import Euler
from neuralflow.solve import FixedGrid
from neuralflow.statistics import fitted_order


class Residual(nnx.Module):
    """The branch V sigma(W x / sqrt(q)) / sqrt(m) on states of dimension q with m hidden units; V = 0 at the start."""

    def __init__(
        self, dimension: int, hidden: int, activation: Callable[[Array], Array], *, rngs: nnx.Rngs
    ):
        self.V = nnx.Param(jnp.zeros((dimension, hidden)))
        self.W = nnx.Param(jax.random.normal(rngs.params(), (hidden, dimension), float))
        self.activation = activation

    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """Velocity at x."""
        hidden = self.activation(x @ self.W[...].T / np.sqrt(x.shape[-1]))
        return hidden @ self.V[...].T / np.sqrt(self.V.shape[-1])


@dataclass(frozen=True, eq=False)
class Trained:
    """Networks of one depth, one a case (a seed, say): `weights` that vary with depth, by name (cases, nodes, ...),
    `outputs` (cases, samples, ...), `losses` (cases,)."""

    depth: int
    weights: Mapping[str, np.ndarray]
    outputs: np.ndarray
    losses: np.ndarray

    def largest(self, name: str) -> Float[np.ndarray, " cases"]:
        """The largest norm of a layer's weights."""
        return np.linalg.norm(_flat(self.weights[name]), axis=-1).max(axis=-1)

    def increment(self, name: str) -> Float[np.ndarray, " cases"]:
        """The largest norm of the difference of neighbouring layers."""
        return np.linalg.norm(np.diff(_flat(self.weights[name]), axis=1), axis=-1).max(axis=-1)

    def variation(self, name: str) -> Float[np.ndarray, " cases"]:
        """The root of the *sum* of squared differences: of order L^-1/2 where every one of them is of order 1 / L."""
        return np.sqrt((np.diff(_flat(self.weights[name]), axis=1) ** 2).sum(axis=(1, 2)))


def _flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(*values.shape[:2], -1)


def train(
    depths: Sequence[int],
    cases: Any,
    *,
    make: Callable[[int, Any], nnx.Module],
    loss: Callable[[Any, Any], tuple[Array, Array]],
    batch: Callable[[Any, Any, Array], Any],
    optimiser: Callable[[nnx.Module, int, Any], optax.GradientTransformation],
    steps: int,
    data: Any = None,
    probe: Any = None,
) -> Iterator[Trained]:
    """Trains the same network at every depth, all cases at once, spread over the devices; one compilation a depth.

    `cases`: a pytree of arrays with one leading axis, such as {"seed": jnp.arange(4), "rate": ...}; the functions see one
    case at a time, traced: nnx.Rngs(jax.random.key(case["seed"])). A case that diverges ends in losses of NaN.

    `make(depth, case)`: a model with weights that vary with depth. `batch(data, case, i)`: what step i of `steps` sees, of
    the arrays `data`. `loss(model, batch)`: a scalar and the outputs. `optimiser(model, depth, case)`: from optax.
    `probe`: the batch on which final loss and outputs are measured; that of step 0 where it is left out. Raises
    ValueError or TypeError for depths below 2, cases of unequal lengths, models without such weights and losses of
    another form.
    """
    for depth in depths:
        checks.whole("a depth", depth, least=2)
    checks.whole("steps", steps)
    for name, function in {
        "make": make,
        "loss": loss,
        "batch": batch,
        "optimiser": optimiser,
    }.items():
        checks.function(name, function)
    lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(cases)}
    if len(lengths) != 1 or lengths & {(), (0,)}:
        raise InputError(
            f"cases must be arrays with one leading axis of one length, got {jax.tree.map(np.shape, cases)}"
        )
    (count,) = lengths.pop()

    def one(case: Any, arrays: Any, depth: int) -> tuple[dict[str, Array], Array, Array]:
        model = make(depth, case)
        checks.instance("what make(depth, case) returns", model, nnx.Module, "an nnx.Module")
        named = _names(depth_bases(model))
        if not named:
            raise InputError(
                "no weight of what make(depth, case) returns varies with depth; put a DepthVarying into its field"
            )
        graphdef, params, rest = nnx.split(model, nnx.Param, ...)
        rule = optimiser(model, depth, case)
        checks.instance(
            "what optimiser(...) returns",
            rule,
            optax.GradientTransformation,
            "from optax, such as optax.sgd(0.1)",
        )

        def value(params: Any, seen: Any) -> tuple[Array, Array]:
            result = loss(nnx.merge(graphdef, params, rest), seen)
            if not isinstance(result, tuple) or len(result) != 2:
                raise InputTypeError(
                    "loss(model, batch) must return a scalar and the outputs: return loss, outputs"
                )
            return result

        def step(i: Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
            slope = jax.grad(value, has_aux=True)(carry[0], batch(arrays[0], case, i))[0]
            updates, memory = rule.update(slope, carry[1], carry[0])
            return optax.apply_updates(carry[0], updates), memory

        params, _ = lax.fori_loop(0, steps, step, (params, rule.init(params)))
        final_loss, outputs = value(
            params, batch(arrays[0], case, jnp.asarray(0)) if arrays[1] is None else arrays[1]
        )
        weights = {
            named[path]: leaf.get_value()
            for path, leaf in nnx.to_flat_state(params)
            if path in named
        }
        return weights, outputs, final_loss

    mesh = Mesh(np.asarray(jax.devices()[: math.gcd(count, jax.device_count())]), ("cases",))
    rows = PartitionSpec("cases")
    cases = jax.device_put(cases, NamedSharding(mesh, rows))
    replicated = jax.device_put((data, probe), NamedSharding(mesh, PartitionSpec()))
    spread = {
        "mesh": mesh,
        "in_specs": (rows, PartitionSpec()),
        "out_specs": rows,
        "check_vma": False,
    }
    for depth in depths:
        every = jax.vmap(
            lambda case, arrays, depth=depth: one(case, arrays, depth), in_axes=(0, None)
        )
        weights, outputs, losses = jax.tree.map(
            np.asarray, jax.jit(jax.shard_map(every, **spread))(cases, replicated)
        )
        yield Trained(depth, weights, outputs, losses)


def _names(paths: Iterable[tuple[Any, ...]]) -> dict[tuple[Any, ...], str]:
    """The dotted name inside what varies, or the whole one where two stacks share such names."""
    paths = list(paths)
    short = {path: ".".join(map(str, path[path.index("stack") + 1 :])) for path in paths}
    unique = len(set(short.values())) == len(paths)
    return short if unique else {path: ".".join(map(str, path)) for path in paths}


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
    """The protocol of Marion et al.: full gradient descent for `iterations` steps with the learning rate `rate` * depth.

    Inputs and targets are standard normal, another draw for every seed and the same at every depth; the loss is the
    mean over samples of |h_L - y|^2 / 2. `alike`: W starts equal in all layers, or with another draw in each.
    """
    for name, count in {
        "seeds": seeds,
        "samples": samples,
        "dimension": dimension,
        "iterations": iterations,
    }.items():
        checks.whole(name, count)
    checks.function("activation", activation)
    init = tied if alike else independent

    def make(depth: int, seed: Array) -> nnx.Module:
        def branch(rngs):
            return Residual(dimension, hidden, activation, rngs=rngs)

        rngs = nnx.Rngs(jax.random.fold_in(jax.random.key(1), seed))
        field = DepthVarying(branch, PiecewiseConstant(depth), rngs=rngs, init=init)
        return NeuralODE(field, FixedGrid(Euler(), steps=depth))

    def loss(model: Any, points: tuple[Array, Array]) -> tuple[Array, Array]:
        states = model(points[0])
        return jnp.sum((states - points[1]) ** 2) / (2 * samples), states

    return train(
        depths,
        jnp.arange(seeds),
        make=make,
        loss=loss,
        batch=lambda drawn, seed, i: jax.tree.map(lambda a: a[seed], drawn),
        optimiser=lambda model, depth, seed: optax.sgd(rate * depth),
        steps=iterations,
        data=jax.vmap(lambda seed: gaussian_pairs(seed, samples, dimension))(jnp.arange(seeds)),
    )


PROTOCOLS: dict[str, dict[str, Any]] = {
    "GELU, equal layers": {"activation": jax.nn.gelu, "alike": True},
    "GELU, layers of their own": {"activation": jax.nn.gelu, "alike": False},
    "ReLU, equal layers": {"activation": jax.nn.relu, "alike": True},
}
"""Arguments of `descend`: the first of these has a limit (Marion et al., stated there), the others show none."""


def gaussian_pairs(seed: Any, samples: int, dimension: int) -> tuple[Array, Array]:
    """Inputs and targets of `descend`, (samples, dimension) each."""
    x, y = jax.random.normal(
        jax.random.fold_in(jax.random.key(0), seed), (2, samples, dimension), float
    )
    return x, y


def gaps(network: Trained, reference: Trained) -> dict[str, Float[np.ndarray, " cases"]]:
    """How far networks are from deeper ones: every weight (the largest norm over nodes of the difference at equal depth
    k / L), the outputs (root mean square) and the loss."""
    if reference.depth < network.depth:
        raise InputError(
            f"the reference is the deeper network: gaps(depth {reference.depth}, depth {network.depth}), please"
        )
    if reference.depth % network.depth:
        raise InputError(
            f"layers are compared at equal depths k / L: {reference.depth} is no multiple of {network.depth}"
        )
    every = reference.depth // network.depth
    distances = {
        name: np.linalg.norm(_flat(w) - _flat(reference.weights[name][:, ::every]), axis=-1).max(
            axis=1
        )
        for name, w in network.weights.items()
    }
    outputs = network.outputs.reshape(len(network.losses), -1) - reference.outputs.reshape(
        len(network.losses), -1
    )
    return {
        **distances,
        "output": np.sqrt(np.mean(outputs**2, axis=1)),
        "loss": np.abs(network.losses - reference.losses),
    }


@dataclass(frozen=True)
class Scaling:
    """How trained weights scale with depth L: exponents p of L^-p, one a case.

    `gaps`: of the distance to the deepest network, corrected for its finite depth. `largest`, `increment`, `variation`:
    of the largest norm of a layer, the largest increment between layers and the root of the sum of their squares.
    """

    gaps: Mapping[str, np.ndarray]
    largest: Mapping[str, np.ndarray]
    increment: Mapping[str, np.ndarray]
    variation: Mapping[str, np.ndarray]

    def verdict(self) -> str:
        """ "ODE-like" where increments fall like the step 1 / L, "SDE-like" where like its root, else "no limit"; with
        the number, a mean over cases."""
        if not self.increment:
            return "no verdict: between layers the weights differ by rounding alone; train longer"
        means = {name: float(np.mean(p)) for name, p in self.increment.items()}
        least = min(means, key=lambda name: means[name])
        p = means[least]
        kind = "ODE-like" if p >= 0.9 else "SDE-like" if 0.4 <= p <= 0.6 else "no limit"
        return f"{kind}: the largest increment of {least} between layers scales as L^{-p:.2f}"


def scaling(networks: Iterable[Trained]) -> Scaling:
    """Exponents over all depths; the deepest network is the reference of the gaps.

    Weights whose layers differ by no more than rounding, at any depth, have no exponents of increments and variations.
    """
    everyone = sorted(networks, key=lambda network: network.depth)
    if len({network.depth for network in everyone}) < max(3, len(everyone)):
        raise InputError(
            f"exponents need three different depths or more, got {[network.depth for network in everyone]}"
        )
    *shallow, reference = everyone
    measured = [gaps(network, reference) for network in shallow]

    def exponents(
        of: Sequence[Trained], series: Sequence[np.ndarray], finite: int | None = None
    ) -> np.ndarray:
        depths = [network.depth for network in of]
        fits = (
            fitted_order(depths, list(case), least=1, reference=finite)
            for case in np.transpose(series)
        )
        return np.asarray([np.nan if p is None else p for p in fits])

    def moved(name: str) -> bool:
        """Whether layers differ by more than rounding."""
        rounding = 100 * np.finfo(reference.weights[name].dtype).eps
        return all(
            (network.increment(name) > rounding * network.largest(name)).all()
            for network in everyone
        )

    names = list(reference.weights)

    def statistic(what, names):
        return {n: exponents(everyone, [getattr(t, what)(n) for t in everyone]) for n in names}

    steps = [name for name in names if moved(name)]
    return Scaling(
        gaps={
            name: exponents(shallow, [gap[name] for gap in measured], reference.depth)
            for name in measured[0]
        },
        largest=statistic("largest", names),
        increment=statistic("increment", steps),
        variation=statistic("variation", steps),
    )

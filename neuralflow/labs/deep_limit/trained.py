"""Networks that plain gradient descent trains without a penalty, and their scaling with depth.

The question is whether the descent itself keeps neighbouring layers alike. `train` trains any
network at many depths. `descend` is the protocol of Marion et al., and `scaling` the test of Cohen
et al.

Marion et al. consider h_(k+1) = h_k + V_k sigma(W_k h_k / sqrt(q)) / (L sqrt(m)), for states h_k of
dimension q, m hidden units and L layers. At the start V is zero, and W is the same in all layers.
The learning rate is proportional to L, and sigma is smooth. The distance of the trained weights to
a limit ODE is then at most C / L (stated there).

Cohen et al. tell smooth weights from noisy weights by the scaling of the largest norm and the
largest increment with depth (stated there). The thresholds of the verdict are ours.

Source:
    Marion, Wu, Sander & Biau, Implicit regularization of deep residual networks towards neural
    ODEs, arXiv 2309.01213. Cohen, Cont, Rossier & Xu, Scaling properties of deep residual networks,
    arXiv 2105.12245.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import core, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PyTree

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError
from neuralflow.depth import DepthVarying, depth_bases, independent, tied
from neuralflow.depth.basis import PiecewiseConstant
from neuralflow.labs.deep_limit.objective import checked_depths
from neuralflow.layers import NeuralODE
from neuralflow.schemes import Euler
from neuralflow.solve import FixedGrid
from neuralflow.solve.system import all_digits
from neuralflow.statistics import fitted_order, interval


class Residual(nnx.Module):
    """The branch V sigma(W x / sqrt(q)) / sqrt(m), for states of dimension q and m hidden units.

    At the start V is zero, and W is standard normal.

    Args:
        dimension: The dimension q of the states.
        hidden: The number m of hidden units.
        activation: The activation sigma.
        rngs: The random streams, of which "params" draws W.
    """

    def __init__(
        self, dimension: int, hidden: int, activation: Callable[[Array], Array], *, rngs: nnx.Rngs
    ):
        self.V = nnx.Param(jnp.zeros((dimension, hidden)))
        self.W = nnx.Param(jax.random.normal(rngs.params(), (hidden, dimension), float))
        self.activation = activation

    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """Return the velocity at x.

        Args:
            x: States (..., q).
        """
        hidden = self.activation(x @ self.W[...].T / np.sqrt(x.shape[-1]))
        return hidden @ self.V[...].T / np.sqrt(self.V.shape[-1])


@dataclass(frozen=True, eq=False)
class Trained:
    """Trained networks of one depth, one for each case, such as a seed.

    Attributes:
        depth: The number of layers.
        weights: The weights that vary with depth (cases, nodes, ...), by name.
        outputs: The outputs on the probe (cases, samples, ...).
        losses: The losses on the probe (cases,).

    Raises:
        InputError: `depth` is below 1, or the arrays differ in the number of cases.
        InputTypeError: `depth` is not a whole number, `weights` is no mapping, or an array is not
            made of real numbers.
    """

    depth: int
    weights: Mapping[str, np.ndarray]
    outputs: np.ndarray
    losses: np.ndarray

    def __post_init__(self):
        checks.whole("depth", self.depth)
        checks.instance("weights", self.weights, Mapping, "arrays by name")
        cases = np.shape(checks.numbers("losses", self.losses, finite=False))
        arrays = {f"weights[{name!r}]": value for name, value in self.weights.items()}
        for name, value in {"outputs": self.outputs, **arrays}.items():
            shape = np.shape(checks.numbers(name, value, finite=False))
            if len(cases) != 1 or shape[:1] != cases or (name != "outputs" and len(shape) < 2):
                raise InputError(
                    f"{name} and losses must have one number of cases on axis 0, got shapes "
                    f"{shape} and {cases}"
                )

    def _layers(self, name: str) -> np.ndarray:
        """Return the weights of a name as vectors (cases, nodes, entries)."""
        checks.choice("name", name, tuple(self.weights))
        return _flat(self.weights[name])

    def largest(self, name: str) -> Float[np.ndarray, " cases"]:
        """Return the largest norm of a layer's weights, for each case.

        Args:
            name: The name of the weight.

        Raises:
            InputError: There is no weight of this name.
        """
        return np.linalg.norm(self._layers(name), axis=-1).max(axis=-1)

    def increment(self, name: str) -> Float[np.ndarray, " cases"]:
        """Return the largest norm of the difference between neighbouring layers, for each case.

        Args:
            name: The name of the weight.

        Raises:
            InputError: There is no weight of this name.
        """
        return np.linalg.norm(np.diff(self._layers(name), axis=1), axis=-1).max(axis=-1)

    def variation(self, name: str) -> Float[np.ndarray, " cases"]:
        """Return the root of the sum of squared differences of neighbouring layers, for each case.

        With L layers, this root is of order L^-1/2 where every difference is of order 1 / L.

        Args:
            name: The name of the weight.

        Raises:
            InputError: There is no weight of this name.
        """
        return np.sqrt((np.diff(self._layers(name), axis=1) ** 2).sum(axis=(1, 2)))


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
    """Train the same network at every depth, with all cases at once.

    The cases are spread over the devices. There is one compilation for each depth. The functions
    see one case at a time, as traced arrays: nnx.Rngs(jax.random.key(case["seed"])). A case that
    diverges ends with a loss of NaN. The iterator trains one depth at a time. Unsuitable arguments
    are refused at once, and functions that return the wrong thing at the first depth.

    The networks are compared by small differences. So matrices are multiplied in all digits of
    float32, also on accelerators, unless `jax.default_matmul_precision` names another precision.

    Args:
        depths: The numbers of layers, each at least 2.
        cases: A pytree of arrays with one leading axis, such as
            {"seed": jnp.arange(4), "rate": ...}.
        make: The function make(depth, case), which returns a model with weights that vary with
            depth.
        loss: The function loss(model, batch), which returns a scalar and the outputs.
        batch: The function batch(data, case, i), which returns what step i of `steps` sees.
        optimiser: The function optimiser(model, depth, case), which returns an optimiser from
            optax.
        steps: The number of training steps.
        data: Arrays for `batch`.
        probe: The batch on which the final loss and outputs are measured. The default is the batch
            of step 0.

    Returns:
        An iterator over the trained networks, one depth after another.

    Raises:
        InputError: A depth is below 2 or above 8191, there is no depth, or `steps` is below 1 or
            2^31 or more.
        InputError: The arrays in `cases` differ in length, or are empty.
        InputError: No weight of the model varies with depth.
        InputTypeError: A depth or `steps` is no whole number, `cases`, `data` or `probe` holds
            anything but arrays, or one of the functions does not take so many arguments.
        InputTypeError: `make` returns no nnx.Module, `optimiser` returns nothing from optax, or
            `loss` does not return a pair.
    """
    depths = checked_depths(depths, least=2)
    checks.whole("steps", steps, most=2**31 - 1)
    checks.function("make", make, 2)
    checks.function("loss", loss, 2)
    checks.function("batch", batch, 3)
    checks.function("optimiser", optimiser, 3)
    checks.arrays("cases", cases)
    for name, tree in {"data": data, "probe": probe}.items():
        if tree is not None:
            checks.arrays(name, tree)
    lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(cases)}
    if len(lengths) != 1 or lengths & {(), (0,)}:
        raise InputError(
            "cases must be arrays with one leading axis of one length, got "
            f"{jax.tree.map(np.shape, cases)}"
        )
    (count,) = lengths.pop()

    def start(case: Any, depth: int) -> Any:
        model = make(depth, case)
        checks.instance("what make(depth, case) returns", model, nnx.Module, "an nnx.Module")
        return nnx.split(model, nnx.Param, ...)

    def one(
        case: Any, begun: Any, arrays: PyTree, depth: int
    ) -> tuple[dict[str, Array], Array, Array]:
        graphdef, params, rest = begun
        model = nnx.merge(*begun)
        named = _names(depth_bases(model))
        if not named:
            raise InputError(
                "no weight of what make(depth, case) returns varies with depth; put a DepthVarying "
                "into its field"
            )
        rule = optimiser(model, depth, case)
        checks.instance(
            "what optimiser(...) returns",
            rule,
            optax.GradientTransformation,
            "from optax, such as optax.sgd(0.1)",
        )

        def value(params: PyTree, seen: PyTree) -> tuple[Array, Array]:
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

    def trained(depth: int) -> Trained:
        def every(cases: PyTree, arrays: PyTree) -> Any:
            # XLA compiles a draw in a loop several times faster than a draw under vmap.
            begun = lax.map(lambda case: start(case, depth), cases)
            each = jax.vmap(lambda case, begun: one(case, begun, arrays, depth))
            return each(cases, begun)

        with all_digits():
            results = jax.jit(jax.shard_map(every, **spread))(cases, replicated)
        weights, outputs, losses = jax.tree.map(np.asarray, results)
        return Trained(depth, weights, outputs, losses)

    return map(trained, depths)


def _names(paths: Iterable[tuple[Any, ...]]) -> dict[tuple[Any, ...], str]:
    """Return the dotted names of weights that vary with depth.

    A name starts inside the stack that varies. Names are whole paths where two stacks share a name.
    """
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
    """Train networks by full gradient descent with the protocol of Marion et al.

    The learning rate is `rate` times the depth. Inputs and targets are standard normal. Every seed
    has another draw, which is the same at every depth. The loss is the mean over samples of
    |h_L - y|^2 / 2, for the final states h_L and the targets y.

    Args:
        depths: The numbers of layers, each at least 2.
        activation: The activation of the branches.
        alike: Whether W starts equal in all layers. Otherwise every layer starts with another draw.
        seeds: The number of seeds, one case each.
        samples: The number of samples.
        dimension: The dimension q of the states.
        hidden: The number m of hidden units.
        iterations: The number of training steps.
        rate: The learning rate for one layer.

    Returns:
        An iterator over the trained networks, one depth after another.

    Raises:
        InputError: A depth is below 2 or above 8191, or `seeds`, `samples`, `dimension`, `hidden`
            or `iterations` is below 1, or the samples or the weights of all layers and seeds would
            hold more than 2^30 numbers.
        InputError: `rate` is not a finite number of at least 0.
        InputTypeError: One of these numbers is not whole, `activation` is not a function of one
            argument, or `alike` is neither True nor False.

    Source:
        Marion, Wu, Sander & Biau, arXiv 2309.01213.
    """
    for name, count in {
        "seeds": seeds,
        "samples": samples,
        "dimension": dimension,
        "hidden": hidden,
        "iterations": iterations,
    }.items():
        checks.whole(name, count)
    checks.number("rate", rate, least=0.0)
    checks.function("activation", activation, 1)
    checks.flag("alike", alike)
    depths = checked_depths(depths, least=2)
    for what, count in {
        "seeds, samples and dimension": seeds * samples * dimension,
        "seeds, depths, hidden and dimension": seeds * max(depths) * hidden * dimension,
    }.items():
        checks.held(f"arrays of these {what}", int(count), "take fewer")
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
        data=_all_pairs(seeds, samples, dimension),
    )


PROTOCOLS: dict[str, dict[str, Any]] = {
    "GELU, equal layers": {"activation": jax.nn.gelu, "alike": True},
    "GELU, layers of their own": {"activation": jax.nn.gelu, "alike": False},
    "ReLU, equal layers": {"activation": jax.nn.relu, "alike": True},
}
"""Arguments of `descend`, by a name of the protocol.

The first protocol has a limit (Marion et al., arXiv 2309.01213, stated there). With ReLU, weights
and outputs come as close to those of the deepest network as with GELU, at order one within 0.05.
But the largest increment of W between layers falls more slowly than 1 / L (measured). Layers of
their own have no limit.
"""


def gaussian_pairs(seed: int, samples: int, dimension: int) -> tuple[Array, Array]:
    """Draw the inputs and targets of `descend`.

    Args:
        seed: The seed of the case.
        samples: The number of samples.
        dimension: The dimension of the states.

    Returns:
        Inputs and targets, (samples, dimension) each.

    Raises:
        InputError: `seed` is negative or 2^32 or more, `samples` or `dimension` is below 1, or the
            arrays would hold more than 2^30 numbers.
        InputTypeError: A number is not whole.
    """
    if not isinstance(seed, core.Tracer):
        checks.whole("seed", seed, least=0, most=2**32 - 1)
    checks.whole("samples", samples)
    checks.whole("dimension", dimension)
    checks.held("samples of this dimension", 2 * int(samples) * int(dimension), "take fewer")
    x, y = jax.random.normal(
        jax.random.fold_in(jax.random.key(0), seed), (2, samples, dimension), float
    )
    return x, y


@partial(jax.jit, static_argnums=(0, 1, 2))
def _all_pairs(seeds: int, samples: int, dimension: int) -> tuple[Array, Array]:
    """Draw the inputs and targets of every seed."""
    return lax.map(lambda seed: gaussian_pairs(seed, samples, dimension), jnp.arange(seeds))


def gaps(network: Trained, reference: Trained) -> dict[str, Float[np.ndarray, " cases"]]:
    """Measure how far trained networks are from deeper networks.

    Layers are compared at equal depth k / L.

    Args:
        network: The networks of smaller depth.
        reference: The networks of larger depth, a multiple of the smaller depth.

    Returns:
        The gaps (cases,): for every weight by name, the largest norm over nodes of the difference.
        "output" is the root mean square difference of the outputs. "loss" is the difference of the
        losses.

    Raises:
        InputError: The depth of `reference` is less than the depth of `network`, or no multiple of
            it, or their weights, cases or outputs differ in names or shapes.
        InputTypeError: An argument is no `Trained`.
    """
    for name, one in {"network": network, "reference": reference}.items():
        checks.instance(name, one, Trained, "a Trained such as descend(...) yields")
    if (
        network.weights.keys() != reference.weights.keys()
        or np.shape(network.outputs) != np.shape(reference.outputs)
        or any(
            np.shape(w)[2:] != np.shape(reference.weights[n])[2:]
            for n, w in network.weights.items()
        )
    ):
        raise InputError(
            "network and reference must be the same networks at two depths, got other weights or "
            "outputs"
        )
    if reference.depth < network.depth:
        raise InputError(
            f"the reference is the deeper network: gaps(depth {reference.depth}, depth "
            f"{network.depth}), please"
        )
    if reference.depth % network.depth:
        raise InputError(
            f"layers are compared at equal depths k / L: {reference.depth} is no multiple of "
            f"{network.depth}"
        )
    every = reference.depth // network.depth
    for name, w in network.weights.items():
        nodes, finer = np.shape(w)[1], np.shape(reference.weights[name])[1]
        if len(range(0, finer, every)) != nodes:
            raise InputError(
                f"weights[{name!r}] must have one node a layer, or one more, at both depths, got "
                f"{nodes} nodes for {network.depth} layers and {finer} for {reference.depth}"
            )
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
    """How trained weights scale with depth L: exponents p of L^-p, one for each case.

    Attributes:
        gaps: The exponents of the distances to the deepest network, by the names of `gaps`. The fit
            corrects for the finite depth of the deepest network.
        largest: The exponents of the largest norm of a layer, by weight.
        increment: The exponents of the largest increment between layers, by weight.
        variation: The exponents of the root of the sum of squared increments, by weight.
    """

    gaps: Mapping[str, np.ndarray]
    largest: Mapping[str, np.ndarray]
    increment: Mapping[str, np.ndarray]
    variation: Mapping[str, np.ndarray]

    def verdict(self) -> str:
        """Return one sentence on how the trained weights change from layer to layer.

        The verdict looks at the weight whose largest increment falls most slowly, with the exponent
        p as a mean over cases. The increments of an ODE fall like the step 1 / L, so that p is one.
        The increments of an SDE fall like the root of the step, so that p is one half.

        The verdict rests on Student's 95% interval of the mean p over cases, which the sentence
        states. Cases without a spread have no interval, and their p takes its place.

        - "ODE-like": the interval reaches 0.9 or more, and lies above 0.75.
        - "SDE-like": the interval meets 0.4 to 0.6, and lies between 0.25 and 0.75.
        - "neither ODE-like nor SDE-like": the interval meets none of the two ranges. `gaps` says
          whether the weights converge.
        - "undecided": the interval is too wide to tell.

        Without increments above rounding, the sentence says "no verdict".
        """
        if not self.increment:
            return "no verdict: between layers the weights differ by rounding alone; train longer"
        least = min(self.increment, key=lambda name: float(np.mean(self.increment[name])))
        cases = self.increment[least]
        p = float(np.mean(cases))
        low, high = (p, p) if np.ptp(cases) == 0 else interval(cases)
        ode, sde = high >= 0.9, low <= 0.6 and high >= 0.4
        if not ode and not sde:
            kind = "neither ODE-like nor SDE-like"
        elif low > 0.75:
            kind = "ODE-like"
        else:
            kind = "SDE-like" if low > 0.25 and high < 0.75 else "undecided"
        rests = (
            f"mean of {len(cases)} cases, 95% interval {-high:.2f} to {-low:.2f}"
            if low < high
            else f"no interval from {'one case' if len(cases) == 1 else 'cases of one p'}"
        )
        scales = f"the largest increment of {least} between layers scales as L^{-p:.2f}"
        return f"{kind}: {scales} ({rests})"


def scaling(networks: Iterable[Trained]) -> Scaling:
    """Fit the exponents of trained networks over all depths.

    The deepest network is the reference of the gaps. Some weights differ between layers by no more
    than rounding, at any depth. These weights have no exponents of increments and variations.

    Args:
        networks: Networks of three different depths or more.

    Returns:
        The exponents. An exponent is NaN where no exponent can be fitted.

    Raises:
        InputError: There are fewer than three networks, or two networks of the same depth, or the
            networks differ in their weights, cases or outputs.
        InputTypeError: `networks` holds anything but `Trained`.
    """
    if isinstance(networks, str | Mapping) or not isinstance(networks, Iterable):
        raise InputTypeError(
            f"networks must be Trained such as descend(...) yields, got {type(networks).__name__}"
        )
    networks = list(networks)
    for network in networks:
        checks.instance("each of networks", network, Trained, "a Trained such as descend yields")
    everyone = sorted(networks, key=lambda network: network.depth)
    if len({network.depth for network in everyone}) < max(3, len(everyone)):
        raise InputError(
            "networks must have three different depths or more for an exponent, got "
            f"{[network.depth for network in everyone]}"
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
        """Return whether the layers differ by more than rounding at every depth."""
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

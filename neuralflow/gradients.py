"""A check of a layer's gradient against three references.

Two references are gradients of other programs. The third reference takes no derivative at all.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import core
from jaxtyping import Array, PyTree

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError
from neuralflow.layers import NeuralODE
from neuralflow.solve import Adaptive, Discretisation, FixedGrid, Solution, Status
from neuralflow.solve.context import as_arrays
from neuralflow.solve.system import all_digits, time_dtype

_PARTS = 4  # The finer solve has a quarter of the steps' length, or a thousandth of the tolerances.
_DOUBTFUL = 1e-2  # Differences of values reach one hundredth at the loosest tolerances in use.


class GradientReport(NamedTuple):
    """How far the gradient of a layer lies from three references.

    Every mapping has an entry for "weights", "x", "context" and "interval", as far as the layer has
    such arrays. The entry is the L2 norm of the difference of two gradients in these arrays,
    divided by the larger norm of the two. Printing the report shows a table and one sentence.

    Attributes:
        solve: The discretisation of the layer.
        status: How the solve of the layer ended. Under per-sample control, the status is the
            largest of all samples.
        choice: The option of `solve` that chooses the gradient, as a user would write the option.
        reference: The option whose gradient is the reference of `exact`.
        exact: The distance from the exact gradient of the numbers that the layer computed.
        finer: The distance from the exact gradient of a finer solve of the same weights. On a fixed
            grid, the grid is the network, and the distance is the error of discretisation. None
            stands for a layer that cannot be refined.
        directional: The distance between the exact gradient and differences of values, along a
            direction in the arrays.
        rounding: The relative rounding of the coarsest dtype among these arrays.
    """

    solve: Discretisation
    status: Status
    choice: str
    reference: str
    exact: dict[str, float]
    finer: dict[str, float] | None
    directional: dict[str, float]
    rounding: float

    @property
    def sentence(self) -> str:
        """What the numbers say: the choice that is off, or that the gradient is exact.

        A gradient counts as exact up to the square root of `rounding`. The derivative of the field
        counts as right where `directional` is at most 0.01.
        """
        if self.status != Status.SUCCESSFUL:
            return (
                f"The solve failed ({self.status.name}), and the gradient is NaN; "
                "call layer(x) outside of a trace for the remedy."
            )
        group, off = _worst(self.exact)
        if not np.isfinite([off, _worst(self.directional)[1]]).all():
            return "The solve ended well, but its gradient is not finite; look at the field's."
        if off > np.sqrt(self.rounding):
            lost = " lost digits of" if "reversible" in self.choice else " differs from"
            return (
                f"{self.choice}{lost} the exact gradient of its steps by {off:.1e} in {group}; "
                f"take {self.reference}."
            )
        group, off = _worst(self.directional)
        if off > _DOUBTFUL:
            return (
                f"The derivative of the field is not that of its values: differences of values are "
                f"off by {off:.1e} in {group}; {self._digits}look at custom_vjp, custom_jvp, "
                "stop_gradient and jumps in the field."
            )
        return f"{self.choice} is the exact gradient of what the layer computes."

    @property
    def _digits(self) -> str:
        """What to do first where differences may be rounding."""
        return "" if self.rounding < 1e-12 else "rule out rounding with float64 arrays first, then "

    def __str__(self) -> str:
        columns = {
            f"from {self.reference}": self.exact,
            "from a finer solve": self.finer or {},
            "from differences": self.directional,
        }
        widths = [len(name) for name in columns]
        lines = [f"{'':10}" + "".join(f"  {name}" for name in columns)]
        for group in self.exact:
            values = (column.get(group) for column in columns.values())
            cells = ("-" if v is None else f"{v:.1e}" for v in values)
            lines.append(
                f"{group:10}"
                + "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
            )
        return "\n".join([*lines, self.sentence])


def check_gradient(
    layer: NeuralODE,
    x: PyTree,
    *,
    context: PyTree = None,
    loss: Callable[[PyTree], Any] | None = None,
    seed: int = 0,
) -> GradientReport:
    """Compare the gradient of a layer with references, and say which choice is off.

    The gradient is that of a scalar of the final state, with respect to the weights, x, the
    floating arrays of the context, and t0 and t1 where they are arrays. Three references answer
    three questions.

    1. Does the gradient belong to what the layer computed? The reference is the same solve with
       another exact gradient: `memory="full"` ("remat" for "full" itself), or `gradient="steps"`
       ("direct" for "steps" itself).
    2. How far is the gradient from that of a finer solve? The finer solve has four steps in place
       of one, or a thousandth of the tolerances.
    3. Does the gradient belong to the values of the field? The reference is a central difference
       along two directions. Each direction mixes the gradient and random numbers, so that any
       error of the gradient shows. A fixed grid is differenced as it is. The steps of an adaptive
       solve change with its input, so the finer solve is differenced there.

    All gradients are computed in the dtypes of the layer and of x. In float32, differences near
    `rounding` times the number of steps are rounding; hand over float64 arrays for a sharper
    check. The check compiles about five programs. With `gradient="steps"`, the check takes the
    memory of `gradient="direct"` for the steps of the solve.

    Args:
        layer: The layer.
        x: The state at the start of the walk, a pytree of arrays with leading batch axes.
        context: The context of the field; see `NeuralODE.__call__`.
        loss: A function of the final state that returns one real number. None stands for the inner
            product with random numbers.
        seed: The seed of the random numbers.

    Returns:
        The report. Print the report for a table and a sentence.

    Raises:
        InputError: The layer cannot carry x, or `loss` does not return one real number.
        InputTypeError: `layer` is not a `NeuralODE`, `loss` is not a function of one argument, `x`
            or `context` is not made of arrays, or an array is traced.

    Example:
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> field = nf.from_function(lambda a, x: jnp.sin(a * x), jnp.array(1.0))
        >>> layer = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=4))
        >>> report = nf.check_gradient(layer, jnp.ones((1, 2)))
        >>> print(report.sentence, sorted(report.exact))
        memory="remat" is the exact gradient of what the layer computes. ['weights', 'x']
    """
    checks.instance("layer", layer, NeuralODE, "a NeuralODE")
    checks.whole("seed", seed, least=0, most=2**63 - 1)
    if loss is not None:
        checks.function("loss", loss, 1)
    checks.states("x", x)
    context = as_arrays(context)
    if any(isinstance(a, core.Tracer) for a in jax.tree.leaves((nnx.state(layer), x, context))):
        raise InputTypeError("check_gradient compares numbers; call it outside of jit and grad")
    x = jax.tree.map(jnp.asarray, x)
    time_dtype(x)  # refuses a state that no layer carries
    keys = jax.random.split(jax.random.key(seed))
    with all_digits():
        return _compared(layer, x, context, loss or _weighed(keys[0]), keys[1])


def _compared(
    layer: NeuralODE, x: PyTree, context: PyTree, loss: Callable[[PyTree], Any], key: Array
) -> GradientReport:
    """Return the report on a layer, with directions drawn from a key."""
    own = layer.discretisation

    def program(solve: Discretisation) -> tuple[Callable[[Any], Any], dict[str, Any]]:
        return _program(layer.with_solve(solve), x, context, loss)

    def gradient(solve: Discretisation) -> tuple[dict[str, Any], Solution]:
        scalar, wanted = program(solve)
        return jax.jit(jax.grad(scalar, has_aux=True))(wanted)

    got, solution = gradient(own)
    rounding = max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(got))
    choice, reference, exact_solve = _reference(own, solution)
    exact = gradient(exact_solve)[0]
    differenced, slope, noise = exact_solve, exact, rounding
    try:
        finer_solve = _finer(own)
        finer = gradient(finer_solve)[0]
        if isinstance(finer_solve, Adaptive):
            differenced, slope = finer_solve, finer
            noise = max(rounding, finer_solve.rtol, finer_solve.atol)
    except InputError:
        # Coefficients or batch statistics belong to the steps, of which there is another number.
        finer = None
    return GradientReport(
        own,
        Status(int(np.max(solution.status))),
        choice,
        reference,
        _distances(got, exact),
        None if finer is None else _distances(got, finer),
        _directional(*program(differenced), slope, key, noise),
        rounding,
    )


def _weighed(key: Array) -> Callable[[PyTree], Any]:
    """Return the inner product with random numbers, as a function of a state."""

    def scalar(state):
        return _inner(_random(key, state), state)

    return scalar


def _program(
    layer: NeuralODE, x: PyTree, context: PyTree, loss: Callable[[PyTree], Any]
) -> tuple[Callable[[Any], Any], dict[str, Any]]:
    """Return the loss of a layer's final state as a function of groups of arrays, and the groups.

    The second result of the function is the solution, without its states.
    """

    def ends(path: Any, value: Any) -> bool:
        return path[0] in ("t0", "t1")

    graphdef, interval, weights, rest = nnx.split(layer, ends, nnx.Param, ...)
    given = {"weights": weights, "x": x, "context": context, "interval": interval}
    wanted, held = eqx.partition(given, eqx.is_inexact_array)

    def scalar(wanted: dict[str, Any]) -> Any:
        parts = eqx.combine(wanted | {name: None for name in held if name not in wanted}, held)
        whole = nnx.merge(graphdef, parts["interval"], parts["weights"], rest)
        solution = whole.solve(parts["x"], context=parts["context"])
        value = loss(solution.states)
        if jnp.shape(value) or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            raise InputError(
                f"loss must return one real number, got {jnp.result_type(value)} of shape "
                f"{jnp.shape(value)}"
            )
        return value, solution._replace(states=None)

    return scalar, {name: part for name, part in wanted.items() if jax.tree.leaves(part)}


def _reference(solve: Discretisation, solution: Solution) -> tuple[str, str, Discretisation]:
    """Return the option that chooses the gradient, another one that is exact, and its solve."""
    if isinstance(solve, FixedGrid):
        other = "remat" if solve.memory == "full" else "full"
        names = f'memory="{solve.memory}"', f'memory="{other}"'
        return *names, replace(solve, memory=other)
    assert isinstance(solve, Adaptive)
    if solve.gradient != "steps":
        names = f'gradient="{solve.gradient}"', 'gradient="steps"'
        return *names, replace(solve, gradient="steps")
    # The memory of the loop's own derivative grows with max_steps, so that is what the solve took.
    taken = max(1, int(np.max(np.add(solution.accepted, solution.rejected))))
    names = 'gradient="steps"', 'gradient="direct"'
    return *names, replace(solve, gradient="direct", max_steps=min(taken, solve.max_steps))


def _finer(solve: Discretisation) -> Discretisation:
    """Return a finer solve with an exact gradient."""
    if isinstance(solve, Adaptive):
        # A scheme of order two takes about 32 times as many steps at a thousandth of a tolerance.
        return replace(
            solve, gradient="steps", max_steps=min(32 * solve.max_steps, 2**31 - 1)
        ).refined(_PARTS)
    return replace(solve, memory="remat").refined(_PARTS)


def _directional(
    scalar: Callable[[Any], Any],
    groups: dict[str, Any],
    gradient: dict[str, Any],
    key: Array,
    noise: float,
) -> dict[str, float]:
    """Return how far central differences of a function lie from its gradient, in each group.

    The middle one of three steps balances the error of the difference, the square of the step,
    against the noise of the values divided by the step. The difference that is nearest counts: a
    wrong gradient is far from all three.
    """
    value = jax.jit(lambda groups: scalar(groups)[0])
    found = {}
    for name, slope in gradient.items():
        along, across = _unit(jax.tree.map(jnp.conj, slope)), _unit(_random(key, slope))
        size = _norm(groups[name])
        step = noise ** (1 / 3) * (size if size > 0 else 1.0)
        errors = []
        for sign in (1, -1):
            direction = jax.tree.map(lambda a, b, sign=sign: a + sign * b, along, across)
            told, nearest = float(_inner(slope, direction)), []
            for h in (step / 8, step, 8 * step):
                ahead, behind = (
                    groups
                    | {
                        name: jax.tree.map(
                            lambda a, d, way=way: a + way * d, groups[name], direction
                        )
                    }
                    for way in (h, -h)
                )
                difference = (float(value(ahead)) - float(value(behind))) / (2 * h)
                largest = max(_norm(slope), abs(difference) / max(_norm(direction), 1.0))
                nearest.append(abs(difference - told) / largest if largest else 0.0)
            errors.append(np.min(nearest))
        found[name] = float(np.max(errors))
    return found


def _distances(got: dict[str, Any], want: dict[str, Any]) -> dict[str, float]:
    """Return the relative L2 distance of two gradients, in each group."""
    found = {}
    for name, reference in want.items():
        largest = float(np.maximum(_norm(got[name]), _norm(reference)))
        apart = _norm(jax.tree.map(jnp.subtract, got[name], reference))
        found[name] = apart if largest == 0 else apart / largest
    return found


def _worst(distances: dict[str, float]) -> tuple[str, float]:
    """Return the group with the largest distance, and the distance. NaN is the largest."""
    name = max(distances, key=lambda group: np.nan_to_num(distances[group], nan=np.inf))
    return name, distances[name]


def _random(key: Array, like: PyTree) -> Any:
    """Return normal random numbers of the shapes and dtypes of a pytree."""
    leaves, treedef = jax.tree.flatten(like)
    keys = jax.random.split(key, len(leaves))
    draws = [jax.random.normal(k, a.shape, a.dtype) for k, a in zip(keys, leaves, strict=True)]
    return treedef.unflatten(draws)


def _unit(tree: PyTree) -> Any:
    """Return a pytree divided by its norm, or as it is where its norm is zero."""
    norm = _norm(tree)
    return jax.tree.map(lambda a: a / norm, tree) if norm else tree


def _norm(tree: PyTree) -> float:
    """Return the L2 norm of all arrays of a pytree."""
    return float(sum(np.linalg.norm(np.ravel(a)) ** 2 for a in jax.tree.leaves(tree)) ** 0.5)


def _inner(a: PyTree, b: PyTree) -> Any:
    """Return the change of a real function with the JAX gradient a along b."""
    return sum(jax.tree.leaves(jax.tree.map(lambda u, v: jnp.sum(jnp.real(u * v)), a, b)))

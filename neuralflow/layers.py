"""The solver-backed layer `NeuralODE`: a velocity field together with a discretisation.

The functions that compile a layer stand at the end of this module.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Hashable
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from diffrax import AbstractImplicitSolver
from flax import nnx
from flax.nnx import reprlib, visualization
from jax import core
from jax.extend.core import Primitive
from jax.interpreters import mlir
from jax.sharding import PartitionSpec
from jaxtyping import Array, PyTree

from neuralflow import checks
from neuralflow.annotations import Real, Reals
from neuralflow.checks import InputError, InputTypeError
from neuralflow.depth import FlatField, field_at, raw
from neuralflow.depth.grid import Plan
from neuralflow.depth.varying import options
from neuralflow.fields import takes_time
from neuralflow.fields.functions import check_context
from neuralflow.schemes.network import ReversibleScheme
from neuralflow.solve import EVERY_STEP, Discretisation, Solution
from neuralflow.solve.base import EveryStep
from neuralflow.solve.context import as_arrays
from neuralflow.solve.failures import failure
from neuralflow.solve.form import Form, split
from neuralflow.solve.meshes import is_spec, spread
from neuralflow.solve.pairs import on_pairs, split_complex
from neuralflow.solve.system import time_dtype, velocity_of
from neuralflow.solve.tally import count

FieldT = TypeVar("FieldT", bound=nnx.Module)
OtherT = TypeVar("OtherT", bound=nnx.Module)


class NeuralODE(nnx.Module, Generic[FieldT]):
    """A layer that solves the ODE of a velocity field with a discretisation.

    The layer takes a state x0 to x(t1), where x(t) solves x' = field(x, t) with x(t0) = x0. The
    discretisation says how to walk through depth time from t0 to t1. A layer that `reverse` returns
    walks from t1 to t0.

    A layer is a plain `nnx.Module`: it can be nested, compiled, differentiated and saved. The field
    may hold batch statistics and random streams, which follow the rules of NNX.
    `nnx.Module.train()` and `nnx.Module.eval()` choose the mode. A call under `nnx.jit` or outside
    of any trace writes the new state back. A call under plain `jax.jit` loses the new state, as it
    does for every NNX module.

    A call outside of any trace raises `SolveError` where the solve fails. A call inside a trace
    returns states that are not finite instead: NaN, or what overflowed. Every gradient through a
    failed solve is NaN. `solve(x)` returns the status in both cases.

    Args:
        field: The velocity field, an NNX module that is called as f(x) or f(x, t). A parameter
            named `t` or `time` takes depth time, whether it has a default or not. Without such a
            name, a required second parameter takes depth time. A parameter named `context` takes
            the context of a call, `layer(x, context=...)`: masks, edges, conditions. Any other
            parameter with a default keeps its default, and another required one is refused. A field
            may hold a `DepthVarying` anywhere inside. A depthwise `nnx.Conv` needs
            `neuralflow.fields.convolution` as its `conv_general_dilated` for fast gradients on
            CPUs, which any other convolution has without it.
        solve: The discretisation, a `FixedGrid` or an `Adaptive`.
        t0: The depth time where the interval starts. A number is a constant. An array is data,
            which may be traced and differentiated. An `nnx.Param` is learned.
        t1: The depth time where the interval ends, different from `t0`. It is a number, an array or
            an `nnx.Param`, as `t0` is.

    Raises:
        InputError: The interval is empty, also up to rounding, or an end is not one finite number.
        InputError: The discretisation cannot carry the field: a step crosses a knot of the weights,
            or the field holds state that no solve can carry.
        InputTypeError: `field` is not an `nnx.Module` that is called as f(x) or f(x, t), or `solve`
            is not a discretisation.

    Attributes:
        field: The velocity field.
        t0: The depth time where the interval starts.
        t1: The depth time where the interval ends.
        backward: Whether the layer walks from t1 to t0. `reverse` returns a layer with the other
            value.

    Example:
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> from flax import nnx
        >>> make = lambda rngs: nnx.Linear(2, 2, rngs=rngs)
        >>> field = nf.DepthVarying(make, nf.PiecewiseConstant(4), rngs=nnx.Rngs(0))
        >>> resnet = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=4))
        >>> resnet(jnp.ones((3, 2))).shape
        (3, 2)
        >>> resnet.with_solve(nf.Adaptive(nf.Tsit5())).field is field  # the ODE of the same weights
        True
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if callable(getattr(NeuralODE, name, None)):
            raise InputTypeError(
                f"{name} is a method of the layer and cannot be set; for another discretisation "
                "write layer = layer.with_solve(...)"
            )
        super().__setattr__(name, value)

    def __init__(
        self,
        field: FieldT,
        solve: Discretisation,
        t0: Real | nnx.Param = 0.0,
        t1: Real | nnx.Param = 1.0,
    ):
        if not isinstance(field, nnx.Module):
            remedy = "give an nnx.Module with __call__(self, x)"
            if isinstance(field, type):
                remedy = f"build one: {field.__name__}(...)"
            elif callable(field):
                remedy = "wrap it: nf.from_function(f, params)"
            shown = (
                f"the class {field.__name__}" if isinstance(field, type) else type(field).__name__
            )
            raise InputTypeError(f"a field is an nnx.Module, got {shown}; {remedy}")
        _check_solve(solve)
        _check_interval(t0, t1)
        self.field: FieldT = field
        self._take(solve)
        self.t0, self.t1 = t0, t1
        self.backward = False

    @property
    def discretisation(self) -> Discretisation:
        """The discretisation of the layer, a `FixedGrid` or an `Adaptive`."""
        return self.solve_form.join(self.solve_data)

    def _take(self, solve: Discretisation) -> None:
        """Change the discretisation of the layer in place, and refuse one that cannot carry it."""
        solve.check(self.field)
        form, arrays = split(solve)
        self.solve_form, self.solve_data = nnx.static(form), nnx.data(arrays)

    def __nnx_repr__(self) -> Generator[Any, Any, None]:
        """Show the layer as a user would write it, for `repr` and `print`."""
        for part in super().__nnx_repr__():
            name = part.key if isinstance(part, reprlib.Attr) else ""
            if name == "solve_form":
                yield reprlib.Attr("solve", self.discretisation)
            elif name != "solve_data" and (name != "backward" or self.backward):
                yield part

    def __treescope_repr__(self, path: Any, subtree_renderer: Any) -> Any:
        """Show the layer as a user would write it, for `nnx.display`."""
        attributes = {
            "field": self.field,
            "solve": self.discretisation,
            "t0": self.t0,
            "t1": self.t1,
        }
        return visualization.render_object_constructor(
            object_type=type(self),
            attributes=attributes | ({"backward": True} if self.backward else {}),
            path=path,
            subtree_renderer=subtree_renderer,
        )

    def with_solve(self, solve: Discretisation) -> NeuralODE[FieldT]:
        """Return the layer with another discretisation.

        The field, the interval and the direction stay the same. The weights are shared, not copied.
        A layer that `between` has cut stays cut, unless `solve` has ends of its own.

        Args:
            solve: The new discretisation, a `FixedGrid` or an `Adaptive`.

        Raises:
            InputError: The discretisation cannot carry the field.
            InputTypeError: `solve` is not a discretisation.
        """
        _check_solve(solve)
        if solve.whole and not self.discretisation.whole:
            solve = solve.part(*self.discretisation.ends)
        return self._copy(self.field, solve, self.backward)

    def with_field(self, field: OtherT) -> NeuralODE[OtherT]:
        """Return the layer with another field.

        The discretisation, the interval and the direction stay the same.

        Args:
            field: The new velocity field.

        Raises:
            InputError: The discretisation cannot carry the field.
            InputTypeError: `field` is not an `nnx.Module` that is called as f(x) or f(x, t).
        """
        return self._copy(field, self.discretisation, self.backward)

    def reverse(self) -> NeuralODE[FieldT]:
        """Return the layer that integrates in the opposite direction.

        The reverse of a layer that walks forward integrates from t1 to t0. The result is the
        inverse of the layer only up to the discretisation error. Forward Euler followed by backward
        Euler is not the identity, for example. `invert` solves for the input exactly.
        """
        return self._copy(self.field, self.discretisation, not self.backward)

    def _copy(self, field: OtherT, solve: Discretisation, backward: bool) -> NeuralODE[OtherT]:
        layer = NeuralODE(field, solve, self.t0, self.t1)
        layer.backward = backward
        return layer

    def _interval(self) -> tuple[Any, Any]:
        """Return t0 and t1, as numbers of the host where they are known."""
        return checks.known(raw(self.t0)), checks.known(raw(self.t1))

    @property
    def ends(self) -> tuple[Any, Any]:
        """The depth times between which the layer walks, in the order of the interval.

        These are t0 and t1, or the depth times that were given to `between`. The order is the same
        for a layer that walks backward.
        """
        t0, t1 = self._interval()
        at = {0.0: t0, 1.0: t1}
        shares = [
            share if isinstance(share, core.Tracer) else float(share)
            for share in self.discretisation.ends
        ]
        start, stop = (
            at[s] if isinstance(s, float) and s in at else t0 + s * (t1 - t0) for s in shares
        )
        return start, stop

    def between(self, start: Real, stop: Real) -> NeuralODE[FieldT]:
        """Return the layer that walks only a part of the interval.

        The new layer uses the weights that belong to these depths. `t0` and `t1` stay as they are,
        because the weights belong to the whole interval. The attribute `ends` of the new layer is
        `(start, stop)`, in depth time. On a fixed grid, a step that an end cuts is shortened.

        Args:
            start: The depth time of the end that is nearer to t0. A fixed grid takes a number. An
                adaptive layer also takes an array, in any trace, and differentiates with respect to
                the array.
            stop: The depth time of the end that is nearer to t1, a number or an array as for
                `start`.

        Returns:
            The new layer, with the same direction. In a trace, the result of the new layer is NaN
            where `start` and `stop` are out of order or outside of t0 to t1.

        Raises:
            InputError: Outside of a trace, `start` and `stop` are out of order or outside of
                `ends`, or not finite.
            InputError: On a fixed grid, `start` equals `stop`, or the scheme cannot start or stop
                inside the interval.
            InputTypeError: An end is not one number, or is a traced array on a fixed grid.

        Example:
            >>> import jax.numpy as jnp
            >>> import neuralflow as nf
            >>> field = nf.from_function(lambda a, x: a * x, jnp.array(1.0))
            >>> layer = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=4))
            >>> x = jnp.ones((1, 2))
            >>> middle = layer.between(0.0, 0.5)(x)
            >>> bool(jnp.allclose(layer.between(0.5, 1.0)(middle), layer(x)))
            True
        """
        t0, t1 = self._interval()
        checks.number("start", start)
        checks.number("stop", stop)
        start, stop = checks.known(start), checks.known(stop)
        if _concrete((start, stop, t0, t1, self.ends)):
            if not self.covers(start, stop):
                first, last = map(float, self.ends)
                raise InputError(
                    f"between(start, stop) takes two depth times in the order of {first:g} to "
                    f"{last:g} and inside, got {start!r} and {stop!r}; "
                    "to walk back, take reverse() of it"
                )
            if self.discretisation.planned and start == stop:
                raise InputError(
                    "between(start, stop) of a fixed grid takes two depth times that differ, got "
                    f"{start!r} twice; take nf.Adaptive, or leave the layer out"
                )

        def share(t):
            share = (t - t0) / (t1 - t0)
            # An array stays data of the layer, so that another depth time compiles nothing anew.
            return np.asarray(share) if isinstance(t, np.ndarray) else share

        return self.with_solve(self.discretisation.part(share(start), share(stop)))

    def covers(self, *times: Any) -> bool:
        """Return whether depth times lie between `ends`, in the order of the interval.

        Args:
            *times: Concrete depth times. The result is False if one of them is not a single number.
        """
        numbers = [checks.known(raw(t)) for t in times]
        if not all(map(checks.is_number, numbers)):
            return False
        start, stop = map(float, self.ends)
        # The ends of a part are stored as shares of the interval, so depth times carry a rounding.
        slack = 0.0 if self.discretisation.ends == (0.0, 1.0) else 1e-6
        shares = (
            (np.asarray(numbers, float) - start) / (stop - start)
            if stop != start
            else np.asarray(numbers, float) - start
        )
        return bool(
            (np.diff(shares) >= 0).all()
            and (shares >= -slack).all()
            and (shares <= 1 + slack).all()
        )  # NaN is not covered

    def velocity(self, x: PyTree, t: Real, *, context: PyTree = None) -> Any:
        """Return the velocity of the field at one state and one depth time.

        The field has the weights that belong to the depth time. Where the weights jump, the field
        has the weights of the cell that begins there.

        Args:
            x: The state, a pytree of arrays with leading batch axes.
            t: The depth time, between t0 and t1. In a trace, a depth time outside takes the weights
                of the nearest depth.
            context: The context of the field; see `__call__`.

        Returns:
            The velocity in depth time, with the structure, shapes and dtypes of `x`.

        Raises:
            InputError: Outside of a trace, `t` lies outside of t0 to t1 or is not finite.
            InputError: The field cannot be evaluated on `x`, as `__call__` says.
            InputTypeError: `t` is not one number, or `x` has a leaf that is not an array.
        """
        checks.states("x", x)
        checks.number("t", t)
        t0, t1 = self._interval()
        t = checks.known(t)
        share = (t - t0) / (t1 - t0)
        if not _concrete((t, t0, t1)):
            share = jnp.asarray(share, float)
        elif not 0 <= float(share) <= 1:
            raise InputError(
                f"t must be one depth time between {float(t0):g} and {float(t1):g}, got {t!r}"
            )
        x, context = jax.tree.map(jnp.asarray, (x, as_arrays(context)))
        dtype = time_dtype(x)
        time = jnp.asarray(t, dtype) if takes_time(self.field) else None
        name = type(self.field).__name__
        return velocity_of(name, field_at(self.field, share), x, time, context)

    def plan(self) -> Plan:
        """Return the steps of a fixed grid, with their places in the bases of the weights.

        Returns:
            The plan, in the order and the direction of the walk.

        Raises:
            InputTypeError: The layer is adaptive.
        """
        return self.discretisation.plan(FlatField(self.field).bases, backward=self.backward)

    def __call__(self, x: PyTree, *, context: PyTree = None) -> Any:
        """Carry a state through the interval.

        Args:
            x: The state at the start of the walk, a pytree of arrays with leading batch axes.
            context: A pytree of arrays of any dtype that is not integrated, such as masks, edges,
                conditions or controls. The field receives it in its parameter named `context`.

        Returns:
            The state at the end of the walk, with the structure, shapes and dtypes of `x`. In a
            trace, the state is NaN where the solve failed.

        Raises:
            InputError: The discretisation cannot carry `x` or the state of the field. Or the field
                cannot be evaluated on `x`; the error of the field is the cause.
            InputTypeError: `x` has a leaf that is not an array of numbers.
            SolveError: Outside of a trace, the solve failed.

        @public
        """
        return self._checked(_integrate, x, None, context).states

    def solve(self, x: PyTree, depths: Reals | None = None, *, context: PyTree = None) -> Solution:
        """Carry a state through the interval, and return the status of the solve beside the states.

        A numerical failure never raises an error here. The status tells of the failure.

        Args:
            x: The state at the start of the walk, a pytree of arrays with leading batch axes.
            depths: Depth times `(m,)` at which to return states, in the order of the walk. None
                returns the final state.
            context: A pytree of arrays of any dtype that is not integrated, such as masks, edges,
                conditions or controls. The field receives it in its parameter named `context`.

        Returns:
            The states, the status, the number of steps and the number of evaluations of the field.
            With `depths`, the states have a leading axis of length m.

        Raises:
            InputError: Outside of a trace, `depths` are outside of `ends` or out of order. Or
                `depths` is empty or has more axes than one.
            InputError: The discretisation cannot carry `x` or the state of the field. Or the field
                cannot be evaluated on `x`; the error of the field is the cause.
            InputTypeError: `x` has a leaf that is not an array of numbers.
            InputTypeError: `depths` is no sequence of numbers.
            InputTypeError: A fixed grid has no states at `depths`, because its scheme carries more
                than the state from step to step.

        Example:
            >>> import jax.numpy as jnp
            >>> import neuralflow as nf
            >>> field = nf.from_function(lambda a, x: a * x, jnp.array(1.0))
            >>> layer = nf.NeuralODE(field, nf.FixedGrid(nf.RK4(), steps=4))
            >>> solution = layer.solve(jnp.ones((1, 2)), depths=jnp.array([0.5, 1.0]))
            >>> solution.states.shape, int(solution.status), int(solution.evaluations)
            ((2, 1, 2), 0, 16)
            >>> print(solution.states[:, 0, 0].round(2))
            [1.65 2.72]
        """
        return self._run(_integrate, x, self._depths(depths, x), context)

    def trajectory(self, x: PyTree, depths: Reals | None = None, *, context: PyTree = None) -> Any:
        """Return the states at several depths.

        Between the edges of a fixed grid, the state is the result of a shortened step of the
        scheme. An adaptive solve takes states from the scheme's interpolant; its option `output`
        says more. The states are differentiable with respect to the depths. The walk goes on to the
        end of the interval, also behind the last depth; `between` walks over a part.

        Every sample has depth times of its own under `jax.vmap`, and an adaptive solve then takes
        the steps of each sample alone. Times that are missing repeat the last time of their sample:
        a NaN among the depths makes the gradient NaN, even where the loss leaves its state out.

        Args:
            x: The state at the start of the walk, a pytree of arrays with leading batch axes.
            depths: Depth times `(m,)` in the order of the walk. None asks for both ends of the walk
                and all edges of steps, which only a fixed grid has.
            context: A pytree of arrays of any dtype that is not integrated, such as masks, edges,
                conditions or controls. The field receives it in its parameter named `context`.

        Returns:
            The states, with a new leading axis of length m, or of length steps + 1 for the edges.
            In a trace and under `jax.vmap`, states at depths outside of `ends` are NaN, and those
            of an adaptive layer also at depths out of order. `solve` returns the status.

        Raises:
            InputError: Outside of a trace, `depths` are outside of `ends` or out of order. Or
                `depths` is empty or has more axes than one.
            InputError: The layer is adaptive and `depths` is None.
            InputError: The discretisation cannot carry `x` or the state of the field. Or the field
                cannot be evaluated on `x`; the error of the field is the cause.
            InputTypeError: `x` has a leaf that is not an array of numbers.
            InputTypeError: `depths` is no sequence of numbers.
            InputTypeError: A fixed grid has no states at `depths`, because its scheme carries more
                than the state from step to step.
            SolveError: Outside of a trace, the solve failed.

        Example:
            >>> import jax
            >>> import jax.numpy as jnp
            >>> import neuralflow as nf
            >>> field = nf.from_function(lambda a, x: a * x, jnp.array(1.0))
            >>> layer = nf.NeuralODE(field, nf.Adaptive(nf.Tsit5(), rtol=1e-4, atol=1e-4))
            >>> x, times = jnp.ones((2, 1)), jnp.array([[0.1, 0.5], [0.0, 1.0]])
            >>> layer.trajectory(x, times[0]).shape  # both samples at the same times
            (2, 2, 1)
            >>> print(jax.vmap(layer.trajectory)(x, times)[..., 0].round(2))  # each at its own
            [[1.11 1.65]
             [1.   2.72]]
        """
        return self._checked(
            _integrate, x, EVERY_STEP if depths is None else self._depths(depths, x), context
        ).states

    def invert(self, y: PyTree, *, context: PyTree = None) -> Any:
        """Return the x with layer(x) = y, up to rounding.

        Only a layer on a fixed grid can be inverted. The blocks are solved one by one, from the
        last to the first. A reversible scheme uses its own inverse. Every other scheme uses
        fixed-point iteration, which converges where x -> step(x) - x is a contraction. For Euler's
        scheme it is enough that h L < 1, where h is the length of the step in depth time and L the
        Lipschitz constant of the field. Schemes with more evaluations can need shorter steps: for
        RK4, h L < 0.69 is enough.

        Args:
            y: The state at the end of the walk, a pytree of arrays with leading batch axes.
            context: The context of the walk that led to `y`; see `__call__`.

        Returns:
            The state at the start of the walk. In a trace, the state is NaN where the iteration
            failed.

        Raises:
            InputError: The field changes its state in a call, as batch statistics do in training.
            InputTypeError: The layer is adaptive, or the scheme carries more than the state from
                step to step.
            InputTypeError: `y` has a leaf that is not an array.
            SolveError: Outside of a trace, the iteration did not converge in a block, or the result
                is not finite.
        """
        return self._checked(_invert, y, None, context).states

    def per_step(
        self,
        x: PyTree,
        function: Callable[[Callable[[PyTree], PyTree], PyTree], PyTree],
        *,
        context: PyTree = None,
    ) -> Any:
        """Compute function(block, x_k) for every step k of a fixed grid.

        The function can compute the Jacobian of a block, its length, or its distance from the
        identity, for example. The function is traced once for all steps.

        Args:
            x: The state at the start of the walk, a pytree of arrays with leading batch axes.
            function: A function of `block` and x_k. `block` is the k-th step, as a function from
                states to states. x_k is the state where the k-th step starts.
            context: The context of the field; see `__call__`.

        Returns:
            The results of all steps, with a new leading axis of length steps.

        Raises:
            InputError: The field changes its state in a call, as batch statistics do in training.
            InputTypeError: The layer is adaptive, or the scheme carries more than the state from
                step to step.
            InputTypeError: `function` cannot be called, or `x` has a leaf that is not an array.
        """
        checks.function("function", function, 2)
        program, arrays = self._handed_over(x, None, context)
        return _each_step(program, function, arrays)

    def _depths(self, depths: Reals | None, x: PyTree) -> Array | None:
        """Return depth times as an array in the real dtype of x. Known ones are checked here."""
        if depths is None:
            return None
        if isinstance(depths, jax.Array | np.ndarray) and depths.ndim > 1:
            raise InputError(
                f"depths must be one-dimensional depth times, got shape {depths.shape}; depth "
                "times of its own for every sample: jax.vmap(layer.trajectory)(x, depths)"
            )
        given = checks.row("depths", depths, traced=True)
        checks.states("x", x)
        dtype = time_dtype(x)
        if _concrete((given, self.ends)):
            # The ends are rounded as the depths are, so that an end is inside.
            times = np.asarray(given, dtype)
            start, end = np.asarray(self.ends, dtype)
            along = times if self.backward is bool(end < start) else -times
            # NaN is not inside.
            inside = (times >= min(start, end)) & (times <= max(start, end))
            if not (np.diff(along) >= 0).all() or not inside.all():
                raise InputError(
                    "depths must run in the direction of the walk between "
                    f"{start:g} and {end:g}, got {times}"
                )
        return jnp.asarray(given, dtype)

    def _run(
        self, function: Any, x: PyTree, depths: Array | EveryStep | None, context: PyTree
    ) -> Solution:
        """Call one of the compiled functions below, and write the new state of the field back."""
        program, arrays = self._handed_over(x, depths, context)
        if _staged():
            # A call that is being compiled already needs no compiled function of its own. Numbers
            # are constants there: the host computes the steps, and there is less to compile.
            function = function.__wrapped__
            if all(isinstance(t, int | float) for t in arrays.interval):
                t0, t1 = map(float, arrays.interval)
                program, arrays = (
                    program._replace(interval=(t0, t1)),
                    arrays._replace(interval=None),
                )
        try:
            solution, changes = function(program, arrays)
        except TypeError as error:
            remedy = self.discretisation.forward_mode
            if not remedy or "forward-mode" not in str(error):
                raise
            raise InputTypeError(
                "forward-mode derivatives do not pass through "
                f"{self.discretisation!r}; take {remedy}"
            ) from error
        except ValueError as error:
            if "Non-hashable" in str(error):
                _refuse_unhashable(self.field)
            raise
        if changes:
            variables = FlatField.variables(self.field)
            for i, value in changes.items():
                variables[i].set_value(value)
        count(solution)
        return solution

    def _handed_over(
        self, x: PyTree, depths: Array | EveryStep | None, context: PyTree
    ) -> tuple[_Program, _Arrays]:
        """Return everything that a compiled function needs: the static part, and the data.

        New numbers in the data compile nothing anew.
        """
        checks.states("x", x)
        check_context(self.field, context)
        graphdef, state = nnx.split(self.field)
        solve = self.discretisation
        data = solve.as_data
        form, numbers = (self.solve_form, list(self.solve_data)) if data is solve else split(data)
        every_step = isinstance(depths, EveryStep)
        program = _Program(graphdef, form, self.backward, every_step, None)
        interval = (raw(self.t0), raw(self.t1))
        given = jax.tree.map(jnp.asarray, x), None if every_step else depths, as_arrays(context)
        if _concrete(self._interval()):
            _check_length(*self._interval(), time_dtype(given[0]))
        x, depths, context = jax.tree.map(_own, given)
        return program, _Arrays(state, numbers, x, interval, depths, context)

    def _checked(
        self, function: Any, x: PyTree, depths: Array | EveryStep | None, context: PyTree
    ) -> Solution:
        solution = self._run(function, x, depths, context)
        if _concrete((solution, nnx.state(self.field))) and np.any(solution.status):
            raise failure(self.discretisation, self.field, x, solution)
        return solution


def _refuse_unhashable(field: nnx.Module) -> None:
    """Refuse the first option of a field by which no compiled function can be found again."""
    for name, value in options(field).items():
        if not isinstance(value, Hashable):
            raise InputTypeError(
                f"{type(field).__name__} holds a {type(value).__name__} in '{name}', which is "
                "neither data nor hashable; make it a tuple, or hold arrays in nnx.data(...)"
            ) from None


class _Program(NamedTuple):
    """The static part of a call.

    `interval` holds t0 and t1 where they are compiled in as numbers, and None elsewhere.
    """

    graphdef: Any
    form: Form
    backward: bool
    every_step: bool
    interval: tuple[float, float] | None


class _Arrays(NamedTuple):
    """The data of a call: the state of the field, the numbers of the discretisation, and the input.

    `interval` is None where t0 and t1 are compiled in. `depths` are the depth times asked for.
    `context` is what the field is called with beside the state.
    """

    state: Any
    numbers: list[Any]
    x: Any
    interval: Any
    depths: Any
    context: Any


def _joined(
    program: _Program, arrays: _Arrays
) -> tuple[Any, tuple[Any, ...], Callable[[PyTree], Any]]:
    """Return the discretisation, the arguments of its methods, and what makes its states ours.

    Complex states become pairs of real numbers where the discretisation carries real states.
    """
    field, interval = nnx.merge(program.graphdef, arrays.state), program.interval or arrays.interval
    solve, x, join = program.form.join(arrays.numbers), arrays.x, lambda states: states
    if solve.real:
        field, x, join = on_pairs(field, x)
    return solve, (field, x, *interval), join


@functools.partial(jax.jit, static_argnums=0)
def _integrate(program: _Program, arrays: _Arrays) -> tuple[Solution, dict[int, Array]]:
    """Return the solution and the new state of the field: the compiled function of every layer."""
    along = [] if arrays.depths is None and not program.every_step else [None]
    alone = getattr(program.form.join(arrays.numbers), "per_sample", False)

    def outputs(specs):
        count = PartitionSpec(*jax.tree.leaves(specs, is_leaf=is_spec)[0][: int(alone)])
        states = jax.tree.map(lambda s: PartitionSpec(*along, *s), specs, is_leaf=is_spec)
        specs_of: Any = Solution  # Specs stand in the places of arrays.
        return specs_of(states, PartitionSpec(), *[count] * 4), PartitionSpec()

    return spread(functools.partial(_solved, program), arrays, arrays.x, outputs)


def _solved(program: _Program, arrays: _Arrays) -> tuple[Solution, dict[int, Array]]:
    """Return the solution and the new state of the field."""
    solve, arguments, join = _joined(program, arrays)
    depths = EVERY_STEP if program.every_step else arrays.depths
    solution, changes = solve.integrate(
        *arguments, context=arrays.context, depths=depths, backward=program.backward
    )
    return solution._replace(states=join(solution.states)), changes


@functools.partial(jax.jit, static_argnums=0)
def _invert(program: _Program, arrays: _Arrays) -> tuple[Solution, dict[int, Array]]:
    """Return the solution of every step for its input, and no new state."""

    def outputs(specs):
        specs_of: Any = Solution  # Specs stand in the places of arrays.
        return specs_of(specs, *[PartitionSpec()] * 5), PartitionSpec()

    return spread(functools.partial(_inverted, program), arrays, arrays.x, outputs)


def _inverted(program: _Program, arrays: _Arrays) -> tuple[Solution, dict[int, Array]]:
    """Return the solution of every step for its input."""
    solve, (field, y, *interval), join = _joined(program, arrays)
    if not isinstance(solve.scheme, ReversibleScheme | AbstractImplicitSolver):
        # The input of every step is the solution of an equation.
        field, y, join = on_pairs(field, y)
    solution = solve.invert(field, y, *interval, context=arrays.context, backward=program.backward)
    return solution._replace(states=join(solution.states)), {}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _each_step(program: _Program, function: Callable[..., Any], arrays: _Arrays) -> Any:
    """Return what a function makes of every step."""
    run = functools.partial(_looked_at, program, function)
    return spread(run, arrays, arrays.x, lambda specs: PartitionSpec())


def _looked_at(program: _Program, function: Callable[..., Any], arrays: _Arrays) -> Any:
    """Return what a function makes of every step."""
    solve, arguments, join = _joined(program, arrays)

    def each(block, x):
        return function(lambda z: join(block(split_complex(z) if solve.real else z)), join(x))

    return solve.per_step(*arguments, each, context=arrays.context, backward=program.backward)


def _staged() -> bool:
    """Return whether operations are being traced for compilation.

    Operations under an eager grad or vmap run at once, so the result is False there.
    """
    return isinstance(_asked.bind(), core.Tracer)


# An operation without operands and without work on the device: it is staged where others are.
_asked = Primitive("asked")
_asked.def_impl(lambda: False)
_asked.def_abstract_eval(lambda: core.ShapedArray((), np.dtype(bool)))
mlir.register_lowering(_asked, mlir.lower_fun(lambda: jnp.asarray(False), multiple_results=False))


def _concrete(tree: PyTree) -> bool:
    return not any(isinstance(leaf, core.Tracer) for leaf in jax.tree.leaves(tree))


def _own(leaf: Any) -> Any:
    """Return an array whose value belongs to JAX.

    `jax.vmap` may hold a NumPy array inside its tracer, which JAX's custom derivatives do not take.
    """
    return jnp.copy(leaf) if isinstance(leaf, core.Tracer) else leaf


def _check_solve(solve: Discretisation) -> None:
    if not isinstance(solve, Discretisation):
        raise InputTypeError(
            f"solve is a FixedGrid or an Adaptive, got {solve!r}; "
            "for example nf.FixedGrid(nf.Euler(), steps=16)"
        )


def _check_interval(t0: Real | nnx.Param, t1: Real | nnx.Param) -> None:
    checks.number("t0", raw(t0))
    checks.number("t1", raw(t1))
    if not _concrete((t0, t1)):
        return
    start, end = np.asarray(raw(t0)), np.asarray(raw(t1))
    if start == end:
        raise InputError(
            f"the interval is empty, t0 = t1 = {start:g}; "
            "give t1 another value, or leave the layer out"
        )
    _check_length(start, end, jnp.result_type(float))


def _check_length(t0: Any, t1: Any, dtype: Any) -> None:
    """Refuse known ends of an interval that the dtype of times cannot tell apart.

    Each end is rounded, so that of a few roundings of an end no digit of a length is left.
    """
    with np.errstate(over="ignore"):
        ends = np.asarray([t0, t1], dtype)
    if not 4 * np.finfo(dtype).eps * abs(ends).max() < abs(ends[1] - ends[0]) < np.inf:
        raise InputError(
            f"the interval from t0 = {t0!r} to t1 = {t1!r} is empty or endless in {ends.dtype}, in "
            "which its times are computed; give other ends, or x in float64"
        )

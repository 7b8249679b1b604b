"""What fixed grids and adaptive solves share.

`System` is a field and its weights as diffrax sees them. It evaluates the field at a place in depth
and takes one step of a scheme. The loops over steps stand in `walk` and `adaptive`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from diffrax import AbstractSolver
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, PyTree

from neuralflow.annotations import Real
from neuralflow.checks import InputError, InputTypeError
from neuralflow.depth import Basis, FlatField
from neuralflow.fields import evaluate, takes_time
from neuralflow.fields.convolution import with_fast_derivatives
from neuralflow.fields.split import split_of
from neuralflow.schemes.implicit import with_derivatives
from neuralflow.schemes.network import Parts, is_explicit, prepared, tableau_of, traits
from neuralflow.schemes.runge_kutta import dense_step, explicit_step, rolled_step
from neuralflow.schemes.watched import Watched
from neuralflow.solve.form import split

# Newer releases of JAX differentiate before they inline, unless they are told otherwise. Then the
# cotangents of a state would be added up in another order than in a loop written by hand.
_EARLY: Any = getattr(getattr(jax, "Inline", None), "JAX_EARLY", True)


class Step(NamedTuple):
    """The record of one step.

    Attributes:
        start: The depth time where the step starts.
        length: The signed length of the step, in depth time.
        enter: For each basis, the local coordinate at which the step enters its cell.
        leave: For each basis, the local coordinate at which the step leaves its cell.
        coefficients: The scheme's own coefficients in this step.
        number: The number of the step. None stands where nobody asks for the number.
    """

    start: Array
    length: Array
    enter: tuple[Array, ...]
    leave: tuple[Array, ...]
    coefficients: Sequence[Array] = ()
    number: Array | None = None


class StepResult(NamedTuple):
    """What a step leaves behind.

    Attributes:
        x: The state at the end of the step.
        memory: The scheme's memory at the end of the step.
        failed: Whether the step failed. None means that the scheme cannot fail.
        changes: The new state of the field, by the place of each array in the field's flat list.
    """

    x: Any
    memory: Any
    failed: Array | None
    changes: dict[int, Array]


class System:
    """A field as diffrax sees the field.

    A system holds static structure, and the scheme's coefficients. The arrays of the field travel
    through `args`, the last argument of diffrax's functions. In this module `args` is a triple: the
    windows of the arrays that change from cell to cell, the other arrays, and the `Step`.

    Args:
        field: The velocity field.
        scheme: The diffrax solver that takes the steps.
        dtype: The real dtype of times.
        refusal: The reason why the field's state cannot change in this solve. The reason is part of
            the error's text. None means that the state can change, unless the scheme prevents it.
        context: The context that the field is called with, a pytree of arrays. Its arrays travel
            behind those of the field, as `values` returns them.
        precise: Whether the field multiplies matrices in all digits, as `precise` says. An implicit
            scheme needs all digits in any case.

    Raises:
        InputTypeError: The scheme walks along parts, and the field has none.
    """

    def __init__(
        self,
        field: nnx.Module,
        scheme: diffrax.AbstractSolver,
        dtype: DTypeLike,
        refusal: str | None = None,
        context: PyTree = None,
        precise: bool = False,
    ):
        self.flat = FlatField(field)
        self.flat.check(FlatField.values(field))
        leaves, self._context = jax.tree.flatten(context)
        self.timed = takes_time(field)
        self.name = type(field).__name__
        self.parts = walked_parts(scheme, field)
        self.dtype = dtype
        self.scheme = prepared(scheme, dtype)
        # Variables stay whole: the type PerStep says that a coefficient has a row per step.
        self._form, self.coefficients = split(self.scheme)
        self.refusal = refusal or loops_inside(scheme)
        # `_calls` holds what each evaluation in the step that is being traced changed, behind the
        # part that was evaluated (None for the whole field). `_numbers` holds the numbers of these
        # evaluations where the numbers do not count up from zero.
        self._calls: list[tuple[int | None, dict[int, Array]]] = []
        self._numbers: tuple[int, ...] = ()
        self.explicit = tableau_of(scheme)
        self.may_fail = isinstance(scheme, diffrax.AbstractImplicitSolver)
        self.precise = precise or self.may_fail
        self.multi = [basis for basis in self.flat.bases if basis.count > 1]
        # Weights on a single cell have the same window at every step. Such weights are handed
        # around whole, and not scanned.
        self.windowed = [basis is not None and basis.count > 1 for basis in self.flat.array_bases]
        self.windowed += [False] * len(leaves)
        # JAX traces the velocity once for all stages of one shape, and inlines the result at each
        # stage. So the inner jit costs nothing at run time.
        self.velocity = jax.jit(self._velocity, inline=_EARLY, static_argnames="part")

    def values(self, field: nnx.Module, context: PyTree) -> list[Array]:
        """Return the arrays of the field, and behind them the arrays of its context.

        Args:
            field: The field.
            context: The context.
        """
        return [*FlatField.values(field), *jax.tree.leaves(context)]

    def split(self, values: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        """Split the arrays into those that change from cell to cell, and the others.

        Args:
            values: The arrays of the field and of its context, in the order of `values`.

        Returns:
            The arrays that change from cell to cell, and the other arrays.
        """
        moving = [v for v, w in zip(values, self.windowed, strict=True) if w]
        return moving, [v for v, w in zip(values, self.windowed, strict=True) if not w]

    def windows(self, moving: Sequence[Any], cells: dict[Basis, Any]) -> list[Any]:
        """Select the coefficients that are active in given cells.

        Args:
            moving: The arrays that change from cell to cell.
            cells: For every basis, a cell or an array of cells.

        Returns:
            The window of each array.
        """
        return [
            basis.window(value, cells[basis])
            for basis, value in zip(self._moving_bases(), moving, strict=True)
        ]

    def scattered(
        self, gradients: Sequence[Array], cells: dict[Basis, Any], windows: Sequence[Any]
    ) -> list[Array]:
        """Add the cotangents of windows to the cotangents of the coefficients, in place.

        Args:
            gradients: The cotangents of the arrays that change from cell to cell.
            cells: For every basis, the cell of the windows.
            windows: The cotangents of the windows.

        Returns:
            The new cotangents of the arrays.
        """
        triples = zip(self._moving_bases(), gradients, windows, strict=True)
        return [_scatter(gradient, cells[basis], window) for basis, gradient, window in triples]

    def _moving_bases(self) -> list[Basis]:
        """Return the basis of every array that changes from cell to cell."""
        return [
            basis
            for basis, w in zip(self.flat.array_bases, self.windowed, strict=False)
            if w and basis is not None
        ]

    def _velocity(
        self,
        windows: Sequence[Any],
        fixed: Sequence[Any],
        where: Sequence[Array],
        x: PyTree,
        t: Array,
        call: Any,
        part: int | None = None,
    ) -> tuple[Any, dict[int, Array]]:
        """Return the velocity f(x, t), and the state that the evaluation changed.

        `where` holds one local coordinate per basis, at which the weights are taken. `call` holds
        the number of the step and the number of the evaluation in the step. Every random key is
        folded with both numbers. `part` is the number of the part that is evaluated. None stands
        for the whole field.
        """
        local = dict(zip(self.flat.bases, where, strict=True))
        left, right = iter(windows), iter(fixed)
        arrays = []
        for basis, windowed, stream in zip(
            self.flat.array_bases, self.windowed, self.flat.streams, strict=False
        ):
            value = next(left if windowed else right)
            if basis is not None:
                value = basis.combine(value if windowed else basis.window(value, 0), local[basis])
            elif stream and call is not None:
                value = _folded(value, call)
            arrays.append(value)
        module: Any = with_fast_derivatives(self.flat.module(arrays))
        called = module if part is None else functools.partial(module.along, part)
        context = self._context.unflatten(right)
        with all_digits() if self.precise else nullcontext():
            v = velocity_of(self.name, called, x, t, context)
        changes = self.flat.changes(module, arrays)
        if changes and self.refusal:
            raise InputError(
                f"the field changes its state ('{self.flat.name(min(changes))}') in training, "
                f"{self.refusal}"
            )
        return v, lax.stop_gradient(changes)

    def stage(self, share: Real, x: PyTree, args: PyTree, part: int | None = None) -> Any:
        """Evaluate the velocity at a share of a step.

        At the share 1, the local coordinates are exactly those at which the step leaves its cells.

        Args:
            share: The place in the step, from 0 at its start to 1 at its end.
            x: The state.
            args: The windows, the other arrays and the step record.
            part: The number of the part that is evaluated. None stands for the whole field.

        Returns:
            The velocity, in the form of x.

        Raises:
            InputError: The field changes its state, and this solve cannot carry the change; or the
                velocity does not have the structure, shapes and dtypes of x.
        """
        windows, fixed, step = args
        if isinstance(share, float):
            t = share * step.length
            where = [
                b if share == 1 else a + share * (b - a)
                for a, b in zip(step.enter, step.leave, strict=True)
            ]
        else:
            t = jnp.where(share == 1, step.length, share * step.length)
            share = lax.stop_gradient(share)
            where = [
                jnp.where(share == 1, b, a + share * (b - a))
                for a, b in zip(step.enter, step.leave, strict=True)
            ]
        number = len(self._calls)
        call = (
            None
            if step.number is None
            else (step.number, self._numbers[number] if self._numbers else number)
        )
        v, changes = self.velocity(windows, fixed, where, x, step.start + t, call, part=part)
        self._calls.append((part, changes))
        return v

    def step(self, x: PyTree, args: PyTree, memory: PyTree, jump: bool | Array) -> StepResult:
        """Take one step of the scheme.

        Args:
            x: The state where the step starts.
            args: The windows, the other arrays and the step record.
            memory: The scheme's memory before the step.
            jump: Whether the weights jump where the step starts. Then a scheme evaluates a stage
                again that the step before handed on.

        Returns:
            What the step leaves behind.
        """
        length = args[2].length
        self._calls, self._numbers = [], ()
        if self.explicit is not None:
            y = explicit_step(self.explicit, lambda c, y: self.stage(c, y, args), x, length)
            return StepResult(y, None, None, self._changes())
        y, _, memory, result = self._advance(x, args, memory, jump)
        failed = jnp.asarray(result != diffrax.RESULTS.successful) if self.may_fail else None
        return StepResult(y, memory, failed, self._changes())

    def _changes(self) -> dict[int, Array]:
        """Return the new state of the field after the step that was traced.

        The scheme says which evaluation counts. Where it evaluates parts, the first evaluation of
        each part counts.
        """
        if self.parts is None:
            return self._calls[traits(self.scheme).statistics][1]
        first = {part: changes for part, changes in reversed(self._calls)}
        return {place: value for changes in first.values() for place, value in changes.items()}

    def unstep(self, y: PyTree, args: PyTree, memory: PyTree) -> tuple[Any, Any]:
        """Take one step of a reversible scheme back.

        Args:
            y: The state where the step ended.
            args: The windows, the other arrays and the step record.
            memory: The scheme's memory after the step.

        Returns:
            The state and the memory before the step.
        """
        length = args[2].length
        scheme: Any = self._at_step(args[2])
        self._calls, self._numbers = [], scheme.retraced(self.parts or 1)
        return scheme.unstep(self._term(), jnp.zeros_like(length), length, y, args, memory)

    def initial(self, x: PyTree, args: PyTree) -> Any:
        """Make the scheme's memory before the first step.

        Args:
            x: The state where the walk starts.
            args: The windows, the other arrays and the record of the first step.

        Returns:
            The memory. None stands for the memory of an explicit Runge-Kutta scheme.
        """
        length = args[2].length
        self._calls, self._numbers = [], ()
        if self.explicit is not None:
            return None
        return self._at_step(args[2]).init(self._term(), jnp.zeros_like(length), length, x, args)

    def single(self, x: PyTree, args: PyTree) -> Any:
        """Take one step that remembers nothing of the steps before it.

        Args:
            x: The state where the step starts.
            args: The windows, the other arrays and the step record.

        Returns:
            The state where the step ends.
        """
        return self.step(x, args, self.initial(x, args), False).x

    def dense(self, x: PyTree, args: PyTree) -> tuple[Any, Any]:
        """Take the step of `single`, and return what the scheme's interpolant needs as well.

        Args:
            x: The state where the step starts.
            args: The windows, the other arrays and the step record.

        Returns:
            The state where the step ends, and the arguments of `interpolation_cls` of the scheme
            beside the times.
        """
        length = args[2].length
        if self.explicit is not None:
            return dense_step(self.explicit, lambda c, y: self.stage(c, y, args), x, length)
        y, info, _, _ = self._advance(x, args, self.initial(x, args), False)
        return y, info

    def _advance(self, x: PyTree, args: PyTree, memory: PyTree, jump: bool | Array) -> Any:
        """Return a step's end, what its interpolant needs, the scheme's memory and the result."""
        scheme, length = with_derivatives(self._at_step(args[2])), args[2].length
        y, _, info, memory, result = scheme.step(
            self._term(), jnp.zeros_like(length), length, x, args, memory, jump
        )
        return y, info, memory, result

    def _at_step(self, step: Step) -> diffrax.AbstractSolver:
        """Return the scheme with the coefficients that it has in a step."""
        return self._form.join(step.coefficients)

    def again(self, x: PyTree, args: PyTree) -> Any:
        """Take the step of `single` in a smaller program, where no derivative is taken.

        An explicit Runge-Kutta scheme loops over its stages, so that JAX compiles the field once.

        Args:
            x: The state where the step starts.
            args: The windows, the other arrays and the step record.

        Returns:
            The state where the step ends.
        """
        if self.explicit is None:
            return self.single(x, args)
        return rolled_step(self.explicit, lambda c, y: self.stage(c, y, args), x, args[2].length)

    def _term(self) -> diffrax.ODETerm:
        """Return the step as diffrax's schemes see a step: in local time from 0 to its length."""

        def vector_field(t, x, args, part=None):
            length = args[2].length
            return self.stage(t / jnp.where(length == 0, 1, length), x, args, part)

        if self.parts is None:
            return diffrax.ODETerm(vector_field)
        terms = (functools.partial(vector_field, part=part) for part in range(self.parts))
        return Parts(vector_field, tuple(map(diffrax.ODETerm, terms)))

    def stages(self) -> tuple[int, bool]:
        """Count the stages of a step in an adaptive loop.

        Returns:
            The number of stages, and whether the last stage is handed on to the next step.
        """
        scheme = self.scheme.scheme if isinstance(self.scheme, Watched) else self.scheme
        if isinstance(scheme, diffrax.AbstractRungeKutta):
            tableau = scheme.tableau
            assert isinstance(tableau, diffrax.ButcherTableau)
            return tableau.num_stages, tableau.fsal
        return 1, False


def walked_parts(scheme: AbstractSolver, field: nnx.Module) -> int | None:
    """Return the number of parts along which a scheme walks one by one.

    Args:
        scheme: The scheme.
        field: The field.

    Returns:
        The number of parts of the field. None for a scheme that takes the field as a whole.

    Raises:
        InputTypeError: The scheme walks along parts, and the field has none.
    """
    if not traits(scheme).parted:
        return None
    split = split_of(field)
    if split is None:
        raise InputTypeError(
            f"{type(scheme).__name__} walks along the parts of a field one by one, and "
            f"{type(field).__name__} is no nf.fields.Split; make a Split the outermost module, as "
            "nf.fields.Split(attention, feed_forward), inside a DepthVarying where the weights "
            "vary, or take nf.Euler()"
        )
    return len(split.parts)


def all_digits() -> AbstractContextManager:
    """Let products of matrices keep all digits of float32, where a result decides by its digits.

    By default, accelerators round the factors of such products to 11 digits of the binary system or
    fewer. A precision that `jax.default_matmul_precision` names, or an operation itself, stays.

    Returns:
        A context manager. It holds for what is traced inside.
    """
    chosen = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    return jax.default_matmul_precision(chosen or "highest")


def _folded(keys: Array, call: tuple[Any, Any]) -> Array:
    """Fold a key, or an array of keys, with the numbers of a step and of an evaluation in it."""

    def fold(key):
        return jax.random.fold_in(jax.random.fold_in(key, call[0]), call[1])

    return jax.vmap(fold)(keys.reshape(-1)).reshape(keys.shape) if keys.ndim else fold(keys)


def loops_inside(scheme: AbstractSolver) -> str | None:
    """Say why a field's state cannot change in the steps of a scheme.

    Args:
        scheme: The scheme.

    Returns:
        The reason, as a part of an error's text. None means that the state can change.
    """
    if is_explicit(scheme):
        return None
    return (
        f"and {type(scheme).__name__} evaluates it in a loop of its own; take an explicit scheme "
        "for training, or model.eval() to use the state as it is"
    )


# What a field or a model raises where x has a wrong shape, structure or dtype.
MISFITS = (TypeError, ValueError, LookupError, AttributeError, AssertionError)


def velocity_of(
    name: str, field: Callable[..., Any], x: PyTree, t: Real | None, context: PyTree
) -> Any:
    """Evaluate a field, and check its velocity.

    Args:
        name: The name of the field, for the messages.
        field: The field at one depth.
        x: The state, a pytree of arrays.
        t: The depth time, or None.
        context: The context, or None.

    Returns:
        The velocity, in the form of x.

    Raises:
        InputError: The field raises an error on x, which is then the cause. Or the velocity does
            not have the structure, shapes and dtypes of x.
    """
    try:
        v = evaluate(field, x, t, context)
    except InputError:
        raise
    except MISFITS as error:
        raise misfit(f"field {name}", x, error, context) from error
    check_velocity(name, x, v)
    return v


def misfit(what: str, x: PyTree, error: Exception, context: PyTree = None) -> InputError:
    """Return the refusal of an input that a field or a model has raised an error on.

    Args:
        what: The kind and the name of what was called, such as "field MLP".
        x: The input, a pytree of arrays.
        error: What was raised, one of `MISFITS`.
        context: The context, or None.
    """
    kind = InputTypeError if isinstance(error, TypeError) else InputError
    said = (str(error).splitlines() or [""])[0][:300]
    beside = "" if context is None else f" and a context of {jax.tree.map(jnp.shape, context)}"
    it = what.partition(" ")[0]
    return kind(
        f"the {what} cannot be evaluated on x of shape {jax.tree.map(jnp.shape, x)} "
        f"and dtype {jax.tree.map(jnp.result_type, x)}{beside}; give x as the {it} takes it, "
        f"or mend the {it}, which raised {type(error).__name__}: {said}"
    )


def check_velocity(name: str, x: PyTree, v: PyTree) -> None:
    """Refuse a velocity that does not have the structure, shapes and dtypes of x.

    Args:
        name: The name of the field, for the message.
        x: The state.
        v: The velocity at x.

    Raises:
        InputError: The velocity differs from x in one of the three.
    """
    if jax.tree.structure(x) != jax.tree.structure(v):
        raise InputError(
            f"the velocity of {name} must have the structure of x, {jax.tree.structure(x)}, got "
            f"{jax.tree.structure(v)}"
        )
    for (path, a), b in zip(jax.tree.leaves_with_path(x), jax.tree.leaves(v), strict=True):
        where = f" at {jax.tree_util.keystr(path)}" if path else ""
        if jnp.shape(a) != jnp.shape(b):
            raise InputError(
                f"the velocity of {name} must have the shape of x{where}, {jnp.shape(a)}, got "
                f"{jnp.shape(b)}"
            )
        if jnp.result_type(a) != jnp.result_type(b):
            raise InputError(
                f"the velocity of {name} must have the dtype of x{where}, {jnp.result_type(a)}, "
                f"got {jnp.result_type(b)}; cast x to the parameters' dtype, or the velocity to "
                "x.dtype"
            )


def _scatter(gradient: Array, cell: Array, window: Any) -> Array:
    """Add the cotangent of a window to the cotangent of its coefficients, in place."""
    parts = window if isinstance(window, tuple) else (window,)
    for offset, part in enumerate(parts):
        gradient = gradient.at[cell + offset].add(part)
    return gradient


def time_dtype(x: PyTree) -> Any:
    """Return the real dtype in which a solve computes the times of a state.

    Args:
        x: The state, a pytree of arrays.

    Returns:
        The real dtype of all arrays of x: float32 or float64. Times of a state in bfloat16 or
        float16 are float32.

    Raises:
        InputError: x holds no array.
        InputTypeError: The arrays of x differ in precision, or an array is neither floating nor
            complex. Masks and integers belong into the context.
    """
    leaves = jax.tree.leaves(x)
    if not leaves:
        raise InputError("x holds no array; give at least one")
    names = ", ".join(sorted({str(leaf.dtype) for leaf in leaves}))
    if any(not jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves):
        raise InputTypeError(
            f"x must be floating or complex throughout, got {names}; masks and integers are no "
            "state: hand them over as context, layer(x, context=...), or cast x"
        )
    dtypes = {jnp.finfo(leaf.dtype).dtype for leaf in leaves}
    if len(dtypes) != 1:
        raise InputTypeError(f"x must have one precision throughout, got {names}; cast it")
    return jnp.promote_types(dtypes.pop(), jnp.float32)


def check_single(x: PyTree, reason: str) -> None:
    """Refuse states in bfloat16 or float16.

    Args:
        x: The state, a pytree of arrays.
        reason: Who needs more digits, the start of the error's text.

    Raises:
        InputTypeError: x is neither in single nor in double precision.
    """
    dtype = jax.tree.leaves(x)[0].dtype
    if jnp.finfo(dtype).bits < 32:
        raise InputTypeError(
            f"{reason} x to be in float32 or float64, got {dtype}; cast x, and let the field "
            "compute in that precision too"
        )

"""Weights that vary with depth: an NNX module whose parameters are coefficients on a depth basis.

This module also refuses state that no solve can carry, at the time when a field is built.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import core
from jaxtyping import Array, PyTree

from neuralflow import checks
from neuralflow.checks import InputError, InputTypeError
from neuralflow.depth import basis as depth_basis
from neuralflow.depth.basis import Basis, PiecewiseConstant, Side
from neuralflow.depth.initial import Init, independent, tied

ModuleT = TypeVar("ModuleT", bound=nnx.Module)


def check_variables(module: nnx.Module) -> None:
    """Refuse a module with state that a solve cannot carry.

    A solve carries batch statistics and random streams.

    Args:
        module: A field, or a part of a field.

    Raises:
        InputError: The module holds an `nnx.Cache` or an `nnx.Intermediate`.
    """
    for path, node in nnx.iter_graph(module):
        if isinstance(node, (nnx.Cache, nnx.Intermediate)):
            raise InputError(
                f"the field holds mutable state ({type(node).__name__} at '{dotted(path)}'), "
                "which a solve cannot carry; a field may hold batch statistics (nnx.BatchStat) "
                "and random streams, other state stays around it"
            )


def check_statistics(basis: Basis, stack: nnx.Module) -> None:
    """Refuse batch statistics on a basis whose functions reach across cells.

    Args:
        basis: The basis.
        stack: The module that varies with depth.

    Raises:
        InputError: The module holds batch statistics, and the basis is not `PiecewiseConstant`.
    """
    for path, node in nnx.iter_graph(stack):
        if isinstance(node, nnx.BatchStat) and not isinstance(basis, PiecewiseConstant):
            raise InputError(
                f"batch statistics ('{dotted(path)}') belong to the cells of depth, and {basis} "
                f"has values that reach across them; take nf.PiecewiseConstant({basis.count}), "
                "or a norm without state (GroupNorm, LayerNorm)"
            )


def dotted(path: Any) -> str:
    """Return a path in the state of a module as it would be written, such as `layers.0.kernel`.

    Args:
        path: The keys of the path.
    """
    return ".".join(map(str, path))


class DepthVarying(nnx.Module, Generic[ModuleT]):
    """An NNX module whose parameters are functions of normalised depth s in [0, 1].

    The module is built once for each independent draw. The matrix of `init` mixes the draws into
    values at the nodes of the basis. A parameter whose draws are all equal, such as the scale of a
    norm, keeps its value at every depth. The values at the nodes become coefficients: every
    parameter of the attribute `stack` has a leading axis of length `basis.size`, and stays an
    `nnx.Param`. Submodules that the module shares stay shared.

    A `DepthVarying` can stand anywhere in a field. In every evaluation, a `neuralflow.NeuralODE`
    from t0 to t1 replaces it by the module at s = (t - t0) / (t1 - t0). Outside a layer,
    `field.at(s)` returns the plain module of one depth.

    Batch statistics belong to the cells of a `PiecewiseConstant` basis. All depths share one random
    stream, for example of Dropout. The key of each evaluation is folded with the number of the step
    and the number of the evaluation in the step, so that the draws differ.

    Args:
        make: A function that builds the module from `nnx.Rngs`.
        basis: The basis of the functions of depth.
        rngs: The random streams. One key of the stream `params` is split into a key for each draw.
        init: How draws become values at the nodes of the basis: `independent` (one draw per node,
            the default), `tied` (one draw for all nodes), `smooth(length)` or `fractional(hurst)`.
        partition_name: The name of the axis of coefficients in the sharding annotations of
            parameters that have such annotations: the axis of a mesh over which the coefficients
            are spread. None spreads them over no axis.

    Raises:
        InputError: The module holds an `nnx.Cache`, an `nnx.Intermediate` or another
            `DepthVarying`.
        InputError: The module holds batch statistics and the basis is not `PiecewiseConstant`.
        InputError: `init` returns a matrix that is not `(basis.size, draws)`, or not finite. Or the
            matrices of the basis are too large.
        InputTypeError: An argument is of the wrong kind, `make` does not return an `nnx.Module`, or
            a weight is not floating.

    Attributes:
        basis: The basis.
        stack: The module, with coefficients in place of its parameters.

    Example:
        >>> import jax.numpy as jnp
        >>> import neuralflow as nf
        >>> from flax import nnx
        >>> make = lambda rngs: nnx.Linear(2, 2, rngs=rngs)
        >>> field = nf.DepthVarying(make, nf.PiecewiseConstant(4), rngs=nnx.Rngs(0))
        >>> field.stack.kernel.shape
        (4, 2, 2)
        >>> field.at(0.6)(jnp.ones((3, 2))).shape
        (3, 2)
    """

    def __init__(
        self,
        make: Callable[[nnx.Rngs], ModuleT],
        basis: Basis,
        *,
        rngs: nnx.Rngs,
        init: Init = independent,
        partition_name: str | None = None,
    ):
        if not callable(make) or isinstance(make, nnx.Module):
            raise InputTypeError(
                "make must be a function of rngs that builds a module, "
                f"got a {type(make).__name__}: lambda rngs: ..."
            )
        checks.function("make", make, 1)
        checks.instance("basis", basis, Basis, "a depth basis such as nf.PiecewiseConstant(16)")
        checks.instance("rngs", rngs, nnx.Rngs, "nnx.Rngs(seed)")
        checks.function("init", init, 1)
        if partition_name is not None:
            checks.instance("partition_name", partition_name, str, "the name of an axis, or None")
        _check_size(basis)
        nodes = np.asarray(basis.nodes)
        mix = np.asarray(init(nodes))
        fits = mix.ndim == 2 and len(mix) == len(nodes) and mix.shape[1]
        if not fits or mix.dtype.kind not in "iuf":
            raise InputError(
                f"init must return a ({len(nodes)}, draws) matrix of numbers, got shape "
                f"{mix.shape} and dtype {mix.dtype}"
            )
        if not np.isfinite(mix).all():
            raise InputError("init must return finite numbers, got some that are not")
        draws = nnx.vmap(lambda key: _checked_module(make(nnx.Rngs(key))))(
            jax.random.split(rngs.params(), mix.shape[1])
        )
        check_statistics(basis, draws)
        self.basis = basis
        self.stack = _coefficients(basis, draws, mix)
        _annotate(self.stack, lambda axes: (partition_name, *axes))

    @classmethod
    def from_modules(cls, modules: Sequence[ModuleT], basis: Basis) -> DepthVarying[ModuleT]:
        """Return the `DepthVarying` that has the weights of given modules at the nodes of a basis.

        The nodes are `basis.nodes`: cell centres, knots or Gauss points, for example. Submodules
        that one module shares stay shared. Sharing between two modules is lost. The random streams
        are the streams of the first module.

        Args:
            modules: One module for each node, in the order of the nodes. All modules have the same
                class, options, shapes and dtypes.
            basis: The basis of the functions of depth.

        Raises:
            InputError: The number of modules is not `basis.size`.
            InputError: The modules have different structures, shapes or dtypes.
            InputError: A module cannot vary with depth, for the reasons given at the class.
            InputTypeError: `modules` is not a sequence, `basis` is not a basis, an entry is not an
                `nnx.Module`, or a weight is not floating.
        """
        checks.instance("basis", basis, Basis, "a depth basis such as nf.PiecewiseConstant(16)")
        if not isinstance(modules, Sequence | nnx.List) or isinstance(modules, str):
            raise InputTypeError(
                f"modules must be a sequence of {basis.size} modules, got a "
                f"{type(modules).__name__}"
            )
        if len(modules) != basis.size:
            raise InputError(
                f"{basis} takes {basis.size} modules, one per node, got {len(modules)}"
            )
        stack = _coefficients(basis, _stack(modules), np.eye(basis.size))
        _annotate(stack, lambda axes: (None, *axes))
        return cls._of(stack, basis)

    @classmethod
    def from_stack(cls, stack: ModuleT, basis: Basis) -> DepthVarying[ModuleT]:
        """Return the `DepthVarying` whose coefficients are the parameters of a stacked module.

        `nnx.vmap` builds such a module, the way layers are stacked for `nnx.scan`.

        Args:
            stack: A module whose parameters each have a leading axis of length `basis.size`. The
                stack is used as it is, without a copy. Where random streams are stacked too, a copy
                with the streams of the first layer is used.
            basis: The basis of the coefficients.

        Raises:
            InputError: A parameter has another leading axis.
            InputError: The stack holds batch statistics and the basis is not `PiecewiseConstant`.
                Or the stack holds another `DepthVarying`.
            InputTypeError: `stack` is not an `nnx.Module`, `basis` is not a basis, or a weight is
                not floating.

        Example:
            >>> import jax
            >>> import jax.numpy as jnp
            >>> import neuralflow as nf
            >>> from flax import nnx
            >>> make = nnx.vmap(lambda key: nnx.Linear(2, 2, rngs=nnx.Rngs(key)))
            >>> stack = make(jax.random.split(jax.random.key(0), 4))
            >>> field = nf.DepthVarying.from_stack(stack, nf.PiecewiseConstant(4))
            >>> resnet = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=4))
            >>> x = jnp.ones((3, 2))
            >>> @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
            ... def blocks(block, y):
            ...     return y + block(y) / 4
            >>> bool(jnp.allclose(resnet(x), blocks(stack, x)))
            True
        """
        checks.instance("stack", stack, nnx.Module, "an nnx.Module")
        checks.instance("basis", basis, Basis, "a depth basis such as nf.PiecewiseConstant(16)")
        _check_once(stack)
        leaves = [raw(leaf) for leaf in flatten(nnx.state(stack, nnx.Not(nnx.RngState)))[1]]
        for leaf in leaves:
            _check_floating(leaf)
        sizes = {np.shape(leaf)[:1] for leaf in leaves}
        if sizes - {(basis.size,)}:
            raise InputError(
                f"{basis} takes coefficients with a leading axis of {basis.size}, "
                f"got {sorted(sizes)}"
            )
        streams = flatten(nnx.state(stack, nnx.RngState))[1]
        if any(np.shape(raw(stream))[:1] == (basis.size,) for stream in streams):
            stack = _map_arrays(lambda array: array, stack, streams=lambda stream: stream[0])
        return cls._of(stack, basis)

    @classmethod
    def _of(cls, stack: ModuleT, basis: Basis) -> DepthVarying[ModuleT]:
        """Return the `DepthVarying` of a stack of coefficients whose streams are those of one."""
        check_statistics(basis, stack)
        # NNX creates modules by their __init__ alone, so an empty module is created and filled.
        empty: Any = nnx.Module
        field = cls(lambda rngs: empty(), basis, rngs=nnx.Rngs(0), init=tied)
        field.stack = stack
        return field

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse the call: without a depth there are no weights.

        Args:
            *args: Ignored.
            **kwargs: Ignored.

        Raises:
            InputTypeError: Always.

        @public
        """
        raise InputTypeError(
            "a DepthVarying has no weights until its depth is known; "
            "call field.at(s)(x), or put it in a NeuralODE"
        )

    def at(self, s: float, side: Side = "right") -> ModuleT:
        """Return the plain module with the weights of one depth.

        Args:
            s: The normalised depth in [0, 1].
            side: Which one-sided limit to take at a knot, "left" or "right".

        Raises:
            InputError: `s` lies outside [0, 1], or `side` is neither "left" nor "right". Or a
                parameter has another number of coefficients than the basis.
            InputTypeError: `s` is not one number, or is traced; `neuralflow.depth.field_at` takes a
                traced depth.
        """
        if isinstance(s, core.Tracer):
            raise InputTypeError("s must be known, got a traced one; take nf.depth.field_at")
        checks.number("s", s, least=0, most=1)
        checks.choice("side", side, ("left", "right"))
        cell, local = depth_basis.locate(self.basis, np.asarray(s), side)
        module = _map_arrays(
            lambda coefficients: self.basis.value(coefficients, cell, local), self.stack
        )
        _annotate(module, lambda axes: axes[1:])
        return module

    def refine(self, finer: Basis) -> DepthVarying[ModuleT]:
        """Return the same functions of depth on a basis that contains the present basis.

        Args:
            finer: The new basis. It contains the present basis, for example with a multiple of the
                cells.

        Raises:
            InputError: `finer` does not contain the present basis.
            InputError: The module holds batch statistics and `finer` is not `PiecewiseConstant`.
            InputTypeError: `finer` is not a basis.

        Example:
            >>> import jax.numpy as jnp
            >>> import neuralflow as nf
            >>> from flax import nnx
            >>> make = lambda rngs: nnx.Linear(2, 2, rngs=rngs)
            >>> field = nf.DepthVarying(make, nf.PiecewiseConstant(4), rngs=nnx.Rngs(0))
            >>> finer = field.refine(nf.PiecewiseConstant(8))
            >>> bool(jnp.array_equal(finer.at(0.6).kernel[...], field.at(0.6).kernel[...]))
            True
        """
        checks.instance("finer", finer, Basis, "a depth basis such as nf.PiecewiseConstant(16)")
        return self._transform(finer, depth_basis.refinement(self.basis, finer))

    def project(self, target: Basis) -> DepthVarying[ModuleT]:
        """Return the L2-nearest functions of depth on another basis.

        The functions stay the same where the other basis contains the present basis.

        Args:
            target: The new basis.

        Raises:
            InputError: The module holds batch statistics and `target` is not `PiecewiseConstant`.
            InputTypeError: `target` is not a basis.
        """
        checks.instance("target", target, Basis, "a depth basis such as nf.PiecewiseConstant(16)")
        return self._transform(target, depth_basis.projection(self.basis, target))

    def _transform(self, target: Basis, matrix: np.ndarray) -> DepthVarying[ModuleT]:
        def moved(coefficients: Array) -> Array:
            self.basis.check(coefficients)
            return on_rows(matrix, coefficients)

        return self._of(_map_arrays(moved, self.stack), target)


def _check_size(basis: Basis) -> None:
    """Refuse a basis whose square matrices take more than two gigabytes."""
    if basis.size > 2**14:
        raise InputError(
            f"basis must have at most {2**14} coefficients, got {basis.size}; take fewer cells"
        )


def _coefficients(basis: Basis, draws: ModuleT, mix: np.ndarray) -> ModuleT:
    """Return the module of stacked coefficients of a module of stacked draws.

    The matrix `mix` maps the draws to values at the nodes.
    """
    matrix = depth_basis.interpolation(basis) @ mix
    constant = depth_basis.interpolation(basis) @ np.ones(basis.size)
    plain = np.array_equal(matrix, np.eye(len(matrix)))

    def coefficients(values: Array) -> Array:
        _check_floating(values)
        if plain:
            return values
        # A draw that is not random (a norm's scale of one, a bias of zero) keeps its value at every
        # depth.
        same = jnp.all(values == values[0], axis=0)
        return jnp.where(same, on_rows(constant[:, None], values[:1]), on_rows(matrix, values))

    return _map_arrays(coefficients, draws, streams=lambda stacked: stacked[0])


def _check_floating(values: Any) -> None:
    """Refuse coefficients of which no basis makes functions, such as whole numbers."""
    if not jnp.issubdtype(jnp.result_type(values), jnp.inexact):
        raise InputTypeError(
            f"weights that vary with depth must be floating, got {jnp.result_type(values)}; "
            "keep others outside make()"
        )


def on_rows(matrix: np.ndarray, coefficients: Array) -> Array:
    """Return matrix @ coefficients along the first axis.

    A matrix with a single one and zeros in each row copies coefficients to the last bit.

    Args:
        matrix: The matrix `(rows, size)`.
        coefficients: The coefficients `(size, ...)`.

    Returns:
        The new coefficients `(rows, ...)`, in the dtype of `coefficients`.
    """
    if ((matrix != 0).sum(axis=1) == 1).all() and (matrix.max(axis=1) == 1).all():
        return coefficients[matrix.argmax(axis=1)]
    weights = jnp.asarray(matrix, jnp.real(coefficients).dtype)
    return jnp.tensordot(weights, coefficients, axes=1, precision=jax.lax.Precision.HIGHEST)


def _checked_module(module: ModuleT) -> ModuleT:
    if not isinstance(module, nnx.Module):
        raise InputTypeError(
            f"make(rngs) must return an nnx.Module, got {type(module).__name__}; "
            "wrap functions with from_function"
        )
    check_variables(module)
    _check_once(module)
    return module


def _check_once(module: nnx.Module) -> None:
    """Refuse a module whose weights vary with depth already."""
    if any(isinstance(node, DepthVarying) for _, node in nnx.iter_graph(module)):
        raise InputError(
            "a DepthVarying inside a DepthVarying has no meaning; vary the weights once"
        )


def _map_arrays(
    function: Callable[[Array], Array],
    module: ModuleT,
    streams: Callable[[Array], Array] = lambda stream: stream,
) -> ModuleT:
    """Return a new module with a function applied to every array.

    The function `streams` is applied to the arrays of random streams instead. Shared submodules
    stay shared.
    """
    graphdef, random, state = nnx.split(module, nnx.RngState, ...)
    return nnx.merge(graphdef, jax.tree.map(streams, random), jax.tree.map(function, state))


def _annotate(module: nnx.Module, change: Callable[[tuple[Any, ...]], tuple[Any, ...]]) -> None:
    """Change the sharding annotations of the parameters of a module, in place."""
    for _, leaf in nnx.iter_graph(module):
        if isinstance(leaf, nnx.Variable) and not isinstance(leaf, nnx.RngState):
            annotate(leaf, change)


def annotate(variable: nnx.Variable, change: Callable[[tuple[Any, ...]], tuple[Any, ...]]) -> None:
    """Change the sharding annotation of a variable, in place.

    Args:
        variable: The variable. A variable without an annotation stays as it is.
        change: A function from the old names of axes to the new ones.
    """
    axes = variable.get_metadata().get("out_sharding")
    if axes:
        variable.set_metadata(out_sharding=change(tuple(axes)))


def _stack(modules: Sequence[ModuleT]) -> ModuleT:
    """Stack modules of one structure into one module with a new leading axis.

    Different modules raise InputError.
    """
    for k, module in enumerate(modules):
        checks.instance(f"module {k}", module, nnx.Module, "an nnx.Module")
    parts = [nnx.split(_checked_module(module)) for module in modules]
    graphdef, first = parts[0]
    want = _shapes(first)
    for k, (module, (other, state)) in enumerate(zip(modules, parts, strict=True)):
        if _shapes(state) != want:
            raise InputError(
                f"module {k} has parameters {_shapes(state)}, module 0 has {want}; "
                "give modules of one kind"
            )
        if other != graphdef:
            raise InputError(
                f"module {k} is built differently from module 0{_difference(modules[0], module)}; "
                "give modules of one class, one mode and one set of options"
            )
    return nnx.merge(
        graphdef, jax.tree.map(lambda *leaves: jnp.stack(leaves), *(state for _, state in parts))
    )


def _difference(one: nnx.Module, other: nnx.Module) -> str:
    """Return the first option in which two modules differ, as a part of an error's text."""
    if type(one) is not type(other):
        return f": it is a {type(other).__name__}, and not a {type(one).__name__}"
    first, second = options(one), options(other)
    for name in first:
        if name in second and first[name] != second[name]:
            if inspect.isfunction(first[name]) and inspect.isfunction(second[name]):
                return (
                    f": {name} is another function; a lambda in a loop is a new one each time, so "
                    "define one function before and give it to all"
                )
            return f": {name} is {second[name]!r}, and not {first[name]!r}"
    return ""


def options(module: nnx.Module) -> dict[str, Any]:
    """Return what a module holds beside its modules, variables and arrays, by dotted paths.

    Args:
        module: The module.
    """
    return {
        dotted(path): value
        for path, value in nnx.iter_graph(module)
        if not isinstance(value, nnx.Pytree | nnx.Variable | Array | np.ndarray)
        and not any(str(key).startswith("_") for key in path)
    }


def _shapes(state: PyTree) -> dict[str, str]:
    return {
        dotted(path): f"{raw(leaf).dtype}{list(raw(leaf).shape)}"
        for path, leaf in nnx.to_flat_state(state)
    }


def raw(leaf: PyTree) -> Any:
    """Return the value of an NNX variable, and anything else as it is.

    Args:
        leaf: A variable, an array or a number.
    """
    return leaf.get_value() if isinstance(leaf, nnx.Variable) else leaf


def flatten(state: PyTree) -> tuple[list[Any], list[Any]]:
    """Return the paths and the leaves of the state of a module, in the same order.

    Args:
        state: A state, as `nnx.state` or `nnx.split` returns it.
    """
    flat = list(nnx.to_flat_state(state))
    return [path for path, _ in flat], [leaf for _, leaf in flat]

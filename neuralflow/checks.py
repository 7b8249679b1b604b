"""The classes of errors of this package, and checks of arguments that many places share.

The message of a refusal is one sentence that says what was given and what was expected.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import core
from jaxtyping import PyTree

__all__ = ["ExtraMissing", "InputError", "InputTypeError"]
__docformat__ = "google"

MOST_STEPS = 2**24
"""The largest number of steps or cells that is planned: float32 does not count further."""


class InputError(ValueError):
    """Input is wrong and the caller can mend it.

    The message says what was given, what was expected, and the remedy.
    """


class InputTypeError(InputError, TypeError):
    """Input has the wrong type."""


class ExtraMissing(ImportError):
    """A package that an extra of this package brings is not installed.

    The message names the extra.
    """


def whole(name: str, value: Any, least: int = 1, most: int | None = None) -> None:
    """Refuse anything but a whole number in a range.

    Args:
        name: The name of the argument, for the message.
        value: The value to check. A bool is not a whole number.
        least: The smallest value that is allowed.
        most: The largest value that is allowed. None stands for no limit.

    Raises:
        InputError: `value` is less than `least` or greater than `most`.
        InputTypeError: `value` is not a whole number.
    """
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
        raise InputTypeError(f"{name} must be a whole number, got {_shown(value)}")
    if value < least:
        raise InputError(f"{name} must be at least {least}, got {value}")
    if most is not None and value > most:
        raise InputError(f"{name} must be at most {most}, got {value}")


def positive(name: str, value: Any, remedy: str) -> None:
    """Refuse anything but a positive finite number.

    Args:
        name: The name of the argument, for the message.
        value: The value to check.
        remedy: What to do instead, for the message.

    Raises:
        InputError: `value` is not a number, not positive or not finite.
    """
    if not is_number(value) or not value > 0:
        raise InputError(f"{name} is a positive number, got {_shown(value)}; {remedy}")


def choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Refuse a value that is not one of the given choices.

    Args:
        name: The name of the argument, for the message.
        value: The value to check. A string counts as a choice that equals the string. Any other
            value counts only where it is the same object as a choice.
        choices: The choices.

    Raises:
        InputError: `value` is none of the choices.
    """
    if not any(value is known or (isinstance(value, str) and value == known) for known in choices):
        raise InputError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def instance(name: str, value: Any, kind: Any, example: str) -> None:
    """Refuse anything but an instance of a class.

    Args:
        name: The name of the argument, for the message.
        value: The value to check.
        kind: The class.
        example: What to give instead, for the message.

    Raises:
        InputTypeError: `value` is not an instance of `kind`.
    """
    if not isinstance(value, kind):
        raise InputTypeError(f"{name} must be {example}, got {_shown(value)}")


def key(value: Any) -> None:
    """Refuse anything but one random key.

    Args:
        value: The value to check. Typed keys and raw `uint32` keys of shape `(2,)` are allowed.

    Raises:
        InputTypeError: `value` is not a random key, or is an array of several keys.
    """
    typed = (
        isinstance(value, jax.Array)
        and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
        and not value.ndim
    )
    if not typed and not (
        isinstance(value, jax.Array) and value.dtype == jnp.uint32 and value.shape == (2,)
    ):
        raise InputTypeError(
            f"key must be one random key such as jax.random.key(0), got {_shown(value)}"
        )


def known(value: Any) -> Any:
    """Return a value on the host, if it is known there.

    A concrete array stays known under `jax.jit`, where JAX's own functions of it would be traced.
    Checks and arithmetic of known numbers therefore happen in NumPy.

    Args:
        value: A number or an array, traced or not.

    Returns:
        A NumPy array in place of a concrete JAX array, and anything else as it is.
    """
    concrete = isinstance(value, jax.Array) and not isinstance(value, core.Tracer)
    return np.asarray(value) if concrete else value


def forward(what: str, t0: Any, t1: Any) -> None:
    """Refuse an interval that does not run forward between two finite numbers.

    Args:
        what: What the interval belongs to, for the message.
        t0: The start of the interval.
        t1: The end of the interval.

    Raises:
        InputError: `t0` or `t1` is not a finite number, or `t1` is not greater than `t0`.
    """
    if not is_number(t0) or not is_number(t1) or not t0 < t1:
        raise InputError(
            f"{what} runs forward, from a number t0 to a greater t1, got t0={t0!r}, t1={t1!r}"
        )


def function(name: str, value: Any, arguments: int | None = None) -> None:
    """Refuse a value that cannot be called.

    Args:
        name: The name of the argument, for the message.
        value: The value to check.
        arguments: The number of positional arguments of a call, if this is to be checked.

    Raises:
        InputTypeError: `value` is not callable, or not with so many arguments.
    """
    if not callable(value):
        raise InputTypeError(f"{name} must be a function, got {_shown(value)}")
    if arguments is None:
        return
    built = isinstance(value, type)  # The classes of NNX hide what they are built from.
    try:
        signature = inspect.signature(value.__init__ if built else value)
    except (TypeError, ValueError):  # Some functions of other languages do not tell.
        return
    try:
        signature.bind(*[None] * (arguments + built))
    except TypeError:
        raise InputTypeError(
            f"{name} must be a function of {arguments} argument{'s' * (arguments != 1)}, "
            f"got one of {signature}"
        ) from None


def wholes(name: str, value: Any, least: int = 1) -> tuple[int, ...]:
    """Return whole numbers in a row as a tuple, and refuse anything else.

    Args:
        name: The name of the argument, for the message.
        value: A list, a tuple, a range or an array with one axis. It is not empty.
        least: The smallest number that is allowed.

    Returns:
        The numbers.

    Raises:
        InputTypeError: `value` is no such sequence, or holds anything but whole numbers.
        InputError: A number is less than `least`.
    """
    value = known(value)
    row = isinstance(value, Sequence) or (isinstance(value, np.ndarray) and value.ndim == 1)
    if isinstance(value, str) or not row or not len(value):
        raise InputTypeError(
            f"{name} must be a sequence of whole numbers, at least one, got {_shown(value)}"
        )
    for entry in value:
        whole(f"each of {name}", entry, least)
    return tuple(map(int, value))


def array(name: str, value: Any, *axes: int | str, kind: Any = jnp.floating) -> None:
    """Refuse anything but an array of numbers with the given axes.

    Args:
        name: The name of the argument, for the message.
        value: The value to check, traced or not.
        axes: The axes in order: a number for the length of an axis, and a word for an axis of any
            length but zero. "..." in front stands for any axes before.
        kind: The abstract dtype of the numbers: `jnp.floating`, `jnp.inexact` or `jnp.number`.

    Raises:
        InputTypeError: `value` is no array, or holds no numbers of this kind.
        InputError: `value` has other axes.
    """
    wanted = f"{name} must be an array {_form(axes)} of {_KINDS[kind]}"
    if not isinstance(value, jax.Array | np.ndarray):
        raise InputTypeError(f"{wanted}, got {_shown(value)}; write jnp.asarray(...)")
    if not _are(value.dtype, kind):
        raise InputTypeError(f"{wanted}, got {value.dtype}; write {name}.astype(float)")
    _axes(name, value.shape, axes)


def known_numbers(name: str, value: Any, *axes: int | str, finite: bool = True) -> np.ndarray:
    """Return real numbers as an array of float64, and refuse anything else.

    Args:
        name: The name of the argument, for the message.
        value: A number, an array or nested sequences of numbers. It is not traced.
        axes: The axes, as for `array`.
        finite: Whether NaN and infinite numbers are refused.

    Returns:
        The numbers on the host.

    Raises:
        InputTypeError: `value` does not consist of real numbers, or is traced.
        InputError: `value` has other axes, or a number is not finite.
    """
    try:
        array = np.asarray(known(value))
    except (TypeError, ValueError):  # rows of different lengths, or a tracer
        array = np.asarray(None)
    if array.size and not _is_real(array):
        raise InputTypeError(
            f"{name} must be real numbers {_form(axes)}, an array or a list, got {_shown(value)}"
        )
    _axes(name, array.shape, axes)
    array = array.astype(float)
    if finite and not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise InputError(f"{name} must be finite, got {bad} numbers that are not; mend them first")
    return array


def labels(name: str, value: Any, count: int) -> np.ndarray:
    """Return labels in a row as an array, and refuse anything else.

    Args:
        name: The name of the argument, for the message.
        value: The labels, numbers or words.
        count: The number of labels.

    Returns:
        The labels `(count,)` on the host.

    Raises:
        InputTypeError: `value` does not consist of numbers or words.
        InputError: `value` has another shape.
    """
    try:
        array = np.asarray(known(value))
    except (TypeError, ValueError):  # rows of different lengths, or a tracer
        array = np.asarray(None)
    if isinstance(value, str) or array.dtype.kind not in "biufU":
        raise InputTypeError(f"{name} must be {count} numbers or words, got {_shown(value)}")
    _axes(name, array.shape, (count,))
    return array


def states(name: str, value: PyTree) -> None:
    """Refuse anything but an array of numbers, or a pytree of at least one such array.

    Args:
        name: The name of the argument, for the message.
        value: The value to check, traced or not.

    Raises:
        InputTypeError: A leaf is no array of numbers, or there is none.
    """
    leaves = [value] if isinstance(value, Iterator) else jax.tree.leaves(value)
    if not leaves or not all(map(holds_numbers, leaves)):
        raise InputTypeError(
            f"{name} must be an array of numbers or a pytree of such arrays, got {_shown(value)}; "
            f"write jnp.asarray({name})"
        )


def holds_numbers(value: Any) -> bool:
    """Tell whether a value is an array of numbers or of booleans, traced or not.

    Args:
        value: The value.
    """
    dtype = getattr(value, "dtype", None)
    return isinstance(dtype, np.dtype) and _are(dtype, jnp.number, jnp.bool_)


def number(
    name: str,
    value: Any,
    *,
    least: float = -np.inf,
    above: float = -np.inf,
    most: float = np.inf,
) -> None:
    """Refuse anything but one finite real number in a range. A traced number is not compared.

    Args:
        name: The name of the argument, for the message.
        value: The value to check. A NumPy or JAX array without axes is a number, a bool is none.
        least: The smallest number that is allowed.
        above: A number that the value exceeds.
        most: The largest number that is allowed.

    Raises:
        InputError: `value` is not finite, or lies outside of the range.
        InputTypeError: `value` is not one real number.
    """
    given = known(value)
    bounds = [
        f"{sign} {bound:g}"
        for sign, bound in ((">=", least), (">", above), ("<=", most))
        if np.isfinite(bound)
    ]
    wanted = " ".join(["one finite number", " and ".join(bounds)]).strip()
    if isinstance(given, core.Tracer):
        return
    if not is_number(value, finite=False):
        raise InputTypeError(f"{name} must be {wanted}, got {_shown(value)}")
    if not is_number(value) or not (least <= given <= most and given > above):
        raise InputError(f"{name} must be {wanted}, got {_shown(value)}")


def is_number(value: Any, finite: bool = True) -> bool:
    """Tell whether a value is one real number that is known.

    Args:
        value: The value. A NumPy or JAX array without axes is a number, a bool is none.
        finite: Whether the number has to be finite.
    """
    given = known(value)
    if isinstance(given, core.Tracer) or not _is_real(given) or np.ndim(given):
        return False
    if isinstance(given, int):
        return not finite or abs(given) <= _LARGEST
    return not finite or bool(np.isfinite(given))


def plain(name: str, value: Any) -> None:
    """Refuse anything but plain data by name, which JSON gives back as it was.

    Args:
        name: The name of the argument, for the message.
        value: The value to check. Tuples may come back as lists.

    Raises:
        InputError: `value` is no dict of strings, finite numbers, booleans, None, lists and dicts.
    """
    try:
        kept = json.loads(json.dumps(dict(value), allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        kept = None
    if not isinstance(value, Mapping) or kept is None or set(kept) != set(value):
        raise InputError(
            f"{name} must be plain data by name, such as {{'width': 32}}, got {_shown(value)}"
        )


def _form(axes: tuple[int | str, ...]) -> str:
    """Return a shape in words."""
    words = ", ".join(map(str, axes))
    return f"({words},)" if len(axes) == 1 and axes != ("...",) else f"({words})"


def _axes(name: str, shape: tuple[int, ...], axes: tuple[int | str, ...]) -> None:
    """Refuse a shape that does not consist of the given axes."""
    behind = axes[1:] if axes[:1] == ("...",) else axes
    own = shape[len(shape) - len(behind) :] if len(shape) >= len(behind) else ()
    fits = len(own) == len(behind) and (behind is not axes or len(shape) == len(axes))
    if not fits or any(
        n != axis if isinstance(axis, int) else not n for n, axis in zip(own, behind, strict=True)
    ):
        raise InputError(f"{name} must have shape {_form(axes)}, got {shape}")


def row(name: str, value: Any, traced: bool = False) -> Any:
    """Return real numbers in a row as an array, and refuse anything else.

    Args:
        name: The name of the argument, for the message.
        value: An array with one axis, a list, a tuple or a range, with at least one number. An
            sequence may hold numbers of JAX.
        traced: Whether numbers may be traced.

    Returns:
        An array of JAX where a number is traced, and an array of NumPy elsewhere.

    Raises:
        InputError: `value` is empty, or has another number of axes.
        InputTypeError: `value` is no sequence, or holds anything but real numbers. Or a number is
            traced, and must not be.
    """
    given = known(value)
    if isinstance(given, list | tuple | range):
        of_jax = any(isinstance(entry, core.Tracer) for entry in given)
        try:
            given = jnp.stack(list(given)) if of_jax else np.asarray([known(e) for e in given])
        except (TypeError, ValueError):  # rows of different lengths
            given = None
        given = np.zeros(0) if given is not None and not given.size else given
    if isinstance(given, core.Tracer) and not traced:
        raise InputTypeError(f"{name} must be known numbers, got traced ones; make them outside")
    if not isinstance(given, jax.Array | np.ndarray) or not _is_real(given):
        raise InputTypeError(
            f"{name} must be a sequence or one-dimensional array of numbers, got {_shown(value)}"
        )
    if given.ndim != 1 or not given.size:
        shown = f"shape {given.shape}" if given.ndim > 1 else _shown(value)
        raise InputError(f"{name} must be one-dimensional, with at least one number, got {shown}")
    return given


def numbers(name: str, value: Any, *, finite: bool = True) -> Any:
    """Return real numbers as an array, and refuse anything else.

    Args:
        name: The name of the argument, for the message.
        value: The value to check: an array, a number, or sequences of numbers. A bool is not a
            number.
        finite: Whether NaN and infinite numbers are refused. Numbers in a trace are not known.

    Returns:
        A JAX array as it is, and a NumPy array of anything else.

    Raises:
        InputError: A number is not finite.
        InputTypeError: `value` is not made of real numbers, or its rows differ in length.
    """
    array = value
    if not isinstance(value, jax.Array):
        traced = isinstance(value, list | tuple | nnx.Variable) and any(
            isinstance(leaf, core.Tracer) for leaf in jax.tree.leaves(value)
        )
        try:
            array = jnp.asarray(value) if traced else np.asarray(value)
        except (TypeError, ValueError, OverflowError):
            array = np.asarray(None)
    if not _is_real(array):
        kind = "" if array.dtype == object else f" of dtype {array.dtype}"
        raise InputTypeError(f"{name} must be made of real numbers, got {_shown(value)}{kind}")
    if finite and not isinstance(array, core.Tracer) and not np.isfinite(np.asarray(array)).all():
        raise InputError(f"{name} must be finite, got NaN or infinite numbers")
    return array


def arrays(name: str, value: Any) -> None:
    """Refuse anything but a pytree of arrays of numbers, with one array at least.

    Args:
        name: The name of the argument, for the message.
        value: The value to check. Flags, complex numbers and random keys are allowed.

    Raises:
        InputTypeError: A leaf is no array of numbers, or there is no leaf.
    """
    leaves = [] if isinstance(value, Iterator) else jax.tree.leaves(value)
    if not leaves or not all(
        isinstance(leaf, jax.Array)
        or (isinstance(leaf, np.ndarray | np.generic) and leaf.dtype.kind in "biufcV")
        for leaf in leaves
    ):
        raise InputTypeError(
            f"{name} must be an array or a pytree of arrays, got {_shown(value)}; write "
            f"jnp.asarray({name})"
        )


def sequence(name: str, value: Any, what: str) -> tuple[Any, ...]:
    """Return the parts of a sequence, and refuse anything else.

    Args:
        name: The name of the argument, for the message.
        value: A list, a tuple, a range or an array of one axis.
        what: What to give instead, for the message.

    Returns:
        The parts.

    Raises:
        InputTypeError: `value` is no sequence, such as a generator or a text.
    """
    row = isinstance(value, np.ndarray | jax.Array) and value.ndim == 1
    if not row and not isinstance(value, list | tuple | range):
        raise InputTypeError(f"{name} must be {what}, got {_shown(value)}")
    return tuple(np.asarray(value).tolist() if row else value)


def named(name: str, value: Any, kind: Any, example: str) -> None:
    """Refuse anything but a mapping from names to instances of a class, one at least.

    Args:
        name: The name of the argument, for the message.
        value: The value to check.
        kind: The class of the values.
        example: What to give instead, for the message.

    Raises:
        InputTypeError: `value` is no mapping, is empty, or a key is no text or a value of another
            class.
    """
    if (
        not isinstance(value, Mapping)
        or not value
        or not all(isinstance(k, str) and isinstance(v, kind) for k, v in value.items())
    ):
        raise InputTypeError(
            f"{name} must be given by name, at least one, such as {example}, got {_shown(value)}"
        )


def flag(name: str, value: Any) -> None:
    """Refuse anything but True or False.

    Args:
        name: The name of the argument, for the message.
        value: The value to check.

    Raises:
        InputTypeError: `value` is neither True nor False.
    """
    if not isinstance(value, bool | np.bool_):
        raise InputTypeError(f"{name} must be True or False, got {_shown(value)}")


def seed(name: str, value: Any) -> None:
    """Refuse anything but a whole number of at least 0 that 32 bits hold.

    JAX drops further bits where 64 bits are off, and would draw the numbers of another seed.

    Args:
        name: The name of the argument, for the message.
        value: The value to check.

    Raises:
        InputError: `value` is negative, or is 2^32 or more.
        InputTypeError: `value` is not a whole number.
    """
    whole(name, value, least=0, most=2**32 - 1)


def dtype(name: str, value: Any, kind: Any = jnp.inexact) -> None:
    """Refuse anything but the dtype of floating-point numbers.

    Args:
        name: The name of the argument, for the message.
        value: The value to check. None is not a dtype.
        kind: The abstract dtype: `jnp.inexact`, or `jnp.floating` for real numbers.

    Raises:
        InputTypeError: `value` is not such a dtype.
    """
    try:
        right = value is not None and jnp.issubdtype(jnp.dtype(value), kind)
    except TypeError:
        right = False
    if not right:
        raise InputTypeError(
            f"{name} must be a floating-point dtype such as jnp.float32, got {_shown(value)}"
        )


def path(name: str, value: Any) -> None:
    """Refuse anything but the path of a file or a folder.

    Args:
        name: The name of the argument, for the message.
        value: The value to check, a text or a `Path`.

    Raises:
        InputError: The path has the character NUL, which no system allows.
        InputTypeError: `value` is not a path.
    """
    if not isinstance(value, str | os.PathLike):
        raise InputTypeError(f"{name} must be a path, a text or a Path, got {_shown(value)}")
    if "\0" in os.fsdecode(value):
        raise InputError(f"{name} must be a path without the character NUL, got {value!r}")


def rngs(value: Any, stream: str) -> None:
    """Refuse anything but `nnx.Rngs` with a given stream, or with a default.

    Args:
        value: The value to check.
        stream: The name of the stream.

    Raises:
        InputTypeError: `value` is not an `nnx.Rngs`.
        InputError: `value` has no such stream.
    """
    instance("rngs", value, nnx.Rngs, "nnx.Rngs(seed)")
    if not hasattr(value, stream):
        raise InputError(f"rngs has no stream {stream!r} and no default; give nnx.Rngs(seed)")


def held(what: str, count: int, remedy: str) -> None:
    """Refuse an array of more than 2^30 numbers, which are 8 GB in float64.

    Args:
        what: What holds the numbers, for the message.
        count: How many numbers there would be.
        remedy: What to do instead, for the message.

    Raises:
        InputError: There are more numbers.
    """
    if count > 2**30:
        raise InputError(f"{what} would hold more than 2^30 numbers; {remedy}")


_LARGEST = float(np.finfo(np.float64).max)
_KINDS = {
    jnp.floating: "real floating-point numbers",
    jnp.inexact: "floating-point numbers",
    jnp.number: "numbers",
}


def _is_real(value: Any) -> bool:
    """Tell whether a value is a real number or an array of such. A bool is no number."""
    if isinstance(value, int | float):
        return not isinstance(value, bool)
    return isinstance(value, np.number | np.ndarray | jax.Array) and _are(
        value.dtype, jnp.floating, jnp.integer
    )


def _are(dtype: Any, *kinds: Any) -> bool:
    """Tell whether numbers of a dtype are of one of some kinds.

    To NumPy, spans of time are whole numbers. As numbers they would lose their unit.
    """
    span = isinstance(dtype, np.dtype) and dtype.kind == "m"
    return not span and any(jnp.issubdtype(dtype, kind) for kind in kinds)


def _shown(value: Any) -> str:
    """Return the text of a value where the text is short.

    An array is told by its dtype and its shape, and another value by its type.
    """
    text = repr(value)
    if len(text) <= 80 and "\n" not in text:
        return text
    if isinstance(value, np.ndarray | jax.Array):
        return f"an array {value.dtype}{list(value.shape)}"
    return f"a {type(value).__name__}"

"""The classes of errors of this package, and checks of arguments that many places share.

The message of a refusal is one sentence that says what was given and what was expected.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import core
from jaxtyping import PyTree

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
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float | np.floating)
        or not 0 < value < np.inf
    ):
        raise InputError(f"{name} is a positive number, got {value!r}; {remedy}")


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
    numbers = all(
        isinstance(t, int | float | np.number) and not isinstance(t, bool) and np.isfinite(t)
        for t in (t0, t1)
    )
    if not numbers or not t0 < t1:
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
            f"{name} must be a function of {arguments} argument(s), got one of {signature}"
        ) from None


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
    return isinstance(dtype, np.dtype) and any(
        jnp.issubdtype(dtype, kind) for kind in (jnp.number, jnp.bool_)
    )


def number(name: str, value: Any, *, least: float = -np.inf, most: float = np.inf) -> None:
    """Refuse anything but one finite real number in a range. A traced value is not checked.

    Args:
        name: The name of the argument, for the message.
        value: The value to check. A NumPy or JAX array without axes is a number, a bool is none.
        least: The smallest number that is allowed.
        most: The largest number that is allowed.

    Raises:
        InputError: `value` is not finite, or lies outside of the range.
        InputTypeError: `value` is not one real number.
    """
    if isinstance(value, core.Tracer):
        return
    given = known(value)
    wanted = "one finite number"
    wanted += f" >= {least:g}" if least > -np.inf else ""
    wanted += f"{' and' * (least > -np.inf)} <= {most:g}" if most < np.inf else ""
    if not is_number(value, finite=False):
        raise InputTypeError(f"{name} must be {wanted}, got {_shown(value)}")
    if not is_number(value) or not least <= given <= most:
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


_LARGEST = float(np.finfo(np.float64).max)


def _is_real(value: Any) -> bool:
    """Tell whether a value is a real number or an array of such. A bool is no number."""
    if isinstance(value, int | float):
        return not isinstance(value, bool)
    return isinstance(value, np.number | np.ndarray | jax.Array) and any(
        jnp.issubdtype(value.dtype, kind) for kind in (jnp.floating, jnp.integer)
    )


def _shown(value: Any) -> str:
    """Return the text of a value where the text is short, and the type of the value elsewhere."""
    text = repr(value)
    return text if len(text) <= 80 and "\n" not in text else f"a {type(value).__name__}"

"""Calls of the public surface, and the wrong values that each of their arguments must refuse.

A call is written down once with good arguments. A table of wrong values by argument then becomes
one test for each wrong value: the call ends in an `InputError` of one sentence, and the sentence
names the argument. Another test makes the good call, so that no refusal can have another cause.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neuralflow.checks import InputError

Wrong = Mapping[str, Any]
"""Wrong values by a short name."""

NOT_A_NUMBER: Wrong = {"none": None, "text": "1", "list": [1], "object": object()}
NOT_WHOLE: Wrong = {**NOT_A_NUMBER, "half": 1.5, "true": True, "nan": np.nan}
COUNT: Wrong = {**NOT_WHOLE, "zero": 0, "negative": -1}
"""For a whole number of at least 1."""
SEED: Wrong = {**NOT_WHOLE, "negative": -1, "huge": 2**80}
"""For the seed of a random generator."""
NUMBER: Wrong = {
    **NOT_A_NUMBER,
    "nan": np.nan,
    "infinite": np.inf,
    "span": np.timedelta64(1, "h"),
}
"""For a finite number."""
POSITIVE: Wrong = {**NUMBER, "zero": 0.0, "negative": -1.0}
"""For a positive finite number."""
NOT_NEGATIVE: Wrong = {**NUMBER, "negative": -1.0}
"""For a finite number of at least zero."""
FLAG: Wrong = {"none": None, "one": 1, "text": "yes"}
"""For True or False."""
CHOICE: Wrong = {"none": None, "unknown": "other", "number": 1}
"""For one of several words."""
FUNCTION: Wrong = {"none": None, "text": "tanh", "number": 1}
FUNCTION_OF_ONE: Wrong = {**FUNCTION, "of two": lambda a, b: a}
FUNCTION_OF_TWO: Wrong = {**FUNCTION, "of one": lambda a: a, "of three": lambda a, b, c: a}
FUNCTION_OF_THREE: Wrong = {**FUNCTION, "of two": lambda a, b: a}
"""For a function that is called with so many arguments."""
MODULE: Wrong = {**FUNCTION, "function": np.tanh}
"""For an `nnx.Module`."""
PLACE: Wrong = {"number": 1, "list": ["a"], "nul": "a\0b"}
"""For a path."""
KEY: Wrong = {
    "none": None,
    "seed": 0,
    "text": "key",
    "several": jax.random.split(jax.random.key(0)),
    "numbers": np.ones(2),
}
"""For one random key."""
STATE: Wrong = {
    "none": None,
    "text": "x",
    "list": [1.0],
    "object": object(),
    "words": np.array("x"),
    "spans": np.array([1], "m8[h]"),
}
"""For an array or a pytree of arrays."""


def without(wrong: Wrong, *names: str) -> Wrong:
    """Return wrong values without those that this argument takes, such as None for a default."""
    return {name: value for name, value in wrong.items() if name not in names}


ARRAY: Wrong = {
    **without(STATE, "list"),
    "complex": np.ones(3) * 1j,
    "flags": np.ones(3, bool),
    "ragged": [[1.0], [1.0, 2.0]],
    "generator": (x for x in [1.0, 2.0]),
    "function": jnp.tanh,
    "dict": {"a": 1.0},
    "words in a list": ["a", "b", "c"],
    "key": jax.random.key(0),
}
"""For real numbers in an array, a number or sequences."""
NUMBERS: Wrong = {**ARRAY, "nan": np.full(3, np.nan), "infinite": np.full(3, np.inf)}
"""For finite ones."""


class Call(NamedTuple):
    """A call of the public surface.

    Attributes:
        function: The function, class or bound method; a function without arguments that makes the
            bound method goes to `made`.
        good: A function that makes the good arguments by name.
        wrong: The wrong values of every argument.
        said: What the message calls an argument, where this is not its name: a regular expression.
        made: Whether `function` makes what is called.
    """

    function: Callable[..., Any]
    good: Callable[[], dict[str, Any]]
    wrong: Mapping[str, Wrong]
    said: Mapping[str, str] = {}
    made: bool = False

    def __call__(self, **changes: Any) -> Any:
        """Make the call with its good arguments and these changes."""
        called = self.function() if self.made else self.function
        return called(**{**self.good(), **changes})


def refuse(calls: Mapping[str, Call]) -> tuple[Callable[..., None], Callable[..., None]]:
    """Make the two tests of a table of calls: wrong values are refused, good calls are made.

    One case hands all wrong values of one argument over, one after the other.
    """
    cases: Sequence[tuple[str, str]] = [
        (name, argument) for name, call in calls.items() for argument in call.wrong
    ]

    @pytest.mark.parametrize("case", cases, ids="-".join)
    def refused(case: tuple[str, str]) -> None:
        name, argument = case
        call = calls[name]
        word = call.said.get(argument, rf"\b{argument}\b")
        ends = {wrong: _end(call, argument, value) for wrong, value in call.wrong[argument].items()}
        bad = {wrong: end for wrong, end in ends.items() if "\n" in end or not re.search(word, end)}
        assert not bad, bad

    @pytest.mark.parametrize("name", calls)
    def good(name: str) -> None:
        calls[name]()

    return refused, good


def _end(call: Call, argument: str, value: Any) -> str:
    """Return what a call says that is refused, and two lines where it is not."""
    try:
        return f"taken, with the result\n{call(**{argument: value})!r}"
    except InputError as error:
        return str(error)
    except Exception as error:
        return f"ended in\n{error!r}"

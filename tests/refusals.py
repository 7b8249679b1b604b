"""Bad input: a table of calls and of what must be said becomes one test."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest


def refuses(table: Mapping[str, tuple[Callable[[], Any], str]]) -> Callable[..., None]:
    """Makes a test from a table of calls and words by name.

    The test is that each call is refused in one sentence that matches its words.
    """

    @pytest.mark.parametrize("case", table)
    def test(case: str) -> None:
        call, words = table[case]
        with pytest.raises((TypeError, ValueError), match=words) as caught:
            call()
        assert "\n" not in str(caught.value)

    return test

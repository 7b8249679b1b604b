"""Bad input: one test for every table of calls and of what must be said."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest


def refuses(table: Mapping[str, tuple[Callable[[], Any], str]]) -> Callable[..., None]:
    """A test that each call of a table, by name, is refused in one sentence that matches its words."""

    @pytest.mark.parametrize("case", table)
    def test(case: str) -> None:
        call, words = table[case]
        with pytest.raises((TypeError, ValueError), match=words) as caught:
            call()
        assert "\n" not in str(caught.value)

    return test

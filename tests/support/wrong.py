"""Wrong values, which tests of refusals hand over."""

from typing import Any


def wrong(value: Any) -> Any:
    """Return a value that a type checker would refuse, for a test that hands it over on purpose."""
    return value

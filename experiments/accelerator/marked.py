"""The tests that are marked `device`, on the device."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.accelerator.plan import Plan
from experiments.stages.stage import Add, Case, LeftOut

TESTS = Path(__file__).parents[2] / "tests"


def cases(plan: Plan) -> Iterator[Case]:
    try:
        import beartype  # noqa: F401
        import pytest  # noqa: F401
    except ImportError as error:
        raise LeftOut(f"the tests need {error.name}, which is not installed") from None
    chosen = [
        path for path in sorted(TESTS.rglob("test_*.py")) if "mark.device" in path.read_text()
    ]
    if not chosen:
        raise LeftOut(f"{TESTS} holds no test that is marked `device`")
    yield (
        "tests",
        lambda add: _run(chosen[:1] if plan.quick else chosen, 1 if plan.quick else None, add),
    )


def _run(chosen: list[Path], most: int | None, add: Add) -> None:
    """Run the marked tests of some files, or the first few of them, and add a row for each."""
    import pytest

    # The tests' quick compilation is for CPUs.
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
    # No plugin is needed, whichever happen to be installed.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    told = _Told(most, add)
    options = ["-q", "-m", "device", "-p", "no:cacheprovider", "--rootdir", str(TESTS.parent)]
    options += ["-o", "addopts=--import-mode=importlib", *map(str, chosen)]
    code = pytest.main(options, plugins=[told])
    if not told.count:
        raise RuntimeError(f"pytest ended with {code!r} and without a test; its log says why")


class _Told:
    """A plugin of pytest that adds a row for every test."""

    def __init__(self, most: int | None, add: Add):
        self.most, self.add, self.count = most, add, 0

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        del items[slice(self.most, None) if self.most else slice(0)]

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.count += 1
            row = {"test": report.nodeid, "outcome": report.outcome, "seconds": report.duration}
            why = str(report.longrepr)[-500:] if report.outcome == "failed" else ""
            self.add({**row, "why": why})

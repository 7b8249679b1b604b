"""Run the cases of one stage, and write what they measure to standard output, a message a line.

Whatever the cases print goes to standard error. A case that fails is told, and the next one runs.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from experiments.stages.stage import LeftOut


class Stopped(KeyboardInterrupt):
    """The deadline has come, or the run was interrupted. pytest ends at interrupts only."""


def main() -> None:
    program, name, text = sys.argv[1:]
    known = importlib.import_module(f"{program}.plan")
    plan, where = known.Plan(**json.loads(text)), known.STAGES[name].cases
    tell = _messages()
    _end_with_parent()
    signal.signal(signal.SIGTERM, _stop)
    try:
        _run(f"{program}.{where}", plan, tell)
        tell({"peak memory, MB": _peak_memory()})
    except LeftOut as reason:
        tell({"reason": str(reason)})
    except Stopped:
        sys.exit(1)


def _run(where: str, plan: Any, tell: Callable[[dict[str, Any]], None]) -> None:
    """Run the cases that the function `where`, such as `package.module:name`, gives in turn."""
    module, _, function = where.partition(":")
    cases = getattr(importlib.import_module(module), function)
    for case, measure in cases(plan):
        if time.time() >= plan.until:
            tell({"left out": f"{case}: no time was left"})
            continue
        tell({"case": case})
        began = time.perf_counter()
        try:
            measure(lambda row, case=case: tell({"rows": {"case": case, **row}}))
        except LeftOut as reason:
            tell({"left out": f"{case}: {reason}"})
        except Exception as error:
            traceback.print_exc()
            tell({"errors": f"{case}: {type(error).__name__}: {str(error)[:500]}"})
        print(f"{case}: {time.perf_counter() - began:.1f} s", file=sys.stderr, flush=True)


def _messages() -> Callable[[dict[str, Any]], None]:
    """Take standard output for messages, and send what is printed to standard error."""
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(message: dict[str, Any]) -> None:
        lines.write(json.dumps(message, default=float) + "\n")
        lines.flush()

    return tell


def _end_with_parent() -> None:
    """End this process as soon as the process that started it is gone."""
    pipe = os.dup(0)

    def wait() -> None:
        while os.read(pipe, 1):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _stop(*_: Any) -> None:
    raise Stopped


def _peak_memory() -> float | None:
    """Return the most megabytes of device memory that were in use, or None where nobody counts."""
    import jax

    held = jax.devices()[0].memory_stats() or {}
    return held["peak_bytes_in_use"] / 1e6 if "peak_bytes_in_use" in held else None


if __name__ == "__main__":
    main()

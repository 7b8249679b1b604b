"""One layer in a new process: the seconds of its imports, and those until it has computed.

    PYTHON -m experiments.benchmarks.alone MODULE:FUNCTION CASE

CASE is the JSON of the arguments of the function, which builds the layer and computes. The answer
is JSON on standard output. A second call after the first one tells what of the time the process
pays once.
"""

from __future__ import annotations

import importlib
import json
import sys
import time


def main() -> None:
    began = time.perf_counter()
    module, _, function = sys.argv[1].partition(":")
    computes = getattr(importlib.import_module(module), function)
    imports = time.perf_counter() - began
    value = computes(**json.loads(sys.argv[2]))
    print(json.dumps({"imports": imports, "until": time.perf_counter() - began, "value": value}))


if __name__ == "__main__":
    main()

"""Minimisers of ever deeper networks against the minimiser of their limit, on the device.

The minimisers are computed in float64. Their predictions are computed once more in float32.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

import neuralflow as nf
from experiments.accelerator.plan import Plan
from experiments.stages.stage import Add, Case, Row
from neuralflow.labs import deep_limit

SCHEMES = {"euler": nf.Euler(), "heun": nf.Heun()}
DEPTHS = (64, 256, 1024, 4096)


def cases(plan: Plan) -> Iterator[Case]:
    jax.config.update("jax_enable_x64", True)
    x = np.random.default_rng(0).standard_normal((64, 2))
    problem = deep_limit.thorpe_van_gennip(x, (x[:, 0] * x[:, 1] + 0.5 * x[:, 0] > 0).astype(float))
    depths, starts = ((4, 8), 1) if plan.quick else (DEPTHS, 4)
    for name in ("euler",) if plan.quick else SCHEMES:
        yield name, lambda add, name=name: _study(problem, name, depths, starts, add)


def _study(
    problem: deep_limit.Problem, name: str, depths: tuple[int, ...], starts: int, add: Add
) -> None:
    """Minimise at every depth, and add a row for each and the orders at the end."""
    began, study = time.perf_counter(), None
    for what, study in deep_limit.study(problem, {name: SCHEMES[name]}, depths, starts=starts):
        seconds, began = time.perf_counter() - began, time.perf_counter()
        print(f"{name}: {what}, {seconds:.1f} s", flush=True)
        if study.rows:
            add({**_row(problem, study), "seconds": seconds})
    assert study is not None
    orders = study.orders()[name]
    if any(order is not None for order in orders.values()):
        add({"case": f"{name}, orders", **orders})


def _row(problem: deep_limit.Problem, study: deep_limit.Study) -> Row:
    row = study.rows[-1]
    minimum = study.weights[row.scheme, row.depth]
    return {
        "scheme": row.scheme,
        "layers": row.depth,
        "energy": row.energy,
        "gradient": row.gradient,
        "iterations": row.iterations,
        "sup distance": row.distances["sup"],
        "error in float32": _in_float32(problem, row.scheme, minimum),
    }


def _in_float32(problem: deep_limit.Problem, scheme: str, minimum: deep_limit.Minimum) -> float:
    """Return the largest error of the predictions when the network computes in float32."""
    objective = deep_limit.discrete(problem, SCHEMES[scheme], minimum.basis.size - 1)

    def single(tree: Any) -> Any:
        return jax.tree.map(lambda a: np.asarray(a, np.float32), tree)

    def predict(theta: Any, readout: Any, x: Any) -> Any:
        return problem.predict(readout, objective.layer(theta)(x))

    theta, readout, x = single((dict(minimum.theta), dict(minimum.readout), problem.x))
    prediction = jax.jit(predict)(theta, readout, x)
    return float(np.abs(np.asarray(prediction, float) - minimum.prediction).max())

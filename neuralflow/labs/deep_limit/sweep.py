"""Minimisers at many depths against the minimiser of their limit."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from neuralflow import checks, files
from neuralflow.checks import InputError
from neuralflow.depth import Legendre, PiecewiseLinear
from neuralflow.labs.deep_limit.distances import (
    DISTANCES,
    distances,
    expected_order,
    richardson,
    scaled_error,
)
from neuralflow.labs.deep_limit.minimum import (
    Minimum,
    adaptive_energy,
    basins,
    curvature,
    described,
    minimise,
    random_starts,
    recovery,
    restarted,
)
from neuralflow.labs.deep_limit.objective import Objective, continuum, discrete
from neuralflow.labs.deep_limit.pontryagin import pontryagin, residuals
from neuralflow.labs.deep_limit.problem import Problem, Sobolev
from neuralflow.statistics import ASYMPTOTIC, fitted_order

FURTHER = ("recovery", "forward", "residual")
"""What a `Row` tells beside the distances."""


class Kept(NamedTuple):
    """A minimiser and what was measured where it was found."""

    minimum: Minimum
    measured: dict[str, Any]


# Bases that a file may name.
_BASES: dict[str, Any] = {"PiecewiseLinear": PiecewiseLinear, "Legendre": Legendre}


class Folder(MutableMapping[str, Kept]):
    """Minimisers on disk, one .npz file each, written whole or not at all; files that cannot be read are not there."""

    def __init__(self, folder: Path):
        self.folder = folder

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.npz"

    def __getitem__(self, key: str) -> Kept:
        try:
            with np.load(self._path(key), allow_pickle=False) as held:
                arrays = {name: held[name] for name in held.files}
            meta = json.loads(str(arrays.pop("meta")))
            basis = _BASES[meta.pop("basis")](meta.pop("size"))

            def part(group):
                return {
                    k.partition("/")[2]: v for k, v in arrays.items() if k.startswith(f"{group}/")
                }

            measured = meta.pop("measured")
            minimum = Minimum(
                basis=basis,
                theta=part("theta"),
                readout=part("readout"),
                prediction=arrays["prediction"],
                **meta,
            )
            return Kept(minimum, measured)
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            EOFError,
            AttributeError,
            zipfile.BadZipFile,
            zlib.error,
        ):
            raise KeyError(key) from None

    def __setitem__(self, key: str, value: Kept) -> None:
        minimum = value.minimum
        arrays = {f"theta/{name}": a for name, a in minimum.theta.items()}
        arrays |= {f"readout/{name}": a for name, a in minimum.readout.items()}
        (size,) = astuple(minimum.basis)  # pyright: ignore[reportArgumentType]
        meta = {"basis": type(minimum.basis).__name__, "size": size, "measured": value.measured}
        meta |= {name: getattr(minimum, name) for name in ("energy", "gradient", "iterations")}
        self.folder.mkdir(parents=True, exist_ok=True)

        def write(path: Path) -> None:
            with path.open("wb") as file:
                save: Any = np.savez
                held = {"prediction": minimum.prediction, "meta": np.asarray(json.dumps(meta))}
                save(file, **held, **arrays)

        files.write(self._path(key), write)

    def __delitem__(self, key: str) -> None:
        self._path(key).unlink()

    def __iter__(self) -> Iterator[str]:
        return (path.stem for path in sorted(self.folder.glob("*.npz")) if path.stem in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(frozen=True)
class Row:
    """One discrete minimiser: its depth and scheme, how it was reached, and its distances to the limit.

    `recovery`: |E_n(theta) - E| and `forward`: the root mean square error of the predictions, both of the *limit's*
    weights on this network: the recovery sequence, and convergence at fixed parameters. `residual`: the largest
    residual of Pontryagin's equations along depth, relative to what they ask for; NaN where there are none.
    """

    scheme: str
    depth: int
    energy: float
    gradient: float
    iterations: int
    recovery: float
    forward: float
    residual: float
    distances: dict[str, float]


@dataclass(frozen=True)
class Study:
    """Minimisers at many depths against one limit.

    `limit`: the spectral optimum. `limit_error`: its energy against an adaptive solve. `disagreement`: its weights and
    those of the boundary-value problem, sup over depth; NaN where the problem is too large for that. `curvature`: the
    smallest eigenvalue of the Hessian, whitened, at the minimum of smallest depth on the limit's branch. `basins`: energies
    that random starts ended in and how often, "discrete" at the smallest depth and "continuum".
    """

    limit: Minimum
    limit_error: float
    disagreement: float
    curvature: float
    basins: dict[str, list[tuple[float, int]]]
    rows: list[Row] = field(default_factory=list)
    weights: dict[tuple[str, int], Minimum] = field(default_factory=dict)

    def of(self, scheme: str) -> list[Row]:
        """The rows of a scheme."""
        return [row for row in self.rows if row.scheme == scheme]

    @property
    def schemes(self) -> list[str]:
        """Names of the schemes, in their order."""
        return list(dict.fromkeys(row.scheme for row in self.rows))

    def orders(self) -> dict[str, dict[str, float | None]]:
        """Fitted orders by scheme and distance; recovery, forward error and Pontryagin's residual among them."""
        orders: dict[str, dict[str, float | None]] = {}
        for name in self.schemes:
            rows = self.of(name)
            depths = [row.depth for row in rows]
            series = {d: [row.distances[d] for row in rows] for d in DISTANCES}
            series |= {what: [getattr(row, what) for row in rows] for what in FURTHER}
            orders[name] = {what: fitted_order(depths, errors) for what, errors in series.items()}
        return orders

    def extrapolated(self, scheme: str, order: int) -> list[tuple[int, float, float]]:
        """By depth n where 2n was solved too: n, nodal sup error at 2n, and that of Richardson's combination."""
        errors = []
        for row in self.of(scheme):
            coarse, fine = (self.weights.get((scheme, k * row.depth)) for k in (1, 2))
            if coarse is not None and fine is not None:
                target = self.limit.at(coarse.basis.nodes)

                def error(values, target=target):
                    return float(np.abs(values - target)[:-1].max())

                errors.append(
                    (
                        row.depth,
                        error(fine.at(coarse.basis.nodes)),
                        error(richardson(coarse, fine, order)),
                    )
                )
        return errors

    def collapse(self, scheme: str, order: int) -> list[tuple[int, float]]:
        """By depth n where 2n was solved too: how far n^p (theta_n - theta) is from the same curve at 2n, relatively."""
        gaps = []
        for row in self.of(scheme):
            coarse, fine = (self.weights.get((scheme, k * row.depth)) for k in (1, 2))
            if coarse is not None and fine is not None:
                one, two = (
                    scaled_error(coarse, self.limit, order),
                    scaled_error(fine, self.limit, order)[::2],
                )
                gaps.append((row.depth, float(np.abs(one - two).max() / np.abs(two).max())))
        return gaps

    def record(self, schemes: Mapping[str, Any]) -> dict[str, Any]:
        """All numbers of the study as plain data."""
        orders = {name: expected_order(schemes[name], "sup") for name in self.schemes}
        numbers = {
            "limit": {
                "energy": self.limit.energy,
                "energy_against_adaptive": self.limit_error,
                "weights_against_boundary_value_problem": self.disagreement,
                "gradient": self.limit.gradient,
                "smallest_curvature": self.curvature,
                "terms": self.limit.basis.size,
            },
            "basins": self.basins,
            "rows": [asdict(row) for row in self.rows],
            "orders": self.orders(),
            "richardson": {name: self.extrapolated(name, order) for name, order in orders.items()},
            "collapse": {name: self.collapse(name, order) for name, order in orders.items()},
        }
        return files.finite(numbers)


def study(
    problem: Problem,
    schemes: Mapping[str, Any],
    depths: Sequence[int],
    *,
    seed: int = 0,
    starts: int = 8,
    cascade: bool = True,
    kept: MutableMapping[str, Kept] | None = None,
) -> Iterator[tuple[str, Study]]:
    """Minimises E_n for every scheme and depth, and E_infinity on its own; yields (what was done, study so far).

    Random draws, `starts` and half as many, find the minima of the network of smallest depth and those of the continuum,
    which also hears of the network's. The limit is the best of these; every scheme follows the network's minimum on the
    same branch from depth to depth, for a fitted order means something along one branch only. Without `cascade` every
    depth starts from random draws and keeps the best. Where the problem is small the continuum optimum is also found as a
    boundary-value problem, from the coarsest network.

    `kept`: minimisers of an earlier call, by name, that are not computed again; new ones are added as they are found.
    Runs lazily, one minimisation a step. Raises ValueError for depths that cannot be.
    """
    depths = sorted(set(depths))
    checks.instance("problem", problem, Problem, "a Problem such as thorpe_van_gennip(x, y)")
    checks.whole("starts", starts)
    if not isinstance(schemes, Mapping) or not schemes:
        raise InputError(
            f"schemes must be names and schemes, such as {{'euler': nf.Euler()}}, got {schemes!r}"
        )
    if not depths or depths[0] < 2 or any(n != int(n) for n in depths):
        raise InputError(f"depths must be whole numbers >= 2, got {depths}")
    kept = {} if kept is None else kept
    first = discrete(problem, next(iter(schemes.values())), depths[0])
    if not {"limit", "start"} <= set(kept) or kept["start"].minimum.basis != first.basis:
        kept["limit"], kept["start"] = _branch(problem, first, starts, seed)
    limit, at_limit = kept["limit"]
    start, at_start = kept["start"]
    if "boundary" not in kept and _is_small(problem):
        kept["boundary"] = Kept(pontryagin(problem, start), {})
    fine = np.linspace(0, 1, 1001)
    apart = (
        float(np.abs(kept["boundary"].minimum.at(fine) - limit.at(fine)).max())
        if "boundary" in kept
        else np.nan
    )
    met = {"discrete": at_start["basins"], "continuum": at_limit["basins"]}
    done = Study(limit, at_limit["error"], apart, at_start["curvature"], met)
    yield f"continuum, {limit.iterations} iterations", done
    for name, scheme in schemes.items():
        last = start
        for depth in depths:
            key = f"{name}-{depth}"
            if key not in kept:
                objective = discrete(problem, scheme, depth)
                tries = (
                    [restarted(objective, last)]
                    if cascade
                    else random_starts(objective, starts, seed)
                )
                best = minimise(objective, tries)[0]
                kept[key] = Kept(
                    best, _measured(objective, limit) | {"residual": _residual(problem, best)}
                )
            last, measured = kept[key]
            reached = {what: getattr(last, what) for what in ("energy", "gradient", "iterations")}
            seen = {what: measured[what] for what in FURTHER}
            done.rows.append(
                Row(scheme=name, depth=depth, **reached, **seen, distances=distances(last, limit))
            )
            done.weights[name, depth] = last
            yield f"{name}, depth {depth}, {last.iterations} iterations", done


def _branch(problem: Problem, first: Objective, starts: int, seed: int) -> tuple[Kept, Kept]:
    """The best spectral optimum, and the minimiser at the smallest depth that lies on its branch."""
    coarse = minimise(first, random_starts(first, starts, seed))
    whole = continuum(problem)
    fine = minimise(whole, random_starts(whole, max(2, starts // 2), seed + 1))
    # Either side may miss a basin that the other has met.
    carried = minimise(whole, [restarted(whole, m) for m in _different(coarse)])
    limit = min((*fine, *carried), key=lambda m: m.energy)
    back = minimise(first, [restarted(first, limit)])
    start = min((*coarse, *back), key=lambda m: distances(m, limit)["l2"])
    at_limit = {
        "basins": basins(fine),
        "error": abs(limit.energy - adaptive_energy(problem, limit)),
    }
    return Kept(limit, at_limit), Kept(
        start, {"basins": basins(coarse), "curvature": curvature(first, start)}
    )


def _different(minima: Sequence[Minimum]) -> list[Minimum]:
    """One of every energy."""
    return [min(minima, key=lambda m: abs(m.energy - energy)) for energy, _ in basins(minima)]


def _measured(objective: Objective, limit: Minimum) -> dict[str, float]:
    """What the limit's weights do on this network."""
    at_nodes = described(objective, recovery(objective, limit))
    return {
        "recovery": abs(at_nodes.energy - limit.energy),
        "forward": float(np.sqrt(np.mean((at_nodes.prediction - limit.prediction) ** 2))),
    }


def _residual(problem: Problem, minimum: Minimum) -> float:
    """The largest residual of Pontryagin's equations, where they are those of the problem."""
    if not _is_bolza(problem):
        return float("nan")
    return float(np.abs(residuals(problem, minimum).weights).max())


def _is_bolza(problem: Problem) -> bool:
    """Whether Pontryagin's equations are those of the problem."""
    weights = (
        problem.weights.values() if isinstance(problem.weights, Mapping) else [problem.weights]
    )
    return isinstance(problem.penalty, Sobolev) and problem.penalty.power == 1 and min(weights) > 0


def _is_small(problem: Problem) -> bool:
    """Whether the boundary-value problem is worth its equations, 2 samples d + 2 P of them."""
    return _is_bolza(problem) and np.size(problem.x) <= 40


def verdict(
    study: Study, schemes: Mapping[str, Any], tolerance: Mapping[int, float] | None = None
) -> tuple[bool | None, list[str]]:
    """Whether the orders are those expected, and why, in sentences; None where depths are too few to tell.

    `tolerance`: by expected order; +-0.05 for order one, +-0.1 for order two.
    """
    tolerance = tolerance or {1: 0.05, 2: 0.1}
    sentences, agreed, judged = [], True, False
    for name, orders in study.orders().items():
        wrong = []
        for distance, order in orders.items():
            if order is None:
                continue
            judged = True
            want = expected_order(schemes[name], distance)
            if abs(order - want) > tolerance[want]:
                wrong.append(f"{distance} {order:.2f} instead of {want}")
        agreed &= not wrong
        said = "not as expected: " + ", ".join(wrong) if wrong else "as expected in every distance"
        sentences.append(f"{name}: {said}.")
    if not judged:
        return None, [f"No order can be fitted: give at least two depths of {ASYMPTOTIC} or more."]
    return agreed, sentences

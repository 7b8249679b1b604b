"""Studies: minimisers at many depths against the minimiser of their limit.

`study` computes a study, `verdict` judges its orders, and `Folder` keeps minimisers on disk.
"""

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from diffrax import AbstractSolver

from neuralflow import checks, files
from neuralflow.checks import InputError
from neuralflow.depth import Legendre, PiecewiseLinear
from neuralflow.labs.deep_limit.distances import (
    DISTANCES,
    FURTHER,
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
from neuralflow.labs.deep_limit.objective import (
    Objective,
    checked_depths,
    continuum,
    discrete,
)
from neuralflow.labs.deep_limit.pontryagin import pontryagin, residuals
from neuralflow.labs.deep_limit.problem import Problem, Sobolev
from neuralflow.statistics import ASYMPTOTIC, fitted_order


class Kept(NamedTuple):
    """A minimiser, and what was measured when the minimiser was found.

    Attributes:
        minimum: The minimiser.
        measured: The measured numbers, by name.
    """

    minimum: Minimum
    measured: dict[str, Any]


_NUMBERS = ("energy", "gradient", "iterations")

# The bases that a file may name.
_BASES: dict[str, Any] = {"PiecewiseLinear": PiecewiseLinear, "Legendre": Legendre}


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Return a digest of arrays and their names."""
    return files.digest(*(part for name in sorted(arrays) for part in (name, arrays[name])))


class Folder(MutableMapping[str, Kept]):
    """Minimisers on disk, one .npz file each.

    A file is written whole or not at all, and carries a digest of its name, its arrays and its
    numbers. A file that cannot be read, or that does not match its digest, counts as absent.

    Args:
        folder: The folder of the files. The first write makes the folder.
        of: What the minimisers belong to, as plain data by name: the data and the options of the
            study.

    Raises:
        InputError: The folder holds minimisers of something else.
    """

    def __init__(self, folder: Path, of: Mapping[str, Any] | None = None):
        self.folder, self.of = folder, dict(of or {})
        for path in sorted(folder.glob("*.npz")):
            held = self._read(path.stem)
            if held is not None and held[0]["of"] != self.of:
                raise InputError(
                    f"{folder} holds minimisers of other data or options "
                    f"({held[0]['of']} instead of {self.of}); give the same, or another folder"
                )

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.npz"

    def _read(self, key: str) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
        """Return the numbers and the arrays of a file, or None if the file is no good."""
        try:
            # numpy closes no file that it opened itself and cannot read.
            with self._path(key).open("rb") as file, np.load(file, allow_pickle=False) as held:
                arrays = {name: held[name] for name in held.files}
            meta = files.unseal(json.loads(str(arrays.pop("meta"))))
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            EOFError,
            AttributeError,
            NotImplementedError,
            zipfile.BadZipFile,
            zlib.error,
        ):
            return None
        whole = meta["key"] == key and meta["arrays"] == _digest(arrays)
        return (meta, arrays) if whole else None

    def __getitem__(self, key: str) -> Kept:
        read = self._read(key)
        if read is None or read[0]["of"] != self.of:
            raise KeyError(key)
        meta, arrays = read

        def part(group):
            return {k.partition("/")[2]: v for k, v in arrays.items() if k.startswith(f"{group}/")}

        minimum = Minimum(
            basis=_BASES[meta["basis"]](meta["size"]),
            theta=part("theta"),
            readout=part("readout"),
            prediction=arrays["prediction"],
            **{name: meta[name] for name in _NUMBERS},
        )
        return Kept(minimum, meta["measured"])

    def __setitem__(self, key: str, value: Kept) -> None:
        minimum = value.minimum
        arrays = {f"theta/{name}": a for name, a in minimum.theta.items()}
        arrays |= {f"readout/{name}": a for name, a in minimum.readout.items()}
        arrays["prediction"] = minimum.prediction
        (size,) = astuple(minimum.basis)  # pyright: ignore[reportArgumentType]
        meta = {"key": key, "of": self.of, "arrays": _digest(arrays)}
        meta |= {"basis": type(minimum.basis).__name__, "size": size, "measured": value.measured}
        meta |= {name: getattr(minimum, name) for name in _NUMBERS}
        self.folder.mkdir(parents=True, exist_ok=True)

        def write(path: Path) -> None:
            with path.open("wb") as file:
                save: Any = np.savez
                save(file, meta=np.asarray(json.dumps(files.seal(meta))), **arrays)

        files.write(self._path(key), write)

    def __delitem__(self, key: str) -> None:
        self._path(key).unlink()

    def __iter__(self) -> Iterator[str]:
        return (path.stem for path in sorted(self.folder.glob("*.npz")) if path.stem in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(frozen=True)
class Row:
    """One discrete minimiser: how the minimiser was reached, and its distances to the limit.

    Attributes:
        scheme: The name of the scheme.
        depth: The number n of layers.
        energy: The energy of the minimiser.
        gradient: The largest entry of its gradient in whitened coordinates.
        iterations: The number of iterations of L-BFGS.
        recovery: |E_n(theta) - E| for the weights theta of the limit and the energy E of the limit.
            This number belongs to the recovery sequence of Gamma-convergence.
        forward: The root mean square error of this network's predictions with the weights of the
            limit. This number measures convergence at fixed parameters.
        residual: The largest residual of Pontryagin's equations along depth, relative to what the
            equations ask for. NaN where the problem has no such equations.
        distances: The distances to the limit, by the names of `DISTANCES`.
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

    Attributes:
        limit: The spectral optimum of the continuum.
        limit_error: The difference between the energy of the limit and the energy of an adaptive
            solve with the same weights.
        disagreement: The largest difference over depth between the weights of the limit and the
            weights from the boundary-value problem. NaN where the boundary-value problem was not
            solved, because the problem is too large or has no such equations.
        curvature: The smallest eigenvalue of the whitened Hessian, at the minimum of smallest depth
            on the branch of the limit.
        basins: The energies in which random starts ended, and how often each energy occurred.
            "discrete" names the energies at the smallest depth, and "continuum" the energies of the
            continuum.
        rows: The rows of all minimisers so far.
        weights: The minimisers so far, by the name of the scheme and the depth.
    """

    limit: Minimum
    limit_error: float
    disagreement: float
    curvature: float
    basins: dict[str, list[tuple[float, int]]]
    rows: list[Row] = field(default_factory=list)
    weights: dict[tuple[str, int], Minimum] = field(default_factory=dict)

    def of(self, scheme: str) -> list[Row]:
        """Return the rows of a scheme.

        Args:
            scheme: The name of the scheme.

        Raises:
            InputError: The study has no row of the scheme.
        """
        checks.choice("scheme", scheme, tuple(self.schemes))
        return [row for row in self.rows if row.scheme == scheme]

    @property
    def schemes(self) -> list[str]:
        """The names of the schemes, in the order of their rows."""
        return list(dict.fromkeys(row.scheme for row in self.rows))

    def orders(self) -> dict[str, dict[str, float | None]]:
        """Fit the order of every distance of every scheme.

        Returns:
            The orders by scheme and by the names of `DISTANCES` and `FURTHER`. An order is None
            where no order can be fitted.
        """
        orders: dict[str, dict[str, float | None]] = {}
        for name in self.schemes:
            rows = self.of(name)
            depths = [row.depth for row in rows]
            series = {d: [row.distances[d] for row in rows] for d in DISTANCES}
            series |= {what: [getattr(row, what) for row in rows] for what in FURTHER}
            orders[name] = {what: fitted_order(depths, errors) for what, errors in series.items()}
        return orders

    def extrapolated(self, scheme: str, order: int) -> list[tuple[int, float, float]]:
        """Compare Richardson's extrapolation with the plain minimisers.

        Args:
            scheme: The name of the scheme.
            order: The order p of the extrapolation.

        Returns:
            Triples for each depth n where the depth 2n was solved too: n, the nodal sup error of
            the minimiser at depth 2n, and the nodal sup error of the extrapolation from n and 2n.

        Raises:
            InputError: The study has no row of the scheme, or `order` is below 1 or above 16.
            InputTypeError: `order` is not a whole number.
        """
        checks.whole("order", order, most=16)
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
        """Measure how well the scaled errors n^p (theta_n - theta) of different depths agree.

        Args:
            scheme: The name of the scheme.
            order: The order p.

        Returns:
            Pairs for each depth n where the depth 2n was solved too: n, and the largest difference
            between the curves at n and at 2n, relative to the largest entry at 2n.

        Raises:
            InputError: The study has no row of the scheme, or `order` is below 1 or above 16.
            InputTypeError: `order` is not a whole number.
        """
        checks.whole("order", order, most=16)
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

    def record(self, schemes: Mapping[str, AbstractSolver]) -> dict[str, Any]:
        """Return all numbers of the study as plain data.

        None stands in place of numbers that are not finite. A scheme whose limit is another
        equation has no order, and no entries under "richardson" and "collapse".

        Args:
            schemes: The schemes by name, as `study` received them.

        Raises:
            InputError: A scheme of the study is missing, or `expected_order` refuses it.
            InputTypeError: `schemes` is no mapping from names to schemes, or `expected_order`
                refuses a scheme.
        """
        check_schemes(schemes, self.schemes)
        expected = {name: expected_order(schemes[name], "sup") for name in self.schemes}
        orders = {name: order for name, order in expected.items() if order is not None}
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
    schemes: Mapping[str, AbstractSolver],
    depths: Sequence[int],
    *,
    seed: int = 0,
    starts: int = 8,
    cascade: bool = True,
    kept: MutableMapping[str, Kept] | None = None,
) -> Iterator[tuple[str, Study]]:
    """Minimise E_n for every scheme and depth, and E_infinity on its own.

    Random starts find minima of the network of smallest depth and minima of the continuum. The
    continuum is also minimised from the minima of the network. The limit is the best minimum of the
    continuum. Every scheme then follows one minimum from depth to depth: the network's minimum on
    the branch of the limit. A fitted order means something along one branch only.

    A small problem has at most 40 numbers in its inputs. For a small problem with the penalty
    `Sobolev(tau)` and positive weights, the continuum optimum is also found as a boundary-value
    problem, from the network of smallest depth.

    Unsuitable input is refused at once. The iterator is lazy. Its first step finds the limit. Every
    later step minimises at one depth.

    Args:
        problem: The problem.
        schemes: The schemes by name.
        depths: The numbers n of layers.
        seed: The seed of the random starts.
        starts: The number of random starts for the network, at most 65536. The continuum gets half
            as many starts, and two at least.
        cascade: Whether a scheme follows one minimum from depth to depth. Otherwise every depth
            starts from random draws and keeps the best minimum.
        kept: Minimisers of an earlier call, by name, which are not computed again. The study adds
            its new minimisers. Limit and start are computed again for another smallest depth.

    Returns:
        An iterator over pairs: what was done, in words, and the study so far.

    Raises:
        InputError: A depth is below 2 or above 8191, there is no depth, `starts` is below 1 or
            above 65536, or `seed` is negative or 2^63 or more.
        InputTypeError: An argument is of another kind.
    """
    checks.instance("problem", problem, Problem, "a Problem such as thorpe_van_gennip(x, y)")
    check_schemes(schemes)
    depths = sorted(set(checked_depths(depths, least=2)))
    checks.seed("seed", seed)
    checks.whole("starts", starts, most=2**16)
    checks.flag("cascade", cascade)
    kept = {} if kept is None else kept
    checks.instance("kept", kept, MutableMapping, "a mapping such as {} or a Folder")
    return _study(problem, schemes, depths, seed, starts, cascade, kept)


def check_schemes(schemes: Any, names: Sequence[str] = ()) -> None:
    """Refuse anything but schemes by name.

    Args:
        schemes: The value to check.
        names: The names that must be there.

    Raises:
        InputError: A name is missing.
        InputTypeError: `schemes` is no mapping from names to schemes, or is empty.
    """
    checks.named("schemes", schemes, AbstractSolver, "{'euler': nf.Euler()}")
    if not set(names) <= set(schemes):
        raise InputError(f"schemes must hold {sorted(names)}, got {sorted(schemes)}")


def _study(
    problem: Problem,
    schemes: Mapping[str, AbstractSolver],
    depths: Sequence[int],
    seed: int,
    starts: int,
    cascade: bool,
    kept: MutableMapping[str, Kept],
) -> Iterator[tuple[str, Study]]:
    """Yield what `study` returns, for checked arguments."""
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
    """Return the best spectral optimum, and the minimiser of smallest depth on its branch."""
    coarse = minimise(first, random_starts(first, starts, seed))
    whole = continuum(problem)
    fine = minimise(whole, random_starts(whole, max(2, starts // 2), seed + 1))
    # The network and the continuum may each miss a basin that the other has met.
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
    """Return one minimum of every different energy."""
    return [min(minima, key=lambda m: abs(m.energy - energy)) for energy, _ in basins(minima)]


def _measured(objective: Objective, limit: Minimum) -> dict[str, float]:
    """Measure the energy and the predictions of the limit's weights on a network."""
    at_nodes = described(objective, recovery(objective, limit))
    return {
        "recovery": abs(at_nodes.energy - limit.energy),
        "forward": float(np.sqrt(np.mean((at_nodes.prediction - limit.prediction) ** 2))),
    }


def _residual(problem: Problem, minimum: Minimum) -> float:
    """Return the largest residual of Pontryagin's equations along depth.

    The residual is NaN where the equations are not those of the problem.
    """
    if not _is_bolza(problem):
        return float("nan")
    return float(np.abs(residuals(problem, minimum).weights).max())


def _is_bolza(problem: Problem) -> bool:
    """Return whether Pontryagin's equations are those of the problem."""
    weights = (
        problem.weights.values() if isinstance(problem.weights, Mapping) else [problem.weights]
    )
    return isinstance(problem.penalty, Sobolev) and problem.penalty.power == 1 and min(weights) > 0


def _is_small(problem: Problem) -> bool:
    """Return whether the boundary-value problem is worth its 2 samples d + 2 P equations."""
    return _is_bolza(problem) and np.size(problem.x) <= 40


def verdict(
    study: Study,
    schemes: Mapping[str, AbstractSolver],
    tolerance: Mapping[int | None, float] | None = None,
) -> tuple[bool | None, list[str]]:
    """Judge whether the fitted orders of a study are the expected orders.

    No distance may fall under a scheme without an expected order, because the limit of the scheme
    is another equation. A distance may then grow.

    Args:
        study: The study.
        schemes: The schemes by name, as `study` received them.
        tolerance: The accepted difference, by the expected order. The default accepts 0.05 for
            order one and 0.1 for order two. The entry None is the largest fitted order that is
            accepted where no order is expected, 0.1 by default: a fall of 7% from n to 2n layers.

    Returns:
        Whether all orders are as expected, and one sentence for every scheme. None in place of a
        truth value says that there are too few depths.

    Raises:
        InputError: A scheme of the study is missing, or `expected_order` refuses it, or a
            difference is negative or is missing.
        InputTypeError: An argument is of another kind, or `expected_order` refuses a scheme.
    """
    checks.instance("study", study, Study, "a Study such as study(...) yields")
    check_schemes(schemes, study.schemes)
    tolerance = {1: 0.05, 2: 0.1} if tolerance is None else tolerance
    checks.instance("tolerance", tolerance, Mapping, "differences by order, {1: 0.05, 2: 0.1}")
    tolerance = {None: 0.1, **tolerance}
    for order in (1, 2, None):
        checks.number(f"tolerance[{order}]", tolerance.get(order), least=0.0)
    sentences, agreed, judged = [], True, False
    for name, orders in study.orders().items():
        wrong = []
        for distance, order in orders.items():
            if order is None:
                continue
            judged = True
            want = expected_order(schemes[name], distance)
            off = order if want is None else abs(order - want)
            if off > tolerance[want]:
                wrong.append(f"{distance} {order:.2f} instead of {want or 'none'}")
        agreed &= not wrong
        said = "not as expected: " + ", ".join(wrong) if wrong else "as expected in every distance"
        if expected_order(schemes[name], "sup") is None:
            said += "; none may fall, because the limit of the scheme is another equation"
        sentences.append(f"{name}: {said}.")
    if not judged:
        return None, [f"No order can be fitted: give at least two depths of {ASYMPTOTIC} or more."]
    return agreed, sentences

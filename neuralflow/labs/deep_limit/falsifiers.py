"""Changes under which the optimal weights must not converge to the limit: a tool that cannot see these shows nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import jax
import numpy as np

from neuralflow import checks
from neuralflow.checks import InputError
from neuralflow.labs.deep_limit.distances import distances
from neuralflow.labs.deep_limit.minimum import Minimum, minimise, recovery
from neuralflow.labs.deep_limit.objective import continuum, discrete
from neuralflow.labs.deep_limit.problem import Perceptrons, Problem, Sobolev, square
from neuralflow.schemes import Euler
from neuralflow.statistics import ASYMPTOTIC, fitted_order

SAME = 1e-3
"""Minimisers from two starts that are closer than this (L2 over depth) are the same."""

_KINKS = 1e-12  # the fall of the energy at which a search on kinks ends


@dataclass(frozen=True)
class Panel:
    """One change to a problem that converges at order one, and what came of it.

    `to_limit`: by depth, the L2 distance to the limit of the minimiser that starts from the limit's own weights.
    `apart`: by depth, its L2 distance to the one that starts a tenth of their size beside them. `order`: fitted to `to_limit`.
    """

    name: str
    to_limit: Mapping[int, float]
    apart: Mapping[int, float]

    @property
    def order(self) -> float | None:
        """The order at which the distance to the limit falls."""
        return fitted_order(list(self.to_limit), list(self.to_limit.values()))

    @property
    def unique(self) -> bool:
        """Whether both starts end in the same weights."""
        return max(self.apart.values(), default=0.0) <= SAME

    @property
    def converges(self) -> bool:
        """Whether starts agree at every depth and the distance falls at order one."""
        return self.unique and self.order is not None and abs(self.order - 1) <= 0.1

    def sentence(self) -> str:
        """The verdict, with its numbers."""
        least, last = min(self.to_limit), max(self.to_limit)
        evidence = f"from {self.to_limit[least]:.2g} at depth {least} to {self.to_limit[last]:.2g} at {last}"
        if self.order is not None:
            evidence += f", order {self.order:.2f}"
        if not self.unique:
            evidence += f"; two starts end {max(self.apart.values()):.2g} apart"
        return f"{self.name}: {'converges' if self.converges else 'no convergence'}, {evidence}."


def falsify(
    problem: Problem, limit: Minimum, depths: Sequence[int] = (16, 32, 64, 128), *, seed: int = 0
) -> Iterator[Panel]:
    """The problem as it is, then six changes under which its minimisers must not come to its limit; Euler throughout.

    `problem`: of `thorpe_van_gennip`, `limit`: its continuum optimum, such as `study(...)`'s `.limit`. Raises ValueError for fewer than two depths of at
    least 32, which fit no order.
    """
    (weights, tau), depths = _check(problem, limit, depths), sorted(set(depths))
    right = {n: _minima(problem, limit, n, seed) for n in depths}
    yield _panel("the problem as it is", right, limit)
    changed = {
        "no penalty on the weights": replace(problem, weights=dict.fromkeys(weights, 0.0)),
        "an L2 penalty of 1e-3 in place of H1": replace(
            problem, weights=dict.fromkeys(weights, 1e-3), penalty=square
        ),
        "increments weighted by 1 in place of n": replace(problem, penalty=Sobolev(tau, 0.0)),
        "increments weighted by n^2 in place of n": replace(problem, penalty=Sobolev(tau, 2.0)),
    }
    for name, other in changed.items():
        yield _panel(name, {n: _minima(other, limit, n, seed) for n in depths}, limit)
    whole = continuum(replace(problem, weights={name: 1.05 * a for name, a in weights.items()}))
    wrong = minimise(whole, [whole.coordinates(limit.theta, limit.readout)])[0]
    yield _panel("compared with the limit of weights a that are 5% larger", right, wrong)
    yield _panel(
        "layers shuffled",
        {n: [_shuffled(m, seed) for m in pair] for n, pair in right.items()},
        limit,
    )


def kinked(
    problem: Problem, limit: Minimum, depths: Sequence[int] = (16, 32, 64, 128), *, seed: int = 0
) -> Panel:
    """The problem with ReLU in place of its activation, Euler, measured against the optimum of its own continuum problem.

    No falsifier: the theory covers it (Lipschitz, zero at zero). Its minimisers sit on kinks, where gradients do not
    vanish and searches end early, so that two starts may end apart and the panel then says "no convergence"; the
    distance to the limit fell at order one wherever we measured.
    """
    _check(problem, limit, depths)
    other = replace(problem, layer=Perceptrons(problem.x.shape[1], jax.nn.relu))
    whole = continuum(other)
    own = minimise(whole, [whole.coordinates(limit.theta, limit.readout)], progress=_KINKS)[0]
    minima = {n: _minima(other, own, n, seed, _KINKS) for n in sorted(set(depths))}
    return _panel("ReLU, compared with its own limit", minima, own)


def _check(
    problem: Problem, limit: Minimum, depths: Sequence[int]
) -> tuple[Mapping[str, float], float]:
    """The weights a and tau of a problem of the paper."""
    if sum(n >= ASYMPTOTIC for n in set(depths)) < 2:
        raise InputError(f"an order needs two depths of {ASYMPTOTIC} or more, got {list(depths)}")
    checks.instance("problem", problem, Problem, "a Problem such as thorpe_van_gennip(x, y)")
    checks.instance(
        "limit", limit, Minimum, "the continuum optimum of the problem: a study's .limit"
    )
    paper = isinstance(problem.penalty, Sobolev) and isinstance(problem.layer, Perceptrons)
    if not paper or not isinstance(problem.weights, Mapping):
        raise InputError(
            "the falsifiers change the problem of the paper; give one of thorpe_van_gennip"
        )
    return problem.weights, problem.penalty.tau


def _panel(name: str, minima: Mapping[int, Sequence[Minimum]], limit: Minimum) -> Panel:
    return Panel(
        name,
        {n: distances(first, limit)["l2"] for n, (first, _) in minima.items()},
        {n: distances(first, second)["l2"] for n, (first, second) in minima.items()},
    )


def _minima(
    problem: Problem, limit: Minimum, depth: int, seed: int, progress: float = 0.0
) -> list[Minimum]:
    """From the limit's own weights, and from beside them."""
    objective = discrete(problem, Euler(), depth)
    start = recovery(objective, limit)
    noise = np.random.default_rng(seed).standard_normal(len(start))
    beside = start + 0.1 * np.linalg.norm(start) / np.linalg.norm(noise) * noise
    return [minimise(objective, [xi], progress=progress)[0] for xi in (start, beside)]


def _shuffled(minimum: Minimum, seed: int) -> Minimum:
    """The same layers in another order."""
    order = np.random.default_rng(seed).permutation(minimum.basis.size)
    return replace(minimum, theta={name: value[order] for name, value in minimum.theta.items()})

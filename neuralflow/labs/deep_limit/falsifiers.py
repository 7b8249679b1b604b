"""Falsifiers: changes to a problem under which optimal weights must not converge to the limit.

A measurement that cannot see these changes shows nothing. A new falsifier is an entry of `changed`
in `falsify`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import jax
import numpy as np

from neuralflow import checks
from neuralflow.checks import InputError
from neuralflow.labs.deep_limit.distances import distances
from neuralflow.labs.deep_limit.minimum import Minimum, check_minimum, minimise, recovery
from neuralflow.labs.deep_limit.objective import checked_depths, continuum, discrete
from neuralflow.labs.deep_limit.problem import Perceptrons, Problem, Sobolev, square
from neuralflow.schemes import Euler
from neuralflow.statistics import ASYMPTOTIC, fitted_order

SAME = 1e-3
"""Two minimisers are the same when their L2 distance over depth is at most this number."""

_KINKS = 1e-12  # A search on kinks ends when the energy falls by less than this number.


@dataclass(frozen=True)
class Panel:
    """The minimisers of one changed problem, measured against the limit.

    At every depth there are two searches. The first search starts from the weights of the limit.
    The second search starts beside the first start, at a tenth of its norm in whitened coordinates.

    Attributes:
        name: The change in words.
        to_limit: By depth, the L2 distance from the first minimiser to the limit.
        apart: By depth, the L2 distance between the two minimisers.
    """

    name: str
    to_limit: Mapping[int, float]
    apart: Mapping[int, float]

    @property
    def order(self) -> float | None:
        """The fitted order of `to_limit`; None for fewer than two depths of at least 32."""
        return fitted_order(list(self.to_limit), list(self.to_limit.values()))

    @property
    def unique(self) -> bool:
        """Whether both searches end in the same weights at every depth."""
        return max(self.apart.values(), default=0.0) <= SAME

    @property
    def converges(self) -> bool:
        """Whether both searches agree at every depth and the distance falls at order one."""
        return self.unique and self.order is not None and abs(self.order - 1) <= 0.1

    def sentence(self) -> str:
        """Return the verdict on convergence, with its numbers, in one sentence."""
        least, last = min(self.to_limit), max(self.to_limit)
        evidence = (
            f"from {self.to_limit[least]:.2g} at depth {least} to {self.to_limit[last]:.2g} "
            f"at {last}"
        )
        if self.order is not None:
            evidence += f", order {self.order:.2f}"
        if not self.unique:
            evidence += f"; two starts end {max(self.apart.values()):.2g} apart"
        return f"{self.name}: {'converges' if self.converges else 'no convergence'}, {evidence}."


def falsify(
    problem: Problem, limit: Minimum, depths: Sequence[int] = (16, 32, 64, 128), *, seed: int = 0
) -> Iterator[Panel]:
    """Minimise a problem as it is, and then under six changes that must prevent convergence.

    Four changes replace the penalty on the weights: no penalty, an L2 penalty, and a wrong factor 1
    or n^2 of the increments. A fifth change compares the unchanged problem with the limit for
    weights a that are 5% larger. A sixth change shuffles the layers of the minimisers. All panels
    but the fifth change's measure the distance to `limit`.

    The scheme is Euler throughout. The iterator computes one panel at a time. Unsuitable input is
    refused at once.

    Args:
        problem: A problem of `thorpe_van_gennip`.
        limit: The continuum optimum of `problem`, such as the `.limit` of a study.
        depths: The numbers of layers.
        seed: The seed of the second starts, and of the order of shuffled layers.

    Returns:
        An iterator over seven panels. The first panel is the problem without a change.

    Raises:
        InputError: Fewer than two depths are at least 32, so that no order can be fitted, or a
            depth is above 8191, or `seed` is negative or 2^63 or more.
        InputError: `problem` is not a problem of `thorpe_van_gennip`.
        InputTypeError: `problem` is no `Problem`, `limit` is no `Minimum`, or `depths` or `seed` is
            not made of whole numbers.
    """
    (weights, tau), depths = _check(problem, limit, depths, seed)
    return _panels(problem, limit, weights, tau, depths, seed)


def _panels(
    problem: Problem,
    limit: Minimum,
    weights: Mapping[str, float],
    tau: float,
    depths: Sequence[int],
    seed: int,
) -> Iterator[Panel]:
    """Yield the panels of `falsify`, for checked arguments."""
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
    """Minimise a problem with ReLU in place of its activation, and measure against its own limit.

    The scheme is Euler. This change is no falsifier: the theory covers ReLU, which is Lipschitz and
    zero at zero. Minimisers with ReLU sit on kinks, where gradients do not vanish and searches end
    early. Two searches may therefore end apart, and the panel then says "no convergence". The
    distance to the limit fell at order one wherever we measured.

    Args:
        problem: A problem of `thorpe_van_gennip`.
        limit: The continuum optimum of `problem`. Its weights start the search for the optimum with
            ReLU.
        depths: The numbers of layers.
        seed: The seed of the second starts.

    Returns:
        One panel. Its distances are those to the continuum optimum with ReLU.

    Raises:
        InputError: Fewer than two depths are at least 32, so that no order can be fitted, or a
            depth is above 8191, or `seed` is negative or 2^63 or more.
        InputError: `problem` is not a problem of `thorpe_van_gennip`.
        InputTypeError: `problem` is no `Problem`, `limit` is no `Minimum`, or `depths` or `seed` is
            not made of whole numbers.
    """
    _, depths = _check(problem, limit, depths, seed)
    other = replace(problem, layer=Perceptrons(problem.x.shape[1], jax.nn.relu))
    whole = continuum(other)
    own = minimise(whole, [whole.coordinates(limit.theta, limit.readout)], progress=_KINKS)[0]
    minima = {n: _minima(other, own, n, seed, _KINKS) for n in depths}
    return _panel("ReLU, compared with its own limit", minima, own)


def _check(
    problem: Problem, limit: Minimum, depths: Sequence[int], seed: int
) -> tuple[tuple[Mapping[str, float], float], list[int]]:
    """Refuse unsuitable input, and return the weights a and tau of a problem, and the depths."""
    checks.instance("problem", problem, Problem, "a Problem such as thorpe_van_gennip(x, y)")
    check_minimum("limit", limit)
    checks.seed("seed", seed)
    depths = sorted(set(checked_depths(depths)))
    if sum(n >= ASYMPTOTIC for n in depths) < 2:
        raise InputError(f"depths must hold two of {ASYMPTOTIC} or more for an order, got {depths}")
    penalty, weights = problem.penalty, problem.weights
    of_paper = isinstance(problem.layer, Perceptrons)
    if not of_paper or not isinstance(penalty, Sobolev) or not isinstance(weights, Mapping):
        raise InputError(
            "the falsifiers change the problem of the paper; give one of thorpe_van_gennip"
        )
    return (weights, penalty.tau), depths


def _panel(name: str, minima: Mapping[int, Sequence[Minimum]], limit: Minimum) -> Panel:
    return Panel(
        name,
        {n: distances(first, limit)["l2"] for n, (first, _) in minima.items()},
        {n: distances(first, second)["l2"] for n, (first, second) in minima.items()},
    )


def _minima(
    problem: Problem, limit: Minimum, depth: int, seed: int, progress: float = 0.0
) -> list[Minimum]:
    """Minimise from the weights of the limit, and from a start beside these weights."""
    objective = discrete(problem, Euler(), depth)
    start = recovery(objective, limit)
    noise = np.random.default_rng(seed).standard_normal(len(start))
    beside = start + 0.1 * np.linalg.norm(start) / np.linalg.norm(noise) * noise
    return [minimise(objective, [xi], progress=progress)[0] for xi in (start, beside)]


def _shuffled(minimum: Minimum, seed: int) -> Minimum:
    """Return the same layers in a random order."""
    order = np.random.default_rng(seed).permutation(minimum.basis.size)
    return replace(minimum, theta={name: value[order] for name, value in minimum.theta.items()})

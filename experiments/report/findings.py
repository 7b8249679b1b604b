"""What was kept, in sentences: a function for every kept result that needs one.

`FINDINGS` names the functions by the file of the result. The words are written by hand, and every
number comes from the result. Where a sentence holds for some numbers only, its words follow the
numbers, or the function raises a `FindingError`. The rows of the literature have verdicts of their
own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

Record = Mapping[str, Any]
ACCURATE = ("energy", "sup", "l2", "recovery", "forward")
"""Quantities whose order is that of the scheme. Others see that weights are constant on a layer."""


class FindingError(ValueError):
    """A sentence that its result no longer supports."""


def of(name: str, record: Record) -> tuple[str, ...]:
    """Return what was kept, or nothing if no function tells of the result.

    Args:
        name: The file of the result, relative to the experiments and without its ending.
        record: What the file holds.

    Raises:
        FindingError: The result does not support one of the sentences.
    """
    return tuple(FINDINGS[name](_flat(record))) if name in FINDINGS else ()


def _flat(record: Record) -> dict[str, Any]:
    """Return options and measurements side by side, wherever a result has them."""
    inner = record.get("result", {})
    return {**record.get("options", {}), **inner.get("options", {}), **record, **inner}


def _require(holds: Any, words: str) -> None:
    if not holds:
        raise FindingError(f"the result does not show that {words}; write its finding anew")


def _span(values: Iterable[float], digits: int = 2) -> str:
    """Return the least and the largest of some numbers, or the one that they share."""
    held = list(values)
    low, high = (f"{value:z.{digits}f}" for value in (min(held), max(held)))
    return low if low == high else f"{low} to {high}"


def _mean(summary: Record, digits: int = 2, unit: str = "") -> str:
    """Return a mean, and its interval if it has one."""
    mean = f"{summary['mean']:z.{digits}f}{unit}"
    known = summary["interval"][0] is not None
    return f"{mean} ({_span(summary['interval'], digits)})" if known else mean


def _negative(summary: Record) -> dict[str, Any]:
    """Return the summary of the numbers of the other sign."""
    low, high = summary["interval"]
    known = low is not None
    return {"mean": -summary["mean"], "interval": [-high, -low] if known else [None, None]}


def _holds_zero(interval: Sequence[float]) -> bool:
    return interval[0] <= 0 <= interval[1]


def _and(texts: Iterable[str]) -> str:
    *first, last = texts
    return f"{', '.join(first)} and {last}" if first else last


def _of(count: int, total: int) -> str:
    return f"all {total}" if count == total else f"{count or 'none'} of {total}"


def _orders(orders: Record) -> str:
    """Return the orders of `ACCURATE` by scheme, from summaries or from single numbers."""

    def mean(value: Any) -> float:
        return value["mean"] if isinstance(value, Mapping) else value

    return _and(
        f"{_span(mean(row[name]) for name in ACCURATE)} with {scheme.capitalize()}"
        for scheme, row in orders.items()
    )


# Deep limits


def plane(kept: Record) -> Iterable[str]:
    draws = kept["draws"].values()
    yield (
        f"Over {len(draws)} draws of points in the plane and {_span(kept['depths'], 0)} layers, "
        "energy, weights and states come to the continuum optimum at orders of "
        f"{_orders(kept['orders'])}."
    )
    apart = [draw["optima_apart"] for draw in draws if draw["optima_apart"] is not None]
    if apart:
        yield f"Two independent continuum optima agree to {max(apart):.1e}."
    panels = [panel for draw in draws for panel in draw["falsifiers"]]
    if panels:
        right = [panel for panel in panels if panel.startswith("the problem as it is")]
        wrong = [panel for panel in panels if panel not in right]
        yield (
            f"The problem as it is converges in {_of(_converge(right), len(right))} cases, and of "
            f"the falsifiers {_of(_converge(wrong), len(wrong))}."
        )


def _converge(panels: Sequence[str]) -> int:
    return sum(": converges," in panel for panel in panels)


def digits(kept: Record) -> Iterable[str]:
    kinds = {name: kind for name, kind in kept.items() if _is_study(kind)}
    for name, kind in kinds.items():
        yield (
            f"Layers {name} over {len(kind['draws'])} pairs of digits: energy, weights and states "
            f"come to the continuum optimum at orders of {_orders(kind['orders'])}."
        )
    if all(d["optima_apart"] is None for kind in kinds.values() for d in kind["draws"].values()):
        yield (
            "The boundary-value problem of so many samples is too large, so that there is no "
            "second optimum to compare with."
        )


def _is_study(value: Any) -> bool:
    return isinstance(value, Mapping) and {"orders", "draws"} <= value.keys()


def sweep(kept: Record) -> Iterable[str]:
    yield (
        f"From {_span(kept['depths'], 0)} layers, energy, weights and states come to the continuum "
        f"optimum at orders of {_orders(kept['orders'])}."
    )


def mnist(kept: Record) -> Iterable[str]:
    runs, depths = kept["by learning rate"].values(), kept["depths"]
    accuracies = 100 * np.asarray([run["test accuracy"] for run in runs])  # (rates, depths, seeds)
    means, single = np.ptp(accuracies.mean(axis=2), axis=1), np.ptp(accuracies, axis=1)
    distances = [values for run in runs for values in run["distances"].values()]
    fall = sum(values == sorted(values, reverse=True) for values in distances)
    yield (
        f"From {depths[0]} to {depths[-1]} layers, {_of(fall, len(distances))} distances of "
        "weights, outputs and losses to those of the deepest network fall from depth to depth, "
        f"and mean accuracies over {accuracies.shape[2]} seeds differ at most by {means.max():.2f} "
        f"points between depths (those of a single seed by up to {single.max():.2f})."
    )
    best = kept["best learning rate"]
    if len(set(best.values())) == 1:
        yield f"One learning rate, {best[min(best)]}, is the best at {_and(best)} layers."
    else:
        yield f"The best learning rates are {_and(f'{r} at {n} layers' for n, r in best.items())}."


def certificates(kept: Record) -> Iterable[str]:
    networks = kept["networks"]
    for verdict in sorted({network["verdict"] for network in networks.values()}):
        names = [name for name, network in networks.items() if network["verdict"] == verdict]
        yield f'Verdict "{verdict}": {"; ".join(names)}.'
    for name, network in networks.items():
        outputs = network["layers"]["flow"]["outputs"]
        if network["verdict"] == "not an ODE" and outputs["verdict"] == "pass":
            yield (
                f'No solver tells "{name}" from an ODE: its outputs are within '
                f"{outputs['value']:.3f} of those of the exact flow of its weights."
            )


# Classifiers, depth as a resource


def classifiers(kept: Record) -> Iterable[str]:
    for row in kept["rows"]:
        scheme = row["command"].rpartition("--scheme ")[2].capitalize()
        remark = f" ({row['remark']})" if "remark" in row else ""
        yield (
            f"With {scheme} MNIST is learned to {row['test accuracy']:.1%} in {row['seconds']:.0f} "
            f"seconds, at {row['evaluations a pass']:.0f} evaluations of the field a pass{remark}."
        )


def evaluations(kept: Record) -> Iterable[str]:
    tolerance, kinds = min(kept["tolerances"].items(), key=lambda item: float(item[0]))
    rates = {name: kind["learning rate"] for name, kind in kept["kinds"].items()}
    _require(2 * rates["none, half the rate"] == rates["none"], "one rate is half of the other")

    def saved(kind: str) -> str:
        summary = kinds[kind]["evaluations saved, %"]
        return _mean(summary, 0, "%")

    def needed(kind: str) -> str:
        return f"{kinds[kind]['evaluations']['mean']:.0f}"

    yield (
        "A penalty on the third total derivative along the paths saves an adaptive layer "
        f"{saved('order 3')} of its evaluations on MNIST's test images at tolerances of "
        f"{tolerance}, and changes its accuracy by "
        f"{_mean(_negative(kinds['order 3']['points lost']))} points ({len(kept['runs']['none'])} "
        "seeds)."
    )
    yield (
        f"Half of the learning rate alone saves {saved('none, half the rate')}: the penalty at the "
        f"full rate takes {needed('order 3')} evaluations where that takes "
        f"{needed('none, half the rate')}."
    )
    yield f"The second derivative saves {saved('order 2')}, the squared speed {saved('speed')}."


def ladder(kept: Record) -> Iterable[str]:
    rows, levels = kept["rows"], kept["levels"]

    def lost(kind: str, unit: str = " points") -> str:
        return _mean(rows[kind]["points lost"], 2, unit)

    whole, steps = rows["carried"], kept["times"]["ladder over direct"]["median"]
    yield (
        f"The ladder of {_and(map(str, levels))} steps loses {lost('carried')} against "
        f"{levels[-1]} steps from the start, in {steps:.2f} of the time of training steps "
        f"({len(kept['runs']['direct'])} seeds)."
    )
    yield (
        f"Every level compiles anew, so that {kept['epochs']} epochs take "
        f"{whole['cold cache']['median']:.2f} times as long in all, and "
        f"{whole['warm cache']['median']:.2f} times with a warm cache."
    )
    pays = rows["shallow"]["points lost"]["interval"][0] > 0
    yield (
        f"{levels[0]} steps to the end lose {lost('shallow')}, so that depth "
        f"{'pays' if pays else 'does not pay'} here; with blocks of {levels[-1] // levels[0]} "
        f"times as many hidden units they lose {lost('wide', '')}."
    )


def importing(kept: Record) -> Iterable[str]:
    runs = kept["runs"]
    small = [kind for kind in runs if "1/n" in kind]
    ordinary = [kind for kind in runs if kind not in small and "ReLU" not in kind]

    def lost(column: str, kinds: Sequence[str]) -> list[float]:
        return [run["trained"] - run[column] for kind in kinds for run in runs[kind]]

    seconds = [run["seconds"] for kind in ordinary for run in runs[kind]]
    yield (
        f"Trained ResNets of {kept['blocks']} blocks on {kept['cells']} linear cells of depth, "
        f"{len(runs[small[0]])} seeds: with h = 1/n and layers that begin equal or smooth, the "
        f"projection alone loses at most {max(lost('projected', small)):.2f} points."
    )
    yield (
        "With h = 1, and tanh or batch norm, the projection loses "
        f"{_span(lost('projected', ordinary), 0)} points, and "
        f"{_span(lost('aligned', ordinary), 0)} where hidden units are aligned first; the fit to "
        f"the states, without labels and in {_span(seconds, 0)} seconds of one core "
        f"({kept['steps']} steps), loses {_span(lost('fitted', ordinary))}."
    )
    yield (
        f"ReLU without a norm ends up to {max(lost('fitted', ['h = 1, ReLU'])):.1f} points short "
        "after the fit."
    )


def tradeoff(kept: Record) -> Iterable[str]:
    own, *others = kept["table"]["choices"]

    def of_euler(steps: str) -> Record:
        start = f"Euler, {steps}, PiecewiseConstant"
        return next(row for row in others if row["choice"].startswith(start))

    few, one = of_euler(f"{kept['cells']} steps"), of_euler("1 step")
    yield (
        f"One trained network of {kept['blocks']} Euler steps under other steps, schemes and "
        f"bases, without training: {own['accuracy']:.2%} as trained, {few['accuracy']:.2%} with "
        f"{kept['cells']} Euler steps in {few['time']:.2f} of the time, {one['accuracy']:.2%} with "
        "one step."
    )
    apart = sum(not _holds_zero(row["change"]) for row in others)
    yield (
        f"The intervals of {_of(len(others) - apart, len(others))} differences to the network as "
        "trained hold zero."
    )


# Transformers


def language(kept: Record) -> Iterable[str]:
    yield (
        f"{kept['depth']} blocks of width {kept['width']} that see {kept['context']} characters "
        f"need {kept['test, bits per character']:.2f} bits on the test part after "
        f"{kept['seconds of training']:.0f} seconds of training, where unigrams need "
        f"{kept['unigrams, bits']:.2f} bits per character."
    )


def limits(kept: Record) -> Iterable[str]:
    rows, runs, steps = kept["summary"], kept["runs"], kept["steps"]

    def order(setting: str, after: int) -> str:
        return _mean(rows[f"{setting}, {after} steps"]["order of outputs"])

    def stuck(setting: str) -> str:
        gaps = [seed[str(steps[-1])]["outputs"] for seed in runs[setting].values()]
        count = sum(2 * gap[-1] > gap[0] for gap in gaps)
        return f"in {_of(count, len(gaps))} seeds the gap does not fall to half of its size"

    yield (
        "Under SGD the gaps of outputs to the deepest network fall at order "
        f"{order('sgd', steps[0])} after {steps[0]} steps and {order('sgd', steps[-1])} after "
        f"{steps[-1]}."
    )
    yield (
        f"They fall under Adam at order {order('adam', steps[0])} and {order('adam', steps[-1])} "
        f"({stuck('adam')}); with a head that starts larger, Adam comes to "
        f"{order('adam, large head', steps[-1])}."
    )
    fast = rows[f"sgd, fast, {steps[-1]} steps"]
    losses = np.ptp([loss["mean"] for loss in fast["losses"]])
    yield (
        f"At the faster rate of SGD the order is {order('sgd, fast', steps[-1])} after {steps[-1]} "
        f"steps, although test losses of all depths agree to {losses:.2f} bits: such a training "
        f"makes a small difference at the start {_mean(fast['growth'], 0)} times as large."
    )


def rates(kept: Record) -> Iterable[str]:
    powers = {name.partition(", ")[2] for name in kept["summary"]}

    def best(alpha: int) -> tuple[str, Record]:
        rows = {power: kept["summary"][f"alpha = {alpha}, {power}"] for power in powers}
        return min(rows.items(), key=lambda item: next(iter(item[1].values()))["mean"])

    (scaled, with_it), (plain, without) = best(1), best(0)
    few, many = list(with_it)[:2]
    yield (
        f"From {few} to {many}, at the learning rate that is best for {few}: with branches that "
        "are multiplied by a number proportional to 1/L the loss changes by "
        f"{_mean(with_it['change'])} bits (rate {scaled}), without it by "
        f"{_mean(without['change'])} (rate {plain})."
    )


def sphere(kept: Record) -> Iterable[str]:
    yield (
        "Particles on the sphere under attention without weights meet at rate "
        f"{kept['rate of 1 - cos, b = 1']:.3f}."
    )


# Residual networks, plain nets and flows


def lm_resnet(kept: Record) -> Iterable[str]:
    errors, seeds = kept["test error"], len(kept["runs"]["lm"])
    yield (
        f"On {kept['samples']} images and {kept['epochs']} epochs the test error is "
        f"{errors['resnet']['mean']:.1f}% for the ResNet and {errors['lm']['mean']:.1f}% for the "
        f"LM-ResNet, a difference of {_mean(errors['lm - resnet'])} points ({seeds} paired seeds)."
    )


def plain_net(kept: Record) -> Iterable[str]:
    rows, same, runs = kept["rows"], kept["digits"]["same"], kept["digits"]["runs"]
    yield (
        f"On {len(rows['decomposition'])} random nets the decomposition is off by at most "
        f"{max(rows['decomposition']):.0e}, and the orders of the residual networks are "
        f"{_span(rows['order, euler'])} with Euler and {_span(rows['order, cayley'])} with Cayley."
    )

    def loss(name: str) -> str:
        return _span([run[-1]["validation_loss"] for run in runs[name]], 3)

    yield (
        f"A net of digits becomes a ResNet with {_span([100 * s['equal'] for s in same], 0)}% of "
        f"its predictions; trained on, it comes to a test loss of {loss('refined')}, where the "
        f"plain net comes to {loss('plain net, longer')} and a ResNet from scratch to "
        f"{loss('from scratch')} ({len(same)} seeds)."
    )


def densities(kept: Record) -> Iterable[str]:
    rows, nats = kept["results"], "negative log-likelihood"
    apart = max(abs(row["neuralflow"][nats] - row["plain diffrax"][nats]) for row in rows)
    medians = [row["plain diffrax over neuralflow"][1] for row in rows]
    yield (
        f"On {_and(dict.fromkeys(row['set'] for row in rows))} the negative log-likelihoods are "
        f"{_span([row['neuralflow'][nats] for row in rows])} nats, within {apart:.0e} of those of "
        f"plain diffrax, whose steps take {_span(medians)} times as long."
    )


def drawn(kept: Record) -> Iterable[str]:
    for name, row in kept["sets"].items():
        yield (
            f"Fitted for {kept['epochs']} epochs, {name} has {row['nats']:.2f} nats and a mass of "
            f"{row['mass']:.3f} on the square that is drawn."
        )


def diffeo(kept: Record) -> Iterable[str]:
    networks: dict[tuple[str, str], dict[bool, list[Record]]] = {}
    for row in kept["rows"]:
        by_control = networks.setdefault((row["set"], row["weights"]), {False: [], True: []})
        by_control[row["control"]].append(row)

    def folding(control: bool) -> str:
        rows = [row for row in kept["rows"] if row["control"] is control]
        folded = {row["set"] for row in rows if row["folded, %"] > 0}
        return f"{_of(len(folded), len({row['set'] for row in rows}))} sets"

    def accuracy(rows: Sequence[Record]) -> float:
        return float(np.mean([row["accuracy, %"] for row in rows]))

    gained = [accuracy(rows[True]) - accuracy(rows[False]) for rows in networks.values()]
    yield (
        f"Without a bound on their blocks, trained residual networks fold on {folding(False)}, "
        f"with it on {folding(True)}, at mean accuracies from {-min(gained):.1f} points less to "
        f"{max(gained):.1f} more."
    )

    def fields(bounded: bool) -> str:
        folded = [r["folded"] > 0 for r in kept["random fields"] if r["bounded"] is bounded]
        return _of(sum(folded), len(folded))

    yield (
        f"Of random fields in the plane {fields(False)} fold without a bound, and {fields(True)} "
        "with it."
    )


def outlines(kept: Record) -> Iterable[str]:
    rows = kept["rows"]
    least = min(row["least det"] for row in rows)
    yield (
        f"Outlines of {len(rows)} pairs of digits are {_span([r['after'] for r in rows], 4)} apart "
        f"after their registration, {_span([r['apart before'] for r in rows])} before it."
    )
    yield (
        f"The least determinant is {least:.2f}, so that "
        f"{'nothing folds' if least > 0 else 'it folds'}, and maps are inverted to "
        f"{max(row['inverse error'] for row in rows):.0e}."
    )


def operators(kept: Record) -> Iterable[str]:
    less, spread = "less the ResNet's", []

    def compared(entry: Record, model: str) -> str:
        spread.append(_holds_zero(entry[model][less]["interval"]))
        share = entry[model]["weights"] / entry["ResNet"]["weights"]
        step = entry["step over the ResNet's"][model]["median"]
        return (
            f"{_mean(entry[model][less], 1)} points ({model}: {share:.2f} of the weights, a step "
            f"takes {step:.2f} times as long)"
        )

    models = ("operators, equal width", "operators, equal weights", "separable, equal weights")
    for name, entry in kept["sets"].items():
        errors = _and(compared(entry, model) for model in models)
        yield f"Test errors on {name}, {less}, are {errors}."
    yield (
        f"The intervals of {_of(sum(spread), len(spread))} of these differences hold zero, over "
        f"{len(next(iter(kept['sets'].values()))['ResNet']['seeds'])} paired seeds."
    )


def gradients(kept: Record) -> Iterable[str]:
    depth = max(row["depth"] for row in kept["rows"])
    (row,) = (r for r in kept["rows"] if r["depth"] == depth and r["kind"] == "h = 1/√N")
    after, shares = row["after"], row["after"]["share up to"]
    limit = sorted(shares, key=int)[len(shares) // 2]
    longer = sum(math.comb(depth, k) for k in range(depth // 2 + 1, depth + 1)) / 2**depth
    left = f"{after['without skips']:.0e}" if after["without skips"] else "nothing"
    yield (
        f"At depth {depth} with h = 1/√N, trained, paths through at most {limit} branches carry "
        f"{shares[limit]:.0%} of the gradient; the mean length of all paths is {depth // 2} "
        f"({longer:.1%} are longer), and without skips {left} is left of it."
    )


def stochastic_depth(kept: Record) -> Iterable[str]:
    names = {"resnet": "the ResNet", "lm": "the LM-ResNet"}
    for name, row in kept.items():
        model, _, kind = name.partition(", p = ")
        if kind:
            ratios = row["time over that without"]
            yield (
                f"Stochastic depth (p = {kind}) changes the test error of {names[model]} by "
                f"{_mean(row['less that without'], 1)} points after {kept['epochs']} epochs on "
                f"{kept['samples']} images, and its epochs take {np.median(ratios):.2f} times as "
                f"long ({_span(ratios)} over {len(ratios)} seeds)."
            )


def weak_errors(kept: Record) -> Iterable[str]:
    networks = kept["networks"]
    orders = (
        f"{_mean({'mean': row['order'], 'interval': row['interval']})} with {_noise(name)}"
        for name, row in networks.items()
    )
    steps = kept["steps"]
    yield f"The slope of weak errors at {steps[0]} to {steps[-1]} blocks is {_and(orders)}."
    yield (
        "Where the third moment of the noise is not zero (p is not one half) the order is one "
        "half in the limit: at these depths a term of order h has the other sign."
    )
    seconds = [row["seconds"]["one network"] for row in networks.values()]
    yield f"{kept['paths']} paths of one network take {_span(seconds, 0)} seconds."


def _noise(name: str) -> str:
    kind, _, survival = name.partition(", ")
    kind = f"stochastic {kind}" if kind == "depth" else kind
    return f"{kind} ({survival})" if survival else kind


def stable_steps(kept: Record) -> Iterable[str]:
    bounded = [row for row in kept["rows"] if "at the limit" in row]
    loose = kept["stable one per cent above"]
    yield (
        f"Of {kept['equations and schemes']} pairs of equation and scheme {len(bounded)} have a "
        f"longest stable step: there waves grow by {kept['largest excess at the limit']:.0e} more "
        f"than is allowed at most, and {_of(len(bounded) - loose, len(bounded))} are unstable one "
        "per cent above."
    )


# Rows of the literature: their verdicts stand beside them


def marion(kept: Record) -> Iterable[str]:
    statements = {each["measured"]: each for each in kept["statements"]}
    runs = {run["protocol"]: run for run in kept["runs"]}

    def exponents(activation: str) -> str:
        run = runs[f"{activation}, equal layers"]
        return _span([float(np.mean(p)) for name, p in run.items() if name.startswith("gaps")])

    smooth, kinked, own = (
        statements[f"exponent of {what}"]
        for what in (
            "increment V, GELU, equal layers",
            "increment W, ReLU, equal layers",
            "gaps W, GELU, layers of their own",
        )
    )
    protocol = runs["GELU, equal layers"]
    yield (
        "From equal layers weights, outputs and loss come to a limit without a penalty, at orders "
        f"of {exponents('GELU')} with GELU and {exponents('ReLU')} with ReLU: means over "
        f"{protocol['seeds']} seeds, from {min(protocol['depths'])} layers to "
        f"{max(protocol['depths'])}."
    )
    yield (
        f"With ReLU the largest increment of W between layers falls as L^-{_mean(kinked)}, where "
        f"GELU's falls as L^-{smooth['mean']:.2f}."
    )
    _require(own["verdict"] == "agrees", "weights from layers of their own have no limit")
    order = own["mean"]
    fall = f"their order is {order:.2f}" if order >= 0.005 else "their distances do not fall"
    yield f"From layers drawn each on its own the weights have no limit: {fall}."


def hurst(kept: Record) -> Iterable[str]:
    rows = {float(row["measured"].rpartition(" = ")[2]): row["mean"] for row in kept["statements"]}
    rough, *between, smooth = sorted(rows)
    yield (
        f"At initialisation ({kept['statements'][0]['rests on']}) the boundary between the "
        f"identity and an explosion lies at β = {rows[rough]:.2f} for weights drawn each on their "
        f"own (the limit is an SDE), at {rows[smooth]:.2f} for tied ones (an ODE), and "
        f"{_span([index - rows[index] for index in between])} below the Hurst index between."
    )


# Benchmarks


def peers(kept: Record) -> Iterable[str]:
    packages = ("torchdiffeq", "torchode", "torchdyn")

    def ratios(workload: str, ours: str, *others: str, case: str = "", what: str = "time") -> Any:
        return [
            row[what]["median"]
            for row in kept["stages"][workload]["rows"]
            if row.get("neuralflow") == ours and case in row["case"] and what in row
            if row["other"].startswith(others)
        ]

    def grid(ours: str, *others: str) -> str:
        return _span(ratios("fixed_grid", ours, *others, case="gradient"))

    def adaptive(case: str, what: str = "time") -> str:
        return _span(ratios("small_ode", "Adaptive", "diffrax", case=case, what=what))

    yield (
        f'The gradient of a ResNet with `memory="full"` takes '
        f"{grid('full', 'scan by hand')} of the time of a scan by hand, "
        f"{grid('remat', 'checkpointed')} of that of a checkpointed one "
        f"with the default memory, and {grid('full', 'PyTorch, 1', 'PyTorch, 2')} of eager "
        "PyTorch's time."
    )
    torch = ratios("small_ode", "Adaptive", *packages, case="gradient")
    yield (
        f"An adaptive layer takes {adaptive('forward')} of plain diffrax forward, "
        f"{adaptive('gradient')} with the gradient, {adaptive('gradient', 'first call')} of its "
        f"first call, and {_span(torch, 3)} of the packages of PyTorch."
    )
    spiral = (ratios("spiral", "Adaptive", "diffrax", what=what) for what in ("time", "first call"))
    compiled, whole = map(_span, spiral)
    yield (
        f"The fit of a spiral takes {compiled} of plain diffrax's time once it is compiled and "
        f"{whole} with the compilation."
    )
    seeds = _span(ratios("marion", "descend", "PyTorch, seeds"))
    yield (
        f"Marion's protocol takes {_span(ratios('marion', 'descend', 'PyTorch, 1', 'PyTorch, 2'))} "
        "of eager PyTorch's time, compilation included, where PyTorch trains one seed after the "
        f"other, and {seeds} with all seeds at once."
    )
    scans = ratios("convolution", "nf.fields.convolution", "lax.conv_general_dilated")
    layers = ratios("convolution", "NeuralODE", "NeuralODE with JAX's", case="network")
    yield (
        f"XLA's own derivatives of a convolution are {_span([1 / r for r in scans], 0)} times "
        f"slower in a scan and {_span([1 / r for r in layers], 0)} times in a layer."
    )
    yield f"neuralflow takes longer in {_longer(kept['stages'], 'time')}."
    yield f"Its first call takes longer in {_longer(kept['stages'], 'first call')}."


def _longer(stages: Record, what: str) -> str:
    """Return where neuralflow takes longer than others, and by how much at most."""
    ratios = {
        name: [row[what]["median"] for row in stage["rows"] if "other" in row and what in row]
        for name, stage in stages.items()
    }
    longer = {name: [r for r in of_stage if r > 1] for name, of_stage in ratios.items()}
    _require(any(longer.values()), "neuralflow takes longer somewhere")
    most = _and(f"{name} (up to {max(times):.1f})" for name, times in longer.items() if times)
    return (
        f"{sum(map(len, longer.values()))} of {sum(map(len, ratios.values()))} comparisons: {most}"
    )


def on_gpu(kept: Record) -> Iterable[str]:
    def gradient(route: str) -> str:
        return _span([r["gradient"]["median"] for r in kept["rows"] if r["route"] == route])

    yield (
        f'On one {kept["device"]} a gradient with `memory="two_level"` takes '
        f"{gradient('two_level')} "
        f"of the hand-written scan's time, where `diffeqsolve` takes {gradient('diffeqsolve')}."
    )


def splittings(kept: Record) -> Iterable[str]:
    def ratios(what: str, *routes: str) -> str:
        return _span([row[what]["median"] for row in kept["rows"] if row["route"] in routes])

    yield (
        f"A transformer as a splitting takes {ratios('forward', 'full', 'remat')} of the time of "
        "the same blocks in a hand-written scan forward, its gradient "
        f"{ratios('gradient', 'remat')} with the default memory and {ratios('gradient', 'full')} "
        'with `memory="full"`, which keeps as much as the scan.'
    )


def skipped(kept: Record) -> Iterable[str]:
    rows = (
        f"{row['time']['median']:.2f} ({_span([row['time']['low'], row['time']['high']])}) of the "
        f"time where {row['blocks computed']:.2f} of the blocks are computed ({row['network']}, "
        f"p_L = {row['p_L']})"
        for row in kept["rows"]
    )
    yield f"Training steps with stochastic depth take {_and(rows)}."


def loops(kept: Record) -> Iterable[str]:
    rows = (f"{row['throughput']['median']:.2f} ({row['model, batch']})" for row in kept["rows"])
    yield f"`fit` has this part of the throughput of a hand-written loop: {_and(rows)}."


def stream(kept: Record) -> Iterable[str]:
    for row in kept["rows"]:
        yield f"An epoch of {row['set']}, waits for data in {row['waiting']:.0%} of its time."


def schemes(kept: Record) -> Iterable[str]:
    first, *others = kept["rows"]
    for what in ("forward", "gradient"):
        least, *_, most = sorted(others, key=lambda row: row[what]["median"])
        yield (
            f"An evaluation of the field, {what}, takes from {least[what]['median']:.2f} "
            f"({least['scheme']}) to {most[what]['median']:.2f} ({most['scheme']}) of that of "
            f"{first['scheme']}."
        )


def reversible(kept: Record) -> Iterable[str]:
    deepest = max(row["depth"] for row in kept["rows"])
    for scheme in dict.fromkeys(row["scheme"] for row in kept["rows"]):
        rows = [row for row in kept["rows"] if row["scheme"] == scheme]
        back = [row["gradient"]["median"] for row in rows if row["memory"] == "reversible"]
        at = {row["memory"]: row["working memory, kB"] for row in rows if row["depth"] == deepest}
        yield (
            f"Walking back, the gradient of {scheme} takes {_span(back)} of the time with all "
            f"states kept, and at {deepest} steps {at['reversible'] / at['full']:.5f} of the "
            "working memory."
        )


def interpolation(kept: Record) -> Iterable[str]:
    def errors(what: str) -> str:
        return " to ".join(f"{end([row[what] for row in kept['rows']]):.0e}" for end in (min, max))

    stepped = max(row["stepped"] for row in kept["rows"])
    yield (
        f"Errors of interpolated states are {errors('interpolated')}, where those at the end are "
        f"{errors('at the end')}; solves that step to every depth are off by {stepped:.0e} at most."
    )


# Files


def kills(kept: Record) -> Iterable[str]:
    targets, signals = kept["kills"], kept["signals"].values()
    _require(all(row["equal"] for row in targets.values()), "all that is resumed ends alike")
    yield (
        f"{_and(targets)}, killed {_and(str(row['kills']) for row in targets.values())} times "
        f"({sum(row['writing'] for row in targets.values())} kills fell into a write), end with "
        "the bits of runs that were left alone."
    )
    ends, sent = (sum(row[what] for row in signals) for what in ("one line", "sent"))
    yield f"Of signals {_of(ends, sent)} end in one line."


def edits(kept: Record) -> Iterable[str]:
    known = kept["refused"] + kept["mended"]
    _require(known == kept["edits"], "every edit is refused or mended")
    yield (
        f"Of {kept['edits']} edits {kept['refused']} are refused in a sentence and "
        f"{kept['mended']} mended, and none goes unnoticed."
    )


def reads(kept: Record) -> Iterable[str]:
    _require(kept["same history"] and kept["same weights"], "a reader changes no training")
    yield (
        f"Of {kept['reads']} reads beside {kept['steps']} steps of training "
        f"{len(kept['failed']) or 'none'} failed, and the training came to the same history and "
        "weights."
    )


FINDINGS: dict[str, Callable[[Record], Iterable[str]]] = {
    "benchmarks/results/interpolation": interpolation,
    "benchmarks/results/nvidia-h200/fixed_grid": on_gpu,
    "benchmarks/results/result": peers,
    "benchmarks/results/reversible": reversible,
    "benchmarks/results/schemes": schemes,
    "benchmarks/results/skipped": skipped,
    "benchmarks/results/streaming": stream,
    "benchmarks/results/training": loops,
    "benchmarks/results/transformers": splittings,
    "deep_limit/certificates": certificates,
    "deep_limit/digits": digits,
    "deep_limit/mnist": mnist,
    "deep_limit/plane": plane,
    "deep_limit/results": sweep,
    "densities/drawn": drawn,
    "densities/results": densities,
    "depth_resource/importing-cifar10": importing,
    "depth_resource/importing-fashion_mnist": importing,
    "depth_resource/importing-mnist": importing,
    "depth_resource/levels": ladder,
    "depth_resource/levels_swirl": ladder,
    "depth_resource/tradeoff-fashion_mnist": tradeoff,
    "depth_resource/tradeoff-mnist": tradeoff,
    "diffeo/outlines": outlines,
    "diffeo/results": diffeo,
    "evaluations/results": evaluations,
    "literature/hurst": hurst,
    "literature/marion": marion,
    "lm_resnet/small": lm_resnet,
    "mnist/results": classifiers,
    "operators/steps": stable_steps,
    "path_integral/gradients": gradients,
    "path_integral/results": operators,
    "plain_net/results": plain_net,
    "resume/edit": edits,
    "resume/read": reads,
    "resume/results": kills,
    "stochastic/results": stochastic_depth,
    "stochastic/weak": weak_errors,
    "transformer/language": language,
    "transformer/limits": limits,
    "transformer/rates": rates,
    "transformer/sphere": sphere,
    "transformer/verdicts": certificates,
}
"""The functions, by the file of the result: relative to the experiments, without its ending."""

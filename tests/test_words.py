"""Numbers that the README quotes are those of the committed results."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from neuralflow.labs.deep_limit import Scaling
from neuralflow.statistics import over_seeds

ROOT = Path(__file__).parents[1]
README = " ".join((ROOT / "README.md").read_text().split())


def record(path):
    return json.loads((ROOT / "experiments" / path).read_text())


def span(values, digits):
    low, high = (f"{value:.{digits}f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def saved(summary):
    low, high = summary["evaluations saved, %"]["interval"]
    return f"{summary['evaluations saved, %']['mean']:.0f}% ({low:.0f} to {high:.0f})"


def trained():
    runs = {run["protocol"]: run for run in record("literature/marion.json")["runs"]}
    gelu, relu = (runs[f"{name}, equal layers"] for name in ("GELU", "ReLU"))

    def orders(run):
        return span([np.mean(p) for name, p in run.items() if name.startswith("gaps")], 2)

    increment = over_seeds(relu["increment W"])
    return (
        f"at orders of {orders(gelu)} with GELU and {orders(relu)} with ReLU",
        f"L^-{increment['mean']:.2f} ({span(increment['interval'], 2)})",
    )


def mnist():
    runs = record("deep_limit/mnist.json")["by learning rate"].values()
    accuracies = 100 * np.asarray([run["test accuracy"] for run in runs])  # (rates, depths, seeds)
    means, single = np.ptp(accuracies.mean(axis=2), axis=1), np.ptp(accuracies, axis=1)
    return (f"by {means.max():.2f} points between depths", f"by up to {single.max():.2f})")


def beside(workload, ours, *others, case="", what="time", digits=2, inverse=False):
    """The span of the medians of ratios between neuralflow and others."""
    rows = record("benchmarks/results/result.json")["stages"][workload]["rows"]
    medians = [
        row[what]["median"]
        for row in rows
        if row["neuralflow"] == ours
        and any(row["other"].startswith(other) for other in others)
        and case in row["case"]
        and what in row
    ]
    return span([1 / median for median in medians] if inverse else medians, digits)


def convolutions():
    loops = beside(
        "convolution", "nf.fields.convolution", "lax.conv_general_dilated", digits=0, inverse=True
    )
    layers = beside(
        "convolution", "NeuralODE", "NeuralODE with JAX's", case="network", digits=0, inverse=True
    )
    return (f"are {loops} times slower in a scan and {layers} times in a layer",)


def peers():
    packages = ("torchdiffeq", "torchode", "torchdyn")

    def adaptive(case, *others, **options):
        return beside("small_ode", "Adaptive", *others, case=case, **options)

    def spiral(what):
        return beside("spiral", "Adaptive", "diffrax", what=what)

    def grid(ours, *others):
        return beside("fixed_grid", ours, *others, case="gradient")

    return (
        f"takes {grid('full', 'scan by hand')} of the time of a scan by hand",
        f"{grid('remat', 'checkpointed')} of that of a checkpointed one with the default",
        f"{grid('full', 'PyTorch, 1', 'PyTorch, 2')} of eager PyTorch's",
        f"{adaptive('forward', 'diffrax')} of plain diffrax forward",
        f"{adaptive('gradient', 'diffrax')} with the gradient",
        f"{adaptive('gradient', 'diffrax', what='first call')} of its first call",
        f"and {adaptive('gradient', *packages, digits=3)} of the packages of PyTorch",
        f"takes {spiral('time')} of plain diffrax's time once it is compiled",
        f"and {spiral('first call')} with the compilation",
        f"takes {beside('marion', 'descend', 'PyTorch, 1', 'PyTorch, 2')} of eager PyTorch's time",
        f"and {beside('marion', 'descend', 'PyTorch, seeds')} with all",
        f"than vmapped diffrax ({beside('flow', 'per sample', 'diffrax', digits=1)})",
    )


def diffeomorphisms():
    accuracy = {}
    for row in record("diffeo/results.json")["rows"]:
        network = (row["set"], row["weights"])
        accuracy.setdefault((*network, row["control"]), []).append(row["accuracy, %"])
    gained = [
        np.mean(accuracy[*network, True]) - np.mean(values)
        for (*network, control), values in accuracy.items()
        if not control
    ]
    return (f"from {-min(gained):.1f} points less to {max(gained):.1f} more",)


def gradients():
    (row,) = (
        row
        for row in record("path_integral/gradients.json")["result"]["rows"]
        if (row["depth"], row["kind"]) == (128, "h = 1/√N")
    )
    longer = sum(math.comb(128, k) for k in range(65, 129)) / 2**128
    return (
        f"at most four branches carry {row['after']['share up to']['4']:.0%} of the gradient",
        f"({longer:.1%} are longer)",
    )


def weak_errors():
    networks = record("stochastic/weak.json")["result"]["networks"]

    def order(name):
        return f"{networks[name]['order']:.2f} ({span(networks[name]['interval'], 2)})"

    seconds = [network["seconds"]["one network"] for network in networks.values()]
    skewed = " and ".join(f"{networks[f'{k}, p = 0.8']['order']:.2f}" for k in ("depth", "dropout"))
    return (
        f"slope {order('depth, p = 0.5')} at 8 to 64 blocks with stochastic depth",
        f"{order('shake-shake')} with shake-shake",
        f"{skewed} with stochastic depth and dropout",
        f"take {span(seconds, 0)} seconds",
    )


def evaluations():
    kinds = record("evaluations/results.json")["result"]["tolerances"]["1e-05"]
    return (
        f"saves an adaptive layer {saved(kinds['order 3'])}",
        f"the learning rate alone saves {saved(kinds['none, half the rate'])}",
        f"The second derivative saves {saved(kinds['order 2'])}",
        f"the squared speed {saved(kinds['speed'])}",
    )


def training_noise():
    result = record("stochastic/results.json")["result"]
    resnet, lm = (result[f"{name}, p = 0.5"]["less that without"] for name in ("resnet", "lm"))
    return (
        f"costs {resnet['mean']:.1f} points of test error ({span(resnet['interval'], 1)} for the "
        f"ResNet, {span(lm['interval'], 1)} for the LM-ResNet)",
    )


def initial():
    statements = record("literature/hurst.json")["statements"]
    boundary = {s["measured"].removeprefix("boundary beta at H = "): s["mean"] for s in statements}
    return (f"β = {boundary['0.5']:.2f} for weights drawn", f"at {boundary['1']:.2f} for tied ones")


def ladders():
    fashion, plane = (record(f"depth_resource/levels{n}.json")["result"] for n in ("", "_swirl"))

    def lost(result, kind):
        points = result["rows"][kind]["points lost"]
        return f"{points['mean']:.2f} points ({span(points['interval'], 2)})"

    whole = fashion["rows"]["carried"]
    steps = fashion["times"]["ladder over direct"]["median"]
    ladder, wide = (lost(plane, kind).replace(" points", "") for kind in ("carried", "wide"))
    return (
        f"loses {lost(fashion, 'carried')} against 32 steps",
        f"in {steps:.2f} of the time of training steps",
        f"take {whole['cold cache']['median']:.2f} times as long in all, and "
        f"{whole['warm cache']['median']:.2f} times with a warm cache",
        f"Four steps to the end lose {lost(fashion, 'shallow')}",
        f"four steps lose {lost(plane, 'shallow')}, the ladder {ladder}, four steps with blocks of "
        f"eight times as many hidden units {wide}",
    )


def imports():
    sets = {
        name: record(f"depth_resource/importing-{name}.json")["result"]["runs"]
        for name in ("mnist", "fashion_mnist", "cifar10")
    }

    def values(column, kinds, names):
        runs = [run for name in names for kind in kinds for run in sets[name][kind]]
        if column == "seconds":
            return [run[column] for run in runs]
        return [run["trained"] - run[column] for run in runs]

    dense, images = ("mnist", "fashion_mnist"), ("cifar10",)
    small = [kind for kind in sets["mnist"] if "1/n" in kind]
    ordinary = ["h = 1", "h = 1, batch norm"]
    return (
        f"at most {max(values('projected', small, dense)):.2f} points on MNIST and Fashion-MNIST "
        f"and {max(values('projected', small, images)):.2f} with convolutions",
        f"{span(values('projected', ordinary, dense), 0)} points are lost on MNIST and "
        "Fashion-MNIST with tanh or batch norm, "
        f"{span(values('aligned', ordinary, dense), 0)} where hidden units",
        f"in {span(values('seconds', ordinary, dense), 0)} seconds of one core, loses at most "
        f"{max(values('fitted', ordinary, dense)):.2f}",
        f"up to {max(values('fitted', ['h = 1, ReLU'], dense)):.1f} points short",
        f"lose {span(values('fitted', ordinary, images), 1)} after 100 steps "
        f"({max(values('seconds', ordinary, images)):.0f} seconds)",
    )


def choices():
    table = record("depth_resource/tradeoff-fashion_mnist.json")["result"]["table"]["choices"]
    own, four, one = (
        next(row for row in table if row["choice"].startswith(name))
        for name in ("as trained", "Euler, 4 steps, PiecewiseConstant", "Euler, 1 step, Piecewise")
    )
    apart = sum(row["change"][0] > 0 or row["change"][1] < 0 for row in table)
    assert apart == 1
    return (
        f"{100 * own['accuracy']:.2f}% as trained, {100 * four['accuracy']:.2f}% with 4 Euler "
        f"steps in {four['time']:.2f} of the time, {100 * one['accuracy']:.2f}% with one step",
    )


def transformers():
    language = record("transformer/language.json")["result"]
    limits = record("transformer/limits.json")["summary"]
    rates = record("transformer/rates.json")["summary"]
    networks = record("transformer/verdicts.json")["networks"]
    meeting = record("transformer/sphere.json")["result"]["rate of 1 - cos, b = 1"]

    def number(summary):
        return f"{summary['mean']:.2f} ({span(summary['interval'], 2)})"

    def orders(name):
        after = (limits[f"{name}, {steps} steps"]["order of outputs"] for steps in (150, 600))
        return [number(order) for order in after]

    losses = [np.ptp([loss["mean"] for loss in row["losses"]]) for row in limits.values()]
    assert max(losses) < 0.02
    assert max(gap["mean"] for gap in limits["sgd, fast, 600 steps"]["outputs"]) > 0.1
    one, independent, _, penalised = (row["verdict"] for row in networks.values())
    assert one == independent == "not an ODE" and penalised == "ODE"
    times = record("benchmarks/results/transformers.json")["rows"]

    def ratios(what, *routes):
        return span([row[what]["median"] for row in times if row["route"] in routes], 2)

    sgd, adam = orders("sgd"), orders("adam")
    changes = {alpha: rates[f"alpha = {alpha}, 2^-8"]["change"] for alpha in (0, 1)}
    return (
        f"({language['unigrams, bits']:.2f} bits per character by unigrams)",
        f"need {language['test, bits per character']:.2f} bits on the test part after "
        f"{language['seconds of training']:.0f} seconds",
        f"at order {sgd[0]} after 150 steps and {sgd[1]} after 600",
        f"under Adam at order {adam[0]} and {adam[1]}",
        f"Adam comes to {orders('adam, large head')[1]}",
        f"{limits['sgd, fast, 600 steps']['growth']['mean']:.0f} times as large",
        f"the loss changes by {changes[1]['mean']:.2f} bits ({span(changes[1]['interval'], 2)})",
        f"it rises by {number(changes[0])}",
        f"meet at rate {meeting:.3f}",
        f"takes {ratios('forward', 'full', 'remat')} of its time forward, its gradient "
        f"{ratios('gradient', 'remat')} with the default memory and {ratios('gradient', 'full')}",
    )


CLAIMS = (
    trained,
    mnist,
    convolutions,
    peers,
    diffeomorphisms,
    gradients,
    weak_errors,
    evaluations,
    training_noise,
    initial,
    ladders,
    imports,
    choices,
    transformers,
)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.__name__)
def test_the_readme_quotes_the_committed_results(claim):
    for words in claim():
        assert words in README


def test_two_optima_of_the_plane_agree_and_digits_have_one():
    draws = record("deep_limit/plane.json")["result"]["draws"].values()
    assert all(draw["optima_apart"] < 1e-8 for draw in draws)
    for kind in record("deep_limit/digits.json")["result"].values():
        assert all(draw["optima_apart"] is None for draw in kind["draws"].values())


@pytest.mark.parametrize("number", range(3))
def test_the_verdict_is_that_of_the_exponents(number):
    run = record("literature/marion.json")["runs"][number]
    increment = {
        key.removeprefix("increment "): np.asarray(p)
        for key, p in run.items()
        if key.startswith("increment ")
    }
    assert run["verdict"] == Scaling({}, {}, increment, {}).verdict()


@pytest.mark.parametrize("path", sorted((ROOT / "experiments/literature").glob("*.json")), ids=str)
def test_every_row_of_the_literature_has_its_statements_and_its_time(path):
    held = json.loads(path.read_text())
    assert held["statements"] and held["seconds of runs"] > 0
    page = (ROOT / "experiments/README.md").read_text()
    assert f"`python -m experiments.literature {path.stem}" in page

"""Every example in a docstring runs, and the objects that people use first have one."""

import doctest
import importlib
import pkgutil

import pytest

import neuralflow as nf

FIRST = [
    "NeuralODE",
    "FixedGrid",
    "Adaptive",
    "DepthVarying",
    "PiecewiseConstant",
    "PiecewiseLinear",
    "Legendre",
    "depth.decayed",
    "smooth",
    "fractional",
    "from_function",
    "from_branches",
    "fit_branches",
    "frozen",
    "HiddenUnits",
    "branches.hidden_units",
    "refined",
    "projected",
    "tally",
    "check_gradient",
    "fields.MLP",
    "fields.ConvBlock",
    "fields.Coupled",
    "fields.Hamiltonian",
    "fields.SecondOrder",
    "schemes.LMResNet",
    "schemes.RevNet",
    "schemes.adams_bashforth",
    "schemes.analysis.stability_limit",
    "transport.Transport",
    "transport.Continuity",
    "transport.NormalisingFlow",
    "transport.along",
    "regularisers.depth_energy",
    "regularisers.total_derivative",
    "statistics.fitted_order",
    "training.fit",
    "training.multilevel",
    "sweeps.grid",
    "sweeps.run",
    "inference.Candidate",
    "inference.tradeoff",
    "inference.error_split",
    "data.moons",
    "models.Augment",
    "models.PointClassifier",
    "labs.deep_limit.certify",
    "labs.diffeo.report",
    "labs.diffeo.exponential",
    "labs.operators.to_operator",
    "labs.operators.stability",
    "labs.operators.stable_step",
    "labs.paths.contributions",
    "labs.plain_net.as_resnet",
    "labs.stochastic.StochasticDepth",
    "labs.stochastic.NeuralSDE",
]
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def modules():
    """Every module of the package but the program itself."""
    names = [m.name for m in pkgutil.walk_packages(nf.__path__, "neuralflow.")]
    return [importlib.import_module(name) for name in names if not name.endswith("__main__")]


def examples():
    """The examples of every object, each where it is defined."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    by_name = {}
    for module in modules():
        by_name |= {test.name: test for test in finder.find(module) if test.examples}
    return by_name


EXAMPLES = examples()


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_runs(name):
    report = []
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    runner.run(EXAMPLES[name], out=report.append)
    assert runner.failures == 0, "".join(report)


@pytest.mark.parametrize("path", FIRST)
def test_what_people_use_first_has_an_example(path):
    thing = nf
    for name in path.split("."):
        thing = getattr(thing, name)
    assert f"{thing.__module__}.{thing.__qualname__}" in EXAMPLES

"""CONTRIBUTING names what is there, and its sketches work in the files that they are for."""

import re
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.stochastic import A, apart, linear

import neuralflow as nf
from neuralflow.fields import networks
from neuralflow.labs.stochastic import fields as noise
from neuralflow.schemes import analysis, runge_kutta

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
SKETCHES = re.findall(r"```python\n(class (\w+).*?)```", TEXT, re.S)


def sketch(name: str, module: Any) -> Any:
    """The class of a sketch, with the imports of the file that it is for."""
    (code,) = (code for code, called in SKETCHES if called == name)
    names = dict(vars(module))
    exec(code, names)
    return names[name]


def test_the_sketch_of_a_field():
    field = sketch("Damped", networks)(2, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    rate, x = np.log1p(np.exp(field.rate[...])), np.ones((3, 2))
    layer = nf.NeuralODE(field, nf.Adaptive(nf.Tsit5(), 1e-9, 1e-9))
    assert np.allclose(layer(x), np.exp(-rate), rtol=0, atol=1e-7)


def test_the_sketch_of_a_scheme():
    scheme = sketch("Kutta3", runge_kutta)()
    assert max(map(abs, analysis.order_conditions(scheme, 3).values())) < 1e-13
    assert max(map(abs, analysis.order_conditions(scheme, 4).values())) > 1e-4


def test_the_sketch_of_a_random_field():
    field = sketch("Coin", noise)(linear(A), 0.5, rngs=nnx.Rngs(0))
    assert apart(field) < 1e-12
    network = nf.labs.stochastic.RandomNetwork(field, 4)
    assert network(np.ones((3, 2))).shape == (3, 2)


def test_every_sketch_is_tried():
    assert [name for _, name in SKETCHES] == ["Damped", "Kutta3", "Coin"]


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`([\w/]+\.(?:py|toml|cff|md))`", TEXT))))
def test_files_that_are_named_exist(path):
    form = re.sub("NAME|FOLDER", "*", path)
    assert any(home for folder in (ROOT, ROOT / "neuralflow") for home in folder.glob(form))


@pytest.mark.parametrize("table, path", re.findall(r"`(\w+)` of `(tests/[\w/]+\.py)`", TEXT))
def test_tables_that_are_named_exist(table, path):
    assert re.search(rf"^{table}\b.* = ", (ROOT / path).read_text(), re.M)

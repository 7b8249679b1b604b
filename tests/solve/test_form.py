"""A discretisation as its form and its arrays."""

import copy
import pickle

from flax import nnx

import neuralflow as nf
from neuralflow.solve.form import split


def test_a_discretisation_is_its_form_and_its_arrays():
    scheme = nf.schemes.LMResNet.learned(4, rngs=nnx.Rngs(0))
    form, arrays = split(nf.FixedGrid(scheme, steps=4))
    assert arrays == [scheme.k] and form.join(arrays) == nf.FixedGrid(scheme, steps=4)
    assert (
        hash(form) == hash(split(nf.FixedGrid(scheme, steps=4))[0]) and copy.deepcopy(form) is form
    )
    assert split(nf.FixedGrid(scheme, steps=4, memory="full"))[0] != form


def test_a_pickled_form_is_the_form():
    for solve in (nf.FixedGrid(nf.Euler(), steps=4), nf.Adaptive(nf.Tsit5()).part(0.25, 0.5)):
        form, arrays = split(solve)
        other = pickle.loads(pickle.dumps(form))
        assert other == form and hash(other) == hash(form) and other.join(arrays) == solve

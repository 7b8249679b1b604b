"""A discretisation as its form and its arrays."""

import copy

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

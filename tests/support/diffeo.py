"""Solves and slopes that the tests of diffeomorphisms share."""

import numpy as np

import neuralflow as nf

TIGHT = nf.Adaptive(nf.Tsit5(), 1e-11, 1e-11)


def euler(steps):
    return nf.FixedGrid(nf.Euler(), steps=steps)


def slope(sizes, errors):
    return np.polyfit(np.log(sizes), np.log(errors), 1)[0]

"""Weights as rotations and a scaling."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.linalg import expm, logm
from support.plain_net import drawn, points, relu

from neuralflow.labs import plain_net


def put_together(row):
    return expm(row.left) @ np.diag(row.scale) @ expm(row.right)


def padded(weight, size):
    return np.pad(weight, [(0, size - n) for n in weight.shape])


class TestDecomposition:
    @pytest.mark.parametrize("seed", range(20))
    def test_of_random_nets(self, seed):
        """Six layers of widths 1 to 64: W = exp(A_U) S exp(A_V) with skew real generators."""
        widths = np.random.default_rng(seed).integers(1, 65, 7)
        layers = plain_net.read(drawn(widths, relu, seed))
        size = plain_net.dimension(layers)
        for layer in layers:
            row = plain_net.decompose(layer.weight, size)
            assert np.abs(put_together(row) - padded(layer.weight, size)).max() < 1e-13
            for generator in (row.right, row.left):
                assert np.abs(generator + generator.T).max() < 1e-13
            assert row.rank == min(layer.weight.shape)

    @settings(max_examples=60, deadline=None)
    @given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 3), st.integers(0, 2**32 - 1))
    def test_of_any_rank_in_any_dimension(self, out, inputs, lost, seed):
        rng = np.random.default_rng(seed)
        rank = max(0, min(out, inputs) - lost)
        weight = rng.normal(size=(out, rank)) @ rng.normal(size=(rank, inputs))
        layer = plain_net.read([(weight, np.zeros(out), relu)])
        row = plain_net.decompose(weight, plain_net.dimension(layer))
        assert np.abs(put_together(row) - padded(weight, len(row.scale))).max() < 1e-12
        assert row.rank == rank

    @pytest.mark.parametrize(
        "weight, size, flipped",
        [
            # A reflection of full rank needs one dimension more.
            (np.diag([2.0, -3.0]), 3, "null vectors"),
            (np.array([[0.0, 1.0], [1.0, 0.0]]), 3, "null vectors"),
            # This is a rotation by pi.
            (-np.eye(2), 2, "nothing"),
            (-np.eye(3), 4, "null vectors"),
            (np.diag([-1.0, -1.0, 5.0]), 3, None),
            (np.zeros((3, 3)), 3, None),
            (np.array([[-2.0]]), 2, "null vectors"),
            (np.array([[3.0]]), 1, None),
            (np.array([[0.0]]), 1, None),
            (np.outer([1.0, -2.0, 0.5], [1.0, 1.0]), 3, None),
        ],
    )
    def test_of_special_weights(self, weight, size, flipped):
        layers = plain_net.read([(weight, np.zeros(len(weight)), relu)])
        assert plain_net.dimension(layers) == size
        row = plain_net.decompose(weight, size)
        assert np.abs(put_together(row) - padded(weight, size)).max() < 1e-13
        assert flipped is None or row.flipped == flipped
        x = points(weight.shape[1])
        flow = plain_net.as_flow([(weight, 0.1 * np.ones(len(weight)), relu)])
        np.testing.assert_allclose(flow(x), relu(x @ weight.T + 0.1), rtol=0, atol=1e-5)

    def test_a_matched_pair_is_flipped_where_both_factors_are_reflections(self):
        flipped = set()
        for seed in range(20):
            weight = np.random.default_rng(seed).normal(size=(4, 4))
            if np.linalg.det(weight) > 0:
                row = plain_net.decompose(weight, 4)
                assert np.abs(put_together(row) - weight).max() < 1e-13
                flipped.add(row.flipped)
        assert flipped == {"nothing", "a matched pair"}

    def test_a_reflection_that_is_left_alone_fails(self):
        """A reflection has no real logarithm.

        The general one is complex, and its real part is wrong by a number of order one.
        """
        mirror = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
        mirror[:, 0] *= -np.sign(np.linalg.det(mirror))
        with pytest.raises(ValueError, match="is a reflection"):
            plain_net.rotation_logarithm(mirror)
        with pytest.raises(ValueError, match="no flow in 2 dimensions; give 3"):
            plain_net.decompose(np.diag([2.0, -3.0]), 2)
        general: Any = logm(mirror)
        assert np.abs(general.imag).max() > 1
        assert np.abs(expm(general.real) - mirror).max() > 0.3

    def test_rotations_by_pi_are_real(self):
        for rotation in (-np.eye(4), np.diag([-1.0, 1.0, -1.0, 1.0, 1.0])):
            generator = plain_net.rotation_logarithm(rotation)
            np.testing.assert_allclose(expm(generator), rotation, rtol=0, atol=1e-14)
            assert abs(np.linalg.norm(generator, 2) - np.pi) < 1e-12

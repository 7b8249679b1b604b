"""Reports."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from support.diffeo import TIGHT, euler

import neuralflow as nf
from neuralflow.labs import diffeo as D


class TestReport:
    def test_a_tame_layer(self, mlp, x):
        layer = nf.NeuralODE(mlp(nf.PiecewiseConstant(2), time=False), euler(32))
        report = D.report(layer, x)
        slopes = D.jacobian(layer, x)
        assert (
            report.certified
            and report.folded == 0
            and "diffeomorphism everywhere" in report.sentence()
        )
        assert report.inverse_error is not None
        assert report.inverse_error < 1e-13 < report.reverse_error < 0.1
        np.testing.assert_allclose(
            report.least_determinant, jnp.linalg.det(slopes).min(), rtol=1e-10
        )
        assert report.contraction is not None and report.expansion is not None
        assert report.contraction <= report.squeeze <= report.stretch <= report.expansion
        paths = np.asarray(layer.trajectory(x))
        lengths = np.linalg.norm(np.diff(paths, axis=0), axis=2)
        np.testing.assert_allclose(report.path_length, lengths.sum(0).mean(), rtol=1e-12)
        np.testing.assert_allclose(report.speeds, 32 * np.sqrt((lengths**2).mean(1)), rtol=1e-12)
        text = str(report)
        assert all(name in text for name, _, _ in report.rows()) and report.sentence() in text
        # The product of the bounds of very many blocks underflows to zero.
        # Each of the blocks is bounded nevertheless.
        assert dataclasses.replace(report, residual=0.99, contraction=0.0).certified

    def test_folds_adaptive_layers_and_kernels(self, x):
        wild = nf.NeuralODE(
            nf.from_function(lambda a, x: a * jnp.tanh(x), jnp.asarray(-4.0)), euler(1)
        )
        report = D.report(wild, x)
        assert (
            report.folded > 0
            and report.least_determinant < 0
            and report.inverse_error is not None
            and report.inverse_error > 1
            and not report.certified
        )
        assert (
            "It folds" in report.sentence()
            and "unknown" in str(report)
            and "teach it" in report.reason
        )
        exact = D.report(wild.with_solve(TIGHT), x)
        assert (
            exact.folded == 0
            and exact.inverse_error is not None
            and exact.inverse_error < 1e-9
            and len(exact.speeds) == 32
            and not exact.certified
        )
        with pytest.raises(ValueError, match="needs samples"):
            D.report(wild, x[:0])
        field = D.KernelField(x, 1.0, 0.1 * x)
        kernel = D.report(nf.NeuralODE(field, euler(4)), x)
        assert kernel.variation == 0 and kernel.certified
        np.testing.assert_allclose(kernel.speeds, float(field.energy()) ** 0.5, rtol=1e-12)

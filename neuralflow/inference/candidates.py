"""What a trained network can be run with: a discretisation, and a basis of its weights."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

from flax import nnx

from neuralflow import checks
from neuralflow.checks import InputError
from neuralflow.depth import Basis
from neuralflow.layers import NeuralODE
from neuralflow.refinement import HoldsSteps, nodes, on_basis
from neuralflow.schemes.network import cost, is_explicit
from neuralflow.solve import Adaptive, Discretisation, FixedGrid

ModelT = TypeVar("ModelT", bound=nnx.Module)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A discretisation and a basis with which a trained model can be run.

    A grid with fewer steps than the weights have cells needs a basis whose knots are edges of its
    steps, because no step may cross a knot.

    Args:
        solve: The discretisation of every `neuralflow.NeuralODE` of the model. None keeps the ones
            of the model.
        basis: The basis on which the weights of every `neuralflow.DepthVarying` of the model are
            projected, by least squares over normalised depth. None keeps the weights.

    Raises:
        InputTypeError: `solve` is no discretisation, or `basis` is no basis.

    Example:
        >>> import neuralflow as nf
        >>> from flax import nnx
        >>> make = lambda rngs: nnx.Linear(2, 2, rngs=rngs)
        >>> field = nf.DepthVarying(make, nf.PiecewiseConstant(16), rngs=nnx.Rngs(0))
        >>> resnet = nf.NeuralODE(field, nf.FixedGrid(nf.Euler(), steps=16))
        >>> grid, basis = nf.FixedGrid(nf.Midpoint(), steps=4), nf.PiecewiseLinear(4)
        >>> small = nf.inference.Candidate(grid, basis).applied_to(resnet)
        >>> small.field.stack.kernel.shape, small.discretisation
        ((5, 2, 2), FixedGrid(Midpoint(), steps=4))
    """

    solve: Discretisation | None = None
    basis: Basis | None = None

    def __post_init__(self):
        if self.solve is not None:
            checks.instance("solve", self.solve, Discretisation, "a FixedGrid or an Adaptive")
        if self.basis is not None:
            checks.instance("basis", self.basis, Basis, "a basis such as nf.PiecewiseLinear(8)")

    def __str__(self) -> str:
        parts = [] if self.solve is None else [_shown(self.solve)]
        parts += [] if self.basis is None else [str(self.basis).replace("cells=", "")]
        return ", ".join(parts) or "as trained"

    def applied_to(self, model: ModelT) -> ModelT:
        """Return a model with this discretisation in all its layers, and its weights on this basis.

        The noise of a `neuralflow.labs.stochastic.RandomNetwork` gets the length of the new steps.
        The network draws no more where steps are not of one length, or evaluate the field more than
        once. In evaluation mode it takes any discretisation.

        Args:
            model: The model, with at least one `neuralflow.NeuralODE` anywhere inside.

        Returns:
            The new model, which shares nothing with the model.

        Raises:
            InputError: The model has no `neuralflow.NeuralODE`, or a basis is given and no weight
                of the model varies with depth.
            InputError: The discretisation cannot carry the field of a layer: a step would cross a
                knot of the weights, for example. Or the model holds batch statistics and the basis
                is not `neuralflow.PiecewiseConstant`.
            InputTypeError: `model` is not an `nnx.Module`.
        """
        checks.instance("model", model, nnx.Module, "an nnx.Module")
        if not nodes(model, NeuralODE):
            raise InputError(
                f"model must have a NeuralODE inside, got a {type(model).__name__} without; the "
                "branches of a ResNet become one by nf.from_branches"
            )
        new = nnx.clone(model) if self.basis is None else on_basis(model, self.basis)
        told: set[nnx.Module] = set()
        for layer in nodes(new, NeuralODE):
            old = layer.discretisation
            layer._take(layer.with_solve(old if self.solve is None else self.solve).discretisation)
            if self.solve is None or not isinstance(layer.field, HoldsSteps):
                continue
            if layer.field not in told:
                layer.field._change_steps(_ratio(old, self.solve))
                told.add(layer.field)
        return new


def _ratio(old: Discretisation, new: Discretisation) -> Fraction | None:
    """Return the number of new steps for each old one, as `HoldsSteps` takes it."""
    before, after = (grid.steps if isinstance(grid, FixedGrid) else None for grid in (old, new))
    if before is None or after is None or not is_explicit(new.scheme):
        return None
    return Fraction(after, before) if cost(new.scheme, after) == after else None


def _shown(solve: Discretisation) -> str:
    """Return a discretisation in a few words."""
    name = type(solve.scheme).__name__
    if isinstance(solve, FixedGrid):
        steps = solve.grid.steps
        uneven = "" if solve.times is None else " uneven"
        return f"{name}, {steps}{uneven} {'step' if steps == 1 else 'steps'}"
    if isinstance(solve, Adaptive):
        rtol, atol = float(solve.rtol), float(solve.atol)
        return f"{name}, {rtol:g}" if rtol == atol else f"{name}, {rtol:g} and {atol:g}"
    return repr(solve)

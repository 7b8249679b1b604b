"""Orders of convergence on five pairs of scikit-learn's digits, for two kinds of layers.

    python -m experiments.deep_limit.digits

Each pair has some 360 samples in four principal components. The first kind is the layer of the
paper, tanh(K x + b). The second kind is not of its form: A2 tanh(A1 x + b1) + b2 with four hidden
units, whose weights are penalised alike. The orders are measured between the last two depths. Their
intervals over the pairs are Student's. `optima_apart` is empty: with some 360 samples the
boundary-value problem is too large to be solved. No falsifiers are run. Writes digits.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax
from flax import nnx

import neuralflow as nf
from experiments.deep_limit.orders import measure
from experiments.program import Parser, count
from neuralflow import data
from neuralflow.labs import deep_limit

PAIRS = ((3, 8), (4, 9), (1, 7), (2, 5), (0, 6))


def paper(first: int, second: int) -> deep_limit.Problem:
    """Return the problem of a pair of digits, with the paper's layer."""
    pair = data.digits_pair(first, second)
    return deep_limit.thorpe_van_gennip(pair["x"], pair["y"])


def hidden() -> nnx.Module:
    """Return a layer with hidden units."""
    return nf.fields.MLP(4, hidden=4, rngs=nnx.Rngs(0))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(__file__, __doc__, quick={"depths": [4, 8], "starts": 1})
    parser.add_argument("--depths", type=count, nargs="+", default=[16, 32, 64, 128])
    parser.add_argument("--starts", type=count, default=6)
    run = parser.begin(arguments)
    options, results = run.options, {}
    with jax.enable_x64(True):
        problems = {
            f"{a} against {b}": paper(a, b) for a, b in PAIRS[: 1 if options.quick else None]
        }
        kinds = {
            "tanh(K x + b)": problems,
            "A2 tanh(A1 x + b1) + b2": {
                name: replace(p, layer=hidden, weights=0.025) for name, p in problems.items()
            },
        }
        for kind, chosen in list(kinds.items())[: 1 if options.quick else None]:
            print(kind)
            results[kind] = measure(chosen, options.depths, options.starts, falsify=False)
    run.write("digits", {"result": results})


if __name__ == "__main__":
    main()

"""`neuralflow deep-limit`: the depth-limit table."""

from __future__ import annotations

import importlib.metadata
import io
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from neuralflow import report
from neuralflow.cli.common import SCHEMES, UsageError, writable

SchemeName = Literal["euler", "heun", "midpoint", "rk4"]


@dataclass(frozen=True)
class DeepLimit:
    """Do the optimal weights of deeper and deeper networks converge to those of the ODE? Measured, not argued.

    Minimises the regularised objective E_n of Thorpe & van Gennip (arXiv 1810.11741) at every depth and for every
    scheme, finds the continuum optimum on its own, and prints how far they are apart and at which order they meet.
    Writes a picture, the table and results.json. Ends with status 0 if the orders are as expected (or there are too
    few depths to tell), 1 if they are not, 2 for bad input.
    """

    depths: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256)
    """Numbers of layers; orders are fitted over those of at least 32."""
    schemes: tuple[SchemeName, ...] = ("euler", "heun", "midpoint")
    """Discretisations of the layer."""
    seed: int = 0
    """Seed of the random starts."""
    out: Path = Path("results/deep-limit")
    """Folder for the results; created where it is missing."""
    data: str = "digits"
    """'digits' (scikit-learn's, 3 against 8, four principal components) or an .npz file with x (samples, d) and y in {0, 1}."""


def run(options: DeepLimit) -> int:
    """The main job: the depth-limit table."""
    if not options.schemes:
        raise UsageError("--schemes is empty; name at least one of euler, heun, midpoint, rk4")
    if not options.depths or min(options.depths) < 2 or max(options.depths) > 4096:
        raise UsageError(f"--depths must be whole numbers from 2 to 4096, got {' '.join(map(str, options.depths)) or 'none'}")
    if options.seed < 0:
        raise UsageError(f"--seed must not be negative, got {options.seed}")
    out = writable(options.out)
    import jax

    jax.config.update("jax_enable_x64", True)
    from rich.console import Console

    from neuralflow import deep_limit, plots

    chosen = {name: SCHEMES[name]() for name in dict.fromkeys(options.schemes)}
    depths = sorted(set(options.depths))
    started = time.perf_counter()
    try:
        data = _load(options.data)
        problem = deep_limit.classification(data["x"], data["y"])
    except (ValueError, ImportError) as error:
        raise UsageError(str(error)) from None
    console = report.console()
    console.print(
        f"{options.data}: {len(data['x'])} samples in {data['x'].shape[1]} dimensions; {' '.join(chosen)} at depths {' '.join(map(str, depths))}"
    )
    found = None
    with report.steps(1 + len(chosen) * len(depths), console) as advance:
        for what, found in deep_limit.study(problem, chosen, depths, seed=options.seed):
            advance(what)
            report.write(out / "results.json", json.dumps(_record(options, found), indent=1) + "\n")
    assert found is not None
    table = _table(found, chosen)
    console.print(table)
    plain = Console(width=118, record=True, file=io.StringIO())
    plain.print(table)
    report.write(out / "table.txt", plain.export_text())
    picture = plots.deep_limit(found)
    report.write(out / "deep-limit.png", lambda path: picture.savefig(path, format="png", dpi=160))
    agreed, sentences = deep_limit.verdict(found, chosen)
    console.print(
        f"Energy of the limit {found.limit.energy:.10f} ({found.limit_error:.0e} from an adaptive solve); distinct minima met: {found.minima_discrete} discrete, {found.minima_continuum} continuum."
    )
    for sentence in sentences:
        console.print(sentence)
    if agreed is not None:
        console.print(f"The orders are {'those expected' if agreed else 'not those expected'}.", style="bold")
    console.print(f"Picture, table and results.json are in {options.out} ({time.perf_counter() - started:.0f} s).")
    return 1 if agreed is False else 0


def _load(name: str) -> Any:
    from neuralflow import data

    return data.digits_pair() if name == "digits" else data.from_file(Path(name))


def _table(found: Any, chosen: dict[str, Any]) -> Any:
    from rich.table import Table

    from neuralflow.deep_limit import DISTANCES, expected_order

    heads = ("energy gap", "sup", "L2", "TL2", "H1")
    table = Table(title="Distance of the optimal network to the optimal ODE", title_style="bold")
    for name in ("scheme", "depth", *heads, "iterations"):
        table.add_column(name, justify="left" if name == "scheme" else "right")
    orders = found.orders()
    for scheme in orders:
        rows = [row for row in found.rows if row.scheme == scheme]
        for row in rows:
            cells = (f"{row.distances[d]:.3e}" for d in DISTANCES)
            table.add_row(scheme, str(row.depth), *cells, str(row.iterations))
        cells = ["-" if order is None else f"{order:.3f}" for order in orders[scheme].values()]
        wanted = [str(expected_order(chosen[scheme], d)) for d in DISTANCES]
        table.add_row(f"{scheme}", "order", *cells, "", style="bold")
        table.add_row("", "expected", *wanted, "", style="dim", end_section=True)
    return table


def _record(options: DeepLimit, found: Any) -> dict[str, Any]:
    given = {"depths": list(options.depths), "schemes": list(options.schemes), "seed": options.seed, "data": options.data}
    versions = {name: importlib.metadata.version(name) for name in ("neuralflow-jax", "jax", "flax", "diffrax")}
    return {"command": "neuralflow deep-limit", "options": given, "versions": versions, **found.record()}

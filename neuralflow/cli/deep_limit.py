"""`neuralflow deep-limit`: print and write the depth-limit table.

The experiment itself stands in `labs.deep_limit`.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from neuralflow import checks, files
from neuralflow.checks import InputError
from neuralflow.cli.common import SCHEMES, writable
from neuralflow.console import progress, screen

SchemeName = Literal["euler", "heun", "midpoint", "rk4"]


@dataclass(frozen=True)
class DeepLimit:
    """Measure whether the optimal weights of ever deeper networks converge to those of the ODE.

    The command minimises the regularised objective E_n of Thorpe & van Gennip (arXiv 1810.11741) at
    every depth and for every scheme. The optimum of the continuum is found independently. The
    command prints the distances between the two optima and the orders of convergence. The results
    are two pictures, the table and results.json.

    The exit status is 0 if the orders are as expected, or if there are too few depths to tell. The
    exit status is 1 if the orders, or the results of --falsify, are not as expected, and 2 for bad
    input.
    """

    depths: tuple[int, ...] = (16, 32, 64, 128, 256)
    """The numbers of layers. Orders are fitted over the depths of at least 32 layers."""
    schemes: tuple[SchemeName, ...] = ("euler", "heun", "midpoint")
    """The discretisations of the layer."""
    seed: int = 0
    """The seed of the random starts."""
    out: Path = Path("results/deep-limit")
    """The folder for the results. A missing folder is created."""
    data: str = "digits"
    """The data: 'digits', or an .npz file with x (samples, d) and y in {0, 1}.
    'digits' is scikit-learn's digits, 3 against 8, in four principal components."""
    resume: bool = False
    """Go on with the results of an interrupted run in the folder.
    No finished depth is computed again."""
    falsify: bool = False
    """Afterwards change the problem in six ways under which the weights must not converge.
    Say whether the weights converge, and try ReLU too."""
    trained: bool = False
    """Afterwards train networks of 16 to 256 layers without any penalty (arXiv 2309.01213).
    Train from equal and from unequal layers, and say which networks have a limit.
    The training takes some minutes."""


def run(options: DeepLimit) -> int:
    """Run `neuralflow deep-limit`: print the depth-limit table, write pictures and numbers.

    Args:
        options: The options of the command.

    Returns:
        The exit status: 0 if the results are as expected or cannot tell, 1 if they are not.

    Raises:
        InputError: An option or the data is wrong.
        ExtraMissing: A package that the data or the pictures need is not installed.
    """
    if not options.schemes:
        raise InputError("--schemes is empty; name at least one of euler, heun, midpoint, rk4")
    if not options.depths or min(options.depths) < 2 or max(options.depths) > 4096:
        raise InputError(
            "--depths must be whole numbers from 2 to 4096, "
            f"got {' '.join(map(str, options.depths)) or 'none'}"
        )
    checks.seed("--seed", options.seed)
    out = writable(options.out)
    import jax

    jax.config.update("jax_enable_x64", True)
    from rich.console import Console

    from neuralflow.labs import deep_limit

    chosen = {name: SCHEMES[name]() for name in dict.fromkeys(options.schemes)}
    depths = sorted(set(options.depths))
    started = time.perf_counter()
    data = _load(options.data)
    problem = deep_limit.thorpe_van_gennip(data["x"], data["y"])
    console = screen()
    console.print(
        f"{options.data}: {len(data['x'])} samples in {data['x'].shape[1]} dimensions; "
        f"{' '.join(chosen)} at depths {' '.join(map(str, depths))}"
    )
    study = None
    with (
        _kept(options, data, out) as kept,
        progress(1 + len(chosen) * len(depths), console) as advance,
    ):
        for what, study in deep_limit.study(problem, chosen, depths, seed=options.seed, kept=kept):
            advance(what)
            record = _record(options, study, chosen, time.perf_counter() - started)
            files.write(out / "results.json", files.as_json(record))
    assert study is not None
    tables = _table(study, chosen), _further(study, chosen)
    plain = Console(width=118, record=True, file=io.StringIO())
    for table in tables:
        console.print(table)
        plain.print(table)
    files.write(out / "table.txt", plain.export_text())
    for name, picture in (
        ("deep-limit", deep_limit.plots.convergence(study)),
        ("further", deep_limit.plots.further(study, chosen)),
    ):
        files.write(
            out / f"{name}.png",
            lambda path, picture=picture: picture.savefig(path, format="png", dpi=160),
        )
    agreed, sentences = deep_limit.verdict(study, chosen)
    for sentence in (*_about(study), *sentences):
        console.print(sentence, highlight=False)
    if agreed is not None:
        console.print(
            f"The orders are {'those expected' if agreed else 'not those expected'}.", style="bold"
        )
    if options.falsify:
        agreed = _falsified(problem, study, options.seed, out, console) and agreed
    if options.trained:
        _descended(out, console)
    console.print(
        f"Pictures, table and results.json are in {options.out} "
        f"({time.perf_counter() - started:.0f} s)."
    )
    return 1 if agreed is False else 0


def _load(name: str) -> Any:
    """Read the data by its option, and refuse labels other than the classes 0 and 1."""
    from neuralflow import data

    arrays = data.digits_pair() if name == "digits" else data.from_file(Path(name))
    if not np.isin(arrays["y"], (0, 1)).all() or len(np.unique(arrays["y"])) < 2:
        raise InputError(
            f"y must hold samples of the classes 0 and 1, got {np.unique(arrays['y'])[:5].tolist()}"
        )
    return arrays


@contextlib.contextmanager
def _kept(options: DeepLimit, data: Any, out: Path) -> Iterator[Any]:
    """Yield the minimisers on disk, and keep other processes out meanwhile.

    When the run resumes, minimisers of data of another content or of another seed are refused.
    Otherwise all minimisers are deleted.
    """
    from neuralflow.labs.deep_limit import Folder

    place = out / "minima"
    if not files.inside(place, out):
        raise InputError(
            f"{place} is a link out of {options.out}; remove it, or give another --out"
        )
    try:
        lock = files.lock(place)
    except BlockingIOError:
        raise InputError(
            f"another process computes in {options.out}; wait for its end, or give another --out"
        ) from None
    with lock or contextlib.nullcontext():
        if not options.resume:
            for path in place.glob("*.npz"):
                path.unlink()
        of = {"data": files.digest(data["x"], data["y"]), "seed": options.seed}
        try:
            kept = Folder(place, of)
        except InputError:
            raise InputError(
                f"{options.out} holds minimisers of other data or options than --data "
                f"{options.data} --seed {options.seed}; "
                "give the same ones, another --out, or leave --resume out to begin anew"
            ) from None
        yield kept


def _falsified(problem: Any, study: Any, seed: int, out: Path, console: Any) -> bool:
    """Print and write the falsifiers; return whether all of them came out as expected."""
    from neuralflow.labs.deep_limit import falsify, kinked

    panels = []
    with progress(8, console) as advance:
        for panel in falsify(problem, study.limit, seed=seed):
            panels.append(panel)
            advance(panel.name)
        agreed = [panel.converges for panel in panels] == [True] + [False] * 6
        panels.append(kinked(problem, study.limit, seed=seed))
        advance(panels[-1].name)
    for panel in panels:
        console.print(panel.sentence(), highlight=False)
    rows = [
        {
            "name": p.name,
            "converges": p.converges,
            "order": p.order,
            "to_limit": p.to_limit,
            "apart": p.apart,
        }
        for p in panels
    ]
    files.write(out / "falsifiers.json", files.as_json(rows))
    return agreed


def _descended(out: Path, console: Any) -> None:
    """Train by plain descent, print the verdicts, write trained.json and trained.png."""
    from neuralflow.labs import deep_limit

    depths, series, record = (16, 32, 64, 128, 256), {}, {}
    with progress(len(depths) * len(deep_limit.PROTOCOLS), console) as advance:
        for name, protocol in deep_limit.PROTOCOLS.items():
            series[name] = []
            for network in deep_limit.descend(depths, seeds=2, **protocol):
                series[name].append(network)
                advance(f"{name}, depth {network.depth}")
    for name, networks in series.items():
        scaling = deep_limit.scaling(networks)
        console.print(f"{name}: {scaling.verdict()}.", highlight=False)
        means = {
            what: {k: float(np.mean(p)) for k, p in exponents.items()}
            for what, exponents in vars(scaling).items()
        }
        record[name] = {"verdict": scaling.verdict(), "exponents": means}
    files.write(out / "trained.json", files.as_json(record))
    picture = deep_limit.plots.trained(series)
    files.write(out / "trained.png", lambda path: picture.savefig(path, format="png", dpi=160))


def _about(study: Any) -> list[str]:
    """Describe the limit and the minima in sentences."""
    other = (
        ""
        if np.isnan(study.disagreement)
        else f", {study.disagreement:.0e} in weights from the boundary-value problem"
    )
    limit = (
        f"Energy of the limit {study.limit.energy:.10f} "
        f"({study.limit_error:.0e} from an adaptive solve{other})."
    )
    met = [
        f"{sum(k for _, k in met)} {where} starts met "
        f"{len(met)} {'minimum' if len(met) == 1 else 'minima'}" + f", the lowest {met[0][1]} times"
        for where, met in study.basins.items()
    ]
    branch = " One branch is followed." if max(map(len, study.basins.values())) > 1 else ""
    return [
        limit,
        f"{'; '.join(met)}. Smallest curvature {study.curvature:.3f} (2 without data).{branch}",
    ]


def _table(study: Any, chosen: dict[str, Any]) -> Any:
    """Return the depth-limit table: the distances at every depth, and the orders of convergence."""
    from rich.table import Table

    from neuralflow.labs.deep_limit import expected_order

    shown = {"energy": "energy gap", "sup": "sup", "l2": "L2", "tl2": "TL2", "h1": "H1"}
    table = Table(title="Distance of the optimal network to the optimal ODE", title_style="bold")
    for name in ("scheme", "depth", *shown.values(), "iterations"):
        table.add_column(name, justify="left" if name == "scheme" else "right")
    orders = study.orders()
    for scheme in orders:
        rows = [row for row in study.rows if row.scheme == scheme]
        for row in rows:
            cells = (f"{row.distances[d]:.3e}" for d in shown)
            table.add_row(scheme, str(row.depth), *cells, str(row.iterations))
        cells = [_order(orders[scheme][d]) for d in shown]
        wanted = [_expected(expected_order(chosen[scheme], d)) for d in shown]
        table.add_row(f"{scheme}", "order", *cells, "", style="bold")
        table.add_row("", "expected", *wanted, "", style="dim", end_section=True)
    return table


def _order(order: float | None) -> str:
    """Return an order as text, a dash for an order that could not be fitted."""
    return "-" if order is None else f"{order:.3f}"


def _expected(order: int | None) -> str:
    """Return an expected order as text, "none" where the limit is another equation."""
    return "none" if order is None else str(order)


def _further(study: Any, chosen: dict[str, Any]) -> Any:
    """Return the table of the further fitted orders, and of the deepest pair of depths n and 2n."""
    from rich.table import Table

    from neuralflow.labs.deep_limit import expected_order

    table = Table(
        title="What else must hold: fitted orders, and the deepest pair n, 2n", title_style="bold"
    )
    heads = (
        "recovery",
        "forward",
        "residual",
        "prediction",
        "Richardson at 2n",
        "plain at 2n",
        "collapse",
    )
    for name in ("scheme", *heads, "expected order"):
        table.add_column(name, justify="left" if name == "scheme" else "right")
    for scheme, orders in study.orders().items():
        order = expected_order(chosen[scheme], "sup")
        last = ("-", "-", "-")
        pairs = [] if order is None else study.extrapolated(scheme, order)
        if pairs:
            _, gap = study.collapse(scheme, order)[-1]
            last = (f"{pairs[-1][2]:.1e}", f"{pairs[-1][1]:.1e}", f"{gap:.1%}")
        cells = [_order(orders[what]) for what in ("recovery", "forward", "residual", "prediction")]
        table.add_row(scheme, *cells, *last, _expected(order))
    return table


def _record(
    options: DeepLimit, study: Any, chosen: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """Return the content of results.json: options, time, versions and the numbers of the study.

    Args:
        options: The options of the command.
        study: The study.
        chosen: The schemes by name.
        seconds: The time since the start of this process's work.
    """
    import jax

    device = jax.devices()[0]
    settings = {
        "depths": list(options.depths),
        "schemes": list(options.schemes),
        "seed": options.seed,
        "data": options.data,
    }
    return {
        "question": "Do optimal weights converge to those of the optimal ODE as depth grows?",
        "command": "neuralflow deep-limit",
        "options": settings,
        "seconds": round(seconds, 1),
        "device": f"{device.platform} ({device.device_kind})",
        "versions": dict(files.versions("neuralflow-jax", "jax", "flax", "diffrax")),
        **study.record(chosen),
    }

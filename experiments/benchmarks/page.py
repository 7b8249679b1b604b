"""The page of a result: tables with medians and quartiles, losses with their causes, a picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.measure import cell
from experiments.benchmarks.plan import STAGES
from neuralflow import files, plots

PAGE, PICTURE = "page.md", "page.png"
LOSS = 1.05
"""The ratio from which neuralflow counts as slower, where the lower quartile is above 1 too."""
HEADS = {"time": "time, ours / other", "first call": "first call, ours / other"}
"""The heads of the columns of ratios."""
EAGER = ("PyTorch", "torchdiffeq", "torchode", "torchdyn")
Row = Mapping[str, Any]


def write(result: Mapping[str, Any], folder: Path) -> None:
    """Write the page and the picture of a result, each whole or not at all."""
    files.write(folder / PICTURE, lambda path: picture(result).savefig(path, dpi=150, format="png"))
    files.write(folder / PAGE, "\n".join(lines(result)) + "\n")


def ordered(result: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the workloads that the result holds, in the order of the program."""
    return [(name, result["stages"][name]) for name in STAGES if name in result["stages"]]


def pairs(result: Mapping[str, Any]) -> Iterator[tuple[str, Row]]:
    """Yield the rows that compare neuralflow with something else, each with its workload."""
    for name, stage in ordered(result):
        yield from ((name, row) for row in stage["rows"] if "other" in row and "time" in row)


def losses(result: Mapping[str, Any]) -> list[Row]:
    """Return a row for every comparison in which neuralflow is slower, with the cause."""
    found = []
    for name, row in pairs(result):
        for what in ("time", "first call"):
            ratio = row.get(what)
            if ratio and ratio["median"] > LOSS and ratio["low"] > 1:
                found.append(
                    {
                        "workload": name,
                        "case": row["case"],
                        "neuralflow": row["neuralflow"],
                        "other": row["other"],
                        HEADS[what]: ratio,
                        "cause": cause(row, what),
                    }
                )
    return found


def cause(row: Row, what: str) -> str:
    """Return why neuralflow is slower, as the workload says."""
    if what == "first call" and family(row["other"]) in EAGER and "compiled" not in row["other"]:
        return "nothing is compiled before eager PyTorch runs"
    return row.get("first cause" if what == "first call" else "cause") or "not known"


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the page."""
    versions = ", ".join(
        f"{name} {version}"
        for name, version in (result["versions of the peers"] | result["versions"]).items()
    )
    quick = result.get("options", {}).get("quick", False)
    yield from (
        "# neuralflow beside others",
        "",
        f"{result['device']}, {result['cores']} cores; {versions}; {result['written']}.",
        "Commands: "
        + ", ".join(f"`{command}`" for command in result["commands"])
        + (" (quick runs: their times mean nothing)." if quick else "."),
        "",
        "Times are ratios, neuralflow over the other: below 1, neuralflow is faster. They are "
        "medians of ratios round by round, with the quartiles in brackets. A first call traces, "
        "compiles and runs, without imports. *Apart* is the largest difference of values, which "
        "are compared before the clock starts, relative to their largest entry. *Memory* is the "
        "ratio of the temporary memory of compiled programs.",
        "",
        f"A loss is a median above {LOSS:g} whose lower quartile is above 1. Rows nearer to 1 "
        "stand in the tables of the workloads.",
        "",
        f"![How many times as fast as others]({PICTURE})",
        "",
        "## Where neuralflow is slower",
        "",
    )
    lost = losses(result)
    for kind in ("time", "first call"):
        yield from table([row for row in lost if HEADS[kind] in row])
    if not lost:
        yield "Nowhere in this run." if any(pairs(result)) else "Nothing was compared."
        yield ""
    best = peak(result)
    for name, stage in ordered(result):
        yield f"## {STAGES[name].what}"
        yield ""
        if stage["status"] != "done":
            said = [stage.get("reason", ""), *stage.get("errors", []), *stage.get("left out", [])]
            yield f"{name}: {stage['status']}. {'; '.join(filter(None, said))}"
            yield ""
        rows = [shared(row, best) for row in stage["rows"] if "left out" not in row]
        for group in groups(rows):
            yield from table(group)
        gone = {
            f"{row.get('other') or row.get('route')}: {row['left out']}"
            for row in stage["rows"]
            if "left out" in row
        }
        yield from (f"- Left out: {text}." for text in sorted(gone))
        yield ""


def peak(result: Mapping[str, Any]) -> float | None:
    """Return the most GFLOP/s that a product of matrices has reached, by any package."""
    rows = result["stages"].get("product", {}).get("rows", [])
    return max((row["GFLOP/s"] for row in rows if "GFLOP/s" in row), default=None)


def shared(row: Row, best: float | None) -> Row:
    """Return a row that tells operations a second as a share of the best product too."""
    if not best or "other GFLOP/s" not in row:
        return row
    shares = {
        "share of peak": row["GFLOP/s"] / best,
        "other share": row["other GFLOP/s"] / best,
    }
    return {k: v for k, v in row.items() if not k.endswith("GFLOP/s")} | shares


def groups(rows: Iterable[Row]) -> list[list[Row]]:
    """Return the rows in groups of the same columns, in the order in which columns come first."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row), []).append(row)
    return list(found.values())


def table(rows: list[Row]) -> Iterator[str]:
    """Yield the lines of a table. Columns that say nothing are left out."""
    if not rows:
        return
    columns = [
        name
        for name in rows[0]
        if name not in ("rounds", "first cause", *(() if "workload" in rows[0] else ("cause",)))
        and any(row[name] not in (None, "") for row in rows)
    ]
    yield "| " + " | ".join(HEADS.get(name, name) for name in columns) + " |"
    yield "|" + "|".join("---" if isinstance(rows[0][n], str) else "--:" for n in columns) + "|"
    for row in rows:
        yield "| " + " | ".join("" if row[n] is None else cell(row[n]) for n in columns) + " |"
    yield ""


def family(other: str) -> str:
    """Return the kind of package that a route belongs to."""
    if "odeint" in other and "torch" not in other:
        return "odeint of JAX"
    names = ("diffrax", "bijx", "torchdiffeq", "torchode", "torchdyn")
    found = next((name for name in names if name in other and "by hand" not in other), None)
    return found or ("PyTorch" if "PyTorch" in other else "JAX by hand")


def picture(result: Mapping[str, Any]) -> Any:
    """Draw how many times as fast neuralflow is, a point for every comparison."""
    from matplotlib.ticker import LogLocator

    rows = list(pairs(result))
    stages = list(dict.fromkeys(name for name, _ in rows)) or ["nothing"]
    figure, axes = plots.figure(1, 1, 9.0, 1.6 + 0.62 * len(stages))
    axis = axes.ravel()[0]
    kinds = sorted({family(row["other"]) for _, row in rows})
    for k, kind in enumerate(kinds):
        lift = 0.6 * ((k + 0.5) / len(kinds) - 0.5)
        points = [
            (len(stages) - 1 - stages.index(name) + lift, row["time"])
            for name, row in rows
            if family(row["other"]) == kind
        ]
        heights, ratios = zip(*points, strict=True)
        faster = np.asarray([[1 / r["high"], 1 / r["median"], 1 / r["low"]] for r in ratios])
        axis.hlines(heights, faster[:, 0], faster[:, 2], color=f"C{k}", linewidth=1, alpha=0.6)
        axis.plot(faster[:, 1], heights, "o", color=f"C{k}", markersize=4, label=kind)
    axis.axvline(1, color="black", linewidth=1)
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter("")
    axis.set_yticks(range(len(stages)), [name.replace("_", " ") for name in reversed(stages)])
    axis.set_xlabel("time of the other / time of neuralflow (right of 1: neuralflow is faster)")
    axis.set_ylim(-0.6, len(stages) - 0.4)
    if rows:
        plots.legend_below(figure, axis, 4)
    return figure

"""What the stages of a program have measured, on the screen."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from experiments.benchmarks.measure import show
from neuralflow.console import screen


def show_rows(stages: dict[str, dict[str, Any]]) -> None:
    """Print the rows of every case."""
    for record in stages.values():
        cases: dict[str, list[dict[str, Any]]] = {}
        for row in record["rows"]:
            cases.setdefault(row["case"], []).append(
                {name: value for name, value in row.items() if name != "case"}
            )
        for case, rows in cases.items():
            show(case, rows)


def show_stages(stages: dict[str, dict[str, Any]]) -> None:
    """Print a table of the stages."""
    table = Table(title="Stages")
    for name in ("stage", "status", "seconds", "rows", "errors and what was left out"):
        table.add_column(name, justify="right" if name in ("seconds", "rows") else "left")
    for name, record in stages.items():
        said = [record.get("reason", ""), *record.get("errors", []), *record.get("left out", [])]
        seconds = f"{record['seconds']:.1f}" if "seconds" in record else ""
        rows = str(len(record["rows"]))
        table.add_row(name, record["status"], seconds, rows, "; ".join(filter(None, said)))
    screen().print(table)

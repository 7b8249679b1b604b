"""A table that people read, from any result in JSON.

Results have many forms. The candidates for a table are all lists of records, and all dictionaries
of records, which give rows with a name. The table is the candidate that says most within the
limits of a page. Nothing is computed: a cell is a number of the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ROWS, COLUMNS = 12, 8
"""How much of a result a page shows at most."""
LONG, LONGEST = 60, 200
"""The letters from which a text is long, and from which the rest of it is left out."""
RUN = frozenset(
    [
        "command",
        "commands",
        "options",
        "started",
        "seconds",
        "device",
        "platform",
        "devices",
        "cores",
        "versions",
        "pictures",
        "title",
        "question",
        "verdict",
        "status",
        "process",
        "began",
        "dry",
        "written",
    ]
) | {"versions of the peers"}
"""Entries that tell of the run and not of what was measured."""
Record = Mapping[str, Any]
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        path: The names that lead to the rows in the result.
        head: The names of the columns.
        rows: The cells, row by row.
    """

    path: tuple[str, ...]
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def measured(result: Record) -> dict[str, Any]:
    """Return what a result says beyond its run. Older results have it under the name `result`."""
    inner = result.get("result")
    whole = {**result, **inner} if isinstance(inner, Mapping) else result
    return {k: v for k, v in whole.items() if k not in RUN and v is not inner}


def table(result: Record, chosen: tuple[str, Sequence[str]] | None = None) -> Table | None:
    """Return the table of a result, or None where nothing in it can be a table.

    Args:
        result: Plain data.
        chosen: The path of the rows, with slashes, and the columns, if a program names them.

    Raises:
        KeyError: The result has no such rows or columns.
    """
    held = measured(result)
    candidates = dict(_candidates(held))
    if chosen is not None:
        path, names = tuple(chosen[0].split("/")), chosen[1]
        rows = candidates.get(path, [])
        if unknown := set(names) - {name for row in rows for name in row}:
            raise KeyError(f"TABLE must name what is in the result, got {chosen[0]}: {unknown}")
        return _shown(path, rows, names)
    tables = [_shown(path, rows, _columns(rows)) for path, rows in candidates.items()]
    best = max(tables, key=_worth, default=None)
    if best is None or not _worth(best):
        return _shown((), pairs, ("", "value")) if (pairs := _pairs(_flat(held))) else None
    return best


def facts(result: Record) -> dict[str, str]:
    """Return the single numbers and texts of a result, beside its table."""
    return {
        name: cell(value)
        for name, value in measured(result).items()
        if _is_cell(value) and len(cell(value)) <= LONG and "seconds" not in name
    }


def cell(value: Any) -> str:
    """Return a value as a text: three digits, and intervals as "mean (low to high)"."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        middle, low, high = _interval(value)
        missing = low is None or high is None
        return cell(middle) if missing else f"{cell(middle)} ({cell(low)} to {cell(high)})"
    if isinstance(value, list):
        return _listed(value)
    if isinstance(value, int | float):
        return number(value)
    return value if len(value) <= LONGEST else f"{value[:LONGEST]}…"


def number(value: float) -> str:
    """Return a number with three digits, whole numbers with all."""
    if float(value).is_integer() and abs(value) < 1e9:
        return str(int(value))
    text = f"{value:.3g}"
    return str(int(float(text))) if "e+" in text and abs(value) < 1e6 else text


def _listed(values: list[Any]) -> str:
    """Return a list as it is if it is short, or from its least to its largest number."""
    flat = list(_leaves(values))
    numbers = [v for v in flat if isinstance(v, int | float)]
    if len(flat) <= 4 or len(numbers) < len(flat):
        return ", ".join(map(cell, flat))
    ends = cell(min(numbers)), cell(max(numbers))
    return f"{len(flat)} times {ends[0]}" if ends[0] == ends[1] else " to ".join(ends)


def _leaves(values: Any) -> Iterator[Any]:
    if isinstance(values, list):
        for value in values:
            yield from _leaves(value)
    else:
        yield values


def _interval(value: Record) -> tuple[Any, Any, Any]:
    """Return the middle and the ends of an estimate."""
    ends = value["interval"] if "interval" in value else (value["low"], value["high"])
    return (value["mean"] if "mean" in value else value["median"], *ends)


def _estimate(value: Any) -> bool:
    """Whether a value is a number with an interval."""
    return (
        isinstance(value, Mapping)
        and ("mean" in value or "median" in value)
        and ("interval" in value or {"low", "high"} <= value.keys())
    )


def _is_cell(value: Any) -> bool:
    """Whether a value fits one cell."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(leaf, int | float | str) for leaf in _leaves(value))
    return not isinstance(value, Mapping) or (_estimate(value) and len(value) <= 4)


def _candidates(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Rows]]:
    """Yield all that can be rows of a table, with the path to it."""
    if isinstance(node, list):
        if node and all(isinstance(row, Mapping) and not _is_cell(row) for row in node):
            yield path, [_flat(row) for row in node]
        return
    if not isinstance(node, Mapping) or _is_cell(node):
        return
    many = [_is_cell(v) and (_estimate(v) or isinstance(v, list)) for v in node.values()]
    if len(many) > 1 and all(many):
        yield path, _pairs(node)
    alike = _alike(node)
    if alike:
        yield path, [{"": name, **_flat(record)} for name, record in alike.items()]
        yield from _joined(alike, path)
    for name, value in node.items():
        if name not in alike:
            yield from _candidates(value, (*path, name))


def _joined(records: Record, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Rows]]:
    """Yield the tables that records have alike, one below the other: `*` stands for their names."""
    tables: dict[tuple[str, ...], Rows] = {}
    for name, record in records.items():
        for below, rows in _candidates(record):
            named = [
                {"": "", **row} | {"": ", ".join(filter(None, (name, row.get(""))))} for row in rows
            ]
            tables.setdefault((*path, "*", *below), []).extend(named)
    yield from tables.items()


def _pairs(values: Record) -> Rows:
    """Return a row for every entry: its name, and its value."""
    return [{"": name, "value": value} for name, value in values.items()]


def _alike(node: Record) -> dict[str, Record]:
    """Return the entries of a dictionary that are records, if they are several and alike.

    Alike means that three quarters of their names, on two levels, are those of all.
    """
    records = {k: v for k, v in node.items() if isinstance(v, Mapping) and not _is_cell(v)}
    names = [set(_names(record)) for record in records.values()]
    shared = 4 * sum(map(len, names)) > 3 * len(set().union(*names)) * len(names)
    return records if len(records) > 1 and shared else {}


def _names(record: Record) -> Iterator[tuple[str, ...]]:
    """Yield the names in a record, each with its kind, and those in its dictionaries."""
    for name, value in record.items():
        yield name, "cell" if _is_cell(value) else type(value).__name__
        if isinstance(value, Mapping) and not _is_cell(value):
            yield from ((name, inner, "inner") for inner in value)


def _flat(row: Record, prefix: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a record with what lies deeper under names of its own, and lists of records left out.

    A record that is an estimate itself, beside other entries, has one column for it.
    """
    whole = _estimate(row)
    middle = "mean" if "mean" in row else "median"
    flat = {}
    for name, value in row.items():
        if whole and name in ("interval", "low", "high"):
            continue
        if whole and name == middle:
            flat[", ".join((*prefix, name))] = {k: row[k] for k in _parts(row)}
        elif _is_cell(value):
            flat[", ".join((*prefix, name))] = value
        elif isinstance(value, Mapping):
            flat |= _flat(value, (*prefix, name))
    return flat


def _parts(row: Record) -> list[str]:
    """Return the names of an estimate's entries."""
    return [name for name in ("mean", "median", "interval", "low", "high") if name in row]


def _columns(rows: Rows) -> tuple[str, ...]:
    """Return the columns that tell most: those that differ from row to row, short ones first."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    texts = {name: [cell(row.get(name)) for row in rows] for name in names}

    def tells(name: str) -> bool:
        here = [text for text in texts[name] if text not in ("-", "")]
        return 2 * len(here) > len(rows) and (len(rows) == 1 or len(set(texts[name])) > 1)

    def rank(name: str) -> int:
        lists = any(isinstance(row.get(name), list) for row in rows)
        long = max(map(len, texts[name])) > 2 * LONG
        return lists + long + (sum(name in row for row in rows) < len(rows))

    best = sorted(filter(tells, names), key=rank)[:COLUMNS]
    return tuple(name for name in names if name in best)


def _shown(path: tuple[str, ...], rows: Rows, names: Sequence[str]) -> Table:
    return Table(path, tuple(names), tuple(tuple(cell(r.get(n)) for n in names) for r in rows))


def _worth(table: Table) -> float:
    """Return how much a table says: its cells, estimates more, single runs and deep ones less."""
    cells = [text for row in table.rows[:ROWS] for text in row if text != "-"]
    if table.head in ((), ("",)):
        return 0.0
    single = any(name in ("runs", "seeds", "draws") for name in table.path)
    return (
        (len(cells) + 2 * sum(" to " in text for text in cells))
        * 0.75 ** len(table.path)
        * (0.2 if single else 1)
    )

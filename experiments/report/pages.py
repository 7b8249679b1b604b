"""The experiments as one page of Markdown, and as one page of HTML that needs no other file."""

from __future__ import annotations

import base64
import os
import re
import textwrap
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from experiments.program import ROOT
from experiments.report.kept import Experiment, Result
from experiments.report.tables import Table, facts, number, table

NOT = "not recorded"
ROWS, MOST = 8, 12
"""The rows of a table in Markdown, and in HTML."""
WIDTH = 100
TITLE = "Experiments"
INTRODUCTION = (
    "What every experiment asks, what it found, its command, its time, and what it measured. "
    "`python -m experiments.report --keep` writes this page from the results that are kept beside "
    "the programs, and no number in it is typed by hand. Intervals are written as "
    '"mean (low to high)": 95% over seeds or draws, and quartiles where times are compared. What a '
    "result does not record is not guessed."
)
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 0 auto;
  max-width: 68rem; padding: 1rem; overflow-wrap: break-word; }
h1, h2 { line-height: 1.25; }
h2 { margin-top: 3rem; border-top: 1px solid #ccc; padding-top: 1rem; font-size: 1.25rem; }
a { color: #0b4f8a; }
code { font-size: 0.875em; background: #f3f3f3; padding: 0.1em 0.3em; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.875rem; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #ddd; padding: 0.3rem 0.7rem; text-align: left;
  vertical-align: top; min-width: 4rem; }
th { border-bottom: 2px solid #888; }
td:first-child { min-width: 9rem; }
img { max-width: 100%; height: auto; display: block; margin: 1rem 0; }
.run { color: #444; font-size: 0.9rem; }
details p { white-space: pre-line; }
pre { overflow-x: auto; background: #f3f3f3; padding: 0.5rem; }
"""


def names(experiments: Sequence[Experiment]) -> list[str]:
    """Return the name of every experiment in links, as GitHub makes it from the heading."""
    return [
        re.sub(r"[^\w\- ]", "", heading(each.question).lower()).replace(" ", "-")
        for each in experiments
    ]


def heading(question: str) -> str:
    """Return a question as a heading."""
    return question.removesuffix(".")


def seconds(result: Result) -> str:
    """Return the time of a run, with its name."""
    if result.time is None:
        return NOT
    name, value = result.time
    return f"{number(value)} {name}"


def machine(result: Result) -> str:
    """Return what a result was measured on, as far as it says so."""
    device, cores = result.run.get("device"), result.run.get("cores")
    parts = [str(device) if device else "", f"{cores} cores" if cores else ""]
    return ", ".join(filter(None, parts)) or NOT


def versions(result: Result) -> str:
    """Return the versions that a result has recorded."""
    held = result.run.get("versions") or {}
    return ", ".join(f"{name} {version}" for name, version in held.items()) or NOT


def of_run(result: Result) -> dict[str, str]:
    """Return what is known of a run, by name."""
    return {
        "Time": seconds(result),
        "Machine": machine(result),
        "Versions": versions(result),
    }


def more(shown: Table, most: int) -> str:
    """Return what to say of the rows that a page leaves out."""
    left = len(shown.rows) - most
    return f"{left} more row{'s' * (left > 1)}" if left > 0 else ""


def commands(each: Experiment, result: Result) -> str:
    """Return the commands of a result, or what its program tells if none was recorded."""
    if result.commands:
        return " and ".join(f"`{command}`" for command in result.commands)
    return f"Command: {NOT}" + (f"; now `{each.command}`" if each.command else "")


def beside(result: Result, shown: Table | None) -> str:
    """Return the single numbers of a result that are not in its table."""
    if shown is None or not shown.path:
        return ""
    return "; ".join(f"{name}: {value}" for name, value in facts(result.data).items())


def markdown(experiments: Sequence[Experiment], folder: Path = ROOT) -> str:
    """Return the page of Markdown.

    Args:
        experiments: The experiments.
        folder: The folder of the page, from which links and pictures are reached.
    """
    links = names(experiments)
    lines = [f"# {TITLE}", "", *_wrapped(INTRODUCTION), "", "| question | command | time |"]
    lines.append("|---|---|---|")
    for each, link in zip(experiments, links, strict=True):
        times = ", ".join(seconds(result) for result, _ in each.results) or "no result is kept"
        question = _cell(heading(each.question))
        linked = f"[{question}](#{link})" if each.results else question
        lines.append(f"| {linked} | {_code(each)} | {times} |")
    for each in filter(lambda each: each.results, experiments):
        lines += ["", f"## {_plain(heading(each.question))}"]
        for later, (result, files) in enumerate(each.results):
            lines += [""] * bool(later)
            lines += _result_lines(each, result, files, folder)
    return "\n".join(lines) + "\n"


def _result_lines(
    each: Experiment, result: Result, files: Sequence[Path], folder: Path
) -> Iterator[str]:
    def link(path: Path) -> str:
        return Path(os.path.relpath(path, folder)).as_posix()

    shown = table(result.data, each.table)
    links = ", ".join(
        f"[{path.name}]({link(path)})"
        for path in (result.path, *(path for path in files if path.suffix != ".png"))
    )
    run = ". ".join(f"{name}: {text}" for name, text in of_run(result).items())
    for sentence in result.findings:
        yield from _wrapped(f"- {_plain(sentence)}", "  ")
    if result.findings:
        yield ""
    told = [_plain(beside(result, shown)), _plain(result.data.get("verdict", "").rstrip("."))]
    left = f" ({more(shown, ROWS)})" if shown and len(shown.rows) > ROWS else ""
    yield from (f"{commands(each, result)}.", f"{run}. {links}{left}")
    yield from _wrapped(". ".join(filter(None, told)))
    if shown is not None:
        yield from ("", _row(shown.head), "|" + "---|" * len(shown.head))
        yield from map(_row, shown.rows[:ROWS])
    pictures = [f"![{path.stem}]({link(path)})" for path in files if path.suffix == ".png"]
    if pictures:
        yield from ("", *pictures)


def _row(texts: Sequence[str]) -> str:
    return f"| {' | '.join(map(_cell, texts))} |"


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")


def _plain(text: str) -> str:
    """Return a text whose signs mean nothing in Markdown."""
    return re.sub(r"([*\\]|(?<!\w)_|_(?!\w))", r"\\\1", " ".join(text.split())).replace("<", "&lt;")


def _code(each: Experiment) -> str:
    command = each.command or next((c for r, _ in each.results for c in r.commands), "")
    return f"`{command}`" if command else NOT


def _wrapped(text: str, indent: str = "") -> list[str]:
    """Return the lines of a paragraph. What is code, or a link, may be longer than a line."""
    return textwrap.wrap(
        text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def html(experiments: Sequence[Experiment]) -> str:
    """Return the page of HTML. Pictures are inside it, and it asks for nothing else.

    Args:
        experiments: The experiments.
    """
    links = names(experiments)
    rows = [
        f'<li><a href="#{link}">{_coded(heading(each.question))}</a></li>'
        for each, link in zip(experiments, links, strict=True)
    ]
    parts = [f"<h1>{TITLE}</h1>", f"<p>{_coded(INTRODUCTION)}</p>", "<ol>", *rows, "</ol>"]
    for each, link in zip(experiments, links, strict=True):
        parts.append(f'<h2 id="{link}">{_coded(heading(each.question))}</h2>')
        parts += _about(each)
        for result, files in each.results:
            parts += _result_parts(each, result, files)
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{TITLE}</title><style>{STYLE}</style>"
    )
    body = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _about(each: Experiment) -> Iterator[str]:
    """Yield how the question is answered, folded away."""
    paragraphs = each.about.split("\n\n")[1:]
    if paragraphs:
        yield "<details><summary>How</summary>"
        for text in paragraphs:
            tag = "pre" if text.startswith(" ") else "p"
            yield f"<{tag}>{_coded(textwrap.dedent(text))}</{tag}>"
        yield "</details>"
    if not each.results:
        yield f"<p><code>{escape(each.command)}</code>. No result is kept.</p>"


def _result_parts(each: Experiment, result: Result, files: Sequence[Path]) -> Iterator[str]:
    if result.findings:
        yield "<ul>"
        yield from (f"<li>{_coded(sentence)}</li>" for sentence in result.findings)
        yield "</ul>"
    yield f"<p>{_coded(commands(each, result))}</p>"
    run = ". ".join(f"{name}: {text}" for name, text in of_run(result).items())
    where = result.path.relative_to(ROOT.parent) if result.path.is_relative_to(ROOT) else ""
    yield f'<p class="run">{escape(run)}. <code>{escape(str(where or result.path.name))}</code></p>'
    if verdict := result.data.get("verdict"):
        yield f"<p>{escape(verdict)}</p>"
    shown = table(result.data, each.table)
    if single := beside(result, shown):
        yield f"<p>{escape(single)}</p>"
    if shown is not None:
        yield '<div class="wide"><table>'
        yield "<tr>" + "".join(f"<th>{escape(text)}</th>" for text in shown.head) + "</tr>"
        for row in shown.rows[:MOST]:
            yield "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>"
        yield f"</table></div><p>{escape(more(shown, MOST))}</p>"
    for path in files:
        if path.suffix == ".png":
            content = base64.b64encode(path.read_bytes()).decode()
            alt = escape(f"{heading(each.question)}: {path.name}")
            yield f'<img alt="{alt}" src="data:image/png;base64,{content}">'


def _coded(text: str) -> str:
    """Return a text with what stands between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))

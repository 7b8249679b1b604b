"""The programs of the experiments, and the results that are kept beside them."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from experiments.program import ROOT
from experiments.report import findings

PARTS = {
    "benchmarks.alone": "a layer in a process of its own, for `benchmarks.workloads.first_minute`",
    "benchmarks.host": "the process that runs the routes of a benchmark",
    "resume.train": "the training that `resume.kill` kills",
    "versions": "what another Python says of its packages",
    "stages.worker": "the process of a stage",
}
"""Modules that run as processes of programs, and why nobody calls them by hand."""
MAIN = re.compile(r"^if __name__ == .__main__.:", re.M)


def programs(root: Path = ROOT) -> Iterator[str]:
    """Yield the name of every program, `folder.module`.

    Args:
        root: The folder of the experiments.
    """
    for path in sorted(root.rglob("*.py")):
        name = ".".join(path.relative_to(root).with_suffix("").parts)
        if MAIN.search(path.read_text()) and name not in PARTS:
            yield name


@dataclass(frozen=True)
class Module:
    """What a module says of itself. It is read and not imported.

    Attributes:
        path: The file.
    """

    path: Path

    @cached_property
    def _tree(self) -> ast.Module:
        return ast.parse(self.path.read_text())

    @cached_property
    def about(self) -> str:
        """The docstring."""
        return ast.get_docstring(self._tree) or ""

    @property
    def question(self) -> str:
        """The first paragraph of the docstring, in one line."""
        return " ".join(self.about.split("\n\n")[0].split())

    @property
    def command(self) -> str:
        """The last command of the docstring: those before it prepare its files."""
        commands = re.findall(r"^ +((?:\w+ )?python -m experiments\..*)$", self.about, re.M)
        return commands[-1].strip() if commands else ""

    @property
    def files(self) -> set[str]:
        """The names of files in the docstring."""
        return set(re.findall(r"[\w-]+\.(?:json|png|md)(?!\w)", self.about))

    @property
    def table(self) -> tuple[str, tuple[str, ...]] | None:
        """The constant TABLE: the path of the rows with slashes, and the columns."""
        for node in self._tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "TABLE":
                return ast.literal_eval(node.value)
        return None


@dataclass(frozen=True)
class Result:
    """A kept result.

    Attributes:
        path: The JSON file.
        data: What the file holds.
    """

    path: Path
    data: dict[str, Any]

    @property
    def commands(self) -> list[str]:
        """The commands that were recorded."""
        return self.data.get("commands") or list(filter(None, [self.data.get("command")]))

    @property
    def run(self) -> dict[str, Any]:
        """What is recorded of the run. Older results have some of it under the name `result`."""
        inner = self.data.get("result")
        return {**inner, **self.data} if isinstance(inner, dict) else self.data

    @property
    def time(self) -> tuple[str, float] | None:
        """The longest of the times that are recorded of the whole run, with its name."""
        times = {k: v for k, v in self.run.items() if "seconds" in k and isinstance(v, int | float)}
        return max(times.items(), key=lambda item: item[1], default=None)

    @cached_property
    def findings(self) -> tuple[str, ...]:
        """What was found, in sentences. Nothing tells of results outside the experiments."""
        if not self.path.is_relative_to(ROOT):
            return ()
        return findings.of(self.path.relative_to(ROOT).with_suffix("").as_posix(), self.data)

    def is_of(self, program: Module, root: Path) -> bool:
        """Return whether a program has made the result.

        The command tells it, or where none is recorded, the name of the file.
        """
        if not self.path.is_relative_to(program.path.parent):
            return False
        parts = program.path.relative_to(root).with_suffix("").parts
        called = "python -m experiments." + ".".join(p for p in parts if p != "__main__")
        if not self.commands:
            return self.path.name in program.files
        return any(f"{command} ".startswith(f"{called} ") for command in self.commands)

    def beside(self, program: Module) -> list[Path]:
        """Return the pictures and pages of the result: those that it names, or the program."""
        names = set(self.data.get("pictures", [f"{self.path.stem}.png", *program.files]))
        names |= {name for name in program.files if name.endswith(".md")}
        paths = (self.path.with_name(name) for name in sorted(names))
        return [path for path in paths if path.suffix != ".json" and path.exists()]


@dataclass(frozen=True)
class Experiment:
    """A question, and the results that answer it.

    Attributes:
        question: The question, or what is done to answer one, in one line.
        about: How it is answered.
        command: The command, as the program tells it.
        results: The kept results, each with its pictures and pages.
        table: The path of the rows and the columns, if the module names them.
    """

    question: str
    about: str
    command: str
    results: list[tuple[Result, list[Path]]]
    table: tuple[str, tuple[str, ...]] | None = None


def experiments(root: Path = ROOT) -> list[Experiment]:
    """Return all experiments, in the order of their files.

    A result belongs to the program of its command, or to the program that names its file. The
    module of the result's own name tells of it, where there is one, or else the program does. What
    no program has made comes last.

    Args:
        root: The folder of the experiments.
    """
    held = [Result(path, json.loads(path.read_text())) for path in sorted(root.rglob("*.json"))]
    shown = []
    for name in programs(root):
        program = Module(root.joinpath(*name.split(".")).with_suffix(".py"))
        own = [result for result in held if result.is_of(program, root)]
        held = [result for result in held if result not in own]
        shown += _of_program(program, own)
    claimed = {path for each in shown for _, beside in each.results for path in beside}
    return shown + [_of_nobody(result, claimed) for result in held]


def _of_program(program: Module, results: list[Result]) -> list[Experiment]:
    """Return the experiments of a program: one for each module that tells of its results."""
    told: dict[Path, list[tuple[Result, list[Path]]]] = {} if results else {program.path: []}
    for result in results:
        own = result.path.with_name(result.path.stem.replace("-", "_") + ".py")
        path = own if own.exists() else program.path
        told.setdefault(path, []).append((result, result.beside(program)))
    return [
        Experiment(
            module.question,
            module.about,
            module.command or program.command,
            of_module,
            module.table or program.table,
        )
        for module, of_module in ((Module(path), each) for path, each in told.items())
    ]


def _of_nobody(result: Result, claimed: set[Path]) -> Experiment:
    """Return the experiment of a result that no program has made, with the pictures left over."""
    own = result.path.with_suffix(".png")
    free = set(result.path.parent.glob("*.png")) - claimed
    left_over = sorted(path for path in free if not path.with_suffix(".json").exists())
    pictures = [own] if own.exists() else left_over
    told = (result.data.get(name) for name in ("question", "title"))
    question = next(filter(None, told), None) or next(iter(result.commands), result.path.stem)
    return Experiment(question, "", "", [(result, pictures)])

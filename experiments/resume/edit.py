"""Change what a training or a sweep has left on disk, and see that no change goes unnoticed.

    python -m experiments.resume.edit

Each edit is made in a fresh copy of a finished run: a digit of a record, of the options or of a
score, a byte of an array, a copy of another checkpoint, a link to a place outside, a damaged
minimiser, a changed cache of decoded examples. Then the run is resumed and evaluated. An edit is

- refused: a sentence for people, and nothing else;
- mended: the results are those of the run that nobody touched, bit for bit;
- silent: the results are others, and nobody said so;
- raw: an error that is not for people.

What lies behind a link must be as it was. Edits of the cache of decoded examples need --data-dir, a
folder with MNIST. Ends with status 0 if no edit is silent or raw. Writes edit.json.
"""

from __future__ import annotations

import functools
import json
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

import neuralflow as nf
from experiments.program import Parser
from experiments.resume.kill import rows, weights
from neuralflow import data, files, training
from neuralflow.checks import InputError
from neuralflow.cli.train import Evaluate, Train, restored, run as run_train
from neuralflow.console import progress
from neuralflow.labs import deep_limit

Edit = Callable[[Path], Any]
Program = Callable[[Path], Any]
"""What goes on in a folder after an edit, and returns what must not have changed."""


def digit(path: Path, rng: random.Random) -> None:
    """Replace one digit of a text file by another one."""
    text = path.read_text()
    at = rng.choice([k for k, letter in enumerate(text) if letter.isdigit()])
    other = rng.choice([d for d in "0123456789" if d != text[at]])
    path.write_text(text[:at] + other + text[at + 1 :])


def byte(path: Path, rng: random.Random) -> None:
    """Flip one bit of a file."""
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(content))


def linked(name: str) -> Edit:
    """Return the edit that puts a link to a file or folder outside in the place of a name."""

    def edit(folder: Path) -> None:
        path, outside = folder / name, folder.parent / "outside"
        if path.is_dir():
            shutil.copytree(path, outside, dirs_exist_ok=True)
            shutil.rmtree(path)
            path.symlink_to(outside)
        else:
            path.unlink(missing_ok=True)
            (outside / "of somebody else").write_text("precious")
            path.symlink_to(outside / "of somebody else")

    return edit


def last(folder: Path) -> Path:
    """Return the last checkpoint of a training."""
    return max((folder / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))


def model() -> nnx.Module:
    return nnx.Linear(2, 2, rngs=nnx.Rngs(0))


def fit(folder: Path, epochs: int, **options: Any) -> Any:
    """Train, and return weights and history."""
    trained = model()
    training.fit(
        trained,
        nf.models.classification,
        optax.adam(1e-2),
        data.moons(100),
        epochs=epochs,
        batch=20,
        validation=data.moons(40, seed=1),
        folder=folder,
        save_every=2,
        progress=False,
        **options,
    )
    return weights(trained), rows(folder)


def best(folder: Path) -> Any:
    """Return the weights of the best checkpoint."""
    found = model()
    step = training.restore(folder, found, best=True)
    return step, weights(found)


def command(folder: Path) -> Any:
    """Go on with `neuralflow train`, and evaluate."""
    options = {"data": "moons", "width": 4, "steps": 2, "epochs": 3, "out": folder}
    run_train(Train(**options, resume=(folder / "options.json").exists()))
    _, network, test, step = restored(Evaluate(folder))
    return step, weights(network), training.evaluate(network, nf.models.classification, test)


def sweep(folder: Path) -> Any:
    """Find minimisers at three depths, and return their rows."""
    draw = np.random.default_rng(0).normal(size=(8, 2))
    problem = deep_limit.thorpe_van_gennip(draw, (draw[:, 0] > 0).astype(float))
    kept = deep_limit.Folder(folder, {"seed": 0})
    *_, (_, study) = deep_limit.study(
        problem, {"euler": nf.Euler()}, (2, 4, 8), starts=1, kept=kept
    )
    return study.record({"euler": nf.Euler()})["rows"]


def decoded(sets: Path, folder: Path) -> Any:
    """Read a split through its cache of decoded examples."""
    held = data.load("mnist", "test[:200]", data_dir=sets, cache=folder)
    return {name: files.digest(held[name]) for name in sorted(held)}


def edits(rng: random.Random, read: Program | None) -> list[tuple[str, Program, Edit]]:
    """Return the edits: a name, the program that goes on after it, and the edit."""

    def some(name: str, count: int, program: Any, edit: Edit) -> list[Any]:
        return [(f"{name} {k}", program, edit) for k in range(count)]

    def go_on(folder: Path) -> Any:
        return fit(folder, 4, resume=True)

    def one(pattern: str, change: Callable[[Path, random.Random], None]) -> Edit:
        def edit(folder: Path) -> None:
            change(rng.choice(sorted(p for p in folder.glob(pattern) if p.is_file())), rng)

        return edit

    def arrays(folder: Path) -> None:
        # What orbax reads: it has merged the other files into these.
        held = last(folder) / "arrays"
        byte(rng.choice([*sorted((held / "d").iterdir()), held / "manifest.ocdbt"]), rng)

    def copied(folder: Path) -> None:
        first = min((folder / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))
        shutil.rmtree(last(folder) / "record")
        shutil.copytree(first / "record", last(folder) / "record")

    def swapped(folder: Path) -> None:
        path = folder / "options.json"
        record = files.unseal(json.loads(path.read_text()))
        path.write_text(files.as_json(files.seal({**record, "scheme": "heun"})))

    def record(folder: Path) -> None:
        digit(last(folder) / "record" / "metadata", rng)

    def step(folder: Path) -> None:
        linked(f"checkpoints/{last(folder).name}")(folder)

    def other(folder: Path) -> None:
        shutil.copy(folder / "euler-2.npz", folder / "euler-4.npz")

    def names(folder: Path) -> None:
        next(folder.glob("*/names.json")).write_text('["../image", "label"]')

    return [
        *some("digit of a record", 14, go_on, record),
        *some("digit of a score, best", 3, best, one("checkpoints/*/metrics/metrics", digit)),
        *some("digit of a score", 3, go_on, one("checkpoints/*/metrics/metrics", digit)),
        *some("digit of a record, best", 4, best, one("checkpoints/*/record/metadata", digit)),
        *some("bit of an array", 8, go_on, arrays),
        *some("record of another step", 1, go_on, copied),
        *some("link for .lock", 1, go_on, linked(".lock")),
        *some("link for history.jsonl", 1, go_on, linked("history.jsonl")),
        *some("link for history.csv", 1, go_on, linked("history.csv")),
        *some("link for a partial file", 1, go_on, linked("history.jsonl.partial")),
        *some("link for the checkpoints", 1, go_on, linked("checkpoints")),
        *some("link for a step", 1, go_on, step),
        *some("link for a step, best", 1, best, step),
        *some("digit of the options", 6, command, one("options.json", digit)),
        *some("options that are sealed anew", 1, command, swapped),
        *some("bit of a minimiser", 6, sweep, one("*.npz", byte)),
        *some("copy of another minimiser", 1, sweep, other),
        *(some("bit of the decoded cache", 5, read, one("*/*", byte)) if read else ()),
        *(some("names that lead out of the cache", 1, read, names) if read else ()),
    ]


def three(folder: Path) -> Any:
    """Train for three epochs."""
    return fit(folder, 3)


def trained(folder: Path) -> Any:
    """Run `neuralflow train` for two epochs."""
    run_train(Train(data="moons", width=4, steps=2, epochs=2, out=folder))


def ended(program: Program, edit: Edit, source: Path, wanted: Any) -> str:
    """Edit a copy of a run, go on with it, and return how that ends."""
    with tempfile.TemporaryDirectory() as place:
        folder, beside = Path(place) / "run", Path(place) / "outside"
        shutil.copytree(source, folder)
        beside.mkdir()
        edit(folder)
        outside = {p: p.read_bytes() for p in beside.rglob("*") if p.is_file()}
        try:
            end = "mended" if program(folder) == wanted else "silent"
        except (InputError, training.CheckpointError) as error:
            end = "refused" if "\n" not in str(error) else "raw"
        except Exception as error:
            end = f"raw: {type(error).__name__} {error}"
        kept = all(p.exists() and p.read_bytes() == held for p, held in outside.items())
        return end if kept else "silent: a link was followed"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(__file__, __doc__, data="taken")
    parser.add_argument("--seed", type=int, default=0)
    run = parser.begin(arguments)
    sets = run.options.data_dir
    read = functools.partial(decoded, sets) if sets else None
    cases = edits(random.Random(run.options.seed), read)
    # What makes the run that a program goes on from.
    starts: dict[Any, Program] = {command: trained, sweep: sweep, **({read: read} if read else {})}
    cases, told = cases[:: len(cases) // 3 if run.options.quick else 1], []
    with (
        tempfile.TemporaryDirectory() as place,
        jax.enable_x64(True),
        progress(len(cases)) as done,
    ):
        whole: dict[Any, tuple[Path, Any]] = {}
        for name, program, edit in cases:
            if program not in whole:
                source = Path(place) / f"source-{len(whole)}"
                starts.get(program, three)(source)
                copy = Path(place) / f"whole-{len(whole)}"
                shutil.copytree(source, copy)
                whole[program] = source, program(copy)
            told.append({"edit": name, "end": ended(program, edit, *whole[program])})
            done(f"{name} -> {told[-1]['end']}")
    counts = Counter(entry["end"].partition(":")[0] for entry in told)
    run.write("edit", {"edits": len(told), **counts, "told": told})
    print(f"{len(told)} edits: {dict(counts)}")
    if counts["silent"] or counts["raw"]:
        sys.exit(1)


if __name__ == "__main__":
    main()

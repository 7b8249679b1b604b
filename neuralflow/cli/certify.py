"""`neuralflow certify`: is a trained network an ODE?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neuralflow import files
from neuralflow.cli.common import UsageError, writable
from neuralflow.cli.train import Evaluate, restored
from neuralflow.console import screen


@dataclass(frozen=True)
class Certify:
    """Says whether what `neuralflow train` has left in a folder is an ODE, and on which evidence.

    Walks the network with finer steps and better schemes, exchanges weights of neighbouring layers for their mean,
    compares gradients, and measures how smooth the weights are in depth. Writes certificate.json and certificate.png.
    Ends with status 0 for an ODE, 1 for a network that is none, 2 for bad input.
    """

    folder: Path = Path("results/train")
    """Folder of the training; the results are written there too."""
    samples: int = 1000
    """How many test samples to look at."""
    data_dir: Path | None = None
    """Folder of the prepared TFDS sets; that of the training by default."""


def run(options: Certify) -> int:
    """Certifies."""
    if options.samples < 2:
        raise UsageError(f"--samples must be at least 2, got {options.samples}")
    _, model, test, _ = restored(Evaluate(options.folder, data_dir=options.data_dir))
    out = writable(options.folder)
    import jax.numpy as jnp

    from neuralflow.labs import deep_limit

    x, labels = (np.asarray(test[name][: options.samples]) for name in ("x", "y"))
    certificate = deep_limit.certify(
        model,
        jnp.asarray(x),
        score=lambda logits: jnp.mean(jnp.argmax(logits, axis=-1) == labels),
    )
    console = screen()
    console.print(table(certificate))
    console.print(certificate.sentence(), highlight=False)
    files.write(out / "certificate.json", files.as_json(certificate.record()))
    picture = deep_limit.plots.certificates({options.folder.name: certificate})
    files.write(out / "certificate.png", lambda path: picture.savefig(path, format="png", dpi=160))
    return 0 if certificate.is_ode else 1


def table(certificate: Any) -> Any:
    """The evidence, for the screen."""
    from rich.table import Table

    evidence = Table(title="Is it an ODE?", title_style="bold")
    for name in ("evidence", "measured", "bound"):
        evidence.add_column(name, justify="left" if name == "evidence" else "right")
    for row in certificate.rows():
        evidence.add_row(*row)
    return evidence

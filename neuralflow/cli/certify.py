"""`neuralflow certify`: is a trained network an ODE?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neuralflow import files
from neuralflow.checks import InputError
from neuralflow.cli.common import writable
from neuralflow.cli.train import Evaluate, restored
from neuralflow.console import screen


@dataclass(frozen=True)
class Certify:
    """Decide whether a network of `neuralflow train` is an ODE, and show the evidence.

    The command compares the network with the exact flow of the equation to which its scheme
    converges: outputs, path and adjoint. The command also measures how much the velocity changes
    from step to step. The results are certificate.json and certificate.png in the same folder.

    The exit status is 0 for an ODE, 1 for a network that is no ODE or is undecided, and 2 for bad
    input.
    """

    folder: Path = Path("results/train")
    """The folder of the training. The results are written there too."""
    samples: int = 1000
    """The number of test samples to use."""
    data_dir: Path | None = None
    """The folder of the prepared TFDS sets. The default is the data folder of the training."""


def run(options: Certify) -> int:
    """Run `neuralflow certify`: print the evidence, write certificate.json and certificate.png.

    Args:
        options: The options of the command.

    Returns:
        The exit status: 0 for an ODE, 1 for a network that is no ODE or is undecided.

    Raises:
        InputError: An option is wrong, or the folder holds no training that can be read.
        CheckpointError: The checkpoint is missing or damaged.
    """
    if options.samples < 2:
        raise InputError(f"--samples must be at least 2, got {options.samples}")
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
    """Return the evidence as a table of rich, to print on the screen.

    Args:
        certificate: The certificate from `labs.deep_limit.certify`.
    """
    from rich.table import Table

    evidence = Table(title="Is it an ODE?", title_style="bold")
    for name in ("evidence", "measured", "bound"):
        evidence.add_column(name, justify="left" if name == "evidence" else "right")
    for row in certificate.rows():
        evidence.add_row(*row)
    return evidence

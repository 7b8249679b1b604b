"""The command line: the only place where strings become objects."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

from neuralflow.cli.common import UsageError


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `neuralflow` and `python -m neuralflow`."""
    try:
        import tyro
    except ImportError:
        sys.exit(
            "neuralflow's commands need tyro and rich; install the extra: pip install 'neuralflow-jax[experiments]'"
        )
    from neuralflow.cli import certify, data, deep_limit, info, train

    commands: dict[str, tuple[Any, Any]] = {
        "deep-limit": (deep_limit.DeepLimit, deep_limit.run),
        "certify": (certify.Certify, certify.run),
        "train": (train.Train, train.run),
        "evaluate": (train.Evaluate, train.run_evaluate),
        "data": (data.Data, data.run),
        "info": (info.Info, info.run),
    }
    choices: Any = None
    for name, (options, _) in commands.items():
        choice = Annotated[options, tyro.conf.subcommand(name)]
        choices = choice if choices is None else choices | choice
    try:
        command = tyro.cli(
            choices,
            prog="neuralflow",
            description="Continuous-depth networks in JAX.",
            args=arguments,
        )
        run = next(run for options, run in commands.values() if isinstance(command, options))
        status = run(command)
        sys.stdout.flush()
        sys.exit(status)
    except BrokenPipeError:  # `| head`: nobody reads on; what was written so far is kept
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except UsageError as error:
        print(f"neuralflow: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("neuralflow: interrupted; results written so far are kept", file=sys.stderr)
        sys.exit(130)

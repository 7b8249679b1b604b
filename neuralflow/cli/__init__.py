"""The command line: the only place where strings become objects.

A mistake that a person can mend ends in one sentence and status 2; a bug keeps its traceback.
"""

from __future__ import annotations

import os
import sys
from dataclasses import make_dataclass
from typing import Annotated, Any


def main(arguments: list[str] | None = None) -> None:
    """Run `neuralflow`, or `python -m neuralflow`, and end the process with the command's status.

    Args:
        arguments: The words behind `neuralflow`; those of the process by default.
    """
    try:
        import tyro
    except ImportError:
        sys.exit(
            "neuralflow's commands need tyro and rich; "
            "install the extra: pip install 'neuralflow-jax[cli]'"
        )
    from neuralflow.cli import cache, certify, data, deep_limit, info, train

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

    keep = tyro.conf.arg(help="Keep compiled programs in the user's cache folder for later runs.")
    line = make_dataclass(
        "Neuralflow", [("command", choices), ("compilation_cache", Annotated[bool, keep], True)]
    )
    line.__doc__ = "Continuous-depth networks in JAX."
    plain = (tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes)
    try:
        parsed: Any = tyro.cli(line, prog="neuralflow", args=arguments, config=plain)
        if parsed.compilation_cache:
            cache.switch_on()
        run = next(run for options, run in commands.values() if isinstance(parsed.command, options))
        status = run(parsed.command)
        sys.stdout.flush()
        sys.exit(status)
    except BrokenPipeError:  # `| head`: nobody reads on; what was written so far is kept
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except KeyboardInterrupt:
        print("neuralflow: interrupted; results written so far are kept", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if not isinstance(error, _mendable()):
            raise
        print(f"neuralflow: {error}", file=sys.stderr)
        sys.exit(2)


def _mendable() -> tuple[type[Exception], ...]:
    """Return the errors whose message tells a person what to mend."""
    from neuralflow.checks import ExtraMissing, InputError
    from neuralflow.data import DataMissing
    from neuralflow.training import CheckpointError

    return InputError, ExtraMissing, DataMissing, CheckpointError, ConnectionError

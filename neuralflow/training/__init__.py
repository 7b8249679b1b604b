"""Train any NNX module with one function, `fit`, and keep its history and its checkpoints.

`evaluate` computes the mean of a loss over a data set. `restore` reads a checkpoint. `multilevel`
refines a model between the levels of its training, and `refined_moments` carries the state of the
optimiser over.
"""

# `loop` holds `fit` and the compiled step, `batches` the order and the placement of the data,
# `evaluation` the loss and its mean over a data set. `log` writes the history and decides when a
# checkpoint is due, `checkpoints` writes and reads checkpoints, `display` shows the progress.
# `interrupts` holds signals back until the state is saved. `levels` refines a model between the
# levels of its training.

from neuralflow.training.checkpoints import CheckpointError
from neuralflow.training.evaluation import Loss, evaluate
from neuralflow.training.levels import (
    multilevel,
    refined_moments,
)
from neuralflow.training.log import History
from neuralflow.training.loop import (
    Fitted,
    TrainingError,
    fit,
    restore,
)

__all__ = [
    "CheckpointError",
    "Fitted",
    "History",
    "Loss",
    "TrainingError",
    "evaluate",
    "fit",
    "multilevel",
    "refined_moments",
    "restore",
]
__docformat__ = "google"

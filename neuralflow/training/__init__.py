"""Training of any NNX module: one function, its history and its checkpoints."""

from neuralflow.training.evaluation import Loss as Loss, evaluate as evaluate
from neuralflow.training.log import History as History
from neuralflow.training.loop import (
    Fitted as Fitted,
    TrainingError as TrainingError,
    fit as fit,
    restore as restore,
)

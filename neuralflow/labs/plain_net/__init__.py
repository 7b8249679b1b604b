"""Plain networks as flows, and flows as residual networks (Li & Shi, arXiv 1708.06257).

`read` reads and checks a plain network. `decompose` splits its weights into rotations and
stretchings. `as_flow` makes one flow of the network, and `as_resnet` makes a residual network.
`neuralflow.labs.plain_net.plots` draws a layer as a motion.
"""

# `reading` reads, `decomposition` splits, `flows` and `resnets` build, `embedding` holds what these
# two share.

from neuralflow.labs.plain_net import plots
from neuralflow.labs.plain_net.decomposition import (
    Decomposition,
    decompose,
    dimension,
    rotation_logarithm,
)
from neuralflow.labs.plain_net.embedding import (
    Constant,
    Embedded,
    pulled_back,
)
from neuralflow.labs.plain_net.flows import MOTIONS, as_flow, glue
from neuralflow.labs.plain_net.reading import Dense, identity, read
from neuralflow.labs.plain_net.resnets import (
    Activated,
    Block,
    Linear,
    as_resnet,
)

__all__ = [
    "MOTIONS",
    "Activated",
    "Block",
    "Constant",
    "Decomposition",
    "Dense",
    "Embedded",
    "Linear",
    "as_flow",
    "as_resnet",
    "decompose",
    "dimension",
    "glue",
    "identity",
    "plots",
    "pulled_back",
    "read",
    "rotation_logarithm",
]
__docformat__ = "google"

"""Plain networks as flows, and flows as residual networks (Li & Shi, arXiv 1708.06257).

`reading` reads and checks a plain network. `decomposition` splits its weights into rotations and
stretchings. `flows` makes one flow of the network, and `resnets` makes a residual network.
`embedding` holds what these two share.
"""

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

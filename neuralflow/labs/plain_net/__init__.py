"""Plain networks as flows, and flows as residual networks (Li & Shi, arXiv 1708.06257).

`reading` reads and checks a plain network. `decomposition` splits its weights into rotations and
stretchings. `flows` makes one flow of the network, and `resnets` makes a residual network.
`embedding` holds what these two share.
"""

from neuralflow.labs.plain_net import plots as plots
from neuralflow.labs.plain_net.decomposition import (
    Decomposition as Decomposition,
    decompose as decompose,
    dimension as dimension,
    rotation_logarithm as rotation_logarithm,
)
from neuralflow.labs.plain_net.embedding import (
    Constant as Constant,
    Embedded as Embedded,
    pulled_back as pulled_back,
)
from neuralflow.labs.plain_net.flows import MOTIONS as MOTIONS, as_flow as as_flow, glue as glue
from neuralflow.labs.plain_net.reading import Dense as Dense, identity as identity, read as read
from neuralflow.labs.plain_net.resnets import (
    Activated as Activated,
    Block as Block,
    Linear as Linear,
    as_resnet as as_resnet,
)

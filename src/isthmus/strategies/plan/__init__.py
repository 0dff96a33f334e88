"""The plan algebra: one file a strategy, all of them pure. A new strategy is a file here and a line in
`STRATEGIES`.
"""

from __future__ import annotations

from isthmus.strategies.plan.burst import Burst
from isthmus.strategies.plan.call import CallModel
from isthmus.strategies.plan.cascade import Cascade
from isthmus.strategies.plan.choose import Choose
from isthmus.strategies.plan.edge import Edge
from isthmus.strategies.plan.ensemble import Ensemble
from isthmus.strategies.plan.fallback import Fallback
from isthmus.strategies.plan.grade import Grade
from isthmus.strategies.plan.hedge import Hedge
from isthmus.strategies.plan.node import Node
from isthmus.strategies.plan.shadow import Shadow
from isthmus.strategies.plan.split import Split

STRATEGIES: dict[str, type[Node]] = {
    node.keyword: node
    for node in (CallModel, Fallback, Split, Cascade, Choose, Ensemble, Hedge, Burst, Edge, Shadow, Grade)
}
"""Every strategy by its keyword in the config."""

__all__ = [
    "STRATEGIES",
    "Burst",
    "CallModel",
    "Cascade",
    "Choose",
    "Edge",
    "Ensemble",
    "Fallback",
    "Grade",
    "Hedge",
    "Node",
    "Shadow",
    "Split",
]

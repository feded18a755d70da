"""The agent with search tags (Search-R1, Jin et al. 2025). This is the agent that `tspo train`
trains.
"""

from __future__ import annotations

from tspo_cli.evaluation.methods.method import Method
from tspo_cli.rollout.protocol import SearchProtocol

SEARCH_R1 = Method("search_r1", SearchProtocol, searches=True)

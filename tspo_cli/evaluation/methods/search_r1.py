"""The tag agent (Search-R1, Jin et al. 2025): what is trained here, and every model directory of
that family.
"""

from __future__ import annotations

from tspo_cli.evaluation.methods.method import Method
from tspo_cli.rollout.protocol import SearchProtocol

SEARCH_R1 = Method("search_r1", SearchProtocol, searches=True)

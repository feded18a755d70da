"""The section of an experiment file about servers and processes on several GPUs and nodes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tspo_cli.config.sections.section import Section


class LaunchConfig(Section):
    """What `tspo launch` and `--print-launch` start on each node."""

    processes: int = Field(
        0,
        ge=0,
        description=(
            "Training processes of a node. 0: one for each GPU that no server has; "
            "train.processes without GPUs."
        ),
    )
    retriever: Literal["none", "first", "each"] = Field(
        "none",
        description="Serve retriever.index: on the first node, or on each node that trains.",
    )
    retriever_gpus: list[int] = Field(
        default_factory=list,
        description="GPUs of a retriever, by number. Empty: it searches on the CPU.",
    )
    engines: int = Field(
        0, ge=0, description="vLLM servers of a node. They take the place of vllm.url."
    )
    engine_gpus: list[int] = Field(
        default_factory=list,
        description=(
            "GPUs of a node's vLLM servers, shared out evenly among them. Empty: all of a node "
            "that engine_nodes names."
        ),
    )
    engine_nodes: int = Field(
        0,
        ge=0,
        description=(
            "This many nodes, the last ones, have vLLM servers and do not train. 0: every node "
            "trains and has its own vLLM servers."
        ),
    )
    environment: str = Field(
        "",
        description=(
            "Virtual environment of all processes. Empty: that of this tspo, or .venv-vllm where "
            "vLLM is needed and missing in it."
        ),
    )
    wait: float = Field(
        1800.0, gt=0, description="Seconds to wait until all servers of the launch are ready."
    )

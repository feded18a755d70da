"""The keys of an experiment file. Unknown keys are errors; every field states its meaning and
default.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from tspo_cli.config.sections.agent_sections import (
    DataConfig,
    DemonstrationConfig,
    ModelConfig,
    QdrantConfig,
    RetrieverConfig,
)
from tspo_cli.config.sections.collapse_section import CollapseConfig
from tspo_cli.config.sections.credit_sections import CreditConfig, CriticConfig, LossConfig
from tspo_cli.config.sections.eval_sections import EndpointConfig, EvalConfig, JudgeConfig
from tspo_cli.config.sections.index_settings import SearchConfig
from tspo_cli.config.sections.launch_section import LaunchConfig
from tspo_cli.config.sections.rollout_sections import RolloutConfig, TreeConfig, VllmConfig
from tspo_cli.config.sections.section import Section, UserFunction
from tspo_cli.config.sections.train_sections import (
    CheckpointConfig,
    DeepSpeedConfig,
    LoraConfig,
    OptimizerConfig,
    TrackConfig,
    TrainConfig,
)

__all__ = [
    "CheckpointConfig",
    "CollapseConfig",
    "Config",
    "CreditConfig",
    "CriticConfig",
    "DataConfig",
    "DeepSpeedConfig",
    "DemonstrationConfig",
    "EndpointConfig",
    "EvalConfig",
    "JudgeConfig",
    "LaunchConfig",
    "LossConfig",
    "ModelConfig",
    "OptimizerConfig",
    "QdrantConfig",
    "RetrieverConfig",
    "RolloutConfig",
    "SearchConfig",
    "Section",
    "TrackConfig",
    "TrainConfig",
    "TreeConfig",
    "UserFunction",
    "VllmConfig",
]


class Config(Section):
    """One experiment."""

    kind: Literal["sft", "rl", "rejection_sampling"] = Field(
        "rl",
        description="sft: imitate demonstrations; rl: rollouts and policy gradient; "
        "rejection_sampling: imitate the "
        "best of the policy's own rollouts, round by round.",
    )
    seed: int = Field(0, ge=0, description="Seed of all random draws.")
    prepare: str = Field(
        "",
        description=(
            "Command that makes the inputs of the experiment. The error for a missing input "
            "names it."
        ),
    )
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    demonstrations: DemonstrationConfig = DemonstrationConfig()
    retriever: RetrieverConfig = RetrieverConfig()
    rollout: RolloutConfig = RolloutConfig()
    tree: TreeConfig = TreeConfig()
    vllm: VllmConfig = VllmConfig()
    credit: CreditConfig = CreditConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    critic: CriticConfig = CriticConfig()
    lora: LoraConfig = LoraConfig()
    train: TrainConfig = TrainConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    collapse: CollapseConfig = CollapseConfig()
    launch: LaunchConfig = LaunchConfig()
    eval: EvalConfig = EvalConfig()
    endpoint: EndpointConfig = EndpointConfig()
    judge: JudgeConfig = JudgeConfig()
    deepspeed: DeepSpeedConfig = DeepSpeedConfig()
    track: TrackConfig = TrackConfig()

    @property
    def has_vllm_servers(self) -> bool:
        """Whether vLLM servers sample the rollouts: those of vllm.url, or those of a launch."""
        return self.rollout.engine == "vllm" and bool(self.vllm.url or self.launch.engines)

    def section_dict(self) -> dict[str, Any]:
        """Plain values, for TOML and JSON."""
        return self.model_dump(mode="json")

"""Sections of an experiment file: optimiser, training, checkpoints, DeepSpeed, LoRA, tracking."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tspo_cli.config.sections.section import Section


class OptimizerConfig(Section):
    """AdamW and its learning-rate schedule."""

    lr: float = Field(1e-6, gt=0, description="Learning rate after the warm-up.")
    betas: tuple[float, float] = Field(
        (0.9, 0.95), description="AdamW: decay of the means of the gradient and of its square."
    )
    eps: float = Field(1e-8, gt=0, description="AdamW: added to the root of the mean square.")
    weight_decay: float = Field(
        0.0, ge=0, description="AdamW: share of lr by which weights shrink in an update."
    )
    warmup: int = Field(0, ge=0, description="Optimiser updates of linear warm-up.")
    schedule: Literal["constant", "linear"] = Field(
        "constant", description="After warm-up: constant, or a linear decay to final_lr."
    )
    final_lr: float = Field(
        0.1, ge=0, le=1, description="linear: last learning rate, as a fraction of lr."
    )
    grad_clip: float = Field(1.0, ge=0, description="Largest gradient norm. 0: no clipping.")


class TrainConfig(Section):
    """How long and in what portions."""

    steps: int = Field(
        100,
        ge=1,
        description="Training steps (RL: one rollout batch each; SFT: one optimiser update each).",
    )
    epochs: float = Field(
        0,
        ge=0,
        description=(
            "SFT on data.demonstrations: passes over those that are trained on, in place of "
            "train.steps. 0: train.steps counts."
        ),
    )
    updates_per_step: int = Field(1, ge=1, description="RL: optimiser updates per rollout batch.")
    batch_size: int = Field(16, ge=1, description="SFT: demonstrations per update.")
    tokens_per_micro_batch: int = Field(
        8192, ge=1, description="Tokens in one forward and backward pass."
    )
    packing: bool = Field(
        True,
        description=(
            "Put sequences one after the other (packing) instead of padding them to the "
            "longest one."
        ),
    )
    share_prefixes: Literal["auto", "always", "never"] = Field(
        "auto",
        description=(
            "Tokens with which several sequences of a packed micro-batch begin go through the "
            "model once. auto: for rollouts that branch (tree.branching), and for models of more "
            "than 50 million parameters on a CPU."
        ),
    )
    gradient_checkpointing: bool = Field(
        False,
        description=(
            "Keep only the input of each layer and recompute the rest: less memory, 1/3 "
            "more computation."
        ),
    )
    compile: bool = Field(
        False,
        description=(
            "Compile normalisations and MLPs (torch.compile): less memory traffic on a GPU, "
            "a start that takes seconds longer, results that differ in the last digits."
        ),
    )
    balance_ranks: bool = Field(
        True,
        description=(
            "Distribute the sequences of an update over all processes by length, so that "
            "all have equal work."
        ),
    )
    processes: int = Field(1, ge=1, description="Training processes on this machine.")
    threads: int = Field(
        0, ge=0, description="CPU threads per process. 0: OMP_NUM_THREADS if it is set, else one."
    )
    portable: bool = Field(
        False,
        description=(
            "Compute on the CPU so that bytes repeat on any x86-64 processor with AVX2 and the "
            "same PyTorch: fixed instructions and reproducible modes of the libraries, one thread. "
            "Slower."
        ),
    )
    stall_limit: float = Field(
        900,
        ge=0,
        description=(
            "With several processes: end the run when none of them got further for this many "
            "seconds, because one is stuck. 0: no limit."
        ),
    )
    keep_rollouts: int = Field(
        1, ge=0, description="Keep the rollouts of every n-th step. 0: none."
    )
    average_checkpoints: int = Field(
        1,
        ge=1,
        description=(
            "A run ends with the mean of the weights of its last n checkpoints, of those that "
            "checkpoint.every asks for, and evaluates and exports it. 1: with the weights of the "
            "last step."
        ),
    )
    export_model: bool = Field(
        True, description="Write the trained policy to RUN/model at the end of the run."
    )
    drop_zero_advantage: bool = Field(
        True,
        description=(
            "Leave rollouts without an advantage out of the forward and backward pass; the "
            "gradient stays the same. No effect if loss.kl or loss.entropy gives them one."
        ),
    )
    stop_when: list[str] = Field(
        default_factory=list,
        description=(
            'End a run early, such as "reward < 0.01 for 20" or "invalid_share > 0.5 for '
            '5" (steps in a row).'
        ),
    )
    on_warning: Literal["none", "stop", "lower_lr", "reset_to_best"] = Field(
        "none",
        description=(
            "What follows an early warning of a collapse (see [collapse]). none: it is said; stop: "
            "the run ends with a checkpoint; lower_lr: the learning rate is lowered; "
            "reset_to_best: weights and optimiser are those of the best evaluation, and training "
            "goes on with the next questions."
        ),
    )
    parity_limit: float = Field(
        0,
        ge=0,
        description=(
            "Stop if the log-probs of engine and learner differ by more than this in a step "
            "(mean, in nats). 0: 0.05 in float32; 0.5 in bfloat16, where rounding gives 0.02 to "
            "0.06."
        ),
    )


class CheckpointConfig(Section):
    """What is kept to resume from."""

    every: int = Field(
        50,
        ge=0,
        description=(
            "Steps between checkpoints; there is one at the end and at a stop too. 0: none, so "
            "that the run cannot be resumed, unless checkpoint.minutes is set."
        ),
    )
    minutes: float = Field(
        0,
        ge=0,
        description=(
            "Also a checkpoint when this many minutes have passed since the last one, at the end "
            "of a step; the clock of the first process counts. 0: by steps alone."
        ),
    )
    keep: int = Field(2, ge=1, description="Number of newest checkpoints that are kept.")
    best: Literal["em", "f1", "none"] = Field(
        "em",
        description=(
            "RUN/best keeps the policy with the highest mean of this metric over eval.data, "
            "if eval.every is set."
        ),
    )


class DeepSpeedConfig(Section):
    """The engine below the learner."""

    zero_stage: Literal[0, 1, 2, 3] = Field(0, description="ZeRO stage.")
    offload_optimizer: bool = Field(
        False, description="Keep optimiser states in CPU memory (ZeRO 1 to 3, GPU)."
    )
    offload_reference: bool = Field(
        False,
        description=(
            "Keep the reference policy (loss.kl) in CPU memory and fetch its layers as they are "
            "needed (GPU)."
        ),
    )
    gradient_dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description=(
            "Type in which gradients of micro-batches are added up in bfloat16 training. float32 "
            "needs ZeRO 2 or 3. auto: float32 there, else bfloat16."
        ),
    )
    config: str = Field(
        "",
        description=(
            "DeepSpeed JSON file that is merged over the generated configuration. It may not "
            "contradict the experiment."
        ),
    )


class LoraConfig(Section):
    """Low-rank adapters beside a frozen policy, through peft. PPO's critic gets adapters of its
    own.
    """

    rank: int = Field(
        0,
        ge=0,
        description="Rank of the adapters. 0: no adapters, all weights are trained.",
    )
    alpha: int = Field(
        32, ge=1, description="Scale of an adapter: its output is multiplied by alpha / rank."
    )
    dropout: float = Field(
        0.0, ge=0, lt=1, description="Dropout before an adapter, for kind = sft only."
    )
    targets: list[str] = Field(
        ["all-linear"],
        description=(
            'Names of the linear layers with an adapter, such as "q_proj"; "all-linear": '
            "all but the output layer."
        ),
    )
    handover: Literal["auto", "adapters", "merged"] = Field(
        "auto",
        description=(
            "How the rollout engine gets adapters. adapters: as they are; merged: added to the "
            "weights and rounded to their type, which loses small updates in bfloat16. auto: "
            "adapters in bfloat16, merged in float32."
        ),
    )

    def as_adapters(self, *, bfloat16: bool) -> bool:
        """True where the engine computes with the adapters themselves.

        Merged into bfloat16 weights, a small update is rounded away: 95 % of it after ten updates
        at a rate of 2e-5. In float32 merging loses nothing, and the engine is faster.
        """
        how = self.handover
        return self.rank > 0 and (how == "adapters" or (how == "auto" and bfloat16))


class TrackConfig(Section):
    """Optional sinks beside metrics.jsonl."""

    tensorboard: bool = Field(
        False,
        description=(
            "Also write metrics, timings and scores for TensorBoard, into tensorboard/ of the run."
        ),
    )
    wandb: bool = Field(
        False,
        description=(
            "Also send metrics, timings and scores to W&B. WANDB_MODE=offline keeps them in wandb/ "
            "of the run."
        ),
    )
    wandb_project: str = Field(
        "tspo", min_length=1, description="W&B: name of the project; WANDB_PROJECT wins."
    )
    profile: bool = Field(
        False, description="Write a trace of the second and third step into trace/ of the run."
    )

"""What an experiment file may say. Unknown keys are errors; every field states its meaning and default."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from tspo_cli.config.agent_sections import (
    DataConfig,
    DemonstrationConfig,
    ModelConfig,
    QdrantConfig,
    RetrieverConfig,
    RolloutConfig,
    SearchConfig,
    VllmConfig,
)
from tspo_cli.config.section import Section, UserFunction

__all__ = [
    "CheckpointConfig",
    "Config",
    "CreditConfig",
    "CriticConfig",
    "DataConfig",
    "DeepSpeedConfig",
    "DemonstrationConfig",
    "EndpointConfig",
    "EvalConfig",
    "JudgeConfig",
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
    "UserFunction",
    "VllmConfig",
]


class CreditConfig(Section):
    """From outcomes and feedback to advantages. U1 to U13: what the TSPO paper's abstract leaves open."""

    algorithm: str = Field(
        "tspo",
        description="tspo, grpo, dr_grpo, rloo, reinforce_pp, reinforce_pp_baseline, dapo, gspo, ppo, mt_grpo, gigpo, "
        "igpo, retrieval_bonus, rejection_sampling, or one of your own as FILE.py:function.",
    )
    outcome: Literal["em", "f1", "em_format"] | UserFunction = Field(
        "em", description="U11: reward of the final answer; em_format has the values of Search-R1 v0.3."
    )
    format_score: float = Field(
        0.2,
        ge=0,
        le=1,
        description="em_format: a wrong answer in valid form earns this, a correct one in bad form 1 less it.",
    )
    final_format_score: float = Field(0.1, ge=0, le=1, description="em_format: a wrong answer in bad form earns this.")
    retrieval_score: float = Field(
        0.0, ge=0, le=1, description="em_format: added in valid form where a gold answer was found but not given."
    )
    overlong_limit: int = Field(
        0, ge=0, description="Sampled tokens of a rollout at which the overlong penalty is whole. 0: no penalty."
    )
    overlong_buffer: int = Field(0, ge=0, description="The penalty grows over this many tokens below overlong_limit.")
    overlong_penalty: float = Field(
        1.0, ge=0, description="Taken off the outcome of a rollout of overlong_limit tokens."
    )
    hit_source: Literal["retrieved", "generated", "either"] = Field(
        "retrieved", description="U1: text searched for gold."
    )
    match: Literal["norm_token_boundary", "norm_substring", "raw_lower"] = Field(
        "norm_token_boundary", description="U2: how a gold answer is found in a text."
    )
    degenerate: Literal["no_hit", "as_is", "half"] = Field(
        "no_hit", description="U3: yes/no and one-character golds: never a hit, an ordinary hit, or a hit worth half."
    )
    turn_reward: Literal["prefix", "point", "point_to_go"] = Field(
        "prefix", description="U4: shape of the partial reward."
    )
    gamma: float = Field(
        1.0,
        ge=0,
        le=1,
        description="U4: discount per turn, of point_to_go, gigpo (where its default is 0.95) and igpo.",
    )
    alpha: float = Field(0.5, ge=0, description="U5: size of the partial reward (of retrieval_bonus too).")
    success_turns: Literal["all_ones", "final_only", "hit_plus_final"] = Field(
        "all_ones", description="U6: turn rewards of a correct trajectory."
    )
    gate: Literal["all_wrong", "any_near_miss", "always", "never"] = Field(
        "all_wrong", description="U7: groups that use turn-level advantages."
    )
    norm: Literal["pooled_turns", "per_turn_index", "trajectory"] = Field(
        "pooled_turns", description="U8: population of mean and standard deviation."
    )
    scale: Literal["std", "none"] = Field("std", description="U9: divide by the standard deviation or not.")
    std: Literal["unbiased", "biased"] = Field(
        "unbiased", description="U9: divide squares by n - 1 or by n (igpo's default)."
    )
    eps: float = Field(1e-6, ge=0, description="U9: added to the standard deviation (1e-4 by default in mt_grpo).")
    mixed_reward: Literal["outcome", "outcome_plus_alpha"] = Field(
        "outcome", description="U10: trajectory reward where trajectory-level advantages are used."
    )
    mt_turns: Literal["each", "first"] = Field(
        "each",
        description="mt_grpo: compare each search with the others' search of that index, or the first ones alone.",
    )
    mt_coef: float = Field(1.0, ge=0, description="mt_grpo: weight of the turn-level advantage.")
    mt_execution: float = Field(0.2, ge=0, description="mt_grpo: reward of a search that was executed.")
    mt_hit: float = Field(0.5, ge=0, description="mt_grpo: reward of a search that finds a gold answer.")
    gigpo_coef: float = Field(1.0, ge=0, description="gigpo: weight of the step-level advantage (omega).")
    gigpo_similarity: float = Field(
        1.0,
        gt=0,
        le=1,
        description="gigpo: observations at least this similar are one anchor state. 1: identical ones.",
    )
    gigpo_population: Literal["trajectory", "turn"] = Field(
        "trajectory", description="gigpo: a trajectory counts once in the group's mean, or once per turn (as released)."
    )
    information_gain: Literal["log_prob_diff", "prob_diff"] = Field(
        "log_prob_diff", description="igpo: gain of a turn in the gold answer's log-probability, or in its probability."
    )
    igpo_norm: Literal["separate", "joint"] = Field(
        "separate", description="igpo: normalise gains and outcomes apart, or together."
    )
    belief_prefix: str = Field(
        "<think> Now there's enough information to answer. </think> <answer>",
        description="igpo: what stands between a turn's feedback and the gold answer when its probability is taken.",
    )
    keep_per_question: int = Field(
        1, ge=0, description="rejection_sampling: best rollouts kept per group. 0: all above."
    )
    keep_above: float = Field(0.0, description="rejection_sampling: only outcomes above this are kept.")


class LossConfig(Section):
    """U12: the policy loss."""

    ratio: Literal["token", "turn", "sequence"] = Field(
        "token", description="Probability ratio: of each token, or the geometric mean over a turn or a sequence (gspo)."
    )
    clip_low: float = Field(0.2, ge=0, description="Ratio is clipped below 1 - clip_low.")
    clip_high: float = Field(0.2, ge=0, description="Ratio is clipped above 1 + clip_high.")
    dual_clip: float = Field(
        0.0,
        ge=0,
        description="Loss of a token with negative advantage is at most this times |advantage|. 0: unbounded.",
    )
    importance_cap: float = Field(
        2.0,
        gt=0,
        description="rollout.one_step_off: importance weights (of tokens, turns or sequences) are cut at this.",
    )
    aggregation: Literal["token_mean", "sequence_mean", "sequence_sum"] = Field(
        "token_mean",
        description="Mean over all sampled tokens of the batch; mean over sequences of their token means; or mean over "
        "sequences of their token sums, divided by sum_length (dr_grpo).",
    )
    sum_length: int = Field(
        0, ge=0, description="sequence_sum: constant divisor. 0: the most tokens a rollout may sample."
    )
    kl: float = Field(0.0, ge=0, description="Weight of the k3 KL to the starting policy. 0: no reference is kept.")
    kl_in: Literal["loss", "reward"] = Field(
        "loss", description="Add the KL to the loss, or take it off each token's reward (ppo and reinforce_pp only)."
    )
    log_kl: bool = Field(False, description="Keep the starting policy to log the KL also where its weight is 0.")
    entropy: float = Field(0.0, ge=0, description="Weight of an entropy bonus.")
    context_weight: float = Field(
        0.1, ge=0, description="SFT: loss weight of tokens that are not the agent's (question and observations)."
    )


class CriticConfig(Section):
    """ppo: the value model and its generalised advantage estimation over sampled tokens."""

    lr: float = Field(1e-5, gt=0, description="Learning rate of the critic.")
    warmup: int = Field(0, ge=0, description="Updates of linear warm-up of the critic.")
    value_clip: float = Field(
        0.5, ge=0, description="Values move at most this far from the old ones per step. 0: freely."
    )
    gamma: float = Field(1.0, ge=0, le=1, description="Discount per sampled token.")
    lam: float = Field(1.0, ge=0, le=1, description="Lambda of generalised advantage estimation.")
    whiten: bool = Field(True, description="Standardise advantages over the sampled tokens of the batch.")
    head_start: int = Field(0, ge=0, description="Steps at the beginning in which only the critic learns.")


class OptimizerConfig(Section):
    """AdamW and its learning-rate schedule."""

    lr: float = Field(1e-6, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    warmup: int = Field(0, ge=0, description="Optimiser updates of linear warm-up.")
    schedule: Literal["constant", "linear"] = Field("constant", description="After warm-up: stay, or fall to final_lr.")
    final_lr: float = Field(0.1, ge=0, le=1, description="linear: last learning rate as a share of lr.")
    grad_clip: float = Field(1.0, ge=0, description="Largest gradient norm. 0: no clipping.")


class TrainConfig(Section):
    """How long and in what portions."""

    steps: int = Field(
        100, ge=1, description="Training steps (RL: one rollout batch each; SFT: one optimiser update each)."
    )
    updates_per_step: int = Field(1, ge=1, description="RL: optimiser updates per rollout batch.")
    batch_size: int = Field(16, ge=1, description="SFT: demonstrations per update.")
    tokens_per_micro_batch: int = Field(8192, ge=1, description="Tokens in one forward and backward pass.")
    packing: bool = Field(True, description="Put sequences one after the other instead of padding them to a rectangle.")
    gradient_checkpointing: bool = Field(
        False, description="Keep only the input of each layer and compute the rest again: less memory, 1/3 more work."
    )
    compile: bool = Field(
        False,
        description="Compile normalisations and MLPs (torch.compile): fewer passes over a GPU's memory, seconds more "
        "at the start, other last digits.",
    )
    balance_ranks: bool = Field(
        True,
        description="Spread the sequences of an update over all processes by length, so that no process waits long.",
    )
    processes: int = Field(1, ge=1, description="Training processes on this machine.")
    threads: int = Field(0, ge=0, description="CPU threads per process. 0: one, or OMP_NUM_THREADS where it is set.")
    keep_rollouts: int = Field(1, ge=0, description="Keep the rollouts of every n-th step. 0: none.")
    drop_zero_advantage: bool = Field(
        True,
        description="Rollouts without any advantage do not go through the learner; the gradient stays the same. "
        "Without effect where loss.kl or loss.entropy gives them one.",
    )
    stop_when: list[str] = Field(
        default_factory=list,
        description='End a run early, such as "reward < 0.01 for 20" or "invalid_share > 0.5 for 5" (steps in a row).',
    )
    parity_limit: float = Field(
        0.05,
        gt=0,
        description="Stop when engine and learner log-probs of a step differ by more than this (nats, mean).",
    )


class CheckpointConfig(Section):
    """What is kept to resume from."""

    every: int = Field(50, ge=0, description="Steps between checkpoints. 0: only at the end.")
    keep: int = Field(2, ge=1, description="Newest checkpoints to keep.")
    best: Literal["em", "f1", "none"] = Field(
        "em",
        description="RUN/best keeps the policy with the highest mean of this over eval.data, where eval.every is set.",
    )


class EvalConfig(Section):
    """Evaluation during and after training, and by `tspo eval`."""

    data: list[str] = Field(default_factory=list, description="Question files to evaluate on.")
    every: int = Field(0, ge=0, description="Steps between evaluations. 0: at step 0 and at the end only.")
    limit: int = Field(0, ge=0, description="Questions per data set. 0: all.")
    at_start: bool = Field(True, description="Evaluate before the first step too.")
    temperature: float = Field(0.0, ge=0, description="0: greedy.")
    batch_size: int = Field(64, ge=1, description="Questions in flight.")
    portion: int = Field(
        0,
        ge=0,
        description="Questions that are answered and saved together: an evaluation that is resumed repeats the portion "
        "in which it was stopped, so that its results stay the same to the byte. 0: four batches.",
    )


class EndpointConfig(Section):
    """`tspo eval`: a model behind an OpenAI-compatible server instead of one in this process."""

    url: str = Field("", description="Base URL, such as http://127.0.0.1:8000/v1. Empty: the model runs here.")
    model: str = Field("", description="The model's name on the server. Empty: as it is given to tspo eval.")
    api: Literal["completions", "chat"] = Field(
        "completions", description="completions continues a text; chat sends messages (hosted chat models)."
    )
    tokenizer: str = Field(
        "", description="Directory or hub name of its tokenizer. Empty: the model's directory; else limits count words."
    )
    send: Literal["ids", "text"] = Field(
        "ids", description="completions: send token ids where the tokenizer is known, or always text."
    )
    key_env: str = Field("OPENAI_API_KEY", description="Environment variable with the server's key, if it wants one.")
    concurrency: int = Field(16, ge=1, description="Requests under way at once.")
    timeout: float = Field(120.0, gt=0, description="Deadline of one request in seconds.")
    retries: int = Field(5, ge=0, description="Tries after a failed request, with growing waits.")
    extra: str = Field(
        "",
        description="JSON object with further fields of every request, as some servers know them. vLLM's own server is "
        "recognised and asked for the sampled token ids without it.",
    )


class JudgeConfig(Section):
    """`tspo eval`: a model that judges answers, through an OpenAI-compatible server's chat API."""

    url: str = Field("", description="Base URL. Empty: no judge.")
    model: str = Field("", description="Name of the judging model on the server.")
    prompt: str = Field(
        "", description="Text file with {question}, {golden_answers} and {answer}. Empty: the built-in prompt."
    )
    key_env: str = Field("OPENAI_API_KEY", description="Environment variable with the server's key, if it wants one.")
    concurrency: int = Field(16, ge=1, description="Requests under way at once.")
    max_tokens: int = Field(512, ge=1, description="Most tokens of a judgement.")
    timeout: float = Field(120.0, gt=0, description="Deadline of one request in seconds.")
    retries: int = Field(5, ge=0, description="Tries after a failed request, with growing waits.")


class DeepSpeedConfig(Section):
    """The engine below the learner."""

    zero_stage: Literal[0, 1, 2, 3] = Field(0, description="ZeRO stage.")
    offload_optimizer: bool = Field(False, description="Keep optimiser states in CPU memory (ZeRO 1 to 3, GPU).")
    config: str = Field("", description="A DeepSpeed JSON file that is merged over the generated configuration.")


class LoraConfig(Section):
    """Low-rank adapters beside a frozen policy, through peft. PPO's critic gets adapters of its own."""

    rank: int = Field(0, ge=0, description="Columns of an adapter's matrices. 0: no adapters, all weights are trained.")
    alpha: int = Field(32, ge=1, description="An adapter counts alpha / rank times.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before an adapter; kind = sft alone.")
    targets: list[str] = Field(
        ["all-linear"],
        description='Names of linear layers that get one, such as "q_proj"; "all-linear": all but the output layer.',
    )


class TrackConfig(Section):
    """Optional sinks beside metrics.jsonl."""

    tensorboard: bool = False
    profile: bool = Field(False, description="Write a trace of the second and third step into trace/ of the run.")


class Config(Section):
    """One experiment."""

    kind: Literal["sft", "rl", "rejection_sampling"] = Field(
        "rl",
        description="sft: imitate demonstrations; rl: rollouts and policy gradient; rejection_sampling: imitate the "
        "best of the policy's own rollouts, round by round.",
    )
    seed: int = Field(0, ge=0, description="Seed of everything that is drawn.")
    prepare: str = Field(
        "", description="The command that makes what the experiment starts from; said when something of it is missing."
    )
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    demonstrations: DemonstrationConfig = DemonstrationConfig()
    retriever: RetrieverConfig = RetrieverConfig()
    rollout: RolloutConfig = RolloutConfig()
    vllm: VllmConfig = VllmConfig()
    credit: CreditConfig = CreditConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    critic: CriticConfig = CriticConfig()
    lora: LoraConfig = LoraConfig()
    train: TrainConfig = TrainConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    eval: EvalConfig = EvalConfig()
    endpoint: EndpointConfig = EndpointConfig()
    judge: JudgeConfig = JudgeConfig()
    deepspeed: DeepSpeedConfig = DeepSpeedConfig()
    track: TrackConfig = TrackConfig()

    def section_dict(self) -> dict[str, Any]:
        """Plain values, for TOML and JSON."""
        return self.model_dump(mode="json")

"""What an experiment file may say. Unknown keys are errors; every field states its meaning and default."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """Base of all sections: nothing unknown, nothing changed after reading."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True, protected_namespaces=()
    )


class ModelConfig(Section):
    """The policy that training starts from."""

    path: str = Field("", description="Model directory or hub name to start from. Empty: make a new tiny policy.")
    hidden_size: int = Field(96, ge=32, description="Width of a new tiny policy (multiple of head_dim 32).")
    layers: int = Field(2, ge=2, description="Layers of a new tiny policy.")
    copy_prior: bool = Field(
        True, description="Start a new tiny policy with previous-token and copy heads. False: plain initialisation."
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: float32 on CPU, bfloat16 on GPU.")
    max_context: int = Field(
        0, ge=0, description="Longest prompt + turns in tokens. 0: what the prompt and turn limits add up to."
    )


class DataConfig(Section):
    """Where questions, passages and demonstrations come from."""

    train: list[str] = Field(default_factory=list, description="Question files to train on (JSONL, .gz, parquet).")
    types: list[str] = Field(default_factory=list, description="Keep only questions of these types. Empty: all.")
    world: str = Field("", description="Directory of a synthetic world: demonstrations for SFT are drawn from it.")
    demonstrations: list[str] = Field(
        default_factory=list, description="Files of recorded demonstrations for SFT (JSONL with prompt and turns)."
    )
    rename_entities: bool = Field(
        True, description="Redraw entity names in every demonstration of a world, so that names cannot be memorised."
    )


class DemonstrationConfig(Section):
    """How imperfect the scripted demonstrations of a synthetic world are (probabilities)."""

    query_good: float = Field(0.15, ge=0, le=1, description="The query uses the corpus's word for the relation.")
    query_question_word: float = Field(0.5, ge=0, le=1, description="The query uses the question's word instead.")
    answer_correct: float = Field(0.2, ge=0, le=1, description="The answer is the right span when it was found.")
    answer_distractor: float = Field(0.6, ge=0, le=1, description="The answer is another entity that was mentioned.")
    early_stop: float = Field(0.25, ge=0, le=1, description="A two-hop question is answered after its first hop.")
    retry: float = Field(0.5, ge=0, le=1, description="After a failed search another search follows.")


class RetrieverConfig(Section):
    """Where passages come from during rollouts."""

    index: str = Field("", description="Index directory for an in-process retriever.")
    url: list[str] = Field(
        default_factory=list, description="Base URLs of `/retrieve` servers; used when index is empty."
    )
    k: int = Field(3, ge=1, description="Passages per query.")
    timeout: float = Field(30.0, gt=0, description="Deadline of one HTTP request in seconds.")
    retries: int = Field(5, ge=0, description="Tries after a failed HTTP request, with growing waits.")


class RolloutConfig(Section):
    """The agent: prompt, budget and sampling."""

    prompt: str = Field("search_r1", description="search_r1, short, or the path of a template file with {question}.")
    system: str = Field("", description="System message, for models with a chat template.")
    chat_template: Literal["auto", "never"] = Field(
        "auto", description="auto: use the tokenizer's template if it has one."
    )
    max_searches: int = Field(4, ge=0, description="Search budget; after it one last turn without search.")
    max_new_tokens: int = Field(500, ge=1, description="Most tokens that the model may sample in one turn.")
    max_observation_tokens: int = Field(500, ge=1, description="Feedback is cut to this many tokens, inside its tags.")
    max_prompt_tokens: int = Field(
        2048, ge=1, description="A longer prompt is an error in training, cut on the left in eval."
    )
    temperature: float = Field(1.0, ge=0, description="Sampling temperature of training rollouts.")
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    questions_per_step: int = Field(8, ge=1, description="Questions (groups) per training step.")
    group_size: int = Field(5, ge=1, description="Rollouts per question.")
    batch_size: int = Field(64, ge=1, description="Sequences that the engine decodes at once.")
    turn_deadline: float = Field(120.0, gt=0, description="Seconds a search may take before it counts as failed.")


class CreditConfig(Section):
    """From outcomes and feedback to advantages. U1 to U13: what the TSPO paper's abstract leaves open."""

    algorithm: str = Field("tspo", description="tspo or grpo.")
    outcome: Literal["em", "f1", "em_format"] = Field("em", description="U11: reward of the final answer.")
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
    gamma: float = Field(1.0, ge=0, le=1, description="U4: discount of point_to_go.")
    alpha: float = Field(0.5, ge=0, description="U5: size of the partial reward.")
    success_turns: Literal["all_ones", "final_only", "hit_plus_final"] = Field(
        "all_ones", description="U6: turn rewards of a correct trajectory."
    )
    gate: Literal["all_wrong", "any_near_miss", "always", "never"] = Field(
        "all_wrong", description="U7: groups that use turn-level advantages."
    )
    norm: Literal["pooled_turns", "per_turn_index", "trajectory"] = Field(
        "pooled_turns", description="U8: population of mean and standard deviation."
    )
    scale: Literal["std", "none"] = Field("std", description="U9: divide by the unbiased standard deviation or not.")
    eps: float = Field(1e-6, ge=0, description="U9: added to the standard deviation.")
    mixed_reward: Literal["outcome", "outcome_plus_alpha"] = Field(
        "outcome", description="U10: trajectory reward where trajectory-level advantages are used."
    )


class LossConfig(Section):
    """U12: the policy loss."""

    clip_low: float = Field(0.2, ge=0, description="Ratio is clipped below 1 - clip_low.")
    clip_high: float = Field(0.2, ge=0, description="Ratio is clipped above 1 + clip_high.")
    aggregation: Literal["token_mean", "sequence_mean"] = Field(
        "token_mean",
        description="Mean over all sampled tokens of the batch, or mean over sequences of their token means.",
    )
    kl: float = Field(0.0, ge=0, description="Weight of the k3 KL to the starting policy. 0: no reference is kept.")
    entropy: float = Field(0.0, ge=0, description="Weight of an entropy bonus.")
    context_weight: float = Field(
        0.1, ge=0, description="SFT: loss weight of tokens that are not the agent's (question and observations)."
    )


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
    tokens_per_micro_batch: int = Field(8192, ge=1, description="Padded tokens in one forward and backward pass.")
    processes: int = Field(1, ge=1, description="Training processes on this machine.")
    threads: int = Field(0, ge=0, description="CPU threads per process. 0: one, or OMP_NUM_THREADS where it is set.")
    keep_rollouts: int = Field(1, ge=0, description="Keep the rollouts of every n-th step. 0: none.")
    parity_limit: float = Field(
        0.05,
        gt=0,
        description="Stop when engine and learner log-probs of a step differ by more than this (nats, mean).",
    )


class CheckpointConfig(Section):
    """What is kept to resume from."""

    every: int = Field(50, ge=0, description="Steps between checkpoints. 0: only at the end.")
    keep: int = Field(2, ge=1, description="Newest checkpoints to keep.")


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
    extra: str = Field("", description="JSON object with further fields of every request, as some servers know them.")


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


class TrackConfig(Section):
    """Optional sinks beside metrics.jsonl."""

    tensorboard: bool = False


class Config(Section):
    """One experiment."""

    kind: Literal["sft", "rl"] = Field(
        "rl", description="sft: imitate demonstrations; rl: rollouts and policy gradient."
    )
    seed: int = Field(0, ge=0, description="Seed of everything that is drawn.")
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    demonstrations: DemonstrationConfig = DemonstrationConfig()
    retriever: RetrieverConfig = RetrieverConfig()
    rollout: RolloutConfig = RolloutConfig()
    credit: CreditConfig = CreditConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
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

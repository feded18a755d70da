"""Sections of an experiment file about rollouts and the engine that generates them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from tspo_cli.config.sections.section import Section


class RolloutConfig(Section):
    """The agent: prompt, budget and sampling."""

    prompt: str = Field(
        "search_r1",
        description=(
            "search_r1, short, or the path of a template file with {question}. The run keeps the "
            "text of the template in its place."
        ),
    )
    question_mark: Literal["auto", "always", "never"] = Field(
        "auto",
        description=(
            "always: prompts end a question with '?', as Search-R1's data does; never: the "
            "question as it is. auto: always, but never with prompt = short."
        ),
    )
    titles: Literal["auto", "quoted", "plain"] = Field(
        "auto",
        description=(
            "Titles of passages. quoted: the first line of a passage as it is, quotes included, "
            "as Search-R1 prints it; plain: without its quotes. auto: quoted, but plain with "
            "prompt = short."
        ),
    )
    after_eos: Literal["auto", "drop", "keep", "user_turn"] = Field(
        "auto",
        description=(
            "A reply without a valid action that ends with an end-of-sequence token. drop: the "
            "token leaves the context and the loss, as in Search-R1; keep: the correction "
            "follows it; user_turn: corrections are user messages of the chat template. auto: "
            "drop, but keep with prompt = short."
        ),
    )
    system: str = Field("", description="System message, for models with a chat template.")
    chat_template: Literal["auto", "never"] = Field(
        "auto", description="auto: use the tokenizer's template if it has one."
    )
    template_kwargs: dict[str, Any] = Field(
        default_factory=dict,
        description=(
            "Further arguments of the chat template, such as {enable_thinking = false}. A chat "
            "API gets them as chat_template_kwargs."
        ),
    )
    stop_tokens: list[str | int] = Field(
        ["turn_end"],
        description=(
            "Tokens that end a turn beside the model's EOS: texts of one token, or ids. turn_end: "
            "the token with which the chat template ends turns. Servers get them as ids (vLLM) or "
            "as stop strings."
        ),
    )
    max_searches: int = Field(
        4,
        ge=0,
        description="Search budget of a rollout. One last turn without a search follows it.",
    )
    max_invalid_turns: int = Field(
        0,
        ge=0,
        description=(
            "End a rollout at this many turns in a row without a search or an answer. 0: no limit."
        ),
    )
    exclude_seen: bool = Field(
        False,
        description=(
            "A search gives the k best of the passages that no earlier search of the rollout gave. "
            "Asks the retriever for k x (max_searches + 1)."
        ),
    )
    max_new_tokens: int = Field(
        500, ge=1, description="Maximal number of tokens that the model samples in one turn."
    )
    max_observation_tokens: int = Field(
        500,
        ge=1,
        description="Maximal number of tokens of feedback; longer feedback is cut inside its tags.",
    )
    max_prompt_tokens: int = Field(
        2048,
        ge=1,
        description=(
            "Maximal number of tokens of the agent's prompt, without passages. Training: see "
            "data.too_long. Evaluation cuts the question of a longer one, and counts it."
        ),
    )
    temperature: float = Field(1.0, ge=0, description="Sampling temperature of training rollouts.")
    top_p: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Sample from the likeliest tokens that together have this probability. 1: all.",
    )
    top_k: int = Field(0, ge=0, description="Sample from this many likeliest tokens. 0: all.")
    questions_per_step: int = Field(8, ge=1, description="Questions (groups) per training step.")
    group_size: int = Field(5, ge=1, description="Rollouts per question.")
    batch_size: int = Field(64, ge=1, description="Sequences that the engine decodes at once.")
    engine: Literal["transformers", "vllm"] = Field(
        "transformers",
        description=(
            "Rollout engine. transformers: uses the learner's own weights; vllm: see [vllm]."
        ),
    )
    schedule: Literal["auto", "static", "dynamic"] = Field(
        "auto",
        description=(
            "Which process rolls out which questions. static: each its own, in order; dynamic: the "
            "longest expected first, and a process that has begun all of its own takes those of "
            "others; nothing else depends on it. auto: dynamic with vllm, static with "
            "transformers, whose float32 runs on a CPU then repeat bit for bit."
        ),
    )
    turn_deadline: float = Field(
        120.0,
        gt=0,
        description=(
            "Seconds for one search from when it is sent. A search that takes longer has failed."
        ),
    )
    trajectory_deadline: float = Field(
        0.0,
        ge=0,
        description=(
            "Seconds for one rollout. A rollout that takes longer is ended and left out of "
            "the loss. 0: no limit."
        ),
    )
    one_step_off: bool = Field(
        False,
        description=(
            "Roll out the next step's questions while this step trains, with the weights "
            "from before it. Truncated importance weights (loss.importance_cap) correct the "
            "difference."
        ),
    )
    dynamic_sampling: bool = Field(
        False,
        description=(
            "Train only on groups with an advantage, and replace the other groups by "
            "further rollouts."
        ),
    )
    max_refills: int = Field(
        3,
        ge=0,
        description=(
            "dynamic_sampling: further rollout batches per step at most. The step then "
            "trains on what it has."
        ),
    )


class TreeConfig(Section):
    """Trees: rollouts of a question that share their first turns. See docs/trees.md."""

    branching: Literal["none", "random", "uncertain", "after_search"] = Field(
        "none",
        description=(
            "Turns after a search from which further rollouts branch. none: whole rollouts; "
            "random: contexts are drawn evenly; uncertain: those with the largest entropy; "
            "after_search: those whose entropy exceeds that of the first turn by least_gain."
        ),
    )
    roots: int = Field(2, ge=1, description="Whole rollouts of a question to begin with.")
    turns: int = Field(2, ge=1, description="Turns of a question that are expanded per round.")
    branches: int = Field(1, ge=1, description="New rollouts from each expanded turn.")
    budget: Literal["tokens", "rollouts"] = Field(
        "tokens",
        description=(
            "When a question has enough. tokens: its rollouts have sampled as many tokens as "
            "rollout.group_size whole ones would (times the mean of its whole ones), shared turns "
            "counted once; rollouts: there are group_size of them."
        ),
    )
    max_rollouts: int = Field(
        0,
        ge=0,
        description="budget = tokens: most rollouts of a question. 0: 4 x rollout.group_size.",
    )
    entropy_tokens: int = Field(
        0,
        ge=0,
        description=(
            "First sampled tokens of a turn whose mean -log p estimates its entropy. 0: all."
        ),
    )
    least_gain: float = Field(
        0.0,
        description="after_search: least entropy (nats) above that of the rollout's first turn.",
    )

    @property
    def grows(self) -> bool:
        """Whether rollouts branch."""
        return self.branching != "none"


class VllmConfig(Section):
    """The vLLM engine (rollout.engine = "vllm"): in this process, or servers started with `tspo
    engine`.
    """

    url: list[str] = Field(
        default_factory=list,
        description=(
            "Base URLs of servers, shared out among the training processes. Empty: an "
            "engine in each process."
        ),
    )
    memory: float = Field(
        0.4,
        gt=0,
        le=1,
        description=(
            "In-process, GPU: share of its memory for weights and KV cache. Unused where "
            "kv_cache_gib is set."
        ),
    )
    kv_cache_gib: float = Field(
        0.0,
        ge=0,
        description=(
            "GiB of the KV cache, in-process and on servers of [launch]. 0: the memory that is "
            "left (GPU), 1 GiB (CPU)."
        ),
    )
    tensor_parallel: int = Field(
        1,
        ge=1,
        description=(
            "GPUs of one engine. An in-process engine has one; for servers see `tspo engine "
            "--tensor-parallel`."
        ),
    )
    eager: bool = Field(
        False, description="No CUDA graphs and no compilation: a faster start, slower generation."
    )
    sleep: Literal["auto", 0, 1, 2] = Field(
        "auto",
        description=(
            "In-process, GPU: vLLM's sleep level while the learner works. 0: the engine "
            "keeps its memory; 1: weights go to CPU memory; 2: weights are dropped. auto: 1 on a "
            "GPU without rollout.one_step_off, else 0."
        ),
    )
    handover: str = Field(
        "",
        description=(
            "Directory for new weights that learner and servers share. Empty: /dev/shm where all "
            "servers have an address of this machine and it has room, else handover/ of the run."
        ),
    )
    transfer: Literal["auto", "files", "nccl"] = Field(
        "auto",
        description=(
            "How weights reach servers: files, or nccl, from GPU to GPU. auto: nccl where learner "
            "and servers (`tspo engine`) can, else files."
        ),
    )
    token_file: str = Field(
        "", description="File with the servers' bearer token. Empty: $TSPO_ENGINE_TOKEN, if set."
    )
    patience: float = Field(
        600.0, gt=0, description="Seconds to wait for a server that does not answer."
    )

"""Sections of an experiment file about the agent: policy, data, passages, rollouts and what
generates them.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from tspo_cli.config.sections.index_settings import SearchConfig
from tspo_cli.config.sections.section import Section


class ModelConfig(Section):
    """The policy that training starts from."""

    path: str = Field(
        "", description="Model directory or hub name to start from. Empty: make a new tiny policy."
    )
    hidden_size: int = Field(
        96, ge=32, description="Width of a new tiny policy (multiple of head_dim 32)."
    )
    layers: int = Field(2, ge=2, description="Layers of a new tiny policy.")
    copy_prior: bool = Field(
        True,
        description=(
            "Start a new tiny policy with previous-token and copy heads. False: plain "
            "initialisation."
        ),
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: float32 on CPU, bfloat16 on GPU."
    )
    max_context: int = Field(
        0,
        ge=0,
        description=(
            "Longest prompt + turns in tokens. 0: what the prompt and turn limits add up to."
        ),
    )


class DataConfig(Section):
    """Where questions, passages and demonstrations come from."""

    train: list[str] = Field(
        default_factory=list, description="Question files to train on (JSONL, .gz, parquet)."
    )
    types: list[str] = Field(
        default_factory=list, description="Keep only questions of these types. Empty: all."
    )
    world: str = Field(
        "", description="Directory of a synthetic world: demonstrations for SFT are drawn from it."
    )
    demonstrations: list[str] = Field(
        default_factory=list,
        description="Files of recorded demonstrations for SFT (JSONL with prompt and turns).",
    )
    rename_entities: bool = Field(
        True,
        description=(
            "Redraw entity names in every demonstration of a world, so that names cannot "
            "be memorised."
        ),
    )


class DemonstrationConfig(Section):
    """How imperfect the scripted demonstrations of a synthetic world are (probabilities)."""

    query_good: float = Field(
        0.15, ge=0, le=1, description="The query uses the corpus's word for the relation."
    )
    query_question_word: float = Field(
        0.5, ge=0, le=1, description="The query uses the question's word instead."
    )
    answer_correct: float = Field(
        0.2, ge=0, le=1, description="The answer is the right span when it was found."
    )
    answer_distractor: float = Field(
        0.6, ge=0, le=1, description="The answer is another entity that was mentioned."
    )
    early_stop: float = Field(
        0.25, ge=0, le=1, description="A two-hop question is answered after its first hop."
    )
    retry: float = Field(
        0.5, ge=0, le=1, description="After a failed search another search follows."
    )


class QdrantConfig(Section):
    """An existing Qdrant collection as the retriever. Its API key comes from $QDRANT_API_KEY."""

    url: str = Field("", description="URL of a Qdrant server. Empty: no Qdrant.")
    collection: str = Field("", description="Collection to search.")
    kind: Literal["dense", "sparse"] = Field(
        "dense",
        description=(
            "dense: vectors of retriever.qdrant.encoder; sparse: BM25 weights as tspo "
            "index push makes."
        ),
    )
    vector: str = Field(
        "",
        description=(
            "Name of the vector in the collection. Empty: dense the unnamed one, sparse bm25."
        ),
    )
    encoder: str = Field(
        "", description="dense: sentence-transformers model that the collection was made with."
    )
    query_prefix: str = Field(
        "", description="dense: what the encoder expects before a query, such as 'query: '."
    )
    exact: bool = Field(
        False, description="dense: scan all vectors instead of Qdrant's approximate graph."
    )
    id_field: str = Field("id", description="Payload field of the passage id.")
    contents_field: str = Field(
        "contents", description="Payload field of the passage: title, newline, text."
    )


class RetrieverConfig(Section):
    """Where passages come from during rollouts."""

    index: str = Field("", description="Index directory for an in-process retriever.")
    url: list[str] = Field(
        default_factory=list,
        description=(
            "Base URLs of `/retrieve` servers, also as one string with commas; used when "
            "index is empty."
        ),
    )
    servers: Literal["replicas", "shards"] = Field(
        "replicas",
        description=(
            "replicas: equal servers, any may answer; shards: parts of one corpus, all are asked."
        ),
    )
    approximate_shards: bool = Field(
        False,
        description=(
            "Allow shards whose scores are not comparable exactly (BM25: every part has "
            "its own statistics)."
        ),
    )
    k: int = Field(3, ge=1, description="Passages per query.")
    timeout: float = Field(30.0, gt=0, description="Seconds for one HTTP attempt.")
    retries: int = Field(
        5, ge=0, description="Tries after a failed HTTP request, with growing waits."
    )
    deadline: float = Field(
        100.0, gt=0, description="Seconds for all attempts of a search together."
    )
    concurrency: int = Field(64, ge=1, description="Most HTTP requests under way at once.")
    token_file: str = Field(
        "", description="File with the servers' bearer token. Empty: $TSPO_RETRIEVER_TOKEN, if set."
    )
    search: SearchConfig = SearchConfig()
    qdrant: QdrantConfig = QdrantConfig()

    @field_validator("url", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """`http://a,http://b` is two URLs, in a string or in a list."""
        parts = [value] if isinstance(value, str) else value
        if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
            return value
        return [url.strip() for part in parts for url in part.split(",") if url.strip()]


class RolloutConfig(Section):
    """The agent: prompt, budget and sampling."""

    prompt: str = Field(
        "search_r1", description="search_r1, short, or the path of a template file with {question}."
    )
    system: str = Field("", description="System message, for models with a chat template.")
    chat_template: Literal["auto", "never"] = Field(
        "auto", description="auto: use the tokenizer's template if it has one."
    )
    max_searches: int = Field(
        4, ge=0, description="Search budget; after it one last turn without search."
    )
    max_new_tokens: int = Field(
        500, ge=1, description="Most tokens that the model may sample in one turn."
    )
    max_observation_tokens: int = Field(
        500, ge=1, description="Feedback is cut to this many tokens, inside its tags."
    )
    max_prompt_tokens: int = Field(
        2048, ge=1, description="A longer prompt is an error in training, cut on the left in eval."
    )
    temperature: float = Field(1.0, ge=0, description="Sampling temperature of training rollouts.")
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    questions_per_step: int = Field(8, ge=1, description="Questions (groups) per training step.")
    group_size: int = Field(5, ge=1, description="Rollouts per question.")
    batch_size: int = Field(64, ge=1, description="Sequences that the engine decodes at once.")
    engine: Literal["transformers", "vllm"] = Field(
        "transformers",
        description="What generates. vllm: see [vllm]; transformers: on the learner's own weights.",
    )
    turn_deadline: float = Field(
        120.0, gt=0, description="Seconds a search may take before it counts as failed."
    )
    trajectory_deadline: float = Field(
        0.0,
        ge=0,
        description=(
            "Seconds a rollout may take; a later one is ended and left out of the loss. 0: "
            "any time."
        ),
    )
    one_step_off: bool = Field(
        False,
        description="Roll out the next step's questions while this step trains, with the weights "
        "from before it; "
        "truncated importance weights (loss.importance_cap) correct for them.",
    )
    dynamic_sampling: bool = Field(
        False,
        description=(
            "Train on groups with an advantage only, and roll out more questions in place "
            "of the others."
        ),
    )
    max_refills: int = Field(
        3,
        ge=0,
        description=(
            "dynamic_sampling: further rollout batches per step; then the step takes what it has."
        ),
    )


class VllmConfig(Section):
    """The vLLM engine (rollout.engine = "vllm"): in this process, or servers started with `tspo
    engine`.
    """

    url: list[str] = Field(
        default_factory=list,
        description="Base URLs of servers; training processes share them out. Empty: in-process.",
    )
    memory: float = Field(
        0.4,
        gt=0,
        le=1,
        description="In-process, GPU: share of its memory for weights and KV cache.",
    )
    kv_cache_gib: float = Field(
        0.0, ge=0, description="In-process: size of the KV cache. 0: what is left; CPU: 1."
    )
    tensor_parallel: int = Field(
        1,
        ge=1,
        description=(
            "GPUs of one engine. In-process it has one; servers have tspo engine --tensor-parallel."
        ),
    )
    eager: bool = Field(
        False, description="No CUDA graphs, no compilation: starts sooner, generates more slowly."
    )
    sleep: Literal[0, 1, 2] = Field(
        0,
        description=(
            "In-process, GPU: vLLM's sleep level while the learner works. 0: the engine "
            "keeps its memory."
        ),
    )
    handover: str = Field(
        "",
        description=(
            "Folder for new weights that learner and servers both see. Empty: handover/ of the run."
        ),
    )
    patience: float = Field(
        600.0, gt=0, description="Seconds to wait for a server that does not answer."
    )

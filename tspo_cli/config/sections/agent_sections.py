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
    revision: str = Field(
        "",
        description=(
            "Branch, tag or commit of a hub model, for configuration, tokenizer and weights. "
            "Empty: the main branch."
        ),
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
            "Longest sequence in tokens: prompt and turns. 0: the sum of the limits of "
            "prompt and turns."
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
        "", description="Directory of a synthetic world. SFT draws demonstrations from it."
    )
    demonstrations: list[str] = Field(
        default_factory=list,
        description="Files of demonstrations for SFT (question and turns, or conversations).",
    )
    held_out: list[str] = Field(
        default_factory=list,
        description="Files of demonstrations that SFT does not train on: their loss is eval_loss.",
    )
    held_out_share: float = Field(
        0.0, ge=0, lt=1, description="Share of data.demonstrations that is held out instead."
    )
    too_long: Literal["error", "drop"] = Field(
        "error",
        description=(
            "RL: what happens to questions whose prompt has more than rollout.max_prompt_tokens. "
            "error: refuse to start; drop: leave them out."
        ),
    )
    rename_entities: bool = Field(
        True,
        description="Redraw entity names in every demonstration of a world: none is memorised.",
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
            "dense: vectors of retriever.qdrant.encoder; sparse: BM25 weights from `tspo "
            "index push`."
        ),
    )
    vector: str = Field(
        "",
        description=(
            "Name of the vector in the collection. Empty: the unnamed vector (dense), "
            "bm25 or bm25_ngrams (sparse)."
        ),
    )
    encoder: str = Field(
        "", description="dense: the sentence-transformers model that encoded the collection."
    )
    query_prefix: str = Field(
        "auto",
        description="dense: text before a query, such as 'query: '; empty: none; auto: the "
        "encoder's own prompt, or that of its family.",
    )
    tokens: Literal["words", "ngrams"] = Field(
        "words", description="sparse: what `tspo index push` made of the texts, as it said."
    )
    min_word: int = Field(
        2, ge=1, description="sparse: letters of the shortest word, as in `tspo index push`."
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
            "Base URLs of `/retrieve` servers, as a list or as one string with commas. Used "
            "if index is empty."
        ),
    )
    servers: Literal["replicas", "shards"] = Field(
        "replicas",
        description=(
            "replicas: equal servers, each request goes to one; shards: parts of one "
            "corpus, each request goes to all."
        ),
    )
    approximate_shards: bool = Field(
        False,
        description=(
            "Allow shards whose scores are not exactly comparable, such as BM25 with "
            "statistics per shard."
        ),
    )
    k: int = Field(3, ge=1, description="Passages per query.")
    timeout: float = Field(30.0, gt=0, description="Seconds for one HTTP attempt.")
    retries: int = Field(
        -1,
        ge=-1,
        description=(
            "Retries of a failed request, with exponential backoff. -1: until retriever.deadline."
        ),
    )
    deadline: float = Field(
        100.0,
        gt=0,
        description=(
            "Seconds that a search waits for a server that does not answer. Then the command ends "
            "with exit code 5."
        ),
    )
    concurrency: int = Field(64, ge=1, description="Maximal number of concurrent HTTP requests.")
    max_passage_chars: int = Field(
        100_000,
        ge=1,
        description=(
            "Characters of the longest passage that a server may send. A search that finds a "
            "longer one has failed."
        ),
    )
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
    turn_deadline: float = Field(
        120.0,
        gt=0,
        description="Seconds for one search. A search that takes longer counts as failed.",
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
        description="In-process, GPU: share of its memory for weights and KV cache.",
    )
    kv_cache_gib: float = Field(
        0.0,
        ge=0,
        description=(
            "In-process: GiB of the KV cache. 0: the memory that is left (GPU), 1 GiB (CPU)."
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
            "Directory for new weights that learner and servers share. Empty: handover/ of the run."
        ),
    )
    patience: float = Field(
        600.0, gt=0, description="Seconds to wait for a server that does not answer."
    )

"""Sections of an experiment file about what the agent works with: policy, data, passages."""

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
    float32_head: bool = Field(
        False,
        description=(
            "Compute logits in float32 from bfloat16 hidden states, in learner and engine: their "
            "log-probs differ less."
        ),
    )
    frozen_layers: int = Field(
        0,
        ge=0,
        description=(
            "First layers that training leaves as they are, with the embeddings, and an output "
            "head that is tied to them. With half of the layers an update takes 2/3 of the time."
        ),
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
    recycle: float = Field(
        0.0,
        ge=0,
        le=1,
        description=(
            "RL: at most this share of a step's questions are ones from which nothing was learnt "
            "(no advantage in their group), drawn again. 0: none."
        ),
    )
    recycle_after: int = Field(
        10, ge=1, description="Steps after which a question without a signal comes back."
    )
    recycle_most: int = Field(
        3, ge=1, description="How often a question comes back at most, besides its epochs."
    )
    curriculum: Literal["none", "difficulty"] = Field(
        "none",
        description=(
            "RL: difficulty: a question of the order comes with probability 4 p (1 - p), p being "
            "the share of right rollouts that it has had so far; else it waits for the next epoch. "
            "New questions always come."
        ),
    )
    curriculum_floor: float = Field(
        0.2, gt=0, le=1, description="difficulty: the least probability of a question."
    )
    rename_entities: bool = Field(
        True,
        description="Redraw entity names in every demonstration of a world: none is memorised.",
    )

    @property
    def has_pool(self) -> bool:
        """True where the questions of a step depend on what came of earlier ones."""
        return self.recycle > 0 or self.curriculum != "none"


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
    concurrency: int = Field(
        64, ge=1, description="Requests of each process at once. More searches share the next one."
    )
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

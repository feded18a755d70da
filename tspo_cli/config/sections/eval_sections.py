"""Sections of an experiment file: evaluation, endpoints and judges."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tspo_cli.config.sections.section import Section


class EvalConfig(Section):
    """Evaluation during and after training, and by `tspo eval`."""

    data: list[str] = Field(default_factory=list, description="Question files to evaluate on.")
    every: int = Field(
        0, ge=0, description="Steps between evaluations. 0: at step 0 and at the end only."
    )
    limit: int = Field(0, ge=0, description="Questions per data set. 0: all.")
    at_start: bool = Field(True, description="Evaluate before the first step as well.")
    temperature: float = Field(0.0, ge=0, description="0: greedy.")
    answer: Literal["auto", "tags", "reply"] = Field(
        "auto",
        description=(
            "Where the answer of a baseline stands (direct, cot, rag, ircot, iter_retgen). auto: "
            "in <answer> tags, else after the method's marker, else the whole reply; tags: only in "
            "tags; reply: always the whole reply. Agents answer in tags."
        ),
    )
    examples: str = Field(
        "",
        description=(
            "File of few-shot examples for direct, cot and rag: JSONL with question and answer. "
            "Empty: none."
        ),
    )
    batch_size: int = Field(64, ge=1, description="Questions that are answered at the same time.")
    processes: int = Field(
        1,
        ge=1,
        description=(
            "`tspo eval`: processes that answer, each with an engine of its own (on a GPU of its "
            "own). Each takes whole portions, so that scores are those of one process."
        ),
    )
    portion: int = Field(
        0,
        ge=0,
        description=(
            "Questions that are answered and saved together. A resumed evaluation repeats "
            "the portion in which it stopped, so that its results are the same to the byte. "
            "0: four batches."
        ),
    )


class EndpointRename(Section):
    """Names of request fields on servers that have other names for them. Empty: the usual name."""

    max_tokens: str = Field("", description="OpenAI's newer models: max_completion_tokens.")
    temperature: str = Field("", description="The server's name of `temperature`.")
    top_p: str = Field("", description="The server's name of `top_p`.")
    top_k: str = Field("", description="The server's name of `top_k`.")
    stop: str = Field("", description="The server's name of `stop`.")
    seed: str = Field("", description="The server's name of `seed`.")


class EndpointConfig(Section):
    """`tspo eval`: a model behind an OpenAI-compatible server instead of one in this process."""

    url: str = Field(
        "", description="Base URL, such as http://127.0.0.1:8000/v1. Empty: the model runs here."
    )
    model: str = Field(
        "", description="Name of the model on the server. Empty: the name given to `tspo eval`."
    )
    api: Literal["completions", "chat"] = Field(
        "completions",
        description="completions continues a text; chat sends messages (hosted chat models).",
    )
    tokenizer: str = Field(
        "",
        description=(
            "Directory or hub name of the model's tokenizer. Empty: the model's directory; "
            "without one limits count words."
        ),
    )
    send: Literal["ids", "text"] = Field(
        "ids",
        description="completions: send token ids if the tokenizer is known, or always text.",
    )
    key_env: str = Field(
        "OPENAI_API_KEY",
        description="Environment variable with the server's API key, if it needs one.",
    )
    concurrency: int = Field(16, ge=1, description="Maximal number of concurrent requests.")
    timeout: float = Field(120.0, gt=0, description="Deadline of one request in seconds.")
    retries: int = Field(
        5, ge=0, description="Retries of a failed request, with exponential backoff."
    )
    extra: str = Field(
        "",
        description=(
            "JSON object with further fields of every request. For vLLM's own server the "
            "field for sampled token ids is added automatically."
        ),
    )
    rename: EndpointRename = EndpointRename()
    drop: list[
        Literal[
            "max_tokens",
            "temperature",
            "top_p",
            "top_k",
            "stop",
            "seed",
            "skip_special_tokens",
            "return_token_ids",
        ]
    ] = Field(
        default_factory=list,
        description=(
            "Fields that are not sent, for servers that refuse them. Without `stop` an answer is "
            "cut when it has arrived."
        ),
    )


class JudgeRename(Section):
    """Names of request fields on the judge's server. Empty: the usual name."""

    max_tokens: str = Field("", description="OpenAI's newer models: max_completion_tokens.")
    temperature: str = Field("", description="The server's name of `temperature`.")


class JudgeConfig(Section):
    """A model that judges answers, through an OpenAI-compatible server's chat API: a further score
    of `tspo eval`, or the outcome that is trained (credit.outcome = "judge").
    """

    url: str = Field("", description="Base URL. Empty: no judge.")
    model: str = Field("", description="Name of the judging model on the server.")
    prompt: str = Field(
        "",
        description=(
            "Text file with {question}, {golden_answers} and {answer}, such as a rubric. Empty: "
            "the built-in prompt."
        ),
    )
    key_env: str = Field(
        "OPENAI_API_KEY",
        description="Environment variable with the server's API key, if it needs one.",
    )
    concurrency: int = Field(16, ge=1, description="Maximal number of concurrent requests.")
    max_tokens: int = Field(512, ge=1, description="Maximal number of tokens of a judgement.")
    timeout: float = Field(120.0, gt=0, description="Deadline of one request in seconds.")
    retries: int = Field(
        5, ge=0, description="Retries of a failed request, with exponential backoff."
    )
    rename: JudgeRename = JudgeRename()
    drop: list[Literal["max_tokens", "temperature"]] = Field(
        default_factory=list,
        description="Fields that are not sent, for servers that refuse them.",
    )

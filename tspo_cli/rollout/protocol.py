"""The search protocol: prompts and observations as token ids, actions parsed from the model's text.

Tags and observation text are those of Search-R1. Actions are parsed from the response alone, never
from prompt or observation. Untrusted text (questions, passages) is encoded without special tokens:
no passage can spell a tag of the protocol or the end of a sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from tspo_cli.config.schema import RolloutConfig
from tspo_cli.data.question import Question
from tspo_cli.errors import InvalidInputError
from tspo_cli.models.chat_template import check_template, render_chat, uses_template
from tspo_cli.models.tokenizer_protocol import Tokenizer, decode, encode, start_ids
from tspo_cli.retrieval.types import Hit
from tspo_cli.rollout.prompts import AfterEos, PromptStyle, prompt_style
from tspo_cli.rollout.trajectory import CallFacts, Turn, TurnKind

STOP_STRINGS = ("</search>", "</answer>")
_ACTIONS = (("search", "<search>", "</search>"), ("answer", "<answer>", "</answer>"))
_MARK = "\ue000"  # a private-use character that surrounds the names in a template


@dataclass(frozen=True, slots=True)
class Action:
    """What a model segment does. `content` is the query or the answer, empty for other kinds;
    `call` is set if the model called a function.
    """

    kind: TurnKind
    content: str = ""
    call: CallFacts | None = None


@dataclass(frozen=True, slots=True)
class RolloutState:
    """The trajectory before or right after a model segment; `turns` does not contain the segment.

    `may_search`: the search budget is not used up.
    """

    question: Question
    turns: tuple[Turn, ...]
    may_search: bool


def parse_action(text: str, *, finish_reason: str, may_search: bool) -> Action:
    """The first complete search or answer block of a model segment.

    An empty query and a search that is not allowed are invalid. A segment without a block is
    truncated if the token limit cut it, else invalid.
    """
    blocks = [
        (start, kind, end)
        for kind, opening, closing in _ACTIONS
        if (start := text.find(opening)) >= 0 and (end := text.find(closing, start)) >= 0
    ]
    if not blocks:
        return Action("truncated" if finish_reason == "length" else "invalid")
    start, kind, end = min(blocks)
    content = text[start + len(f"<{kind}>") : end].strip()
    if kind == "answer":
        return Action("answer", content)
    return Action("search", content) if may_search and content else Action("invalid")


def passages_text(hits: Sequence[Hit], *, quoted: bool) -> str:
    """The passages as Search-R1 writes them: `Doc i(Title: "t") text`, one line each, from 1.

    `quoted` false: titles without their quotes.
    """
    return "\n".join(
        f"Doc {rank}(Title: {hit.quoted_title if quoted else hit.title}) {hit.text}"
        for rank, hit in enumerate(hits, start=1)
    ).strip()


def search_action(think: str, query: str) -> str:
    """The text of a well-formed search turn."""
    return f"<think> {think} </think> <search> {query} </search>"


def answer_action(think: str, answer: str) -> str:
    """The text of a well-formed answering turn."""
    return f"<think> {think} </think> <answer> {answer} </answer>"


@dataclass(frozen=True)
class SearchProtocol:
    """Prompts, actions and observations with Search-R1's tags, for one tokenizer and one set of
    rollout options.

    Evaluation methods that prompt in another way (evaluation/methods) override `stop`,
    `stop_outside` (texts at which a turn ends outside <think> blocks), `parse` and `context`.
    """

    stop: ClassVar[tuple[str, ...]] = STOP_STRINGS
    stop_outside: ClassVar[tuple[str, ...]] = ()

    tokenizer: Tokenizer
    style: PromptStyle
    system: str
    use_chat_template: bool
    max_observation_tokens: int
    question_mark: bool
    quoted_titles: bool
    after_eos: AfterEos
    template_kwargs: Mapping[str, Any]

    @classmethod
    def from_config(cls, tokenizer: Tokenizer, config: RolloutConfig) -> SearchProtocol:
        """The protocol that `config` describes.

        Raises:
            MissingResourceError, InvalidInputError: see `prompt_style`; corrections as user
            messages without a chat template; a chat template that refuses the messages.
        """
        style = prompt_style(config.prompt)
        use_chat_template = uses_template(tokenizer, config)
        if config.after_eos == "user_turn" and not use_chat_template:
            raise InvalidInputError(
                "rollout.after_eos: user_turn needs a chat template, and none is used; choose "
                "drop or keep"
            )
        auto = {"auto": style.question_mark, "always": True, "never": False}
        titles = {"auto": style.quoted_titles, "quoted": True, "plain": False}
        protocol = cls(
            tokenizer=tokenizer,
            style=style,
            system=config.system,
            use_chat_template=use_chat_template,
            max_observation_tokens=config.max_observation_tokens,
            question_mark=auto[config.question_mark],
            quoted_titles=titles[config.titles],
            after_eos=style.after_eos if config.after_eos == "auto" else config.after_eos,
            template_kwargs=config.template_kwargs,
        )
        check_template(tokenizer, config)
        if protocol.after_eos == "user_turn":
            protocol.correction()  # whether the template can say it
        return protocol

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The texts at which a turn of the model ends."""
        return self.stop

    @property
    def prefill(self) -> str:
        """The end of the first prompt that counts as the beginning of the model's first turn."""
        return ""

    @cached_property
    def opens_thought(self) -> bool:
        """Whether a prompt of the chat template ends with <think>, so that every reply begins
        within a thought.
        """
        return self.use_chat_template and self._render([("user", "-")]).rstrip().endswith("<think>")

    def parse(self, text: str, finish_reason: str, state: RolloutState) -> Action:
        """The action of the model segment `text` in this state."""
        return parse_action(text, finish_reason=finish_reason, may_search=state.may_search)

    def context(self, state: RolloutState, ids: Sequence[int]) -> Sequence[int]:
        """The token ids that the model continues in this state.

        `ids` are all tokens of the trajectory so far, feedback included, and empty before the first
        turn. Training relies on getting `ids` back unchanged: a trained trajectory is one sequence
        of tokens.
        """
        return ids or self.prompt_ids(state.question.question)

    def question_text(self, question: str) -> str:
        """The question as prompts show it, with "?" at its end if `question_mark` says so."""
        text = question.strip()
        return f"{text}?" if self.question_mark and not text.endswith("?") else text

    def prompt_ids(self, question: str) -> list[int]:
        """Token ids of the search prompt."""
        return self.fill(self.style.search, {"question": self.question_text(question)})

    @cached_property
    def template_tokens(self) -> int:
        """Number of tokens of the search prompt without its question."""
        return len(self.prompt_ids(""))

    def direct_ids(self, question: str) -> list[int]:
        """Token ids of the prompt without retrieval, prefill included."""
        values = {"question": self.question_text(question)}
        return self.fill(self.style.direct, values) + self._encode(self.style.prefill)

    def rag_ids(self, question: str, hits: Sequence[Hit]) -> list[int]:
        """Token ids of the prompt with passages retrieved for the question, prefill included."""
        values: dict[str, str | list[int]] = {
            "question": self.question_text(question),
            "information": self.observation(hits)[1],
        }
        return self.fill(self.style.rag, values) + self._encode(self.style.prefill)

    def passages(self, hits: Sequence[Hit]) -> str:
        """The text of the passages, see `passages_text`."""
        return passages_text(hits, quoted=self.quoted_titles)

    def observation_tokens(self, hits: Sequence[Hit]) -> int:
        """Tokens of the passages in their tags before anything is cut."""
        return self.shown_tokens(self.passages(hits))

    def shown_tokens(self, text: str) -> int:
        """`observation_tokens` of passages that are already one text."""
        return sum(map(len, self._information_tags)) + len(self._encode_untrusted(text))

    @property
    def _information_tags(self) -> tuple[list[int], list[int]]:
        return self._encode("\n\n<information>"), self._encode("</information>\n\n")

    def observation(self, hits: Sequence[Hit]) -> tuple[str, list[int]]:
        """Text and ids of the passages in their tags. The passages are cut to the token limit, the
        tags never.
        """
        return self.shown(self.passages(hits))

    def shown(self, text: str) -> tuple[str, list[int]]:
        """`observation` of passages that are already one text."""
        opening, closing = self._information_tags
        room = max(0, self.max_observation_tokens - len(opening) - len(closing))
        inner = self._encode_untrusted(text)
        if len(inner) > room:
            inner = inner[:room]
            text = self.decode(inner)
        return f"\n\n<information>{text}</information>\n\n", opening + inner + closing

    def search_result(self, turn: Turn, hits: Sequence[Hit]) -> tuple[str, list[int]]:
        """Text and ids of what follows the search of `turn`: the observation of its passages."""
        return self.observation(hits)

    def kept_tokens(self, ids: Sequence[int], finish_reason: str) -> int:
        """How many of the sampled `ids` of a turn without a valid action stay in the trajectory.

        Search-R1 decodes a reply without its special tokens and tokenises it again. An
        end-of-sequence token is therefore neither in its context nor in its loss. `drop` does the
        same to the sampled ids: the token leaves the trajectory, so that the trained sequence is
        still the one that the later turns were conditioned on. `user_turn` keeps the token if it is
        the one with which the chat template ends a message.
        """
        if finish_reason != "eos" or self.after_eos == "keep":
            return len(ids)
        ends_message = self.after_eos == "user_turn" and ids[-1] == self._correction_turn[1][0]
        return len(ids) if ends_message else len(ids) - 1

    def correction(self, ids: Sequence[int] = ()) -> tuple[str, list[int]]:
        """Text and ids of the feedback to an invalid action. `ids` are the tokens of its turn that
        stay. With `user_turn` the ids of the feedback end their message, unless they end it
        themselves, and open the next one; its text is what that message says.
        """
        if self.after_eos == "user_turn":
            text, turn = self._correction_turn
            return text, turn[1:] if ids and ids[-1] == turn[0] else turn
        ids = self._encode(self.style.invalid)
        if len(ids) <= self.max_observation_tokens:
            return self.style.invalid, ids
        ids = ids[: self.max_observation_tokens]
        return self.decode(ids), ids

    @cached_property
    def _correction_turn(self) -> tuple[str, list[int]]:
        """The correction as a user message: its text, and the ids from the end of the assistant's
        message to the beginning of the next one.
        """
        correction = self.cut(self.style.invalid.strip(), self.max_observation_tokens)
        rendered = self._render([("user", "-"), ("assistant", _MARK), ("user", correction)])
        ids = self._encode(rendered.partition(_MARK)[2])
        if not ids:
            raise InvalidInputError(
                "rollout.after_eos: user_turn needs a chat template with assistant messages, and "
                "this one does not show them; choose drop or keep"
            )
        return correction, ids

    def action_ids(self, text: str) -> list[int]:
        """Ids of a scripted model segment (demonstrations)."""
        return self._encode(text)

    def belief_ids(self, prefix: str, answer: str) -> tuple[list[int], list[int]]:
        """Ids of `prefix`, the beginning of an answering turn, and ids of the answer after it."""
        return self._encode(prefix), self._encode_untrusted(f" {answer.strip()}")

    def decode(self, ids: Sequence[int]) -> str:
        """Text of sampled ids, special tokens included."""
        return decode(self.tokenizer, ids)

    def fill(self, template: str, values: Mapping[str, str | Sequence[int]]) -> list[int]:
        """Ids of a template with its {names} replaced, as a user message if the chat template is
        used.

        A value is token ids or untrusted text. Untrusted text is encoded together with the text
        around it, unless it spells a special token: then it is encoded apart.
        """
        return self.fill_messages([("user", template)], values)

    def fill_messages(
        self, messages: Sequence[tuple[str, str]], values: Mapping[str, str | Sequence[int]]
    ) -> list[int]:
        """`fill` for a conversation of (role, template) with the system message before it. Without
        a chat template its texts follow one another.
        """
        marked = []
        for role, template in messages:
            for name in values:
                template = template.replace(f"{{{name}}}", f"{_MARK}{name}{_MARK}")
            marked.append((role, template))
        return self.fill_marked(self._render(marked), values)

    def fill_marked(self, rendered: str, values: Mapping[str, str | Sequence[int]]) -> list[int]:
        """`fill` for a text whose chat template is applied and whose names are between U+E000
        characters.

        Without a chat template the prompt begins as the tokenizer begins a text: with the token
        for the beginning of a sequence, where it has one.
        """
        ids: list[int] = []
        text = ""
        for index, piece in enumerate(rendered.split(_MARK)):
            is_name = index % 2 == 1
            value = values[piece] if is_name else piece
            if isinstance(value, str) and (not is_name or self._is_harmless(value)):
                text += value
                continue
            # A text with a special token, or ids. A text takes the space before it along.
            space = " " if isinstance(value, str) and text.endswith(" ") else ""
            ids += self._encode(text.removesuffix(space))
            ids += self._encode_untrusted(space + value) if isinstance(value, str) else value
            text = ""
        ids += self._encode(text)
        start = [] if self.use_chat_template else start_ids(self.tokenizer)
        return ids if ids[: len(start)] == start else start + ids

    def cut(self, text: str, tokens: int) -> str:
        """Untrusted text, cut to its first `tokens` tokens."""
        ids = self._encode_untrusted(text)
        return text if len(ids) <= tokens else self.decode(ids[:tokens])

    def _is_harmless(self, text: str) -> bool:
        return _MARK not in text and self._encode(text) == self._encode_untrusted(text)

    def _render(self, conversation: Sequence[tuple[str, str]]) -> str:
        if not self.use_chat_template:
            return "".join(text for _, text in conversation)
        messages = [{"role": role, "content": text} for role, text in conversation]
        if self.system:
            messages.insert(0, {"role": "system", "content": self.system})
        return render_chat(self.tokenizer, messages, self.template_kwargs)

    def _encode(self, text: str) -> list[int]:
        """Ids of the protocol's own text, in which tags may be special tokens."""
        return encode(self.tokenizer, text)

    def _encode_untrusted(self, text: str) -> list[int]:
        return encode(self.tokenizer, text, special_tokens=False)

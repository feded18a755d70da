"""Actions are parsed from the model's own text alone; what others wrote never becomes a special
token.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from tspo_cli.config.schema import RolloutConfig
from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.models.tokenizer import TAGS
from tspo_cli.retrieval.types import Hit
from tspo_cli.rollout.prompts import SEARCH_R1, SHORT, prompt_style
from tspo_cli.rollout.protocol import (
    Action,
    SearchProtocol,
    answer_action,
    parse_action,
    search_action,
)

PROSE = st.text(
    alphabet=st.characters(exclude_characters="<>", exclude_categories=["Cs"]), max_size=30
)
WORDS = PROSE.map(str.strip).filter(bool)
TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"


def parse(text: str, may_search: bool = True, finish_reason: str = "stop") -> Action:
    return parse_action(text, finish_reason=finish_reason, may_search=may_search)


def protocol_for(tokenizer: PreTrainedTokenizerFast, **options: object) -> SearchProtocol:
    return SearchProtocol.from_config(
        tokenizer, RolloutConfig.model_validate({"prompt": "short", **options})
    )


@given(PROSE, WORDS)
def test_well_formed_actions_are_read_back(think: str, content: str) -> None:
    assert parse(search_action(think, content)) == Action("search", content)
    assert parse(answer_action(think, content)) == Action("answer", content)
    assert parse(answer_action(think, content), may_search=False) == Action("answer", content)


@given(PROSE, WORDS, WORDS)
def test_the_first_complete_block_wins(before: str, first: str, second: str) -> None:
    text = f"{before}<search>{first}</search><answer>{second}</answer>"
    assert parse(text) == Action("search", first)
    assert parse(f"<answer> never closed {text}").kind == "search" or "</answer>" in text
    assert parse(f"{before}<answer>{second}</answer><search>{first}</search>") == Action(
        "answer", second
    )


@given(PROSE, WORDS)
def test_a_search_without_budget_is_invalid(think: str, query: str) -> None:
    assert parse(search_action(think, query), may_search=False) == Action("invalid")


@pytest.mark.parametrize("text", ["<search></search>", "<search> \n </search>"])
def test_an_empty_search_is_invalid(text: str) -> None:
    assert parse(text) == Action("invalid")


def test_an_empty_answer_is_an_answer() -> None:
    assert parse("<answer> </answer>") == Action("answer", "")


@given(PROSE)
def test_text_without_a_block_is_invalid_or_truncated(text: str) -> None:
    for unfinished in (
        text,
        f"{text}<search>{text}",
        f"<think>{text}</search>",
        f"<information>{text}</information>",
    ):
        assert parse(unfinished, finish_reason="eos") == Action("invalid")
        assert parse(unfinished, finish_reason="length") == Action("truncated")


def test_a_complete_block_counts_although_the_limit_cut_what_follows() -> None:
    assert parse("<answer>Bako</answer> and", finish_reason="length") == Action("answer", "Bako")


def test_observations_have_tags_and_numbered_passages(tokenizer: PreTrainedTokenizerFast) -> None:
    hits = [Hit("1", '"Bako"\na town', 2.0), Hit("2", '"Rimu"\na river\nin Bako', 1.0)]
    text, ids = protocol_for(tokenizer).observation(hits)
    assert text == (
        "\n\n<information>Doc 1(Title: Bako) a town\nDoc 2(Title: Rimu) a river\nin "
        "Bako</information>\n\n"
    )
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


@given(
    st.integers(12, 60), st.text(alphabet=st.characters(codec="utf-8"), min_size=40, max_size=200)
)
def test_long_observations_are_cut_inside_their_tags(
    tokenizer: PreTrainedTokenizerFast, limit: int, passage: str
) -> None:
    protocol = protocol_for(tokenizer, max_observation_tokens=limit)
    text, ids = protocol.observation([Hit("1", f'"T"\n{passage}', 1.0)])
    opening, closing = (
        tokenizer.convert_tokens_to_ids(tag) for tag in ("<information>", "</information>")
    )
    assert len(ids) <= limit
    assert (ids.count(opening), ids.count(closing)) == (1, 1)
    assert ids[-2] == closing
    assert text.startswith("\n\n<information>")
    assert text.endswith("</information>\n\n")


@given(
    st.lists(
        st.sampled_from([*TAGS, "<eos>", "<pad>", " river", " Bako", "\n"]), min_size=1, max_size=8
    )
)
def test_passages_never_become_special_tokens(
    tokenizer: PreTrainedTokenizerFast, pieces: list[str]
) -> None:
    passage = "".join(pieces)
    text, ids = protocol_for(tokenizer).observation([Hit("1", f'"{passage}"\n{passage}', 1.0)])
    special = [token for token in ids if token in tokenizer.added_tokens_decoder]
    assert special == tokenizer.convert_tokens_to_ids(["<information>", "</information>"])
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


@given(st.lists(st.sampled_from([*TAGS, "<eos>", "who ", "is ", "Bako"]), min_size=1, max_size=6))
def test_questions_never_become_special_tokens(
    tokenizer: PreTrainedTokenizerFast, pieces: list[str]
) -> None:
    question = "".join(pieces)
    ids = protocol_for(tokenizer).prompt_ids(question)
    assert not set(ids) & set(tokenizer.added_tokens_decoder)
    assert (
        tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        == f"Question: {question.strip()}\n"
    )


def test_a_long_correction_is_cut_in_text_and_ids_alike(tokenizer: PreTrainedTokenizerFast) -> None:
    text, ids = protocol_for(tokenizer, max_observation_tokens=2).correction()
    assert len(ids) == 2
    assert text == tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert SHORT.invalid.startswith(text)


def test_the_chat_template_is_used_if_there_is_one(tokenizer: PreTrainedTokenizerFast) -> None:
    assert not protocol_for(tokenizer).use_chat_template
    chat = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, chat_template=TEMPLATE
    )
    ids = protocol_for(chat, system="be brief").prompt_ids("who is Bako?")
    assert chat.decode(ids) == "[system]be brief[user]Question: who is Bako?\n[assistant]"
    ids = protocol_for(chat, chat_template="never").prompt_ids("who is Bako?")
    assert chat.decode(ids) == "Question: who is Bako?\n"


def test_prompts_with_passages_end_with_the_prefill(tokenizer: PreTrainedTokenizerFast) -> None:
    protocol = protocol_for(tokenizer)
    text = tokenizer.decode(
        protocol.rag_ids("who is Bako?", [Hit("1", '"Bako"\na town', 1.0)]),
        clean_up_tokenization_spaces=False,
    )
    assert text == (
        "Question: who is Bako?\n\n\n<information>Doc 1(Title: Bako) a "
        "town</information>\n\n<answer>"
    )
    assert (
        tokenizer.decode(protocol.direct_ids("who is Bako?")) == "Question: who is Bako?\n<answer>"
    )


def test_a_prompt_template_comes_from_a_file(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("prompts") / "mine.txt"
    path.write_text("Q {question} A", encoding="utf-8")
    assert prompt_style(str(path)).search == "Q {question} A"
    assert (prompt_style("search_r1"), prompt_style("short")) == (SEARCH_R1, SHORT)
    path.write_text("no place", encoding="utf-8")
    with pytest.raises(InvalidInputError, match="question"):
        prompt_style(str(path))
    with pytest.raises(MissingResourceError, match="neither a style"):
        prompt_style("nowhere")

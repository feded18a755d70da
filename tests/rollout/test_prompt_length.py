"""Prompts are measured before a run; a question that is too long is cut, the template never."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from tspo_cli.config.schema import Config, DataConfig, RolloutConfig
from tspo_cli.data.question import Question
from tspo_cli.errors import InvalidInputError
from tspo_cli.models.tokenizer_protocol import encode, token_counts
from tspo_cli.rollout.prompt_length import fitted, measure_prompts
from tspo_cli.rollout.protocol import SearchProtocol
from tspo_cli.training.rl.question_batches import fitting_questions

TEXTS = st.lists(
    st.one_of(
        st.sampled_from(["which river", "<search>", "<eos>", " Bako", "\n", "?", "東京", "\ue000"]),
        st.text(max_size=12),
    ),
    min_size=1,
    max_size=12,
).map(lambda parts: "".join(parts) or "q")


def question(text: str, name: str = "q") -> Question:
    return Question(name, text, ("a",), "world")


def protocol_of(tokenizer: PreTrainedTokenizerFast, **options: object) -> SearchProtocol:
    return SearchProtocol.from_config(tokenizer, RolloutConfig.model_validate(options))


def test_counts_are_those_of_single_texts(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = ["", "which river", "<search> x <eos>", " Bako\n"] * 3000
    counts = token_counts(tokenizer, texts)
    assert counts[:4] == counts[-4:]
    assert counts[:4] == [len(encode(tokenizer, t, special_tokens=False)) for t in texts[:4]]


@given(st.lists(TEXTS, min_size=1, max_size=30), st.integers(-20, 40))
def test_measured_prompts_are_the_prompts_of_rollouts(
    tokenizer: PreTrainedTokenizerFast, texts: list[str], room: int
) -> None:
    protocol = protocol_of(tokenizer)
    questions = [question(text, str(number)) for number, text in enumerate(texts)]
    limit = protocol.template_tokens + room
    sizes = [len(protocol.prompt_ids(text)) for text in texts]
    found = measure_prompts(questions, protocol, limit)
    assert found.longest == max(sizes) == sizes[int(found.longest_question.id)]
    assert [q.id for q in found.too_long] == [str(n) for n, s in enumerate(sizes) if s > limit]


@given(TEXTS, st.integers(6, 60))
@pytest.mark.parametrize("options", [{}, {"prompt": "short"}], ids=["search_r1", "short"])
def test_only_the_question_gives_way(
    tokenizer: PreTrainedTokenizerFast, options: dict[str, object], text: str, room: int
) -> None:
    protocol = protocol_of(tokenizer, **options)
    limit = protocol.template_tokens + room
    whole = question(text * 3)
    try:
        shown = fitted(whole, protocol, limit)
    except InvalidInputError:
        assert len(encode(tokenizer, text, special_tokens=False)) > 0
        return
    ids = protocol.prompt_ids(shown.question)
    assert len(ids) <= limit
    before, after = protocol.style.search.split("{question}")
    said = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert said.startswith(before)
    assert said.endswith(after)
    if len(protocol.prompt_ids(whole.question)) <= limit:
        assert shown is whole
    else:
        assert len(shown.question) < len(whole.question)
    assert (shown.id, shown.golden_answers) == (whole.id, whole.golden_answers)


def test_a_limit_below_the_template_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    protocol = protocol_of(tokenizer)
    with pytest.raises(InvalidInputError, match="do not hold the prompt without its question"):
        fitted(question("which river is it"), protocol, protocol.template_tokens - 1)


def config_of(limit: int, too_long: str = "error") -> Config:
    return Config(
        data=DataConfig.model_validate({"too_long": too_long}),
        rollout=RolloutConfig(max_prompt_tokens=limit),
    )


def test_training_refuses_or_leaves_out_questions_that_do_not_fit(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    protocol = protocol_of(tokenizer)
    questions = [question("which river", "a"), question("town " * 400, "long"), question("who")]
    questions += [question("near " * 900, "longest")]
    limit = protocol.template_tokens + 100
    longest = len(protocol.prompt_ids("near " * 900))
    with pytest.raises(InvalidInputError, match=r"2 of 4 prompts have more than") as error:
        fitting_questions(questions, protocol, config_of(limit))
    assert f"the longest {longest:,} tokens (question 'longest')" in str(error.value)
    assert "the first that of question 'long'" in str(error.value)
    assert 'data.too_long = "drop"' in str(error.value)
    kept, line = fitting_questions(questions, protocol, config_of(limit, "drop"))
    assert [q.id for q in kept] == ["a", "q"]
    assert line.startswith("2 of 4 prompts")
    kept, line = fitting_questions(questions, protocol, config_of(longest))
    assert kept == questions
    assert line == (
        f"prompts have at most {longest:,} tokens (question 'longest'), the limit is {longest:,}"
    )
    with pytest.raises(InvalidInputError, match="4 of 4"):
        fitting_questions(questions, protocol, config_of(5, "drop"))

"""Prompt, observation and correction of the style `search_r1`, as Search-R1's code produces them.

The expected strings were written by hand after its `generation.py` and `qa_search_train_merge.py`.
"""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from tspo_cli.config.schema import RolloutConfig
from tspo_cli.credit.gold_match import contains_answer
from tspo_cli.data.question import Passage
from tspo_cli.errors import InvalidInputError
from tspo_cli.retrieval.types import Hit
from tspo_cli.rollout.protocol import Action, SearchProtocol, parse_action

PROMPT = (
    "Answer the given question. You must conduct reasoning inside <think> and </think> first every "
    "time you get new information. After reasoning, if you find you lack some knowledge, you can "
    "call a search engine by <search> query </search> and it will return the top searched results "
    "between <information> and </information>. You can search as many times as your want. If you "
    "find no further external knowledge needed, you can directly provide the answer inside "
    "<answer> and </answer>, without detailed illustrations. For example, <answer> Beijing "
    "</answer>. Question: {}\n"
)
CORRECTION = (
    "\nMy previous action is invalid. If I want to search, I should put the query between <search> "
    "and </search>. If I want to give the final answer, I should put the answer between <answer> "
    "and </answer>. Let me try again.\n"
)


def protocol_of(tokenizer: PreTrainedTokenizerFast, **options: object) -> SearchProtocol:
    options = {"max_observation_tokens": 5000, **options}
    return SearchProtocol.from_config(tokenizer, RolloutConfig.model_validate(options))


def shown(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> str:
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("which river is near Bako", "which river is near Bako?"),
        ("which river is near Bako?", "which river is near Bako?"),
        ("  who was born in Rimu \n", "who was born in Rimu?"),
        ("Name the town.", "Name the town.?"),
        ("is it? yes", "is it? yes?"),
        ("is it ?  ", "is it ?"),
        ("who is it？", "who is it？?"),
        ('who said "why?"', 'who said "why?"?'),
    ],
)
def test_the_prompt_ends_a_question_as_search_r1s_data_does(
    tokenizer: PreTrainedTokenizerFast, question: str, expected: str
) -> None:
    assert shown(tokenizer, protocol_of(tokenizer).prompt_ids(question)) == PROMPT.format(expected)


def test_the_question_mark_has_a_switch_and_is_off_in_the_short_style(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    assert protocol_of(tokenizer, question_mark="never").question_text(" who ") == "who"
    assert protocol_of(tokenizer, prompt="short").question_text("who") == "who"
    short = protocol_of(tokenizer, prompt="short", question_mark="always")
    assert shown(tokenizer, short.prompt_ids("who")) == "Question: who?\n"


OBSERVATIONS = [
    (
        ['"Aaron (name)"\nAaron is a name.', '"Rimu"\nA river.\nIt is long.', '"T"\n'],
        'Doc 1(Title: "Aaron (name)") Aaron is a name.\nDoc 2(Title: "Rimu") A river.\nIt is '
        'long.\nDoc 3(Title: "T")',
    ),
    (['"The "Big" One"\ntext'], 'Doc 1(Title: "The "Big" One") text'),
    (['""Heroes""\ntext'], 'Doc 1(Title: ""Heroes"") text'),
    (["Plain title\ntext"], "Doc 1(Title: Plain title) text"),
    (["one line without a title"], "Doc 1(Title: one line without a title)"),
    (['""\nno title'], 'Doc 1(Title: "") no title'),
    (['"A"\n\n  text \n', '"B"\nx'], 'Doc 1(Title: "A") \n  text \n\nDoc 2(Title: "B") x'),
    ([' "A" \ntext'], 'Doc 1(Title:  "A" ) text'),
    (['"A"\r\ntext'], 'Doc 1(Title: "A"\r) text'),
    ([], ""),
]


@pytest.mark.parametrize(("contents", "expected"), OBSERVATIONS)
def test_observations_are_those_of_search_r1(
    tokenizer: PreTrainedTokenizerFast, contents: list[str], expected: str
) -> None:
    hits = [Hit(str(number), text, 1.0) for number, text in enumerate(contents)]
    text, ids = protocol_of(tokenizer).observation(hits)
    assert text == f"\n\n<information>{expected}</information>\n\n"
    assert shown(tokenizer, ids) == text


def test_a_record_with_title_and_text_reads_as_in_search_r1s_corpus(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    contents = Passage("7", "Aaron (name)", "Aaron is a name.").contents
    hits = [Hit("7", contents, 1.0)]
    assert protocol_of(tokenizer).passages(hits) == 'Doc 1(Title: "Aaron (name)") Aaron is a name.'
    plain = "Doc 1(Title: Aaron (name)) Aaron is a name."
    assert protocol_of(tokenizer, titles="plain").passages(hits) == plain
    assert protocol_of(tokenizer, prompt="short").passages(hits) == plain


def test_credit_looks_into_titles_of_both_forms_and_not_at_the_headings(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    hits = [Hit("1", '"Doc Holliday"\na dentist', 1.0), Hit("2", '"Rimu"\na river', 1.0)]
    for titles in ("quoted", "plain"):
        text, _ = protocol_of(tokenizer, titles=titles).observation(hits)
        assert contains_answer(text, ["Doc Holliday"])
        assert contains_answer(text, ["Rimu"])
        assert not contains_answer(text, ["title"])
        assert not contains_answer(text, ["doc 2"])
        assert not contains_answer(text, ["information"])


def test_the_correction_is_that_of_search_r1(tokenizer: PreTrainedTokenizerFast) -> None:
    text, ids = protocol_of(tokenizer).correction()
    assert text == shown(tokenizer, ids) == CORRECTION


@pytest.mark.parametrize(
    ("reply", "action"),
    [
        ("<think> x </think> so <search> the river </search> and on", ("search", "the river")),
        ("I know: <answer> Bako </answer>", ("answer", "Bako")),
        ("<answer>A</answer><search>B</search>", ("answer", "A")),
        ("<search>\nline one\nline two\n</search>", ("search", "line one\nline two")),
        ("<search> never closed <answer> C </answer>", ("answer", "C")),
        ("<search> crossed </answer>", ("invalid", "")),
        ("<Search> x </Search>", ("invalid", "")),
        ("Bako", ("invalid", "")),
    ],
)
def test_actions_are_read_as_search_r1_reads_them(reply: str, action: tuple[str, str]) -> None:
    parsed = parse_action(reply, finish_reason="stop", may_search=True)
    assert parsed == Action(*action)  # type: ignore[arg-type]


CHAT = (
    "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


@pytest.fixture
def chatty(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    import copy

    chatty = copy.deepcopy(tokenizer)
    chatty.chat_template = CHAT
    return chatty


def test_a_correction_can_be_a_user_message(chatty: PreTrainedTokenizerFast) -> None:
    protocol = protocol_of(chatty, after_eos="user_turn")
    eos, other = chatty.convert_tokens_to_ids("<eos>"), chatty.convert_tokens_to_ids("<pad>")
    after = f"\n<s>user\n{CORRECTION.strip()}<eos>\n<s>assistant\n"
    ended = [7, 8, eos]
    assert protocol.kept_tokens(ended, "eos") == 3
    text, ids = protocol.correction(ended)
    assert (text, shown(chatty, ids)) == (CORRECTION.strip(), after)
    # Another end-of-sequence token than the one of the template, and a reply that was cut.
    assert protocol.kept_tokens([7, 8, other], "eos") == 2
    assert protocol.kept_tokens([7, 8], "length") == 2
    assert shown(chatty, protocol.correction([7, 8])[1]) == f"<eos>{after}"
    whole = chatty.apply_chat_template(
        [
            {"role": "user", "content": "who"},
            {"role": "assistant", "content": "river"},
            {"role": "user", "content": CORRECTION.strip()},
        ],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert whole.endswith(f"river<eos>{after}")


def test_a_user_message_needs_a_chat_template(
    tokenizer: PreTrainedTokenizerFast, chatty: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(InvalidInputError, match="user_turn needs a chat template"):
        protocol_of(tokenizer, after_eos="user_turn")
    with pytest.raises(InvalidInputError, match="user_turn needs a chat template"):
        protocol_of(chatty, after_eos="user_turn", chat_template="never")
    chatty.chat_template = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    with pytest.raises(InvalidInputError, match="does not show"):
        protocol_of(chatty, after_eos="user_turn")


def test_what_stays_of_a_reply_that_ended(tokenizer: PreTrainedTokenizerFast) -> None:
    for options, kept in (
        ({}, 2),
        ({"after_eos": "keep"}, 3),
        ({"prompt": "short"}, 3),
        ({"prompt": "short", "after_eos": "drop"}, 2),
    ):
        protocol = protocol_of(tokenizer, **options)
        assert protocol.kept_tokens([7, 8, 2], "eos") == kept
        assert protocol.kept_tokens([7, 8, 2], "length") == 3
        assert protocol.kept_tokens([], "length") == 0

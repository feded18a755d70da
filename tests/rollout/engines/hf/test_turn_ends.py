"""Where a turn ends: stop strings, end of sequence, context."""

from __future__ import annotations

import pytest
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2ForCausalLM,
)

from tests.rollout.engines.hf.engine_runs import (
    engine_for,
    finish_one,
    steer,
    tokens,
)
from tspo_cli.errors import InvalidInputError
from tspo_cli.rollout.engines.engine_protocol import GenerationRequest, Sampling
from tspo_cli.rollout.engines.hf.hf_engine import TransformersEngine
from tspo_cli.rollout.engines.hf.stop_conditions import MAY_STOP


def test_a_single_token_stop_string_ends_the_turn_and_stays(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    free = finish_one(
        engine_for(model, tokenizer), (10, 11), Sampling(temperature=0.0, max_new_tokens=30)
    )
    stop = tokenizer.convert_tokens_to_ids("</search>")
    steer(model, (10, 11), free.token_ids[:1], stop)
    done = finish_one(
        engine_for(model, tokenizer),
        (10, 11),
        Sampling(temperature=0.0, max_new_tokens=30, stop=("</search>",)),
    )
    assert done.token_ids[-1] == stop
    assert done.finish_reason == "stop"


def test_a_stop_string_of_several_tokens_is_found_in_the_decoded_tail(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    plain = Sampling(max_new_tokens=60)
    free = finish_one(engine_for(model, tokenizer), (10, 11), plain, seed=4)
    for end in range(5, 40, 7):
        text = tokenizer.decode(free.token_ids[:end], clean_up_tokenization_spaces=False)
        stop = text[-6:]
        if "\ufffd" in stop:
            continue
        done = finish_one(
            engine_for(model, tokenizer),
            (10, 11),
            Sampling(max_new_tokens=60, stop=("never said", stop)),
            seed=4,
        )
        texts = [
            tokenizer.decode(free.token_ids[:n], clean_up_tokenization_spaces=False)
            for n in range(1, 61)
        ]
        first = next(n for n, prefix in enumerate(texts, start=1) if stop in prefix)
        assert done.finish_reason == "stop"
        assert done.token_ids == free.token_ids[:first]


def test_the_prompt_does_not_count_for_stop_strings(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    stop = tokenizer.convert_tokens_to_ids("</search>")
    done = finish_one(
        engine_for(model, tokenizer),
        (10, stop),
        Sampling(max_new_tokens=3, stop=("</search>",)),
        seed=1,
    )
    assert (done.finish_reason, len(done.token_ids)) == ("length", 3)


def test_end_of_sequence(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    steer(model, (10, 11), (), tokenizer.eos_token_id)
    done = finish_one(
        engine_for(model, tokenizer), (10, 11), Sampling(temperature=0.0, max_new_tokens=30)
    )
    assert done.token_ids == (tokenizer.eos_token_id,)
    assert done.finish_reason == "eos"


def test_the_context_limits_a_turn(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    engine = TransformersEngine(model, tokenizer, batch_size=2, max_context=32)
    first = finish_one(engine, tokens(1, 20), Sampling(max_new_tokens=50))
    assert (first.finish_reason, len(first.token_ids)) == ("length", 12)
    later = finish_one(
        engine, [*tokens(1, 20), *first.token_ids, *tokens(2, 9)], Sampling(max_new_tokens=50)
    )
    assert (later.finish_reason, later.token_ids) == ("length", ())
    with pytest.raises(InvalidInputError, match="33 tokens, expected at most 32"):
        engine.submit(GenerationRequest(1, tuple(tokens(1, 33)), Sampling()))


def test_an_empty_prompt_is_refused(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(InvalidInputError, match="at least one"):
        engine_for(model, tokenizer).submit(GenerationRequest(0, (), Sampling()))


@pytest.mark.parametrize("opened", [False, True])
def test_a_string_that_counts_outside_thoughts(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, opened: bool
) -> None:
    rules = engine_for(model, tokenizer).rules
    rule = rules.rule(Sampling(stop_outside=("</answer>",), opened=opened))
    end = tokenizer.convert_tokens_to_ids("</answer>")
    assert rules.kinds[rule, end] == MAY_STOP

    def ends(text: str) -> bool:
        return rules.ends(rule, tokenizer(text, add_special_tokens=False)["input_ids"])

    begin = "" if opened else "<think>"
    assert not ends(f"{begin} inside <answer> and </answer>")
    assert not ends(f"{begin} inside <answer> and </answer> </think> <answer> b")
    assert ends(f"{begin} inside <answer> and </answer> </think> <answer> b </answer>")
    assert ends("<answer> b </answer>") != opened

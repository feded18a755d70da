"""Chat templates that refuse, that take arguments, and where a directory keeps them."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from tests.models.small_tokenizers import CHATML, byte_level
from tspo_cli.config.load_config import load_config
from tspo_cli.config.rules import rule_problems
from tspo_cli.config.schema import Config, ModelConfig, RolloutConfig
from tspo_cli.errors import InvalidInputError
from tspo_cli.evaluation.standalone import EvaluationRequest, eval_config
from tspo_cli.models import chat_template
from tspo_cli.models.chat_template import stop_ids, template_notes, template_warnings, turn_end_id
from tspo_cli.models.load_model import load_tokenizer
from tspo_cli.models.tiny import tiny_model
from tspo_cli.rollout.agent_file import write_agent_file
from tspo_cli.rollout.engines.engine_protocol import GenerationRequest, Sampling
from tspo_cli.rollout.engines.hf.hf_engine import TransformersEngine
from tspo_cli.rollout.protocol import SearchProtocol
from tspo_cli.work_limits import at_most, in_copy

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}" + CHATML
)
THINKS = CHATML + "{% if enable_thinking is defined and not enable_thinking %}[quiet]{% endif %}"


def chat(template: Any) -> PreTrainedTokenizerFast:
    return byte_level(SPECIAL, template=template)


def protocol(template: Any, **options: Any) -> SearchProtocol:
    return SearchProtocol.from_config(chat(template), RolloutConfig.model_validate(options))


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (NO_SYSTEM, "System role not supported"),
        ("{{ messages[0].content + 1 }}", "str"),
        ("{{ raise_exception('only\nuser and model') }}", "only user and model"),
        ("{{ undefined_thing.field }}", "undefined_thing"),
        ("{% for m in messages %}", "Unexpected end"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ 2.0 ** 99999 }}", "out of range"),
        ("{{ messages.pop(99) }}", "unsafe"),
        ("{% for m in messages %}" * 30 + "{% endfor %}" * 30, "too many statically nested"),
        ("{% include messages[0] %}", "loader"),
        (r"{{ '\ud800' }}" + CHATML, "surrogates not allowed"),
        ("{{ " + "(" * 9999 + "1" + ")" * 9999 + " }}", "recursion"),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "recursion"),
    ],
)
def test_a_template_that_refuses_is_one_line_at_the_start(template: str, words: str) -> None:
    with pytest.raises(InvalidInputError, match=r"leave rollout\.system empty") as caught:
        protocol(template, system="Be brief.")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


FOREVER = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


TWICE = "{% macro a(n) %}{% if n %}{{ a(n - 1) }}{{ a(n - 1) }}{% endif %}{% endmacro %}"
ANSWERED = "{% if messages[1] is defined %}" + FOREVER + "{% endif %}"


@pytest.mark.parametrize(
    "template",
    [
        FOREVER,
        CHATML + FOREVER,
        FOREVER + CHATML,
        TWICE + "{{ a(60) }}",
        "{{ 10 ** (10 ** 9) }}",  # computed while the template is compiled
    ],
)
def test_a_template_that_does_not_end_is_refused(
    template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_template, "_LONGEST_SECONDS", 0.1)
    with pytest.raises(InvalidInputError, match=r"needs longer than 0\.1 seconds .*; mend the"):
        protocol(template)
    protocol(template, chat_template="never")


NESTED = "{% set n = namespace(a=[1], b=[1]) %}{% for i in range(99) %}" + (
    "{% set n.a = [n.a, n.a] %}{% set n.b = [n.b, n.b] %}{% endfor %}"
)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere such an operation has no limit")
@pytest.mark.parametrize(
    "template",
    [
        CHATML + NESTED + "{{ n.a == n.b }}",
        CHATML + NESTED + "{{ n.a in [n.b] }}",
        CHATML
        + NESTED.replace("[1]", "(1,)").replace("[n.a, n.a]", "(n.a, n.a)")
        + "{{ {n.a: 1} }}",
        CHATML + NESTED + "{{ [n.b, n.a] | sort }}",
    ],
)
def test_neither_is_one_whose_single_operation_does_not_end(
    template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C code that Python does not interrupt."""
    monkeypatch.setattr(chat_template, "_LONGEST_SECONDS", 0.1)
    with pytest.raises(InvalidInputError, match=r"needs longer than 0\.1 seconds .*; mend the"):
        protocol(template)


def test_a_template_is_tried_in_threads_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "_LONGEST_SECONDS", 0.1)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(protocol, CHATML).result().prompt_ids("who")
        with pytest.raises(InvalidInputError, match=r"needs longer than 0\.1 seconds"):
            pool.submit(protocol, CHATML + FOREVER).result()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is copied")
def test_work_in_a_copy_leaves_this_process_as_it_is() -> None:
    changed: list[int] = []
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    before = set(children.read_text().split())  # other tests may have some

    def work() -> str:
        changed.append(1)
        return "\u2028" * 10**6

    assert in_copy(work, 5) == "\u2028" * 10**6
    assert not changed
    with pytest.raises(ChildProcessError):
        in_copy(lambda: str(os.kill(os.getpid(), signal.SIGSEGV)), 5)
    assert set(children.read_text().split()) <= before  # also none that nobody waits for


def test_neither_is_one_that_does_not_end_with_a_turn_of_the_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chat_template, "_LONGEST_SECONDS", 0.1)
    tokenizer, config = chat(CHATML + ANSWERED), RolloutConfig(stop_tokens=["turn_end"])
    with pytest.raises(InvalidInputError, match=r"needs longer than 0\.1 seconds"):
        stop_ids(tokenizer, config)


GROWS = "{% set n = namespace(s=START) %}{% for i in range(99) %}{% set n.s = n.s + n.s %}"


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 10 ** 10 }}",  # computed while the template is compiled
        "{{ messages[0].role * 10 ** 10 }}",
        "{{ 'a' | center(10 ** 10) }}",
        "{{ '%10000000000d' % messages | length }}",
        GROWS.replace("START", "'ab'") + "{% endfor %}",
        GROWS.replace("START", "[1]") + "{% endfor %}",
    ],
)
def test_a_template_that_fills_the_memory_is_refused(
    template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_template, "_MOST_MEMORY", 2**25)
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(InvalidInputError, match=r"needs more than 32 MiB .*; mend the template"):
        protocol(template)
    assert resource.getrlimit(resource.RLIMIT_AS) == before


@pytest.mark.parametrize("template", ["{{ 'ab' * 10 ** 6 }}", "{{ strftime_now('%Y' * 10**6) }}"])
def test_a_template_that_writes_millions_of_characters_is_refused(template: str) -> None:
    with pytest.raises(InvalidInputError, match=r"writes [24],[0-9]{3},[0-9]{3} characters for"):
        protocol(CHATML + template)


def test_a_limit_leaves_an_alarm_as_it_was() -> None:
    fired: list[int] = []
    handler = signal.signal(signal.SIGALRM, lambda number, frame: fired.append(number))
    left, interval = signal.setitimer(signal.ITIMER_REAL, 0.15)
    try:
        with at_most(5):
            pass
        with pytest.raises(TimeoutError, match=r"longer than 0\.05 seconds"), at_most(0.05):
            time.sleep(5)
        assert not fired
        time.sleep(0.15)
        assert fired == [signal.SIGALRM]
    finally:
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, left, interval)


PARTS = "{% for m in messages %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "missing"),
    [
        ("Hello.", "message of the user"),
        (PARTS, "message of the user"),
        (CHATML.replace("content", "content | upper"), "message of the user"),
        ("{% if messages[1] %}" + CHATML + "{% endif %}", "message of the user"),
        (CHATML.replace("messages", "messages if m.role == 'user'"), "rollout.system"),
    ],
)
def test_a_template_that_loses_a_message_is_refused(template: str, missing: str) -> None:
    with pytest.raises(InvalidInputError, match=f"leaves out or changes the .*{missing}"):
        protocol(template, system="Be brief." * missing.endswith("system"))


def test_other_refusals_name_the_arguments_and_never_is_a_way_out() -> None:
    needy = "{{ raise_exception('set a date') if date is not defined }}" + CHATML
    with pytest.raises(InvalidInputError, match=r"set a date; give .* rollout\.template_kwargs"):
        protocol(needy)
    assert protocol(needy, template_kwargs={"date": "today"}).prompt_ids("who")
    assert protocol(needy, chat_template="never").prompt_ids("who")
    assert protocol(NO_SYSTEM).prompt_ids("who"), "nobody set a system message"


def test_a_model_without_a_template_is_told() -> None:
    (note,) = template_notes(byte_level(), RolloutConfig(), [0])
    assert note == "the model has no chat template: prompts are plain text"
    assert template_notes(byte_level(), RolloutConfig(chat_template="never"), [0]) == []
    assert template_notes(byte_level(), RolloutConfig(prompt="short"), [0]) == []
    assert not any(
        "plain text" in told for told in template_notes(chat(CHATML), RolloutConfig(), [])
    )


def test_arguments_reach_the_template_and_unused_ones_are_told() -> None:
    quiet = protocol(THINKS, template_kwargs={"enable_thinking": False})
    assert quiet.decode(quiet.prompt_ids("who")).endswith("[quiet]")
    assert "[quiet]" not in quiet.decode(protocol(THINKS).prompt_ids("who"))
    config = RolloutConfig(template_kwargs={"enable_thinking": False})
    assert not list(template_warnings(chat(THINKS), config))
    assert "enable_thinking: without effect" in next(template_warnings(chat(CHATML), config))
    assert "not used" in next(template_warnings(byte_level(), config))
    for mistyped in ("enable_thinkin", "thinking", "Enable_thinking"):
        config = RolloutConfig(template_kwargs={mistyped: False})
        assert f"{mistyped}: without effect" in next(template_warnings(chat(THINKS), config))


def test_a_system_message_that_no_template_writes_is_told() -> None:
    config = RolloutConfig(system="Be brief.")
    assert not list(template_warnings(chat(CHATML), config))
    (missing,) = template_warnings(byte_level(), config)
    assert "rollout.system: without effect, the model's chat template is missing" in missing
    never = config.model_copy(update={"chat_template": "never"})
    (unused,) = template_warnings(chat(CHATML), never)
    assert "template is not used; put its words into a template file (rollout.prompt)" in unused


@pytest.mark.parametrize("name", ["tools", "add_generation_prompt", "messages", "two words"])
def test_names_that_are_taken_are_refused(name: str) -> None:
    config = Config.model_validate({"rollout": {"template_kwargs": {name: 1}}})
    assert any("rollout.template_kwargs" in problem for problem in rule_problems(config))


def test_arguments_are_set_in_tables_and_on_the_command_line_and_are_recorded(
    tmp_path: Path,
) -> None:
    file = tmp_path / "e.toml"
    file.write_text("[rollout]\ntemplate_kwargs = {enable_thinking = false, effort = 'low'}\n")
    config = load_config([file], ["rollout.template_kwargs.effort=high"])
    assert config.rollout.template_kwargs == {"enable_thinking": False, "effort": "high"}
    write_agent_file(tmp_path, config)
    again = eval_config(tmp_path, EvaluationRequest(str(tmp_path), ("x",)))
    assert again.rollout.template_kwargs == config.rollout.template_kwargs


@pytest.mark.parametrize("place", ["file", "string", "names"])
def test_where_a_directory_keeps_its_template(tmp_path: Path, place: str) -> None:
    tokenizer = byte_level(SPECIAL)
    tokenizer.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    if place == "file":
        (tmp_path / "chat_template.jinja").write_text(CHATML)
    elif place == "string":
        path.write_text(json.dumps(settings | {"chat_template": CHATML}))
    else:
        named = [
            {"name": "default", "template": CHATML},
            {"name": "tool_use", "template": "{{ tools }}" + CHATML},
        ]
        path.write_text(json.dumps(settings | {"chat_template": named}))
    loaded = SearchProtocol.from_config(load_tokenizer(tmp_path), RolloutConfig(prompt="short"))
    text = loaded.decode(loaded.prompt_ids("who"))
    assert text == "<|im_start|>user\nQuestion: who\n<|im_end|>\n<|im_start|>assistant\n"


def test_extra_special_tokens_as_a_list(tmp_path: Path) -> None:
    byte_level(SPECIAL).save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"extra_special_tokens": ["<|im_start|>", "<|more|>"]}))
    tokenizer = load_tokenizer(tmp_path)
    assert len(tokenizer("<|more|>", add_special_tokens=False)["input_ids"]) == 1


ENDS = {
    "its own token": (CHATML, "<|im_end|>"),
    "its eos": ("{% for m in messages %}{{ m.role }}: {{ m.content }} <|endoftext|>{% endfor %}",
                "<|endoftext|>"),
    "the next turn": ("{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }}{% endfor %}",
                      "<|im_start|>"),
    "words": ("{% for m in messages %}### {{ m.role }} {{ m.content }}\n{% endfor %}", None),
    "last turn apart": ("{% for m in messages %}{{ m.content }}{% if loop.last %}<|endoftext|>"
                        "{% else %}<|im_end|>{% endif %}{% endfor %}", "<|endoftext|>"),
    "no turns of the model": ("{% for m in messages %}{% if m.role == 'assistant' %}"
                              "{{ raise_exception('no') }}{% endif %}{{ m.content }}{% endfor %}",
                              None),
}  # fmt: skip


@pytest.mark.parametrize("case", ENDS)
def test_the_token_that_ends_a_turn(case: str) -> None:
    template, token = ENDS[case]
    tokenizer, config = chat(template), RolloutConfig()
    expected = None if token is None else tokenizer.convert_tokens_to_ids(token)
    assert turn_end_id(tokenizer, config) == expected
    assert stop_ids(tokenizer, config) == ([] if token is None else [expected])
    assert stop_ids(tokenizer, RolloutConfig(chat_template="never")) == []


def test_a_model_without_any_end_is_told() -> None:
    (note,) = template_notes(byte_level(), RolloutConfig(chat_template="never"), [])
    assert "names no EOS" in note
    assert "rollout.stop_tokens" in note
    named = RolloutConfig(chat_template="never", stop_tokens=[0])
    assert template_notes(byte_level(), named, []) == []


def test_a_turn_end_that_is_no_eos_is_told() -> None:
    tokenizer = chat(CHATML)
    (note,) = template_notes(tokenizer, RolloutConfig(), [tokenizer.eos_token_id])
    assert note == (
        "the chat template ends turns with <|im_end|>, which is not an EOS of this model; rollouts "
        "stop at it"
    )
    (note,) = template_notes(tokenizer, RolloutConfig(stop_tokens=[]), [tokenizer.eos_token_id])
    assert "add 'turn_end' to rollout.stop_tokens" in note
    assert (
        template_notes(tokenizer, RolloutConfig(), [turn_end_id(tokenizer, RolloutConfig())]) == []
    )


def test_stop_tokens_are_single_tokens_or_ids() -> None:
    tokenizer = chat(CHATML)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    config = load_config([], ['rollout.stop_tokens=["<|im_end|>", 5]'])
    assert stop_ids(tokenizer, config.rollout) == [5, end]
    for wrong, words in (("two words", "tokens of this model"), (99999, "no id"), (-1, "no id")):
        with pytest.raises(InvalidInputError, match=words):
            stop_ids(tokenizer, RolloutConfig(stop_tokens=[wrong]))


def test_the_engine_stops_at_them() -> None:
    tokenizer = chat(CHATML)
    model = tiny_model(len(tokenizer), ModelConfig(), seed=0)
    request = GenerationRequest(0, (5, 6, 7), Sampling(temperature=0.0, max_new_tokens=8))

    def sampled(*stops: int) -> tuple[tuple[int, ...], str]:
        engine = TransformersEngine(
            model, tokenizer, batch_size=1, max_context=64, stop_ids=stops
        ).fresh()
        engine.submit(request)
        while not (done := engine.step()):
            pass
        return done[0].token_ids, done[0].finish_reason

    ids, reason = sampled()
    assert (len(ids), reason) == (8, "length")
    first = ids.index(ids[3])
    assert sampled(ids[3]) == (ids[: first + 1], "eos")

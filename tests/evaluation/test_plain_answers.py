"""Replies of baselines in plain words: what is read as the answer, and that every reply is read."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner, Result

from tests.evaluation.conftest import Speaker
from tests.evaluation.test_methods import QUESTION, TEMPLATE, run
from tspo_cli.commands.app import app
from tspo_cli.config.load_config import load_config
from tspo_cli.config.schema import ModelConfig
from tspo_cli.data.question import Question
from tspo_cli.errors import InvalidInputError
from tspo_cli.evaluation.methods import METHODS
from tspo_cli.evaluation.methods.examples import Example, read_examples
from tspo_cli.evaluation.methods.plain import PlainProtocol
from tspo_cli.evaluation.summary import silent_model
from tspo_cli.models.load_model import load_model, load_tokenizer
from tspo_cli.models.tiny import tiny_model
from tspo_cli.models.tokenizer import tiny_tokenizer
from tspo_cli.retrieval.index.searcher import Searcher, open_index
from tspo_cli.rollout.protocol import RolloutState
from tspo_cli.runs import read_jsonl_gz


def protocol(
    tokenizer: PreTrainedTokenizerFast, method: str = "direct", *settings: str
) -> PlainProtocol:
    opened = METHODS[method].open(tokenizer, load_config([], settings))
    assert isinstance(opened, PlainProtocol)
    return opened


@pytest.mark.parametrize(
    ("method", "text", "answer", "source"),
    [
        ("direct", "It was Mira Sol.<eos>", "It was Mira Sol.", "reply"),
        ("direct", "<answer> Mira Sol </answer>", "Mira Sol", "tags"),
        ("rag", "I read: <answer>Mira Sol</answer> and more", "Mira Sol", "tags"),
        ("rag", "<answer> Mira", "Mira", "tags"),
        ("rag", "Mira Sol </answer>", "Mira Sol", "reply"),
        ("rag", "  Mira\nSol ", "Mira\nSol", "reply"),
        ("rag", "Answer: Mira", "Answer: Mira", "reply"),
        ("direct", "<think> Rimu? </think> Mira Sol", "Mira Sol", "reply"),
        ("direct", "it may be Rimu </think>\n\nMira Sol<eos>", "Mira Sol", "reply"),
        ("direct", "<think> <answer> Rimu </answer> </think> Mira", "Mira", "reply"),
        ("direct", "<think> it may be", None, None),
        ("direct", "<eos>", None, None),
        ("direct", " \n", None, None),
        ("cot", "Rimu lies there. So the answer is: Mira Sol.<eos>", "Mira Sol.", "marker"),
        ("cot", "Then\n**Answer:** Mira Sol\nI hope it helps.", "Mira Sol", "marker"),
        ("cot", "First answer: Rimu. Final answer: Mira", "Mira", "marker"),
        ("cot", "The answer is Mira", "Mira", "marker"),
        ("cot", "THE ANSWER IS:\n\nMira", "Mira", "marker"),
        ("cot", "The answer to this question is: Mira", "Mira", "marker"),
        ("cot", "Rimu lies in Mira", "Rimu lies in Mira", "reply"),
        ("cot", "So the answer is: <answer> Mira </answer>", "Mira", "tags"),
        ("cot", "So the answer is:", "So the answer is:", "reply"),
        ("iter_retgen", "Hence the final answer is: Mira", "Mira", "marker"),
        ("ircot", "Mira Sol", "Mira Sol", "reply"),
    ],
)
def test_what_is_read(
    tokenizer: PreTrainedTokenizerFast, method: str, text: str, answer: str | None, source: str
) -> None:
    opened = protocol(tokenizer, method)
    assert opened.read(text) == (answer, source)
    action = opened.parse(text, "eos", RolloutState(QUESTION, (), False))
    assert (action.kind == "answer") == (answer is not None)


def test_tags_alone_and_whole_replies_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    tags = protocol(tokenizer, "rag", "eval.answer=tags")
    assert tags.read("Mira") == (None, None)
    assert tags.read("<answer> Mira </answer>") == ("Mira", "tags")
    whole = protocol(tokenizer, "cot", "eval.answer=reply")
    text = "I think. The answer is: <answer>Mira</answer>"
    assert whole.read(text) == ("I think. The answer is:  Mira", "reply")


def test_a_base_model_stops_at_the_next_question(tokenizer: PreTrainedTokenizerFast) -> None:
    opened = protocol(tokenizer)
    assert not opened.use_chat_template
    assert "\nQuestion:" in opened.stop_strings
    assert opened.read(" Mira\n\nQuestion: who?\nAnswer: Rimu") == ("Mira", "reply")
    prompt = tokenizer.decode(list(opened.context(RolloutState(QUESTION, (), False), ())))
    assert prompt.endswith(f"\n\nQuestion: {QUESTION.question}\nAnswer:")
    assert "<answer>" not in prompt


def test_the_agent_has_no_plain_answers(tokenizer: PreTrainedTokenizerFast) -> None:
    for name in ("search_r1", "search_o1", "tool_call"):
        assert METHODS[name].answer_form(load_config([])) == "tags"
        with pytest.raises(InvalidInputError, match="is an agent"):
            METHODS[name].open(tokenizer, load_config([], ["eval.answer=reply"]))


@pytest.fixture(scope="module")
def retriever(films: Path) -> Searcher:
    return open_index(films / "index")


def test_the_tools_own_search_is_no_turn_of_the_model(
    tokenizer: PreTrainedTokenizerFast, retriever: Searcher
) -> None:
    record, prompts = run("rag", ["South Shields"], retriever, tokenizer)
    assert (record["em"], record["answer_from"], record["model_turns"]) == (1, "reply", 1)
    assert len(prompts) == 1, "no correction where the whole reply is the answer"
    record, _ = run("rag", ["<think> hm"], retriever, tokenizer)
    assert (record["answer"], record["answer_from"]) == (None, None)
    assert (record["invalid_turns"], record["model_turns"]) == (1, 1)


def test_ircot_ends_at_its_marker(tokenizer: PreTrainedTokenizerFast, retriever: Searcher) -> None:
    says = ["The answer is unclear to me.", "So the answer is: South Shields."]
    record, prompts = run("ircot", says, retriever, tokenizer)
    assert (record["em"], record["answer_from"], len(prompts)) == (1, "marker", 2)
    assert record["trajectory"]["turns"][1]["query"] == says[0]
    assert "<answer>" not in "".join(prompts)
    record, _ = run("iter_retgen", ["A draft", "South Shields"], retriever, tokenizer, 2)
    assert (record["em"], record["answer_from"]) == (1, "reply")


def test_examples_are_messages_or_blocks(tokenizer: PreTrainedTokenizerFast) -> None:
    examples = (Example("Who is Ba?", "Ko"), Example("Who is Mu?", "Ri", "I see. It is Ri"))
    state = RolloutState(QUESTION, (), False)

    def prompt(method: str, template: str | None) -> str:
        chat = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer.backend_tokenizer, chat_template=template
        )
        opened = METHODS[method].open(chat, load_config([]), examples)
        return chat.decode(list(opened.context(state, ())), clean_up_tokenization_spaces=False)

    instruction = "Answer the question from what you know. Give only the answer, in a few words."
    assert prompt("direct", TEMPLATE) == (
        f"[user]{instruction}\n\nQuestion: Who is Ba?[/user][assistant]Ko[/assistant]"
        "[user]Question: Who is Mu?[/user][assistant]I see. It is Ri[/assistant]"
        f"[user]Question: {QUESTION.question}[/user][assistant]"
    )
    assert prompt("direct", None) == (
        f"{instruction}\n\nQuestion: Who is Ba?\nAnswer: Ko\n\n"
        "Question: Who is Mu?\nAnswer: I see. It is Ri\n\n"
        f"Question: {QUESTION.question}\nAnswer:"
    )
    assert "[assistant]So the answer is: Ko[/assistant]" in prompt("cot", TEMPLATE)


def test_example_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "examples.jsonl"
    path.write_text(
        '{"question": "Who?", "answer": "Mira"}\n'
        '{"id": "1", "question": "Where?", "golden_answers": ["Rimu", "R"], "reply": "In Rimu"}\n'
    )
    assert read_examples(path) == (
        Example("Who?", "Mira"),
        Example("Where?", "Rimu", "In Rimu"),
    )
    assert "1 example has several answers; the first of each is shown" in capsys.readouterr().err
    path.write_text('{"question": "Who?", "answer": ["Mira"]}\n')
    assert read_examples(path) == (Example("Who?", "Mira"),)
    assert "several" not in capsys.readouterr().err
    path.write_text('{"question": "Who?", "answer": [["Mira"]]}\n')
    with pytest.raises(InvalidInputError, match=r"examples\.jsonl:1: "):
        read_examples(path)
    for bad in ('{"question": "Who?"}\n', '{"question": 3, "answer": "x"}\n', ""):
        path.write_text(bad)
        with pytest.raises(InvalidInputError, match="examples"):
            read_examples(path)


@pytest.mark.parametrize(
    ("method", "form", "advice"),
    [
        ("rag", "tags", "--answer auto"),
        ("rag", "auto", "max_new_tokens"),
        ("search_r1", "tags", 'kind = "sft"'),
    ],
)
def test_a_silent_model_is_announced(method: str, form: str, advice: str) -> None:
    scores = {"method": method, "no_answer_share": 0.6}
    assert advice in str(silent_model(scores, form))
    assert silent_model(scores | {"no_answer_share": 0.5}, form) is None
    refused = scores | {"n": 10, "no_answer_share": 0.9, "refused": 3, "failed": 1}
    assert silent_model(refused, form) is None, "those that were refused or failed are no silence"


@pytest.fixture(scope="module")
def untaught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that says words and knows no tags, with a chat template."""
    folder = tmp_path_factory.mktemp("untaught") / "model"
    tokenizer = tiny_tokenizer(("which", "river", "town", "is", "in"), ("ba", "ko", "ri"))
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    model = tiny_model(len(tokenizer), ModelConfig(hidden_size=64), 6)
    words = [
        number for token, number in tokenizer.get_vocab().items()
        if sum(map(str.isalpha, token)) > 1 and not token.startswith("<")
    ]  # fmt: skip
    weights = torch.full((len(tokenizer), 1), 0.05)
    weights[words] = 1.0
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(weights)
    model.save_pretrained(folder)
    return folder


def evaluate(*words: object) -> Result:
    return CliRunner().invoke(app, ["eval", *map(str, words)])


NEW = 12


def greedy(folder: Path, prompts: list[list[int]]) -> list[str]:
    """The replies of transformers' own generation."""
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    texts = []
    for ids in prompts:
        out = model.generate(torch.tensor([ids]), max_new_tokens=NEW, do_sample=False)
        texts.append(tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True))
    return texts


def words_of(text: str) -> list[str]:
    """SQuAD's normal form, written again here."""
    letters = "".join(c for c in text.lower() if c not in "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
    return [word for word in letters.split() if word not in ("a", "an", "the")]


def f1_of(reply: str, gold: str) -> float:
    said, wanted = words_of(reply), words_of(gold)
    common = sum((Counter(said) & Counter(wanted)).values())
    return 2 * common / (len(said) + len(wanted)) if common else 0.0


@pytest.mark.parametrize("method", ["direct", "rag"])
def test_scores_are_those_of_an_independent_count(
    untaught: Path, films: Path, tmp_path: Path, method: str
) -> None:
    """Every reply is read, and the scores are those of the same greedy replies counted again."""
    asked = [f"Where was the director number {number} born?" for number in range(4)]
    config = load_config([], [f"rollout.max_new_tokens={NEW}", "retriever.k=1"])
    opened = METHODS[method].open(load_tokenizer(untaught), config)
    searcher = open_index(films / "index")

    def prompt(text: str) -> list[int]:
        turns: tuple[Any, ...] = ()
        if method == "rag":
            from tspo_cli.evaluation.answering.runner import _first_turn

            question = Question("1", text, ("x",), "films")
            turns = (_first_turn(question, searcher.search([text], 1)[0], opened),)
        return list(
            opened.context(RolloutState(Question("1", text, ("x",), "films"), turns, False), ())
        )

    replies = greedy(untaught, [prompt(text) for text in asked])
    assert all(replies)
    golds = [replies[0], " ".join(replies[1].split()[:1]), "Mira Sol", replies[3]]
    lines = [
        json.dumps({"id": str(n), "question": text, "golden_answers": [gold]})
        for n, (text, gold) in enumerate(zip(asked, golds, strict=True))
    ]
    (tmp_path / "asked.jsonl").write_text("\n".join(lines) + "\n")
    done = evaluate(
        untaught, "--data", tmp_path / "asked.jsonl", "--method", method, "--out", tmp_path / "o",
        "--index", films / "index", "--json",
        "--set", f"rollout.max_new_tokens={NEW}", "--set", "retriever.k=1",
    )  # fmt: skip
    assert done.exit_code == 0, done.exception
    (scores,) = json.loads(done.stdout)["results"]
    items = list(read_jsonl_gz(tmp_path / "o" / "asked.items.jsonl.gz"))
    assert [item["answer"] for item in items] == [reply.strip() for reply in replies]
    assert (scores["no_answer_share"], scores["invalid_share"]) == (0, 0)
    assert (scores["answer"], scores["answer_from"]) == ("auto", {"reply": 4})
    assert "|answer:auto|" in scores["signature"]
    pairs = list(zip(replies, golds, strict=True))
    assert scores["em"] == sum(words_of(a) == words_of(b) for a, b in pairs) / 4 > 0
    assert scores["f1"] == pytest.approx(sum(f1_of(a, b) for a, b in pairs) / 4)


def test_tags_are_asked_for_and_missed(untaught: Path, films: Path, tmp_path: Path) -> None:
    """With --answer tags the same model has no answer, and the warning says what to do."""
    words = (untaught, "--data", films / "films.jsonl", "--method", "direct")
    done = evaluate(*words, "--answer", "tags", "--out", tmp_path / "o")
    assert done.exit_code == 0, done.exception
    assert "no_answer_share" in done.stdout
    assert "100% of the questions have no answer" in done.stderr
    assert "--answer auto" in done.stderr
    done = evaluate(*words, "--set", "eval.answer=auto", "--out", tmp_path / "o", "--resume")
    assert isinstance(done.exception, InvalidInputError), "an other reading is another evaluation"


def test_examples_are_part_of_the_result(untaught: Path, films: Path, tmp_path: Path) -> None:
    shots = tmp_path / "shots.jsonl"
    shots.write_text('{"question": "Who?", "answer": "Mira"}\n')
    words = (
        untaught, "--data", films / "films.jsonl", "--method", "direct", "--out", tmp_path / "o",
        "--set", f"eval.examples={shots}",
    )  # fmt: skip
    assert evaluate(*words).exit_code == 0
    record = json.loads((tmp_path / "o" / "eval.json").read_text())
    assert record["examples"] == [{"question": "Who?", "answer": "Mira", "reply": ""}]
    shots.write_text('{"question": "Who?", "answer": "Sol"}\n')
    changed = evaluate(*words, "--resume")
    assert isinstance(changed.exception, InvalidInputError)
    assert "other settings" in str(changed.exception)
    refused = evaluate(
        untaught, "--data", films / "films.jsonl", "--method", "ircot", "--index", films / "index",
        "--out", tmp_path / "p", "--set", f"eval.examples={shots}",
    )  # fmt: skip
    assert "no place for examples" in str(refused.exception)


def test_speakers_replies_keep_to_one_turn(tokenizer: PreTrainedTokenizerFast) -> None:
    """A truncated reply counts as a whole."""
    engine = Speaker(tokenizer, [["It is a town by"]])
    record, _ = run("direct", list(engine.scripts[0]), None, tokenizer)
    assert (record["answer"], record["invalid_turns"]) == ("It is a town by", 0)

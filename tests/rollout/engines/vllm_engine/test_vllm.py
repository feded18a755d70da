"""vLLM behind the engine protocol: the same tokens mean the same log-probs, before and after new
weights, and whatever happens to a server. Needs vLLM: `make test-vllm`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
import torch
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from tests.conftest import Playground
from tests.engine_server import TOKEN, EngineServer
from tspo_cli.errors import InvalidInputError, RemoteServiceError
from tspo_cli.rollout.engines.engine_protocol import Completion, Engine, GenerationRequest, Sampling
from tspo_cli.rollout.engines.vllm_engine.vllm_servers import ProcessGroup, VllmServers
from tspo_cli.text.access_token import authorisation

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(1800)]
CONTEXT = 192
HANDOVERS = 10
CONTROL = [
    *(("POST", f"/{name}") for name in ("collective_rpc", "pause", "resume", "sleep", "wake_up")),
    *(("POST", f"/{name}") for name in ("reset_prefix_cache", "update_weight_version")),
    *(("POST", f"/{name}") for name in ("init_weight_transfer_engine", "update_weights")),
    *(("POST", f"/{name}") for name in ("inference/v1/generate", "v1/completions", "tokenize")),
    *(("GET", f"/{name}") for name in ("weight_info", "v1/models", "metrics", "openapi.json")),
]
PROMPTS = [list(range(10, 10 + size)) for size in (5, 17, 40)]


def make_model(vocabulary: int, tied: bool) -> Qwen2ForCausalLM:
    """Two layers, heads of 32 dimensions (the smallest that vLLM takes), weights large enough for
    distinct answers.
    """
    torch.manual_seed(0)
    shape = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = Qwen2Config(
        vocab_size=vocabulary,
        **shape,
        num_key_value_heads=1,
        max_position_embeddings=512,
        initializer_range=0.2,
        tie_word_embeddings=tied,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
        dtype="float32",
    )
    return Qwen2ForCausalLM(config).eval()


def save(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def disturb(model: Qwen2ForCausalLM) -> None:
    """A step of training, so to say: enough that old weights would show, too little to turn a
    trained model into one that rounds worse.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * parameter.std() * torch.randn_like(parameter))


def answers(
    engine: Engine, sampling: Sampling, prompts: Sequence[Sequence[int]] = PROMPTS
) -> list[Completion]:
    for session, prompt in enumerate(prompts):
        engine.submit(GenerationRequest(session, tuple(prompt), sampling, seed=session))
    done: list[Completion] = []
    while len(done) < len(prompts):
        done += engine.step()
    for session in range(len(prompts)):
        engine.release(session)
    return sorted(done, key=lambda completion: completion.session)


def worst_gap(model: Qwen2ForCausalLM, done: Sequence[Completion], temperature: float) -> float:
    """The largest difference (nats) from one forward pass over everything."""
    gaps = [0.0]
    for prompt, completion in zip(PROMPTS, done, strict=True):
        with torch.no_grad():
            logits = (
                model(torch.tensor([[*prompt, *completion.token_ids]])).logits[
                    0, len(prompt) - 1 : -1
                ]
                / temperature
            )
        wanted = logits.log_softmax(-1).gather(-1, torch.tensor(completion.token_ids)[:, None])[
            :, 0
        ]
        gaps.append(float((wanted - torch.tensor(completion.logprobs)).abs().max()))
    return max(gaps)


def check_parity(engine: Engine, model: Qwen2ForCausalLM) -> None:
    """Before and after ten hand-overs; temperature as the Completion promises."""
    for version in range(HANDOVERS + 1):
        if version:
            disturb(model)
            weights = {name: value.detach() for name, value in model.named_parameters()}
            if engine.different_weight(weights) is None:
                assert isinstance(engine, VllmServers), "weights of the step before are noticed"
            engine.load_weights(weights, version)
            assert engine.different_weight(weights) is None
        for temperature in (1.0, 0.7):
            done = answers(engine, Sampling(temperature=temperature, max_new_tokens=12))
            gap = worst_gap(model, done, temperature) * temperature  # of the logits
            assert gap < 1e-4, f"after {version} hand-overs"
            assert {(completion.weight_version, completion.mixed) for completion in done} == {
                (version, False)
            }


def check_stops(engine: Engine, tokenizer: PreTrainedTokenizerFast) -> None:
    """A closing tag stays, as do the ids that make it; an end-of-sequence token and the limit are
    told apart.
    """
    sampling = Sampling(max_new_tokens=100, stop=("</search>", "</answer>"))
    prompts = [[*PROMPTS[0], token] for token in range(20, 60)]
    done = answers(engine, sampling, prompts)
    reasons = {completion.finish_reason for completion in done}
    assert "stop" in reasons
    for completion in done:
        text = tokenizer.decode(completion.token_ids, skip_special_tokens=False)
        stops = [tag for tag in sampling.stop if tag in text]
        assert (completion.finish_reason == "stop") == bool(stops)
        assert not stops or text.endswith(stops[0])
        assert (completion.finish_reason == "eos") == (completion.token_ids[-1] == 1)
        assert completion.finish_reason != "length" or len(completion.token_ids) == 100


def check_seeds(engine: Engine) -> None:
    """The same seed gives the same tokens in any company; another seed gives others."""
    sampling = Sampling(max_new_tokens=12)
    together = answers(engine, sampling)
    alone = answers(engine, sampling, PROMPTS[:1])
    assert alone[0].token_ids == together[0].token_ids
    engine.submit(GenerationRequest(0, tuple(PROMPTS[0]), sampling, seed=99))
    other: list[Completion] = []
    while not other:
        other = engine.step()
    engine.release(0)
    assert other[0].token_ids != alone[0].token_ids


def check_limits(engine: Engine) -> None:
    full = tuple(range(10, 10 + CONTEXT - 4))
    done = answers(engine, Sampling(max_new_tokens=50), [full])
    assert (len(done[0].token_ids), done[0].finish_reason) in {(4, "length"), (4, "eos")} or len(
        done[0].token_ids
    ) < 4
    with pytest.raises(InvalidInputError, match="expected at most"):
        engine.submit(GenerationRequest(7, tuple(range(CONTEXT + 1)), Sampling()))
    engine.submit(GenerationRequest(8, tuple(PROMPTS[0]), Sampling(max_new_tokens=3)))
    with pytest.raises(ValueError, match="in flight"):
        engine.submit(GenerationRequest(8, tuple(PROMPTS[0]), Sampling()))
    engine.release(8)


def check_released(engine: Engine) -> None:
    """A request that was given up leaves nothing behind for the next session of its number."""
    sampling = Sampling(max_new_tokens=12)
    wanted = answers(engine, sampling, PROMPTS[:1])[0]
    for tokens in (1, 80):
        engine.submit(
            GenerationRequest(0, tuple(PROMPTS[1]), Sampling(max_new_tokens=tokens), seed=5)
        )
        engine.release(0)
        assert answers(engine, sampling, PROMPTS[:1])[0].token_ids == wanted.token_ids


def check_full(engine: Engine) -> None:
    """A turn without room says so, with the version of the weights that it would have had."""
    engine.submit(GenerationRequest(0, tuple(PROMPTS[0]), Sampling(max_new_tokens=2)))
    while not engine.step():
        pass
    engine.submit(GenerationRequest(0, tuple(range(CONTEXT)), Sampling(max_new_tokens=2)))
    assert engine.step() == [Completion(0, (), (), "length", engine.weight_version)]
    engine.release(0)


LOCAL = """
import sys, json, pytest
from pathlib import Path
sys.path[:0] = [{root!r}]
from tests.rollout.engines.vllm_engine import test_vllm as t
from tspo_cli.config.schema import VllmConfig
from tspo_cli.rollout.engines.vllm_engine.vllm_local import VllmEngine
from transformers import AutoTokenizer
def main():
    folder, tied = Path(sys.argv[1]), sys.argv[2] == "tied"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = t.Qwen2ForCausalLM.from_pretrained(folder).eval()
    options = dict(dtype="float32", eos_ids=[1], batch_size=64, max_context=t.CONTEXT, seed=0)
    engine = VllmEngine(str(folder), VllmConfig(), **options)
    t.check_stops(engine, tokenizer)
    t.check_seeds(engine)
    t.check_limits(engine)
    t.check_released(engine)
    t.check_parity(engine, model)
    t.check_full(engine)
    with pytest.raises(ValueError):
        engine.load_weights(None, 99)
    print("checked")
main()
"""


@pytest.mark.parametrize("tied", ["tied", "untied"])
def test_in_this_process(tied: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """In a process of its own: vLLM cannot be started twice in one."""
    folder = save(make_model(len(tokenizer), tied == "tied"), tokenizer, tmp_path / "model")
    script = tmp_path / "local.py"
    script.write_text(LOCAL.format(root=str(Path(__file__).parents[4])))
    command = [sys.executable, str(script), str(folder), tied]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.strip() == "checked", "vLLM must leave stdout alone"


def connect(servers: Sequence[EngineServer], folder: Path, **options: Any) -> VllmServers:
    defaults: dict[str, Any] = {
        "eos_ids": [1],
        "max_context": CONTEXT,
        "patience": 1500.0,
        "log": lambda _: None,
        "token": TOKEN,
    }
    return VllmServers(
        [server.url for server in servers], folder, **defaults | options, processes=ProcessGroup()
    )


def test_behind_urls(
    servers: Sequence[EngineServer], playground: Playground, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    engine = connect(servers, tmp_path)
    model = Qwen2ForCausalLM.from_pretrained(playground.model).eval()
    engine.load_weights(dict(model.named_parameters()), 0)
    check_seeds(engine)
    check_limits(engine)
    check_stops(engine, AutoTokenizer.from_pretrained(playground.model))
    check_released(engine)
    check_parity(engine, model)
    check_full(engine)
    assert [path.name for path in tmp_path.iterdir()] == [f"version_{HANDOVERS}"], (
        "old weights are deleted"
    )
    assert all(server.sampled_tokens() > 0 for server in servers)
    engine.close()


def test_nobody_controls_a_server_without_its_token(servers: Sequence[EngineServer]) -> None:
    """No route of vLLM is open but /health, and those that control it work with the token."""
    server = servers[0]
    opened = {
        path: httpx.request(method, server.url + path, json={}, timeout=60).status_code
        for method, path in CONTROL
    }
    assert opened == {path: 401 for _, path in CONTROL}
    for token in ("Bearer another-token-than-its-own", f"Basic {TOKEN}"):
        refused = httpx.post(server.url + "/pause", headers={"Authorization": token}, timeout=60)
        assert refused.status_code == 401
    assert httpx.get(server.url + "/health", timeout=60).status_code == 200
    with httpx.Client(headers=authorisation(TOKEN), base_url=server.url, timeout=60) as client:
        calls = ("/pause?mode=keep", "/reset_prefix_cache", "/resume")
        assert [client.post(path).status_code for path in calls] == [200, 200, 200]
        assert client.get("/weight_info").status_code == 200
    assert TOKEN not in server.log.read_text()


def test_a_server_that_is_not_there(servers: Sequence[EngineServer], tmp_path: Path) -> None:
    with pytest.raises(RemoteServiceError, match="tspo engine"):
        VllmServers(
            ["http://127.0.0.1:9"],
            tmp_path,
            eos_ids=[1],
            max_context=9,
            patience=0.1,
            processes=ProcessGroup(),
            log=print,
        )
    with pytest.raises(InvalidInputError, match="--context 9999"):
        connect(servers, tmp_path, max_context=9999)


def test_another_run_on_the_same_server(
    servers: Sequence[EngineServer], playground: Playground, tmp_path: Path
) -> None:
    """Its weights have the same number, but are not ours: they are seen and replaced."""
    model = Qwen2ForCausalLM.from_pretrained(playground.model).eval()
    ours, theirs = (
        connect(servers[:1], tmp_path / "ours"),
        connect(servers[:1], tmp_path / "theirs"),
    )
    ours.load_weights(dict(model.named_parameters()), 3)
    other = Qwen2ForCausalLM.from_pretrained(playground.model).eval()
    disturb(other)
    theirs.load_weights(dict(other.named_parameters()), 3)
    done = answers(ours, Sampling(max_new_tokens=12))
    assert worst_gap(model, done, 1.0) < 1e-4
    assert {(completion.weight_version, completion.mixed) for completion in done} == {(3, False)}


def test_a_server_killed_during_a_handover(
    servers: Sequence[EngineServer], playground: Playground, tmp_path: Path
) -> None:
    """It was stopped before, so that the hand-over is under way when it dies."""
    messages: list[str] = []
    model = Qwen2ForCausalLM.from_pretrained(playground.model).eval()
    engine = connect(servers, tmp_path, log=messages.append)
    engine.load_weights(dict(model.named_parameters()), 0)
    disturb(model)
    servers[0].stop()
    handing = Thread(target=engine.load_weights, args=(dict(model.named_parameters()), 1))
    handing.start()
    handing.join(timeout=1)
    servers[0].kill()
    servers[0].start()
    handing.join()
    assert any("at a hand-over" in message for message in messages)
    done = answers(engine, Sampling(max_new_tokens=12))
    assert worst_gap(model, done, 1.0) < 1e-4
    assert {(completion.weight_version, completion.mixed) for completion in done} == {(1, False)}
    engine.close()

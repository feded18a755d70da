"""How vLLM gets adapters, against servers that speak its HTTP API: no vLLM needed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen2Config, Qwen2ForCausalLM

from tests.rollout.engines.vllm_engine.test_vllm_servers import CONTEXT, FakeVllm, complete
from tspo_cli.config.load_config import load_config, read_resolved
from tspo_cli.errors import InvalidInputError, RemoteServiceError
from tspo_cli.models.load_model import linear_layers
from tspo_cli.models.lora import adapted_layers, add_lora
from tspo_cli.rollout.engines.vllm_engine.adapters import ADAPTER, Adapters, adapter_options
from tspo_cli.rollout.engines.vllm_engine.vllm_servers import ProcessGroup, VllmServers
from tspo_cli.training.core.engine_weights import engine_copies_weights
from tspo_cli.training.launch.nodes.cluster_plan import Nodes, plan_cluster

A, B = (
    "base_model.model.layer.q_proj.lora_A.weight",
    "base_model.model.layer.q_proj.lora_B.weight",
)
TENSORS = {A: torch.ones(2, 3), B: torch.full((4, 2), 0.5)}


class FakeWithAdapters(FakeVllm):
    """Room for adapters of rank `room`. A request of adapters that it has not loaded gets 404."""

    def __init__(self, room: int = 8) -> None:
        super().__init__()
        self.room, self.has_adapters, self.different = room, False, None
        self.is_proxy_page = False

    def restart(self) -> None:
        """Forget all that was loaded."""
        self.label, self.has_adapters = "restarted", False

    def respond(self, path: str, body: Any) -> tuple[int, Any]:
        if path == "/v1/load_lora_adapter":
            self.has_adapters = True
        if path == "/inference/v1/generate" and not self.has_adapters:
            self.calls.append((path, body))
            return 404, {"error": "no such model"}
        found = super().respond(path, body)
        if path == "/v1/load_lora_adapter":
            return 200, "Success: LoRA adapter 'policy' added successfully."
        if path == "/collective_rpc" and self.is_proxy_page:
            return 200, "<html>Please sign in</html>"
        if path == "/collective_rpc":
            answers = {"tspo_adapter_rank": str(self.room)}
            answers |= {"tspo_different_adapter_file": self.different} if self.different else {}
            return 200, {"results": [answers.get(body["method"])]}
        return found

    def loads(self) -> list[str]:
        """What was loaded, in order: the last part of each folder."""
        files = {"tspo_load_files": "args"}
        return [
            Path(body["lora_path"] if path == "/v1/load_lora_adapter" else body["args"][0]).name
            for path, body in self.calls
            if path == "/v1/load_lora_adapter" or (body and body.get("method") in files)
        ]


@pytest.fixture
def server() -> Iterator[FakeWithAdapters]:
    running = FakeWithAdapters()
    yield running
    running.kill()


def connect(server: FakeVllm, folder: Path, frozen: float = 1.0, rank: int = 2) -> VllmServers:
    weights = {"layer.q_proj.weight": torch.full((4, 3), frozen)}
    return VllmServers(
        [server.url],
        folder,
        eos_ids=[1],
        max_context=CONTEXT,
        patience=20.0,
        processes=ProcessGroup(),
        log=lambda _: None,
        adapters=Adapters(rank, 6, ["q_proj"], lambda: weights),
    )


def test_a_server_gets_the_frozen_weights_once_and_then_adapters(
    server: FakeWithAdapters, tmp_path: Path
) -> None:
    engine = connect(server, tmp_path)
    engine.load_weights(TENSORS, 0)
    engine.load_weights(TENSORS, 1)
    assert server.loads() == ["version_frozen", "version_0", "version_1"]
    assert {path.name for path in tmp_path.iterdir()} == {"version_frozen", "version_1"}
    config = json.loads((tmp_path / "version_1" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (2, 6, ["q_proj"])
    saved = load_file(tmp_path / "version_1" / "adapter_model.safetensors")
    assert all(torch.equal(saved[name], value) for name, value in TENSORS.items())
    (done,) = complete(engine, 1)
    assert done.weight_version == 1
    models = [body["model"] for path, body in server.calls if path == "/inference/v1/generate"]
    assert models == [ADAPTER]
    engine.close()


@pytest.mark.parametrize("trouble", ["restarted", "another run", "whole weights of this run"])
def test_a_server_that_lost_them_gets_both_again(
    server: FakeWithAdapters, tmp_path: Path, trouble: str
) -> None:
    engine = connect(server, tmp_path)
    engine.load_weights(TENSORS, 3)
    if trouble == "restarted":
        server.restart()
    elif trouble == "another run":
        other = connect(server, tmp_path / "other")
        other.load_weights(TENSORS, 3)
        other.close()
    else:
        server.label = f"{engine.run_id}.3"
    (done,) = complete(engine, 1)
    assert done.weight_version == 3
    assert server.loads()[-2:] == ["version_frozen", "version_3"]
    engine.close()


def test_another_model_in_the_same_folder_is_another_policy(
    server: FakeWithAdapters, tmp_path: Path
) -> None:
    """A run that was overwritten, or resumed from the same place: what is frozen decides."""
    for frozen, wanted in ((1.0, 1), (1.0, 1), (2.0, 2)):
        engine = connect(server, tmp_path, frozen)
        engine.load_weights(TENSORS, 0)
        engine.close()
        assert server.loads().count("version_frozen") == wanted


def test_frozen_weights_whose_adapters_did_not_follow_count_for_no_run(
    server: FakeWithAdapters, tmp_path: Path
) -> None:
    """A run of other frozen weights ended between the two: the first run's label is not true."""
    engine = connect(server, tmp_path, 1.0)
    engine.load_weights(TENSORS, 0)
    engine.close()
    other = connect(server, tmp_path, 2.0)
    server.drops = ["/v1/load_lora_adapter"] * 99
    other.load_weights(TENSORS, 0)
    other.close()
    server.drops, before = [], len(server.loads())
    engine = connect(server, tmp_path, 1.0)
    engine.load_weights(TENSORS, 0)
    engine.close()
    assert server.loads()[before:] == ["version_frozen", "version_0"]


def test_a_page_in_place_of_json_is_no_answer(server: FakeWithAdapters, tmp_path: Path) -> None:
    server.is_proxy_page = True
    with pytest.raises(InvalidInputError, match=r"not started with `tspo engine`.*expected JSON"):
        connect(server, tmp_path)


def test_what_a_server_cannot_compute_with_is_one_line(
    server: FakeWithAdapters, tmp_path: Path
) -> None:
    server.room = 0
    with pytest.raises(
        InvalidInputError, match=r"rank 0, .* --lora-rank 2`, or set lora\.handover"
    ):
        connect(server, tmp_path)
    server.room, server.different = 8, A
    engine = connect(server, tmp_path)
    with pytest.raises(RemoteServiceError, match=r"q_proj.*lora\.targets.*lora\.handover"):
        engine.load_weights(TENSORS, 0)
    engine.close()


@pytest.mark.parametrize(("rank", "room"), [(1, 1), (2, 8), (64, 64), (100, 128), (512, 512)])
def test_vllm_makes_room_for_the_rank(rank: int, room: int) -> None:
    assert adapter_options(rank, ["q_proj"], 99, cpu=False)["max_lora_rank"] == room


def test_a_rank_without_room_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"up to rank 512, got 513.*lora\.handover"):
        adapter_options(513, ["q_proj"], 99, cpu=True)


@pytest.mark.parametrize(
    ("settings", "bfloat16", "adapters", "copies"),
    [
        ([], True, True, False),
        ([], False, False, True),
        (["lora.handover=adapters"], False, True, False),
        (["lora.handover=merged"], True, False, True),
        (["rollout.one_step_off=true"], True, True, True),
        (["deepspeed.zero_stage=3"], True, True, True),
        (["rollout.engine=vllm"], True, True, True),
        (["lora.rank=0"], True, False, False),
    ],
)
def test_which_engine_gets_what(
    settings: list[str], bfloat16: bool, adapters: bool, copies: bool
) -> None:
    config = load_config(["tiny/grpo"], ["model.path=m", "lora.rank=4", *settings])
    assert config.lora.as_adapters(bfloat16=bfloat16) is adapters
    stage = config.deepspeed.zero_stage
    assert engine_copies_weights(config, stage, bfloat16=bfloat16) is copies


def test_an_old_record_merges_as_it_did(tmp_path: Path) -> None:
    config = load_config(["tiny/grpo"], ["model.path=m", "lora.rank=4"])
    record = config.section_dict()
    del record["lora"]["handover"]
    (tmp_path / "config.resolved.json").write_text(json.dumps(record))
    assert read_resolved(tmp_path).lora.handover == "merged"


def test_the_layers_of_a_model_without_its_weights(tmp_path: Path) -> None:
    """Those that get adapters, so that a server has room for them before a run comes."""
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2}
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=50, num_hidden_layers=1, **shape))
    model.config.save_pretrained(tmp_path)
    config = load_config(["tiny/grpo"], ["model.path=m", "lora.rank=4"])
    add_lora(model, config.lora, 0)
    assert linear_layers(tmp_path) == adapted_layers(model)
    assert "lm_head" not in linear_layers(tmp_path)


def test_a_launch_starts_servers_for_the_adapters() -> None:
    settings = [
        "model.path=m",
        "rollout.engine=vllm",
        "launch.engines=1",
        "lora.rank=4",
        "model.dtype=bfloat16",
    ]
    more = {"merged": ["lora.handover=merged"], "some": ['lora.targets=["q_proj", "v_proj"]']}
    for case, setting in {"all": [], **more}.items():
        config = load_config(["tiny/grpo"], [*settings, *setting])
        plan = plan_cluster(config, Nodes(("127.0.0.1",), 0, 9000))
        words = " ".join(next(server.arguments for server in plan.servers))
        assert ("--lora-rank 4" in words) == (case != "merged")
        assert ("--lora-target q_proj --lora-target v_proj" in words) == (case == "some")

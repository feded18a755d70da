"""vLLM's weight-transfer API on its CPU build: real routes, a real reload, gloo in place of NCCL.
Needs vLLM: `make test-vllm`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from transformers import Qwen2ForCausalLM

from tests.conftest import Playground
from tests.engine_server import CONTEXT, TOKEN, EngineServer
from tests.rollout.engines.vllm_engine.gloo_group import Groups
from tests.rollout.engines.vllm_engine.test_vllm import answers, disturb, worst_gap
from tspo_cli.errors import InvalidInputError
from tspo_cli.rollout.engines.engine_protocol import Sampling
from tspo_cli.rollout.engines.vllm_engine.vllm_servers import ProcessGroup, VllmServers
from tspo_cli.text.access_token import authorisation

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(1800)]
ROUTES = [
    *("/init_weight_transfer_engine", "/start_weight_update", "/update_weights"),
    *("/finish_weight_update", "/shutdown_weight_transfer_engine", "/update_weight_version"),
]
EXTENSION = "tests.rollout.engines.vllm_engine.gloo_worker.GlooExtension"


@pytest.fixture(scope="module")
def server(
    playground: Playground, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EngineServer]:
    folder = tmp_path_factory.mktemp("transfer")
    options = ["--worker-extension-cls", EXTENSION]
    options += ["--weight-transfer-config", '{"backend": "nccl"}']
    made = EngineServer(playground.model, folder / "server.log", "--", *options)
    made.start()
    made.wait()
    yield made
    made.kill()


def connect(server: EngineServer, folder: Path, groups: Groups | None) -> VllmServers:
    return VllmServers(
        [server.url],
        folder,
        eos_ids=[1],
        max_context=CONTEXT,
        patience=300.0,
        processes=ProcessGroup(),
        log=print,
        token=TOKEN,
        transfer="nccl",
        groups=groups,
    )


def test_no_route_of_a_transfer_is_open(server: EngineServer) -> None:
    def post(path: str, headers: dict[str, str], **body: object) -> int:
        """One connection each: the server closes it after an error."""
        answer = httpx.post(server.url + path, json=body, headers=headers, timeout=60)
        return answer.status_code

    for headers in ({}, authorisation("another-token-than-its-own")):
        assert {post(path, headers) for path in ROUTES} == {401}
    own = authorisation(TOKEN)
    assert post("/update_weights", own) in (400, 422)
    nothing: dict[str, list[str]] = {"names": [], "dtype_names": [], "shapes": []}
    assert post("/update_weights", own, update_info=nothing) >= 500, "no update was begun"
    assert httpx.get(server.url + "/weight_info", headers=own, timeout=60).status_code == 200


def test_weights_arrive_with_their_label(
    server: EngineServer, playground: Playground, tmp_path: Path
) -> None:
    model = Qwen2ForCausalLM.from_pretrained(playground.model).eval()
    engine = connect(server, tmp_path, Groups())
    for version in (1, 2):
        disturb(model)
        engine.load_weights(dict(model.named_parameters()), version)
        done = answers(engine, Sampling(max_new_tokens=12))
        assert worst_gap(model, done, 1.0) < 1e-4
        assert {(one.weight_version, one.mixed) for one in done} == {(version, False)}
    assert list(tmp_path.iterdir()) == []
    engine.close()
    again = connect(server, tmp_path, Groups())
    disturb(model)
    again.load_weights(dict(model.named_parameters()), 1)
    assert worst_gap(model, answers(again, Sampling(max_new_tokens=12)), 1.0) < 1e-4
    again.close()


def test_without_a_gpu_it_is_refused(server: EngineServer, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="needs a GPU for the training process"):
        connect(server, tmp_path, None)

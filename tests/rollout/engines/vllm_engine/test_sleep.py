"""An engine in the process sleeps between rollouts, wakes in two parts and ends without harm to the
training (vLLM itself is replaced by a recorder of its calls).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import distributed

from tspo_cli.config.sections.rollout_sections import VllmConfig
from tspo_cli.errors import TspoError
from tspo_cli.rollout.engines.engine_protocol import GenerationRequest, Sampling
from tspo_cli.rollout.engines.vllm_engine import vllm_local
from tspo_cli.rollout.engines.vllm_engine.vllm_local import VllmEngine

WEIGHTS = {"a": torch.ones(1)}


class Recorder:
    """vLLM's LLMEngine as far as it is called here."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.drops_prefixes = True
        self.engine_core = self

    def __getattr__(self, name: str) -> Any:
        return lambda *values, **named: self.calls.append((name, *named.values()))

    def reset_prefix_cache(self) -> bool:
        self.calls.append("reset")
        return self.drops_prefixes

    def shutdown(self) -> None:
        distributed.destroy_process_group()


@pytest.fixture
def open_engine(monkeypatch: pytest.MonkeyPatch) -> Any:
    def opened(level: int) -> tuple[VllmEngine, Recorder]:
        recorder = Recorder()
        monkeypatch.setattr(vllm_local, "_start", lambda *_: (recorder, dict, level))
        options: dict[str, Any] = {"dtype": "float32", "eos_ids": [], "batch_size": 1}
        engine = VllmEngine("m", VllmConfig(), **options, max_context=9, seed=0)
        recorder.calls.clear()
        return engine, recorder

    return opened


def names(recorder: Recorder) -> list[Any]:
    kept = [call for call in recorder.calls if call == "reset" or call[0] != "set_weight_version"]
    recorder.calls.clear()
    return kept


def test_weights_wake_for_the_hand_over_and_the_cache_after_it(open_engine: Any) -> None:
    engine, recorder = open_engine(1)
    engine.sleep()
    engine.sleep()
    assert [call[0] for call in names(recorder)] == ["sleep"]
    engine.load_weights(WEIGHTS, 1)
    found = names(recorder)
    assert found[0] == ("wake_up", ["weights"])
    assert found[1][0] == "collective_rpc"
    assert found[2] == "reset"
    engine.submit(GenerationRequest(0, (1,), Sampling()))
    assert names(recorder)[0] == ("wake_up", ["kv_cache"])
    engine.submit(GenerationRequest(1, (1,), Sampling()))
    assert names(recorder)[0][0] == "add_request"


def test_without_a_hand_over_all_of_it_wakes_at_once(open_engine: Any) -> None:
    engine, recorder = open_engine(2)
    engine.sleep()
    engine.submit(GenerationRequest(0, (1,), Sampling()))
    assert names(recorder)[1] == ("wake_up", ["weights", "kv_cache"])


def test_an_engine_of_level_0_never_sleeps(open_engine: Any) -> None:
    engine, recorder = open_engine(0)
    engine.sleep()
    engine.load_weights(WEIGHTS, 1)
    assert [call if call == "reset" else call[0] for call in names(recorder)] == [
        "collective_rpc",
        "reset",
    ]


def test_prefixes_of_old_weights_that_stay_are_an_error(open_engine: Any) -> None:
    engine, recorder = open_engine(0)
    recorder.drops_prefixes = False
    with pytest.raises(TspoError, match="step 3: vLLM did not drop the prefixes"):
        engine.load_weights(WEIGHTS, 3)
    assert engine.weight_version == 0


def test_the_process_group_of_the_training_outlives_the_engine(
    open_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    destroyed: list[Any] = []

    def destroy(group: Any = None) -> None:
        destroyed.append(group)

    monkeypatch.setattr(distributed, "destroy_process_group", destroy)
    engine, _ = open_engine(0)
    engine.close()
    assert destroyed == []
    assert distributed.destroy_process_group is destroy

"""Updates of models that count as large on a CPU: another optimiser kernel, prefixes computed once,
the check of the rollouts within the update. Results are those of small models.
"""

from __future__ import annotations

import pytest
import torch

from tests.training.core.learner_worker import make_config, make_learner, make_sequences
from tspo_cli import freed_memory
from tspo_cli.errors import TspoError
from tspo_cli.models.checks import model_size
from tspo_cli.training.core.distributed import init_distributed
from tspo_cli.training.rl.off_policy import measured_mismatch
from tspo_cli.training.rl.rollout_checks import PolicyCheck


@pytest.fixture(scope="module", autouse=True)
def process_group() -> None:
    init_distributed()


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_size, "LARGE", 0)


def parameters(learner: object) -> torch.Tensor:
    return torch.cat([value.detach().ravel() for value in learner.module.parameters()])  # type: ignore[attr-defined]


@pytest.mark.parametrize("settings", [[], ["optimizer.weight_decay=0.1", "loss.entropy=0.01"]])
def test_updates_are_those_of_small_models(
    settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for limit in (10**9, 0):
        monkeypatch.setattr(model_size, "LARGE", limit)
        learner = make_learner(make_config(*settings))
        assert learner.core.is_large_on_cpu == (limit == 0)
        rows = [learner.update_policy(make_sequences(seed)) for seed in range(3)]
        results.append((rows, parameters(learner)))
    (small_rows, small), (large_rows, large) = results
    for small_row, large_row in zip(small_rows, large_rows, strict=True):
        assert large_row == pytest.approx(small_row, abs=1e-5, rel=1e-4)
    assert torch.allclose(small, large, atol=1e-4)


def test_the_update_checks_what_a_forward_pass_would(large: None) -> None:
    learner = make_learner(make_config())
    sequences = make_sequences(1)
    expected = measured_mismatch(
        [sequence for sequence in sequences if any(sequence.advantages)], learner
    )
    check = PolicyCheck(limit=100.0, step=1)
    learner.update_policy(sequences, check)
    assert check.metrics["parity"] == pytest.approx(expected.mean, rel=1e-5)
    assert check.metrics["parity_p99"] == pytest.approx(expected.p99, rel=1e-5)
    assert check.metrics["mismatch_kl"] == pytest.approx(expected.kl, rel=1e-4)


def test_a_refused_step_leaves_the_policy_alone(large: None) -> None:
    learner = make_learner(make_config())
    before = parameters(learner).clone()
    with pytest.raises(TspoError, match=r"step 7: log-probs of engine and learner differ"):
        learner.update_policy(make_sequences(1), PolicyCheck(limit=1e-9, step=7))
    assert torch.equal(parameters(learner), before)


@pytest.mark.parametrize("variable", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_what_a_user_says_of_memory_stays(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "1")
    assert not freed_memory.keep_freed_memory()

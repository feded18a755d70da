"""How full vLLM's cache was and what it pushed out: from its scheduler, and from /metrics."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tspo_cli.rollout.engines.vllm_engine.cache_use import CacheUse

METRICS = """\
# HELP vllm:kv_cache_usage_perc KV-cache usage. 1 means 100 percent usage.
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{{engine="0",model_name="/models/a{{b}}"}} {share}
# TYPE vllm:num_preemptions_total counter
vllm:num_preemptions_total{{engine="0",model_name="/models/a{{b}}"}} {count}
vllm:num_preemptions_created{{engine="0",model_name="/models/a{{b}}"}} 1.78e+09
"""


def scheduler(share: float, **preempted: int) -> Any:
    requests = {name: SimpleNamespace(num_preemptions=count) for name, count in preempted.items()}
    return SimpleNamespace(kv_cache_manager=SimpleNamespace(usage=share), requests=requests)


def test_each_preemption_of_the_scheduler_counts_once() -> None:
    use = CacheUse()
    assert use.take() == {}
    for seen in (
        scheduler(0.2, a=0, b=0),
        scheduler(0.9, a=1, b=0),
        scheduler(0.5, a=1, b=2),
        scheduler(0.1, a=2),  # b has ended
        scheduler(0.0),
        scheduler(0.3, b=1),  # another request with this name
    ):
        use.see_scheduler(seen)
    assert use.take() == {"kv_cache_peak": 0.9, "preemptions": 5}
    use.see_scheduler(scheduler(0.4, b=1))
    assert use.take() == {"kv_cache_peak": 0.4, "preemptions": 0}


def test_what_servers_say_counts_from_the_first_look_and_after_a_restart() -> None:
    use = CacheUse()
    use.see_metrics("a", METRICS.format(share="0.25", count="40.0"))
    use.see_metrics("b", METRICS.format(share="1.0", count="0.0"))
    assert use.take() == {"kv_cache_peak": 1.0, "preemptions": 0}
    use.see_metrics("a", METRICS.format(share="0.5", count="43.0"))
    use.see_metrics("b", METRICS.format(share="6e-05", count="0.0"))
    use.see_metrics("a", METRICS.format(share="0.0", count="2.0"))  # it was started again
    assert use.take() == {"kv_cache_peak": 0.5, "preemptions": 5}


def test_what_is_no_number_counts_as_nothing() -> None:
    use = CacheUse()
    for share, count in (("NaN", "+Inf"), ("0.5.1", "many"), ("-", "NaN"), ("Inf", "1e999")):
        use.see_metrics("a", METRICS.format(share=share, count=count))
    assert use.take() == {}


def test_preemptions_are_told_without_a_share() -> None:
    use = CacheUse()
    for count in ("7", "9", "10"):
        use.see_metrics("a", METRICS.format(share="NaN", count=count))
    assert use.take() == {"preemptions": 3}
    assert use.take() == {}


def test_engines_of_one_server_count_together_and_other_servers_say_nothing() -> None:
    use = CacheUse()
    for text in ("", "vllm:other 1\n", "<html>vllm:kv_cache_usage_perc 1</html>", "not found"):
        use.see_metrics("a", text)
    assert use.take() == {}
    two = METRICS + METRICS.replace('engine="0"', 'engine="1"')
    use.see_metrics("a", two.format(share="0.5", count="1"))
    use.see_metrics("a", two.format(share="0.25", count="4"))
    assert use.take() == {"kv_cache_peak": 0.5, "preemptions": 6}

from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families

from tierserve.core import (
    Call,
    Caller,
    Cause,
    Cost,
    Decision,
    Doubt,
    Judgement,
    Kind,
    Outcome,
    Prewarm,
    Prompt,
    Role,
    Status,
    Usage,
)
from tierserve.telemetry.metrics import Metrics

CALL = Call("id", Kind.CHAT, {}, (Prompt("text"),))


def samples(metrics: Metrics, *engines: Any) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = metrics.render(engine.collect() for engine in engines).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


def test_an_outcome_is_counted_once_in_each_series() -> None:
    metrics = Metrics(["s", "l"])
    metrics.record(
        Outcome(CALL, Status.OK, Decision(Role.SMALL, Cause.SCORE, 2.5), "s", Usage(10, 20), 0.004, 0.03, 0.2)
    )
    found = samples(metrics)
    assert found[key("tierserve_requests_total", tier="s", cause="score", status="ok")] == 1
    assert found[key("tierserve_tokens_total", tier="s", direction="prompt")] == 10
    assert found[key("tierserve_tokens_total", tier="s", direction="completion")] == 20
    assert found[key("tierserve_route_seconds_bucket", cause="score", le="0.005")] == 1
    assert found[key("tierserve_route_seconds_bucket", cause="score", le="0.0025")] == 0
    assert found[key("tierserve_first_byte_seconds_sum", tier="s")] == 0.03
    assert found[key("tierserve_request_seconds_sum", tier="s", status="ok")] == 0.2
    assert found[key("tierserve_score_bucket", le="3.0")] == 1


def test_a_request_that_never_got_to_a_tier_is_counted_too() -> None:
    metrics = Metrics(["s", "l"])
    metrics.record(Outcome(CALL, Status.UNAVAILABLE))
    found = samples(metrics)
    assert found[key("tierserve_requests_total", tier="none", cause="none", status="unavailable")] == 1
    assert found[key("tierserve_request_seconds_count", tier="s", status="unavailable")] == 0


def test_series_stand_at_zero_from_the_start() -> None:
    metrics = Metrics(["s", "l"])
    found = samples(metrics)
    for cause in Cause:
        for status in Status:
            assert found[key("tierserve_requests_total", tier="l", cause=cause, status=status)] == 0
    for family in metrics.registry.collect():
        assert family.samples, f"{family.name} has no series before the first request"


def test_an_outcome_adds_no_series_that_was_not_there_from_the_start() -> None:
    """A counter that appears with a value has, for Prometheus, never risen."""
    metrics = Metrics(["s", "l"])
    before = set(samples(metrics))
    decision = Decision(Role.LARGE, Cause.ESCALATION, 3)
    for status in Status:
        metrics.record(Outcome(CALL, status, decision, "l", Usage(1, 2), 0.1, 0.2, 0.3))
        metrics.record(Outcome(CALL, status, decision if status is not Status.OK else None, "l"))
        if status is not Status.OK:
            metrics.record(Outcome(CALL, status))
    judged = Outcome(CALL, Status.OK, decision, "l", judgement=Judgement(0.1, Doubt.LOW, True), cost=Cost(1, 2, 3))
    metrics.record(judged)
    for refused in (400, 401, 403, 404, 405, 408, 413, 429, 500, 503):
        metrics.count_refusal(refused)
    assert {name for name in set(samples(metrics)) - before if "none" not in dict(name[1]).values()} == set()


def test_time_per_token_is_a_whole_streams() -> None:
    metrics, stream = Metrics(["s", "l"]), replace(CALL, stream=True)
    decision = Decision(Role.SMALL, Cause.SCORE, 2)
    metrics.record(Outcome(stream, Status.OK, decision, "s", Usage(3, 11), 0.1, 0.5, 1.5))
    metrics.record(Outcome(stream, Status.OK, decision, "s", Usage(3, 1), 0.1, 0.5, 0.5))  # no token after the first
    metrics.record(Outcome(stream, Status.CANCELLED, decision, "s", Usage(3, 11), 0.1, 0.5, 1.5))
    metrics.record(Outcome(CALL, Status.OK, decision, "s", Usage(3, 11), 0.1, 1.5, 1.5))
    found = samples(metrics)
    assert found[key("tierserve_inter_token_seconds_count", tier="s")] == 1
    assert found[key("tierserve_inter_token_seconds_sum", tier="s")] == pytest.approx(0.1)


def test_no_series_tells_when_another_was_made() -> None:
    assert not [name for name, _ in samples(Metrics(["s", "l"])) if name.endswith("_created")]


def test_gauges_are_read_when_scraped() -> None:
    metrics, state = Metrics(["s"]), {"ready": False}
    metrics.watch_tier("s", lambda: state["ready"], lambda: 3)
    assert samples(metrics)[key("tierserve_tier_ready", tier="s")] == 0
    state["ready"] = True
    assert samples(metrics)[key("tierserve_tier_ready", tier="s")] == 1
    assert samples(metrics)[key("tierserve_tier_waiting", tier="s")] == 3


def test_what_the_router_knows_is_read_when_scraped() -> None:
    metrics, known = Metrics(["s"]), {"threshold": 4.0, "hits": 0, "misses": 1}
    metrics.watch_router(lambda: known["threshold"], lambda: int(known["hits"]), lambda: int(known["misses"]))
    known |= {"threshold": 5.5, "hits": 2}
    found = samples(metrics)
    assert found[key("tierserve_router_threshold")] == 5.5
    assert found[key("tierserve_route_cache_hits_total")] == 2
    assert found[key("tierserve_route_cache_misses_total")] == 1


def test_second_opinions_are_counted_by_what_became_of_them() -> None:
    metrics, counts = Metrics(["s"]), {"asked": 0, "used": 0, "late": 0, "refused": 0, "failed": 0}
    observe = metrics.watch_assessments(counts)
    counts |= {"asked": 7, "used": 3, "late": 2, "refused": 1, "failed": 1}
    observe(0.003)
    found = samples(metrics)
    for name, count in counts.items():
        assert found[key(f"tierserve_assessments_{name}_total")] == count
    assert found[key("tierserve_assessment_seconds_bucket", le="0.005")] == 1
    assert found[key("tierserve_assessment_seconds_bucket", le="0.0025")] == 0


def test_requests_are_in_flight_until_their_block_ends() -> None:
    metrics = Metrics(["s"])
    with metrics.in_flight(), metrics.in_flight():
        assert samples(metrics)[key("tierserve_requests_in_flight")] == 2
    assert samples(metrics)[key("tierserve_requests_in_flight")] == 0


def test_refusals_are_counted_by_status() -> None:
    metrics = Metrics(["s"])
    metrics.count_refusal(404)
    assert samples(metrics)[key("tierserve_refusals_total", status="404")] == 1


def test_each_family_of_the_engines_stands_once_with_the_samples_of_both() -> None:
    registries = []
    for model in ("s", "l"):
        registry = CollectorRegistry()
        Counter("vllm:tokens", "Tokens.", ["model_name"], registry=registry).labels(model).inc()
        registries.append(registry)
    metrics = Metrics(["s", "l"])
    for _ in range(2):  # merging must not write into what it merges
        text = metrics.render(registry.collect() for registry in registries).decode()
        assert text.count("# TYPE vllm:tokens_total counter") == 1
        assert text.count("vllm:tokens_total{") == 2


def test_a_judgement_is_counted_by_what_came_of_it() -> None:
    metrics = Metrics(["s", "l"])
    kept = Judgement(0.92, held_s=0.02, prewarm=Prewarm.UNUSED)
    doubted = Judgement(0.2, Doubt.LOW, True, 0.3, Usage(7, 5), Prewarm.HIT)
    unread = Judgement(None, Doubt.UNREADABLE, True, 0.3, Usage(7, 2))
    for judgement, tier in ((kept, "s"), (doubted, "l"), (unread, "l")):
        decision = Decision(Role.SMALL if tier == "s" else Role.LARGE, Cause.SCORE, 2.0)
        metrics.record(Outcome(CALL, Status.OK, decision, tier, judgement=judgement))
    metrics.record(Outcome(CALL, Status.CANCELLED, judgement=Judgement()))
    found = samples(metrics)
    assert found[key("tierserve_confidence_count")] == 2
    assert found[key("tierserve_confidence_bucket", le="0.9")] == 1
    assert found[key("tierserve_escalations_total", doubt="low")] == 1
    assert found[key("tierserve_escalations_total", doubt="unreadable")] == 1
    assert found[key("tierserve_escalations_total", doubt="failure")] == 0
    assert found[key("tierserve_held_seconds_count", committed="true")] == 1
    assert found[key("tierserve_held_seconds_count", committed="false")] == 2
    assert found[key("tierserve_wasted_tokens_total", direction="prompt")] == 14
    assert found[key("tierserve_wasted_tokens_total", direction="completion")] == 7
    assert found[key("tierserve_prewarms_total", result="hit")] == 1
    assert found[key("tierserve_prewarms_total", result="unused")] == 1
    assert found[key("tierserve_prewarms_total", result="late")] == 0


def test_money_is_counted_by_tier_and_key() -> None:
    metrics, mine = Metrics(["s", "l"]), replace(CALL, caller=Caller("mine"))
    small, large = Decision(Role.SMALL, Cause.SCORE), Decision(Role.LARGE, Cause.ESCALATION)
    metrics.record(Outcome(mine, Status.OK, small, "s", cost=Cost(1, 5)))
    metrics.record(Outcome(mine, Status.OK, large, "l", cost=Cost(7, 5, 2)))
    metrics.record(Outcome(CALL, Status.OK, small, "s", cost=Cost(0.5, 2)))
    metrics.record(Outcome(CALL, Status.OK, small, "s"))
    found = samples(metrics)
    assert found[key("tierserve_cost_total", tier="s", key="mine")] == 1
    assert found[key("tierserve_cost_total", tier="l", key="mine")] == 7
    assert found[key("tierserve_cost_total", tier="s", key="")] == 0.5
    assert found[key("tierserve_cost_all_large_total", key="mine")] == 10
    assert found[key("tierserve_cost_saved", key="mine")] == 2
    assert found[key("tierserve_cost_saved", key="")] == 1.5
    assert found[key("tierserve_cost_wasted_total")] == 2
    assert found[key("tierserve_cost_unpriced_requests_total")] == 1


def test_the_queue_is_read_when_scraped_and_waiting_is_told_by_tier() -> None:
    metrics, refused = Metrics(["s", "l"]), {"door": 1, "queue": 0, "displaced": 0}
    metrics.watch_queue({"s": lambda: 3, "l": lambda: 0}, refused)
    refused["queue"] = 4
    decision = Decision(Role.SMALL, Cause.SCORE)
    metrics.record(Outcome(CALL, Status.OK, decision, "s", queue_s=0.5))
    metrics.record(Outcome(CALL, Status.CANCELLED, decision, queue_s=2.0))
    metrics.record(Outcome(CALL, Status.INVALID))
    found = samples(metrics)
    assert found[key("tierserve_queue_waiting", tier="s")] == 3
    assert found[key("tierserve_queue_refusals_total", how="door")] == 1
    assert found[key("tierserve_queue_refusals_total", how="queue")] == 4
    assert found[key("tierserve_queue_seconds_sum", tier="s")] == 0.5
    assert found[key("tierserve_queue_seconds_sum", tier="none")] == 2
    assert found[key("tierserve_queue_seconds_count", tier="none")] == 1
    assert found[key("tierserve_queue_seconds_count", tier="l")] == 0


def test_a_keys_series_stand_at_zero_before_it_is_used() -> None:
    metrics, names = Metrics(["s", "l"]), ["mine"]
    metrics.watch_keys(lambda: names)
    assert samples(metrics)[key("tierserve_cost_total", tier="l", key="mine")] == 0
    names.append("new")
    assert samples(metrics)[key("tierserve_cost_all_large_total", key="new")] == 0

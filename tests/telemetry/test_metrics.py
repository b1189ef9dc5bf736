from typing import Any

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families

from tierserve.core import (
    Call,
    Cause,
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
    assert found[key("tierserve_request_seconds_sum", tier="s")] == 0.2
    assert found[key("tierserve_score_bucket", le="3.0")] == 1


def test_a_request_that_never_got_to_a_tier_is_counted_too() -> None:
    metrics = Metrics(["s", "l"])
    metrics.record(Outcome(CALL, Status.UNAVAILABLE))
    found = samples(metrics)
    assert found[key("tierserve_requests_total", tier="none", cause="none", status="unavailable")] == 1
    assert found[key("tierserve_request_seconds_count", tier="s")] == 0


def test_series_stand_at_zero_from_the_start() -> None:
    found = samples(Metrics(["s", "l"]))
    for cause in Cause:
        assert found[key("tierserve_requests_total", tier="l", cause=cause, status="ok")] == 0


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

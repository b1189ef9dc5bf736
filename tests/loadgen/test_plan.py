"""Plans: what can't be run is refused where it is written, and times of an open load are what they say."""

import json
from itertools import islice, pairwise
from random import Random
from statistics import mean, pstdev
from typing import Any

import pytest
from loadgen import Closed, Endpoint, Open, Plan, PlanError, Prompt

HERE = Endpoint("http://host:1", "m")


def plan(**fields: Any) -> Plan:
    return Plan(**{"endpoints": [HERE], "prompts": [Prompt.of("hi")], "loads": [Closed(1)], "count": 1} | fields)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Open(0), "a rate must be above 0"),
        (lambda: Open(-1), "a rate must be above 0"),
        (lambda: Open(float("nan")), "a rate must be above 0"),
        (lambda: Open(float("inf")), "a rate must be above 0"),
        (lambda: Closed(0), "concurrency must be at least 1"),
        (lambda: Endpoint("host:8000", "m"), "no URL"),
        (lambda: Endpoint("ftp://host", "m"), "no URL"),
        (lambda: Endpoint("http://", "m"), "no URL"),
        (lambda: Endpoint("http://host", "m", api="chatter"), "api must be one of"),  # type: ignore[arg-type]
        (lambda: plan(endpoints=[]), "no endpoints"),
        (lambda: plan(prompts=[]), "no prompts"),
        (lambda: plan(endpoints=[HERE, HERE]), "called alike"),
        (lambda: plan(count=None), "either the seconds"),
        (lambda: plan(seconds=1.0), "either the seconds"),
        (lambda: plan(count=0), "count must be above 0"),
        (lambda: plan(count=None, seconds=-1.0), "seconds must be above 0"),
        (lambda: plan(warmup_s=-1), "warmup_s must be at least 0"),
        (lambda: plan(rounds=0), "rounds must be above 0"),
        (lambda: plan(timeout_s=0), "timeout_s must be above 0"),
    ],
)
def test_what_cannot_be_run_is_refused(make: Any, says: str) -> None:
    with pytest.raises(PlanError, match=says):
        make()


def test_a_url_may_end_with_v1_or_not() -> None:
    addresses = {Endpoint(url, "m").address for url in ("http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/")}
    assert addresses == {"http://h:1/v1/chat/completions"}
    assert Endpoint("http://h:1", "m", api="completion").address == "http://h:1/v1/completions"


def test_constant_times_are_evenly_spaced() -> None:
    assert list(islice(Open(4, poisson=False).due_s(Random(0)), 4)) == [0, 0.25, 0.5, 0.75]


def test_random_times_are_a_poisson_process() -> None:
    due = list(islice(Open(20).due_s(Random(1)), 20_000))
    gaps = [after - before for before, after in pairwise(due)]
    assert all(gap >= 0 for gap in gaps)
    assert mean(gaps) == pytest.approx(1 / 20, rel=0.03)
    assert pstdev(gaps) == pytest.approx(mean(gaps), rel=0.03)  # as it is of exponential gaps
    assert list(islice(Open(20).due_s(Random(1)), 9)) == due[:9]
    assert list(islice(Open(20).due_s(Random(2)), 9)) != due[:9]


def test_a_body_asks_for_what_the_prompt_and_the_plan_say() -> None:
    prompts = [Prompt.of("short"), Prompt.of("long", 300)]
    asked = plan(prompts=prompts, max_tokens=9, body={"temperature": 0})
    short, long = map(json.loads, asked.bodies(HERE))
    assert short == {
        "model": "m",
        "messages": [{"role": "user", "content": "short"}],
        "max_tokens": 9,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0,
    }
    assert long["max_tokens"] == 300
    whole = json.loads(plan(prompts=prompts, stream=False).bodies(Endpoint("http://h", "m", api="completion"))[0])
    assert whole == {"model": "m", "prompt": "short", "max_tokens": 64}

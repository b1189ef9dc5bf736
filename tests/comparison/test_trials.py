"""When a rate holds: what the SLO alone would not tell of a short trial."""

import pytest
from comparison.trials import keeps_up
from loadgen import Endpoint, Open, Trial
from loadgen.asking import Sample


@pytest.mark.parametrize(("capacity", "expected"), [(10, True), (9.5, True), (8, False)])
def test_a_backlog_that_grows_is_seen_though_nobody_has_waited_long(capacity: float, expected: bool) -> None:
    trial = Trial(Endpoint("http://host", "m"), Open(10, poisson=False), 0, start_s=2, end_s=12)
    for index in range(120):
        due_s = index / 10
        sample = Sample(due_s, due_s, end_s=0.5 + max(due_s, index / capacity))
        (trial.samples if due_s >= 2 else trial.warm_up).append(sample)
    assert keeps_up(trial) is expected


def test_of_few_answers_some_may_be_out_of_step() -> None:
    trial = Trial(Endpoint("http://host", "m"), Open(1, poisson=False), 0, start_s=4, end_s=20)
    for due_s in range(20):
        sample = Sample(due_s, due_s, end_s=4.0 * (due_s // 4) + 7)  # in batches of four
        (trial.samples if due_s >= 4 else trial.warm_up).append(sample)
    assert keeps_up(trial)

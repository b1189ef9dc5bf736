"""What a reload changes, what it refuses, and what it leaves as it was: a real file, scripted tiers."""

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.server.running import until
from tests.server.test_notify import Heard
from tests.test_pipeline import HARD, SIMPLE, Bench
from tierserve.config import load
from tierserve.core import Cause, Cost, Decision, Outcome, Role, Status, Usage
from tierserve.server.body import BodyReader
from tierserve.server.connection import Connections
from tierserve.server.costing import Costing
from tierserve.server.notify import Manager
from tierserve.server.reloading import (
    Part,
    Reloading,
    admitting,
    bounding,
    differences,
    draining,
    judging,
    logging_level,
    pricing,
    routing,
    warning,
)
from tierserve.telemetry.logs import set_level
from tierserve.telemetry.metrics import Metrics
from tierserve.telemetry.share import LargeShare

LONG = "simple,but_longer_than_a_follow_up"
TIERS = {"small": {"name": "s", "engine": {"model": "m"}}, "large": {"name": "l", "engine": {"model": "m"}}}


class Node(Bench):
    """A pipeline over scripted tiers, and the file that it is configured by."""

    def __init__(self, folder: Path, **sections: Any) -> None:
        self.path = folder / "node.yaml"
        self.write(**sections)
        config = load(self.path)
        super().__init__(**config.router.model_dump(exclude_unset=True))
        self.heard = Heard(str(folder / "notify"))
        self.asked = asyncio.Event()
        self.share = LargeShare(config.router.warn_large_share)
        self.costing = Costing(config, Metrics(["s", "l"]))
        self.pipeline.escalator = None
        self.bodies = BodyReader(config.server)
        self.connections = Connections(config.server, lambda status: None)
        self.parts = [
            admitting(self.pipeline.admission),
            bounding(self.bodies, self.connections),
            routing(self.router),
            judging(self.pipeline, self.tiers, self.router),
            warning(self.share),
            pricing(self.costing),
            logging_level(),
            draining(),
        ]
        manager = Manager(self.heard.address)
        self.reloading = Reloading(self.path, config, self.parts, self.asked, manager, lambda: "ready: s, l")

    def write(self, **sections: Any) -> None:
        self.path.write_text(yaml.safe_dump({"tiers": TIERS, "escalation": "off"} | sections))

    async def reload(self, **sections: Any) -> bool:
        self.write(**sections)
        return await self.reloading.reload()

    async def start(self) -> "Node":
        await self.router.start()
        await self.tiers.start()
        return self


@pytest.fixture
def make(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("TIERSERVE_LOG_LEVEL", "INFO")
    nodes: list[Node] = []

    async def make(**sections: Any) -> Node:
        nodes.append(Node(tmp_path, **sections))
        return await nodes[-1].start()

    yield make
    set_level("info")
    for node in nodes:
        node.heard.socket.close()


async def test_a_threshold_counts_from_the_next_request(make: Any) -> None:
    node = await make(router={"threshold": 4.0})
    assert (await node.answer(SIMPLE)).tier == "s"
    assert await node.reload(router={"threshold": 2.0})
    assert node.router.threshold == 2.0
    answer = await node.answer(SIMPLE)
    assert (answer.tier, answer.decision.cause) == ("l", Cause.CACHE)  # the scores that were known still are


async def test_what_is_being_answered_is_answered(make: Any) -> None:
    node = await make()
    gate = asyncio.Event()
    node.small.script = ["Hello", gate, " you"]
    answering = asyncio.create_task(node.answer(SIMPLE))
    await until(lambda: node.small.running == 1)
    assert await node.reload(router={"threshold": 0.0}, escalation={"threshold": 0.5})
    gate.set()
    answer = await answering
    assert answer.tier == "s"
    assert b"Hello you" in answer.body


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("router: {threshhold: 3}", "router.threshhold"),
        ("router: {threshold: 11}", "router.threshold"),
        ("router: [", "is not YAML"),
        ("", "holds no configuration"),
    ],
)
async def test_a_bad_file_is_refused_and_says_where(
    make: Any, caplog: pytest.LogCaptureFixture, text: str, where: str
) -> None:
    node = await make(router={"threshold": 4.0})
    node.path.write_text(text)
    assert not await node.reloading.reload()
    assert node.router.threshold == 4.0
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "what was in force stays" in record.getMessage()
    assert str(node.path) in record.getMessage() and where in record.getMessage()


async def test_a_file_that_is_gone_is_refused(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    node = await make()
    node.path.unlink()
    assert not await node.reloading.reload()
    assert "can't be read" in caplog.text


async def test_nothing_changes_where_a_part_can_t(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Also of what other parts could have taken, whichever comes first."""
    node = await make(router={"threshold": 4.0}, log={"level": "info"})
    broken = {"threshold": 0.9, "calibration": str(node.path)}
    assert not await node.reload(router={"threshold": 1.0}, log={"level": "error"}, escalation=broken)
    assert node.router.threshold == 4.0
    assert node.pipeline.escalator is None
    assert logging.getLogger().level == logging.INFO
    assert "escalation.calibration" in caplog.text
    assert await node.reload(router={"threshold": 1.0})
    assert node.router.threshold == 1.0


async def test_a_part_s_own_fault_changes_nothing_either(make: Any) -> None:
    node = await make(router={"threshold": 4.0})

    def prepare(config: object) -> Any:
        raise RuntimeError("a fault")

    node.parts.append(Part(("server.drain_s",), prepare))
    assert not await node.reload(router={"threshold": 1.0}, server={"drain_s": 5})
    assert node.router.threshold == 4.0
    assert node.reloading.current.server.drain_s == 30


async def test_what_needs_a_restart_is_named_each_time_until_it_is_put_back(
    make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    node = await make()
    other = {
        "tiers": TIERS | {"small": {"name": "s", "engine": {"model": "another"}}},
        "server": {"port": 1234, "drain_s": 7},
        "router": {"threshold": 3.0, "encoder": {"threads": 2}},
    }
    for _ in range(2):
        caplog.clear()
        assert await node.reload(**other)
        (warned,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert warned.startswith("server.port, router.encoder.threads, tiers.small.engine can't change")
    assert node.router.threshold == 3.0
    assert node.reloading.current.server.drain_s == 7
    caplog.clear()
    assert await node.reload(router={"threshold": 3.0})
    assert "can't change" not in caplog.text


async def test_the_log_says_what_was_taken(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    node = await make()
    await node.reload(router={"threshold": 3.0, "conversations": "off"}, log={"level": "debug"})
    assert "router.threshold, router.conversations, log.level" in caplog.text
    assert logging.getLogger().level == logging.DEBUG
    caplog.clear()
    await node.reload(router={"threshold": 3.0, "conversations": "off"}, log={"level": "debug"})
    assert "no option differs" in caplog.text


async def test_a_controller_goes_on_from_what_it_has_seen(make: Any) -> None:
    node = await make(router={"target_large_share": 0.5, "threshold": 4.0})
    for _ in range(50):
        for text in ("one", "one two", "one two three"):
            await node.answer(text)
    before = node.router.threshold
    assert before == pytest.approx(6, abs=1e-3)
    assert await node.reload(router={"target_large_share": 0.5, "threshold": 4.0, "warn_large_share": 0.9})
    assert node.router.threshold == before
    assert await node.reload(router={"target_large_share": 0.5, "threshold": 4.0, "threshold_max": 5.0})
    assert node.router.threshold == 5.0
    assert await node.reload(router={"target_large_share": 0.05, "threshold": 4.0})
    assert node.router.threshold == pytest.approx(9, abs=1e-3)
    assert await node.reload(router={"threshold": 4.0})  # no longer moved
    assert node.router.threshold == 4.0


async def test_a_controller_that_has_seen_nothing_starts_where_the_file_now_says(make: Any) -> None:
    node = await make(router={"target_large_share": 0.5, "threshold": 4.0})
    assert await node.reload(router={"target_large_share": 0.5, "threshold": 7.0})
    assert node.router.threshold == 7.0


async def test_conversations_and_scores_are_still_known_within_other_bounds(make: Any) -> None:
    node = await make()
    for name in ("first", "second", "third"):
        assert (await node.answer(HARD, session=name)).tier == "l"
    assert await node.reload(router={"conversations": {"entries": 2, "ttl_s": 60}, "cache_entries": 5})
    assert (await node.answer(LONG, session="third")).decision.cause is Cause.CONVERSATION
    assert (await node.answer(LONG, session="first")).decision.cause is Cause.SCORE  # the oldest had no room
    assert (await node.answer(HARD)).decision.cause is Cause.CACHE
    assert await node.reload(router={"conversations": "off", "cache_entries": 0})
    assert (await node.answer(LONG, session="third")).decision.cause is Cause.SCORE


async def test_judging_is_switched_on_changed_and_off(make: Any) -> None:
    node = await make()
    unsure = [("Hm", 0.1)]
    node.small.script = unsure
    assert (await node.answer()).judgement is None
    assert await node.reload(escalation={"threshold": 0.5})
    assert (await node.answer()).decision.cause is Cause.ESCALATION
    kept = node.pipeline.escalator
    assert await node.reload(escalation={"threshold": 0.01})
    assert node.pipeline.escalator is kept  # with what its budget has counted
    assert (await node.answer(session="another")).tier == "s"
    assert await node.reload()
    assert (await node.answer(session="a third")).judgement is None


async def test_the_share_that_is_warned_of_follows(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    node = await make(router={"warn_large_share": 0.9, "conversations": "off"})
    for number in range(200):
        await node.answer(HARD if number % 2 else SIMPLE)
        node.share.record(node.outcomes[-1])
    assert not node.share.high
    await node.reload(router={"warn_large_share": 0.3, "conversations": "off"})
    assert node.share.high


async def test_bounds_on_requests_follow_but_for_what_stands_for_good(
    make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    node = await make()
    await node.reload(server={"max_body_mb": 2.0, "write_s": 5, "limits": {"messages": 10, "headers": 20}})
    assert node.bodies.bounds.limits.messages == 10
    assert node.connections.bounds.write_s == 5
    assert "server.max_body_mb, server.limits.messages, server.write_s" in caplog.text
    assert "server.limits.headers can't change" in caplog.text


async def test_admission_follows_off_too(make: Any) -> None:
    node = await make(admission="off")
    assert node.pipeline.admission.longest_s is None
    assert await node.reload(admission={"deadline_s": 5})
    assert node.pipeline.admission.longest_s == 5
    assert not await node.reload(admission={"queue_share": 0})
    assert node.pipeline.admission.longest_s == 5
    assert await node.reload(admission="off")
    assert node.pipeline.admission.longest_s is None


async def test_the_service_manager_hears_each_reload_begin_and_end(make: Any) -> None:
    node = await make()
    node.asked.set()  # before anybody waits for it, as while the node loads
    seen: list[str] = []
    async with node.reloading.running():
        while len(seen) < 2:
            await asyncio.sleep(0.001)
            seen += node.heard.messages()
        node.path.write_text("nonsense")
        node.asked.set()
        while len(seen) < 4:
            await asyncio.sleep(0.001)
            seen += node.heard.messages()
    assert [message.split("\n")[0] for message in seen] == ["RELOADING=1", "READY=1"] * 2
    assert seen[1] == "READY=1\nSTATUS=ready: s, l"


def test_differences_name_the_deepest_option_and_a_section_that_comes_or_goes(tmp_path: Path) -> None:
    def config(**sections: Any) -> Any:
        path = tmp_path / "node.yaml"
        path.write_text(yaml.safe_dump({"tiers": TIERS} | sections))
        return load(path)

    assert list(differences(config(), config())) == []
    assert list(differences(config(), config(router={"encoder": {"threads": 3}}))) == ["router.encoder.threads"]
    assert list(differences(config(), config(escalation="off"))) == ["escalation"]


def test_a_part_has_what_lies_under_its_options() -> None:
    part = Part(("router.load", "log"), lambda config: lambda: None)
    assert part.has("router.load") and part.has("router.load.band") and part.has("log.level")
    assert not part.has("router.load_more") and not part.has("router")


async def test_prices_change_from_the_next_request_on(make: Any) -> None:
    node = await make()
    rates = {"seconds_per_million": {"prompt": 0.0, "completion": 1e6}, "gpu_share": 1.0}
    outcome = Outcome(None, Status.OK, Decision(Role.LARGE, Cause.SCORE), "l", Usage(0, 1))  # type: ignore[arg-type]
    for price, cost in ((3600.0, Cost(1, 1)), (7200.0, Cost(2, 2))):
        assert await node.reload(cost={"price_per_host_hour": price, "small": rates, "large": rates})
        node.costing.record(outcome)
        assert outcome.cost == cost
    assert await node.reload()
    outcome.cost = None
    node.costing.record(outcome)
    assert outcome.cost is None

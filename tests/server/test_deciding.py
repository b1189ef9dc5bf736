"""From a request over HTTP to its row, over scripted tiers."""

import asyncio
from pathlib import Path

import numpy as np
from aiohttp.test_utils import TestClient, TestServer

from tests.server.running import until
from tests.server.test_api import CONFIG
from tests.telemetry.decisions.test_log import rows
from tests.test_pipeline import SIMPLE, word_router
from tierserve.config import NodeConfig
from tierserve.pipeline import Pipeline
from tierserve.router.scoring.features import NAMES
from tierserve.server.api import create_app
from tierserve.server.deciding import build_decision_log
from tierserve.telemetry.metrics import Metrics
from tierserve.tiers.pair import TierPair
from tierserve.tiers.scripted import ScriptedTier


async def logged(path: Path, **options: object) -> tuple[list[dict[str, object]], str]:
    """The rows, and /metrics, after a whole answer, a stream, and a stream whose caller went away."""
    decisions = {"path": str(path), **options}
    config = NodeConfig.model_validate(CONFIG.model_dump(exclude_unset=True) | {"decisions": decisions})
    small = ScriptedTier("s", ["Hel", "lo"])
    tiers, router, metrics = TierPair(small, ScriptedTier("l")), word_router(), Metrics(["s", "l"])
    log = build_decision_log(config, router)
    assert log is not None
    metrics.watch_decisions(*log.counts)
    log.start()
    await router.start()
    await tiers.start()
    pipeline = Pipeline(router, tiers, log.record, keep_answers=log.keeps_answers)
    async with TestClient(TestServer(create_app(config, pipeline, router, tiers, metrics))) as client:
        body = {"model": "auto", "messages": [{"role": "user", "content": SIMPLE}]}
        for stream in (False, True):
            response = await client.post("/v1/chat/completions", json=body | {"stream": stream})
            assert response.status == 200
            await response.read()
        small.script = ["Hel", asyncio.Event(), "lo"]
        response = await client.post("/v1/chat/completions", json=body | {"stream": True})
        await response.content.readany()
        response.close()
        await until(lambda: log.rows == 3)
        text = await (await client.get("/metrics")).text()
    await log.close()
    await router.close()
    return rows(path), text


async def test_each_request_has_a_row(tmp_path: Path) -> None:
    found, metrics = await logged(tmp_path / "log")
    assert [(row["status"], row["stream"], row["cause"]) for row in found] == [
        ("ok", 0, "score"),
        ("ok", 1, "cache"),
        ("cancelled", 1, "cache"),
    ]
    assert [row["answer"] for row in found] == [None] * 3
    assert "tierserve_decision_log_rows_total 3.0" in metrics
    assert 'tierserve_decision_log_dropped_total{reason="queue"} 0.0' in metrics


async def test_texts_and_vectors_are_kept_when_told(tmp_path: Path) -> None:
    found, _ = await logged(tmp_path / "log", text=True, embeddings=True)
    assert [row["answer"] for row in found] == ["Hello", "Hello", "Hel"]
    assert {row["prompt"] for row in found} == {SIMPLE}
    for row in found:  # of prompts that the cache knew, too
        assert isinstance(row["embedding"], bytes) and isinstance(row["features"], bytes)
        assert np.frombuffer(row["embedding"], np.float16).tolist() == [1.0]
        assert len(np.frombuffer(row["features"], np.float16)) == len(NAMES)

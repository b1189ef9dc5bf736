"""A small OpenAI server that does what the model's name says."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

WORDS = 5  # of every whole answer


class Server:
    """`pause` is asked before each answer; `bodies` and `headers` are what came in, `ports` where from."""

    def __init__(self) -> None:
        self.url = ""
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[Any] = []
        self.ports: set[int] = set()
        self.running = self.most_running = 0

    async def pause(self) -> None:
        return None

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(request.headers)
        self.ports.add(request.get_extra_info("peername")[1])
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await self.pause()
            return await self._answer(request, body)
        finally:
            self.running -= 1

    async def _answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        model = body["model"]
        if model == "absent":
            return web.json_response({"error": {"message": "there is no such model"}}, status=404)
        if model == "full":
            return web.json_response({"error": {"message": "come again"}}, status=503, headers={"retry-after": "3"})
        if model == "gone":
            assert request.transport is not None
            request.transport.abort()
        headers = {"x-tierserve-tier": "large", "x-tierserve-escalated": "true"} if model == "auto" else {}
        if not body.get("stream"):
            return web.json_response({} if model == "empty" else whole(model), headers=headers)
        response = web.StreamResponse(headers=headers | {"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        for event in events(model):
            await response.write(event)
        return response


def whole(model: str) -> dict[str, Any]:
    return {
        "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "word " * WORDS}}],
        "usage": {"prompt_tokens": 7, "completion_tokens": WORDS},
    }


def events(model: str) -> Iterator[bytes]:
    yield event(model, choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}}])
    for _ in range(WORDS):
        yield event(model, choices=[{"index": 0, "delta": {"content": '"usage": {"completion_tokens": 99}'}}])
    if model == "broken":
        yield b'data: {"error": {"message": "the engine has died"}}\n\n'
    if model == "garbled":
        yield b'data: {"usage": {\n\n'
    if model != "silent on usage":
        yield event(model, choices=[], usage={"prompt_tokens": 7, "completion_tokens": WORDS})
    if model != "cut":
        yield b"data: [DONE]\n\n"


def event(model: str, **more: Any) -> bytes:
    return b"data: " + json.dumps({"model": model, **more}).encode() + b"\n\n"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    answering = Server()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", answering.answer)
    app.router.add_post("/v1/completions", answering.answer)
    async with TestServer(app) as running:
        answering.url = str(running.make_url("")).rstrip("/")
        yield answering

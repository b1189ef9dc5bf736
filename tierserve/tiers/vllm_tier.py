"""A tier that is a vLLM engine of this process: AsyncLLM here, its core and workers in processes of their own."""

import asyncio
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import psutil
from prometheus_client import CollectorRegistry, Metric
from pydantic import ValidationError

from tierserve.core import Call, Kind, Queue
from tierserve.errors import (
    ConfigError,
    ContextOverflow,
    RequestError,
    TierserveError,
    TierStartError,
    TierUnavailable,
)
from tierserve.threads import load_beside
from tierserve.tiers import processes
from tierserve.tiers.base import Listener, Occupancy, Pulse, Reply, TierState, queue_of
from tierserve.tiers.vllm_child import NODE_VARIABLE
from tierserve.weights import check_weights

if TYPE_CHECKING:
    from vllm.engine.arg_utils import AsyncEngineArgs

    from tierserve.config import TierConfig
    from tierserve.tiers.vllm_engine import Engine
    from tierserve.tiers.vllm_openai import OpenAILayer

log = logging.getLogger(__name__)

# What a template may add to a prompt beyond what it adds to the first warm-up request: a preamble for tools.
_TEMPLATE_MARGIN_TOKENS = 256
_NOT_MEASURED = 1 << 30  # then every prompt's tokens are counted
# With these the caller decides what the template adds.
_TEMPLATE_FIELDS = ("chat_template", "chat_template_kwargs", "documents")

# What vLLM takes to give up an engine whose processes are gone.
_GIVE_UP_S = 30.0

# The first request of each kind compiles and loads things; the first with logprobs takes seconds. Better here.
_WARM_UP: tuple[dict[str, Any], ...] = (
    {"max_tokens": 2},
    {"max_tokens": 2, "logprobs": True, "top_logprobs": 1},
    {"max_tokens": 8, "response_format": {"type": "json_object"}},
)


class VllmTier:
    """One engine and vLLM's OpenAI layer over it. `where` is the tier's path in the configuration file.

    On a CPU the engine lets this process go first, and engines that step back by less: see processes.step_back.
    """

    def __init__(self, config: "TierConfig", where: str, steps_back: int = 1) -> None:
        self.name = config.name
        self.max_model_len: int | None = None
        self._config = config
        self._where = where
        self._steps_back = steps_back
        self._state = TierState.STOPPED
        self._waiting_for = ""
        self._template_tokens = _NOT_MEASURED
        self._registry = CollectorRegistry()
        self._waiting: dict[int, int] = {}  # by engine core, as of its last step
        self._kv_used: dict[int, float] = {}  # likewise, 0 to 1
        self._steps = 0
        self._rebuilt = False
        self._building: asyncio.Task[Engine] | None = None
        self._not_ours: set[psutil.Process] = set()  # processes that there were before it was built
        self._processes: list[psutil.Process] = []
        self._engine: Engine | None = None
        self._layer: OpenAILayer | None = None

    @staticmethod
    def arguments(config: "TierConfig", where: str) -> "AsyncEngineArgs":
        """vLLM's own arguments for a tier, checked. Imports vLLM. Raises ConfigError."""
        _prepare_environment()
        try:
            import vllm  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                f"{where}.engine", f"vLLM can't be imported ({error})", "pip install tierserve[gpu], or [cpu]"
            ) from None
        from tierserve.tiers.vllm_options import engine_args

        template = config.chat_template
        if template is not None and not os.path.isfile(template):
            raise ConfigError(f"{where}.chat_template", f"there is no file {template}", "check the path")
        return engine_args(config, where)

    @property
    def state(self) -> TierState:
        if self._state is TierState.READY and self._engine is not None and self._engine.errored:
            return TierState.FAILED
        return self._state

    @property
    def waiting_for(self) -> str:
        return self._waiting_for

    @property
    def slots(self) -> int | None:
        if self._engine is None:
            return None
        config = self._engine.vllm_config
        slots: int = config.scheduler_config.max_num_seqs * config.parallel_config.data_parallel_size
        return slots

    @property
    def queue(self) -> Queue:
        """Of two counts the larger: what exceeds the batch, known at once; and what the scheduler keeps waiting, for
        want of room in the KV cache too, as of its last step.
        """
        if self._engine is None:
            return Queue()
        unfinished = self._engine.output_processor.get_num_unfinished_requests()
        beyond_batch = queue_of(unfinished, self.slots)
        # No step follows when all that waited was taken back, so the last count may be of requests that are gone.
        waiting = max(beyond_batch.waiting, min(sum(self._waiting.values()), unfinished))
        return Queue(waiting, beyond_batch.has_room and not waiting)

    @property
    def occupancy(self) -> Occupancy:
        if self._engine is None:
            return Occupancy()
        unfinished = self._engine.output_processor.get_num_unfinished_requests()
        # No step follows the last request's end, so the last figure is of when it was there.
        used = max(self._kv_used.values(), default=0.0) if unfinished else 0.0
        return Occupancy(unfinished, used)

    def pulse(self) -> Pulse:
        if self._engine is None:
            return Pulse(steps=self._steps)
        gone = not all(processes.runs(process) for process in self._processes)
        return Pulse(self._engine.output_processor.get_num_unfinished_requests(), self._steps, gone)

    async def find_weights(self) -> None:
        assert self._config.engine is not None
        self._state, self._waiting_for = TierState.LOADING, "its turn to load"
        model = self._config.engine["model"]
        await load_beside(lambda: check_weights(model, f"{self._where}.engine.model"))

    async def start(self) -> None:
        self._state = TierState.LOADING
        try:
            await self._load()
        except BaseException:
            self._state = TierState.FAILED
            raise
        self._state = TierState.READY

    async def stop(self) -> None:
        self._state = TierState.STOPPED
        engine, self._engine, self._layer = self._engine, None, None
        if engine is not None:
            # Without the 0 it gives the engine's processes five seconds, which they use up even when idle.
            await asyncio.to_thread(engine.shutdown, 0)

    async def check(self) -> None:
        """Have the engine's core ask each worker whether it is well. Returns when they say so: never, where one hangs.
        Raises TierUnavailable."""
        if self._engine is None:
            raise TierUnavailable(f"{self.name} is {self.state}")
        try:
            await self._engine.collective_rpc("check_health")
        except Exception as error:
            raise TierUnavailable(f"the engine of {self.name} is not well: {type(error).__name__}") from error

    async def tear_down(self, waiting_for: str) -> None:
        """End the engine, or what there is of one that is being built, whatever state its processes are in. Who waits
        for its answer is told. Until `start` builds another, the tier is loading, waiting for that."""
        self._state, self._waiting_for, self._rebuilt = TierState.LOADING, waiting_for, True
        engine, self._engine, self._layer = self._engine, None, None
        if engine is not None:
            _pronounce_dead(engine)
        doomed = self._processes or processes.children() - self._not_ours
        if left := await load_beside(partial(processes.end, doomed)):
            log.error("%s: processes that can't be ended: %s", self.name, ", ".join(str(one.pid) for one in left))
        self._processes = []
        if (building := self._building) is not None:
            self._building = None
            await asyncio.wait({building}, timeout=_GIVE_UP_S)  # what it comes to is shut down by _discarded
        if engine is not None:
            await _shut_down(engine)

    async def fits(self, call: Call) -> bool:
        try:
            await self._check_length(self._ready_layer(), call)
        except ContextOverflow:
            return False
        except (RequestError, TierUnavailable):
            return True  # generate() will say the same
        return True

    async def generate(self, call: Call, listener: Listener | None = None) -> Reply:
        layer = self._ready_layer()
        await self._check_length(layer, call)
        return await layer.generate(call, listener)

    async def prewarm(self, call: Call) -> bool:
        try:
            await self._ready_layer().prewarm(call)
        except TierserveError as error:  # the answer, if it comes to that, will say the same
            log.debug("%s can't read %s in advance: %s", self.name, call.id, error)
            return False
        return True

    def metrics(self) -> Iterator[Metric]:
        return iter(self._registry.collect())

    def _ready_layer(self) -> "OpenAILayer":
        if self._layer is None or self.state is not TierState.READY:
            what = f", waiting for {self._waiting_for}" if self.state is TierState.LOADING else ""
            raise TierUnavailable(f"{self.name} is {self.state}{what}")
        return self._layer

    async def _check_length(self, layer: "OpenAILayer", call: Call) -> None:
        """Raise ContextOverflow unless prompt and output fit: vLLM would clip the output, and say nothing.

        By bytes where that is certain, for a byte makes at most one token and counting bytes costs nothing; else by
        the very tokens.
        """
        assert self.max_model_len is not None
        option, output = layer.output_limit(call)
        most = len(json.dumps(call.body, ensure_ascii=False).encode("utf-8", "replace")) + self._template_tokens
        if most + output <= self.max_model_len and not any(call.body.get(field) for field in _TEMPLATE_FIELDS):
            return
        prompt = await layer.count_prompt_tokens(call)
        if prompt + output > self.max_model_len:
            problem = f"{prompt} tokens of prompt and {output} of output exceed the maximum context length of"
            room = self.max_model_len - prompt
            remedy = f"ask for at most {room}, or shorten the prompt" if room > 0 else "shorten the prompt"
            raise ContextOverflow(f"{problem} {self.max_model_len} tokens: {remedy}", option)

    async def _load(self) -> None:
        self._now_waits_for("vLLM to be imported")
        args = await load_beside(lambda: self.arguments(self._config, self._where))
        self._now_waits_for("the engine's processes to load the model")
        await self._build(args)
        self._now_waits_for("the first requests, which warm it up")
        await self._warm_up()
        if on_cpu():
            # Not before: an engine that is being rebuilt goes before the other.
            processes.step_back(self._processes, self._steps_back)
        self._waiting_for = ""

    def _now_waits_for(self, what: str) -> None:
        if not self._rebuilt:  # then it is waiting to be rebuilt, which says more
            self._waiting_for = what

    async def _build(self, args: "AsyncEngineArgs") -> None:
        """Build the engine beside the event loop. The thread that does it can't be cancelled: it goes on until the
        engine is there or its processes are not."""
        self._not_ours = processes.children()
        self._registry, steps = CollectorRegistry(), self._note_step
        self._waiting.clear()
        self._kv_used.clear()
        if self._rebuilt:
            forget_environment()
        build = _builder(args, self._registry, self._waiting, self._kv_used, steps, self.name)
        building = self._building = asyncio.create_task(load_beside(build))
        try:
            engine = await asyncio.shield(building)
        except asyncio.CancelledError:
            building.add_done_callback(_discarded)
            raise
        self._building, self._engine = None, engine
        self._processes = processes.family(_cores(engine))
        self.max_model_len = engine.model_config.max_model_len
        if self._rebuilt:
            keep_environment()

    def _note_step(self) -> None:
        self._steps += 1

    async def _warm_up(self) -> None:
        from tierserve.tiers.vllm_openai import OpenAILayer, parse

        assert self._engine is not None
        layer = await load_beside(partial(OpenAILayer, self._engine, self._config))
        await load_beside(layer.warm_up)
        for number, options in enumerate(_WARM_UP):
            body = {"messages": [{"role": "user", "content": "Hello"}], **options}
            call = Call(f"warm-up-{self.name}-{number}", Kind.CHAT, body, (), parsed=parse(Kind.CHAT, body))
            try:
                reply = await layer.generate(call)
            except RequestError as error:  # a model without a chat template, or options that allow no logprobs
                log.warning("%s does not take the warm-up request with %s: %s", self.name, list(options), error)
            else:
                self._template_tokens = reply.usage.prompt_tokens + _TEMPLATE_MARGIN_TOKENS
        self._layer = layer


def on_cpu() -> bool:
    """Whether vLLM computes on the CPU here. Imports vLLM."""
    _prepare_environment()
    try:
        from vllm.platforms import current_platform
    except ImportError:
        return False  # start() says what to install
    return bool(current_platform.is_cpu())


def keep_environment() -> None:
    """Let vLLM read the environment once and for all: it asks for a variable with each token, 3 microseconds each time.
    For when no engine is still to be built, which writes into it. Imports vLLM.
    """
    from vllm.envs import enable_envs_cache

    enable_envs_cache()


def forget_environment() -> None:
    """Let vLLM read the environment again, for as long as an engine is being built. Imports vLLM."""
    from vllm.envs import disable_envs_cache

    disable_envs_cache()


def _prepare_environment() -> None:
    """What vLLM and its processes read from the environment; a value that the operator set stays."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # vLLM's default is fork, except on a CPU. A forked engine would inherit this process's threads, half alive, its
    # listening socket, and vLLM's note that the plugins are loaded already, so that vllm_child.py never ran.
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    # Neither is a log line, and both speak to vLLM's developers.
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ[NODE_VARIABLE] = str(os.getpid())


def _builder(
    args: "AsyncEngineArgs",
    registry: CollectorRegistry,
    waiting: dict[int, int],
    kv_used: dict[int, float],
    stepped: Callable[[], None],
    name: str,
) -> "Callable[[], Engine]":
    """What builds the engine. It blocks until the engine's processes are up, and raises TierStartError."""

    def build() -> "Engine":
        from vllm.usage.usage_lib import UsageContext

        from tierserve.tiers.vllm_engine import Engine
        from tierserve.tiers.vllm_metrics import stat_logger

        loggers = [stat_logger(registry, waiting, kv_used, stepped)]
        try:
            engine: Engine = Engine.from_engine_args(
                args, usage_context=UsageContext.OPENAI_API_SERVER, stat_loggers=loggers
            )
            return engine
        except Exception as error:
            log.debug("the engine of %s", name, exc_info=True)
            raise TierStartError(f"the engine of {name} did not start: {_reason(error)}") from error

    return build


def _cores(engine: "Engine") -> list[int]:
    """The process ids of its cores on this host; those that Ray runs are Ray's to end."""
    manager = engine.engine_core.resources.engine_manager
    return [process.pid for process in getattr(manager, "processes", ())]


def _pronounce_dead(engine: "Engine") -> None:
    """Each of its callers hears that it died, now: of a hung one nobody would ever tell them."""
    engine.engine_core.resources.engine_dead = True
    engine.output_processor.propagate_error(engine.dead_error)


async def _shut_down(engine: "Engine") -> None:
    """Give up what this process holds of an engine whose processes are gone."""
    try:
        async with asyncio.timeout(_GIVE_UP_S):
            await load_beside(partial(engine.shutdown, 0))
    except Exception:
        log.exception("an engine that died was not given up without trouble")


def _discarded(building: "asyncio.Task[Engine]") -> None:
    """An engine that came up after all, when nobody waited for it any more."""
    if not building.cancelled() and building.exception() is None:
        with suppress(Exception):
            building.result().shutdown(0)


def _reason(error: BaseException) -> str:
    """What an operator can act on: pydantic's finding without its frame, else the last line."""
    if isinstance(error, ValidationError):
        return "; ".join(str(finding["msg"]).removeprefix("Value error, ") for finding in error.errors())
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__

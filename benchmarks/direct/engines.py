"""One vLLM engine, asked for tokens with tokens, by AsyncEngineArgs and AsyncLLM alone: 0.26 to 0.32 share these."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from loadgen.asking import Sample

from direct.device import Device
from direct.memory import Share

# Before vllm is imported, here and in its processes. A host without a network has no FlashInfer and no DeepGEMM, which
# compile at run time; standard output belongs to the measurement.
_SURROUNDINGS = {
    "DO_NOT_TRACK": "1",
    "GLOO_SOCKET_IFNAME": "lo",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_USE_DEEP_GEMM": "0",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}
_ASKED_AT_START = 0.1


@dataclass(frozen=True)
class Settings:
    """`context`: tokens of a prompt and its answer; `every`: how many tokens an engine hands over at once, after the
    first: with one at a time the serving process, not the GPU, bounds a small model."""

    context: int
    at_once: int
    batched_tokens: int
    every: int
    eager: bool


class Engine:
    """`tokens` counts what was generated so far."""

    def __init__(self, share: Share, device: Device, settings: Settings, folder: Path) -> None:
        """Loads the model: minutes. Blocks."""
        for name, value in _SURROUNDINGS.items():
            os.environ.setdefault(name, value)
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self.model = share.model
        self.tokens = 0
        self._numbers = count()
        config = AsyncEngineArgs(**_options(share, device, settings, folder)).create_engine_config()
        if not device.is_gpu:
            # Only a CPU's engine can be forked, and starts in seconds: what has to be imported is.
            os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
        started = time.monotonic()
        self._engine = AsyncLLM.from_vllm_config(config, disable_log_stats=True)
        self.start_s = time.monotonic() - started

    async def answer(self, prompt: list[int], output_tokens: int, due_s: float) -> Sample:
        """`output_tokens` tokens, whatever they are. Cancelled, the generation ends."""
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        params = SamplingParams(
            temperature=0,
            max_tokens=output_tokens,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        sample = Sample(due_s, time.perf_counter(), prompt_tokens=len(prompt), model=self.model.name)
        made = self._engine.generate({"prompt_token_ids": prompt}, params, f"{self.model.name}-{next(self._numbers)}")
        async for output in made:
            tokens = len(output.outputs[0].token_ids)
            if sample.first_s is None and tokens:
                sample.first_s = time.perf_counter()
            sample.output_tokens += tokens
            self.tokens += tokens
        sample.end_s = time.perf_counter()
        assert sample.output_tokens == output_tokens, "an answer was cut short: its length is the measurement's basis"
        return sample

    def close(self) -> None:
        self._engine.shutdown()
        del self._engine  # its own end asks for modules that are gone when the interpreter ends


def _options(share: Share, device: Device, settings: Settings, folder: Path) -> dict[str, Any]:
    # More than all requests of full length take is never used, as nothing is kept for later ones.
    used = settings.at_once * settings.context * share.model.kv_bytes_per_token
    options = {
        "model": share.model.write(folder, settings.context),
        "load_format": "dummy",
        "dtype": "bfloat16",
        "skip_tokenizer_init": True,
        "enable_prefix_caching": False,
        "enforce_eager": settings.eager,
        "max_model_len": settings.context,
        "max_num_seqs": settings.at_once,
        "max_num_batched_tokens": min(
            max(settings.batched_tokens, settings.context), settings.at_once * settings.context
        ),
        "kv_cache_memory_bytes": min(share.kv_bytes, used),
        "stream_interval": settings.every,
        "seed": 0,
    }
    # The utilization bounds nothing where the cache's size is given, but so much must be free at the start: of what a
    # neighbour leaves, which may take more beside weights and cache than was spared for it.
    on_gpu = {"attention_backend": "FLASH_ATTN", "gpu_memory_utilization": _ASKED_AT_START}
    return options | (on_gpu if device.is_gpu else {})


@contextmanager
def running(
    shares: tuple[Share, ...], device: Device, settings: Settings, folder: Path
) -> Iterator[tuple[Engine, ...]]:
    """An engine for each, started one after the other, and ended at the end of the block."""
    device.wait_until_free()
    with ExitStack() as stack:
        engines = []
        for share in shares:
            engines.append(Engine(share, device, settings, folder))
            stack.callback(engines[-1].close)
        yield tuple(engines)

"""The article's table on one GPU: Llama 3.1's architectures, 70B (fp8) alone with all memory against 8B (bf16) and 70B
sharing it. Weights are drawn at random: speeds are real, texts are not, and there is no quality.

vLLM's engines are asked directly, in this process, with neither HTTP nor router: the split is given (--large-share).

    python benchmarks/gpu_tiering.py --tiny --quick      a first run, on any machine: the same way with tiny models
    python benchmarks/gpu_tiering.py --plan              who gets how much of the GPU; loads nothing

On a GPU host without a network (Python 3.11 or later, torch, a vllm from 0.26 on, on PYTHONPATH), from the repository's
root, where a command may take ten minutes; each leaves what it found in the file of stages, and takes up where another
was interrupted:

    python benchmarks/gpu_tiering.py --tiny --quick --no-search                        does it go here? a minute or two
    python benchmarks/gpu_tiering.py --stages hopper.json --no-search --only alone --until-s 400
    python benchmarks/gpu_tiering.py --stages hopper.json --resume --no-search --until-s 400
    python benchmarks/gpu_tiering.py --stages hopper.json --resume --json --until-s 400 > gpu_tiering.json

The last one adds the highest rates by search, and prints what there is without loading anything where nothing is
missing; repeat it after an interruption. Lengths of real answers: --lengths FILE.jsonl.gz --length-key large_tokens (a
row: {"prompt": ..., "large_tokens": ...}), and --longest 256 where 500 tokens an answer would take too long. 89 GB of
weights want a GPU of 140 GB; on one of 80 GB --shrink makes the small model fp8 and leaves out those of the large one's
layers that do not fit; the result says so.

- saturated: the rate that --at-once callers get, in tokens; with two engines the rate that both sustain at the split.
- highest: of evenly spaced requests, the highest rate at which 95 % keep the SLO and no backlog grows, by bisection.
- SLO: end to end, --slo-factor times what the large model takes for an answer of that length with nothing beside it.
- common load: requests at random times, at 0.8 of all large's highest rate or --common-load, for P99, TTFT and TPOT.
- cost: the GPU's time for a request at saturation, at --price-per-hour.
- r: small's cost / large's, by what either alone answers at saturation (the large one with all memory). The limit of
  the throughput is 1 / (p + (1 - p) r) times all large's.

Two engines on one GPU are two processes, which take turns on it. Weights in fp8 that are drawn at random are nearly all
zero: power and clocks can look better than with real ones.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from direct import device as devices
from direct.device import Device
from direct.engines import Settings, running
from direct.interruption import interruptible
from direct.lengths import Traffic, traffic
from direct.memory import Share, halves, shrunk, whole
from direct.models import LLAMA_8B, LLAMA_70B, TINY_LARGE, TINY_SMALL, Model
from direct.report import rows, table, targets
from direct.stages import LARGE, LARGE_BESIDE, SMALL, TIERED, Record, Stages, Terms, TimeIsUp
from direct.trials import Way
from loadgen import PlanError
from measurement import Measurement, arguments

_ALONE, _BOTH = "alone", "both"
_TINY = {"at_once": 8, "longest": 8, "every": 1}
_QUICK = {"seconds": 1.0, "common_seconds": 2.0, "tolerance": 0.5}


def main() -> None:
    options = _parser().parse_args()
    for short, settings in ((options.tiny, _TINY), (options.quick, _QUICK)):
        vars(options).update(settings if short else {})
    try:
        asked = traffic(options.lengths, options.length_key, options.longest)
        device = devices.find(options.tiny)
        shares = _shares(options, device)
        record = Record(options.stages, _setting(options, device, shares, asked), options.resume)
        if options.plan:
            print("\n".join(map(_described, shares)))
            return
        ended = _measure(options, device, shares, asked, record)
    except PlanError as error:
        sys.exit(f"gpu_tiering.py: {error}")
    found = rows(record.stages, record.setting, options.large_share, options.price_per_hour)
    Measurement("gpu_tiering", found, targets(found), table=table(found)).show(options)
    if ended:
        sys.exit(f"gpu_tiering.py: {ended}; the rest is missing above")


def _parser() -> argparse.ArgumentParser:
    parser = arguments(__doc__)
    add = parser.add_argument
    add("--tiny", action="store_true", help="tiny models; without a GPU on the CPU")
    add("--plan", action="store_true", help="say what the memory is divided into, and end")
    add("--shrink", action="store_true", help="where both do not fit: small in fp8, as many layers of large as fit")
    add("--stages", type=Path, metavar="FILE.json", help="keep what each stage finds")
    add("--resume", action="store_true", help="go on with what that file has")
    add("--only", choices=(_ALONE, _BOTH), help="the large model alone, or both together (which needs the former)")
    add("--until-s", type=float, default=float("inf"), help="begin no stage later than so many seconds from the start")
    add("--large-share", type=float, default=0.15, help="of the requests (%(default)s)")
    add("--lengths", type=Path, metavar="FILE", help="JSON Lines with `prompt` and the answer's length")
    add("--length-key", default="output_tokens", help="what that file calls it (%(default)s)")
    add("--longest", type=int, metavar="TOKENS", help="cut longer answers")
    add("--at-once", type=int, default=256, help="callers at saturation, and requests in an engine (%(default)s)")
    add("--batched-tokens", type=int, default=4096, help="an engine's step holds at most (%(default)s)")
    add("--every", type=int, default=8, metavar="TOKENS", help="that an engine hands over at once (%(default)s)")
    add("--eager", action="store_true", help="no compilation and no CUDA graphs: starts sooner, decodes more slowly")
    add("--seconds", type=float, default=20, help="length of each trial (%(default)s)")
    add("--common-seconds", type=float, default=60, help="of the trial at the common load (%(default)s)")
    add("--no-search", dest="search", action="store_false", help="the rate at saturation stands for the highest one")
    add("--tolerance", type=float, default=0.15, help="of the search (%(default)s)")
    add("--slo-factor", type=float, default=4, help="of the large model's time alone (%(default)s)")
    add("--common-load", type=float, metavar="PER_S", help="instead of 0.8 of all large's highest rate")
    add("--price-per-hour", type=float, default=1.0, help="of the GPU, in any money (%(default)s)")
    return parser


def _shares(options: argparse.Namespace, device: Device) -> tuple[Share, Share, Share]:
    """The large model's alone; then small's and large's together."""
    if not 0 < options.large_share < 1:
        raise PlanError(f"--large-share must be above 0 and below 1, not {options.large_share:g}")
    small, large = _models(options, device)
    if options.shrink:
        small, large = shrunk(device.room, small, large)
    return whole(device.room, large), *halves(device.room, small, large)


def _models(options: argparse.Namespace, device: Device) -> tuple[Model, Model]:
    if not options.tiny:
        return LLAMA_8B, LLAMA_70B
    return TINY_SMALL, TINY_LARGE.in_fp8() if device.is_gpu else TINY_LARGE


def _setting(options: argparse.Namespace, device: Device, shares: tuple[Share, ...], asked: Traffic) -> dict[str, Any]:
    """What the results depend on: it is in every row, and results of another one are not mixed with these."""
    _, small, large = shares
    return {
        "gpu": device.name,
        "gpu_driver": device.driver,
        "small": str(small.model),
        "large": str(large.model),
        "large_as_published": large.model.layers == LLAMA_70B.layers,
        "weights": "drawn at random",
        "asked_share": options.large_share,
        "lengths": options.lengths.name if options.lengths else "built-in",
        "mean_prompt_tokens": asked.mean_prompt_tokens,
        "mean_output_tokens": asked.mean_output_tokens,
        "at_once": options.at_once,
        "batched_tokens": options.batched_tokens,
        "every": options.every,
        "eager": options.eager,
        "seconds": options.seconds,
        "common_seconds": options.common_seconds,
        "slo_factor": options.slo_factor,
        "kv_gib": [round(share.kv_bytes / 2**30, 1) for share in shares],
    }


def _described(share: Share) -> str:
    gib = share.kv_bytes / 2**30
    return (
        f"{share.model}: weights {share.model.weight_bytes / 2**30:.1f} GiB, KV cache {gib:.1f} GiB, {share.of_gpu:.0%}"
    )


def _measure(
    options: argparse.Namespace, device: Device, shares: tuple[Share, Share, Share], asked: Traffic, record: Record
) -> str:
    """Why it ended before its end, or nothing."""
    terms = Terms(
        at_once=options.at_once,
        seconds=options.seconds,
        common_seconds=options.common_seconds,
        slo_factor=options.slo_factor,
        tolerance=options.tolerance,
        search=options.search,
        common_per_s=options.common_load,
        until_s=time.monotonic() + options.until_s,
    )
    eager = options.eager or not device.is_gpu  # to compile tiny models for a CPU takes longer than to run them
    settings = Settings(asked.context, options.at_once, options.batched_tokens, options.every, eager)
    alone, small, large = shares
    try:
        with tempfile.TemporaryDirectory() as folder, interruptible(), asyncio.Runner() as runner:
            stages = Stages(record, asked, terms, runner)
            if options.only != _BOTH and not stages.knows_all_large:
                with running((alone,), device, settings, Path(folder)) as (engine,):
                    stages.of_all_large(Way(LARGE, None, engine, 1.0))
            if options.only != _ALONE and not stages.knows_both:
                with running((small, large), device, settings, Path(folder)) as (little, big):
                    stages.of_both(
                        {
                            SMALL: Way(SMALL, little, None, 0.0),
                            LARGE_BESIDE: Way(LARGE_BESIDE, None, big, 1.0),
                            TIERED: Way(TIERED, little, big, options.large_share),
                        }
                    )
    except TimeIsUp as next_stage:
        return f"no time was left for '{next_stage}'"
    except KeyboardInterrupt:
        return "interrupted"
    return ""


if __name__ == "__main__":
    main()

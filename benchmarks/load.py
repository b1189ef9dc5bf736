"""Load for any OpenAI-compatible server: how much it answers, how soon, how well, at what cost.

    python benchmarks/load.py --target url=http://127.0.0.1:8000 model=auto --concurrency 8
    python benchmarks/load.py --target url=http://host:8000 model=auto --rate 2 4 8 --seconds 60 --warmup 10 --plot out
    python benchmarks/load.py --target name=ours url=http://a:8000 model=auto \\
        --target name=theirs url=https://b/v1 model=gpt key_env=B_KEY header:x-team=ml --count 500 --rounds 3

--concurrency is a closed loop: so many callers, each asks again when it is answered. --rate is an open one: requests
come at random (or, --constant, evenly spaced) whatever the answers do, and each one's time runs from when it was due,
so that a server that stalls can't hide who had to wait. Several targets take turns, on the same prompts in the same
order.

Rates count what ended within the measured window; times are those of the requests that were due in it. `client` is the
load generator itself: where it says SATURATED, measure again with less load, or from a machine with more to spare.
Ctrl-C ends the run and reports what was measured; twice, and it just ends.
"""

import argparse
import asyncio
import os
import resource
import signal
import sys
from collections.abc import Sequence
from json import JSONDecodeError, loads
from pathlib import Path
from typing import Any

import uvloop
from loadgen import (
    Closed,
    Endpoint,
    Load,
    Open,
    Plan,
    PlanError,
    Price,
    Slo,
    Trial,
    built_in,
    check,
    read_prompts,
    run,
    summarise,
)
from loadgen.asking import Sample
from loadgen.plots import draw
from measurement import Measurement, arguments
from tqdm import tqdm

_SECONDS, _QUICK_SECONDS = 30.0, 1.0
_USAGE_ERROR, _INTERRUPTED = 2, 130


def main() -> None:
    options = _parser().parse_args()
    try:
        plan, asked = _plan(options), _asked(options)
        _allow_many_connections()
        trials = uvloop.run(_run(plan, options))
        rows = summarise(trials, **asked)
        Measurement("load", rows, table=_table(rows)).show(options)
        if options.plot:
            print(*(f"drawn: {path}" for path in draw(trials, rows, options.plot)), sep="\n", file=sys.stderr)
    except (PlanError, OSError) as error:
        print(f"load.py: {error}", file=sys.stderr)
        sys.exit(_USAGE_ERROR)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)


# --- what was asked for


def _parser() -> argparse.ArgumentParser:
    parser = arguments(__doc__)
    add = parser.add_argument
    add("--target", action="append", nargs="+", required=True, metavar="KEY=VALUE", help=_TARGET)
    add("--concurrency", type=int, nargs="+", default=[], help="callers at once; several: one after the other")
    add(
        "--rate", type=float, nargs="+", default=[], help="requests a second, whatever the answers do; several likewise"
    )
    add("--constant", action="store_true", help="with --rate: evenly spaced instead of at random")
    add("--seconds", type=float, help=f"length of each trial ({_SECONDS:g} where there is no --count)")
    add("--count", type=int, help="requests of each trial, instead of its length")
    add("--warmup", type=float, default=0, metavar="SECONDS", help="of the same load before each trial, not counted")
    add("--rounds", type=int, default=1, help="how often each target has its turn")
    add("--no-stream", action="store_true", help="ask for whole answers")
    add("--prompts", type=Path, help=_PROMPTS)
    add("--length-key", default="output_tokens", help="what the file calls the length of the answer, in tokens")
    add("--max-tokens", type=int, default=64, help="longest answer where the prompt does not say (%(default)s)")
    add(
        "--body",
        default="{}",
        help="""more fields of every request, as JSON: '{"temperature": 0, "ignore_eos": true}'""",
    )
    add("--slo", nargs="+", default=[], metavar="KEY=MS", help="what goodput must keep: ttft_ms, tpot_ms, e2e_ms")
    add("--large", help="the model whose share of the answers is counted")
    add("--price", nargs="+", default=[], metavar="MODEL=P", help=_PRICE)
    add("--timeout", type=float, default=600, metavar="SECONDS", help="after which a request has failed (%(default)s)")
    add("--seed", type=int, default=0, help="of the order of prompts and of random times")
    add("--plot", type=Path, metavar="FOLDER", help="draw PNGs there")
    return parser


_TARGET = (
    "url= and model= of a server; name= for the table; api=completion instead of chat; key_env= the variable that "
    "holds the API key; header:NAME= more headers. Give it again for more targets"
)
_PROMPTS = (
    "JSON Lines with `prompt` or `messages`, and the length of the answer; or a .json file in ShareGPT's format. "
    "Without: 650 everyday prompts, 86 %% of them simple"
)
_PRICE = "of a million tokens: small=0.1 large=0.4, or with a price of their own for output tokens small=0.1:0.3"


def _plan(options: argparse.Namespace) -> Plan:
    loads: list[Load] = [Closed(each) for each in options.concurrency]
    loads += [Open(each, not options.constant) for each in options.rate]
    seconds = options.seconds
    if seconds is None and options.count is None:
        seconds = _QUICK_SECONDS if options.quick else _SECONDS
    return Plan(
        endpoints=[_endpoint(words) for words in options.target],
        prompts=read_prompts(options.prompts, options.length_key) if options.prompts else built_in(),
        loads=loads or [Closed(1)],
        seconds=seconds,
        count=options.count,
        warmup_s=options.warmup,
        rounds=options.rounds,
        stream=not options.no_stream,
        max_tokens=options.max_tokens,
        body=_body(options.body),
        timeout_s=options.timeout,
        seed=options.seed,
    )


def _endpoint(words: Sequence[str]) -> Endpoint:
    given = _pairs("--target", words)
    headers = {name.removeprefix("header:"): given.pop(name) for name in list(given) if name.startswith("header:")}
    if variable := given.pop("key_env", None):
        if variable not in os.environ:
            raise PlanError(f"--target: key_env names the variable {variable}, which is not set")
        headers["authorization"] = f"Bearer {os.environ[variable]}"
    missing, unknown = {"url", "model"} - set(given), set(given) - {"url", "model", "name", "api"}
    if missing or unknown:
        what = f"lacks {', '.join(sorted(missing))}" if missing else f"does not know {', '.join(sorted(unknown))}"
        raise PlanError(f"--target {what}")
    return Endpoint(**given, headers=headers)  # type: ignore[arg-type]  # api is checked there


def _body(text: str) -> dict[str, Any]:
    try:
        body = loads(text)
    except JSONDecodeError as error:
        raise PlanError(f"--body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise PlanError("--body must be a JSON object")
    return body


def _asked(options: argparse.Namespace) -> dict[str, Any]:
    """What to make of the samples."""
    slo = {name: _number("--slo", name, value) for name, value in _pairs("--slo", options.slo).items()}
    if unknown := set(slo) - set(Slo.__slots__):
        raise PlanError(f"--slo does not know {', '.join(sorted(unknown))}; it knows {', '.join(Slo.__slots__)}")
    prices = {model: _price(model, value) for model, value in _pairs("--price", options.price).items()}
    return {"slo": Slo(**slo) if slo else None, "large": options.large, "prices": prices}


def _price(model: str, value: str) -> Price:
    prompt, _, output = value.partition(":")
    return Price(_number("--price", model, prompt), _number("--price", model, output or prompt))


def _pairs(option: str, words: Sequence[str]) -> dict[str, str]:
    pairs = [word.partition("=") for word in words]
    for name, _, value in pairs:
        if not name or not value:
            raise PlanError(f"{option} takes KEY=VALUE, not {name!r}")
    return {name: value for name, _, value in pairs}


def _number(option: str, name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise PlanError(f"{option} {name}: {value!r} is no number") from None


# --- the run


async def _run(plan: Plan, options: argparse.Namespace) -> list[Trial]:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    await check(plan)

    def interrupted() -> None:
        print("\nends here, with what was measured; once more to end without", file=sys.stderr)
        loop.remove_signal_handler(signal.SIGINT)
        stop.set()

    loop.add_signal_handler(signal.SIGINT, interrupted)
    with _Bar(plan) as bar:
        return await run(plan, bar.moved, stop)


class _Bar:
    """Counts requests, or seconds where trials have a length."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        trials = plan.rounds * len(plan.loads) * len(plan.endpoints)
        each, unit = (plan.count, "req") if plan.seconds is None else (plan.seconds + plan.warmup_s, "s")
        self._bar = tqdm(total=trials * (each or 0), unit=unit, file=sys.stderr, disable=None, bar_format=_FORMAT)
        self._trial: Trial | None = None
        self._before = 0.0  # of the trials that are done

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def moved(self, trial: Trial, sample: Sample) -> None:
        if trial is not self._trial:
            self._trial, self._before = trial, self._bar.n
            self._bar.set_description(f"{trial.endpoint.name}, {trial.load}", refresh=False)
        if self._plan.seconds is None:
            self._bar.update(len(trial.samples) - (self._bar.n - self._before))
        else:
            began_s = trial.start_s - self._plan.warmup_s
            here = min(sample.end_s - began_s, self._plan.seconds + self._plan.warmup_s)
            self._bar.update(self._before + here - self._bar.n)


_FORMAT = "{desc}{percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} {unit} [{elapsed}<{remaining}]"


def _allow_many_connections() -> None:
    """As many descriptors as the system lets a process have: an open loop may need a connection for each request."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


# --- for people


def _table(rows: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """A line for each number, a column for each target and load; lines that say nothing are left out."""
    lines = []
    for label, cell in _LINES.items():
        cells = [cell(row) for row in rows]
        if any(cells):
            columns = [f"{row['target']}, {row['load']}" for row in rows]
            lines.append({"": label} | dict(zip(columns, (text or "-" for text in cells), strict=True)))
    return lines


def _number_of(key: str, form: str = "{:.4g}") -> Any:
    return lambda row: "" if row[key] is None else form.format(row[key])


def _percentiles_of(name: str) -> Any:
    keys = [f"{name}_{share}_ms" for share in ("p50", "p90", "p95", "p99")]
    return lambda row: "" if row[keys[0]] is None else " / ".join(f"{row[key]:.3g}" for key in keys)


def _rates(row: dict[str, Any]) -> str:
    if row["requests_per_s"] is None or row["rounds"] == 1:
        return ""
    return f"{row['requests_per_s_least']:.4g} to {row['requests_per_s_most']:.4g}"


def _counts_of(key: str) -> Any:
    return lambda row: ", ".join(f"{name} {count}" for name, count in row[key].items())


def _client(row: dict[str, Any]) -> str:
    said = f"CPU {row['client_cpu_share']:.0%}, late {row['client_late_p99_ms']:.1f} ms"
    return f"SATURATED: {said}" if row["client_saturated"] else said


_LINES = {
    "requests": _number_of("requests", "{}"),
    "errors": _counts_of("errors_by_kind"),
    "unfinished": lambda row: str(row["unfinished"] or ""),
    "requests/s": _number_of("requests_per_s"),
    "  over rounds": _rates,
    "output tokens/s": _number_of("output_tokens_per_s"),
    "first token, ms: p50 / 90 / 95 / 99": _percentiles_of("ttft"),
    "per token, ms: p50 / 90 / 95 / 99": _percentiles_of("tpot"),
    "end to end, ms: p50 / 90 / 95 / 99": _percentiles_of("e2e"),
    "goodput/s": _number_of("goodput_per_s"),
    "within SLO": _number_of("within_slo", "{:.1%}"),
    "answered by": _counts_of("answered_by"),
    "large share": _number_of("large_share", "{:.1%}"),
    "escalated": _number_of("escalated_share", "{:.1%}"),
    "cost of 1000": _number_of("cost_per_1000"),
    "cost / all large": _number_of("cost_of_all_large", "{:.3f}"),
    "client": _client,
}


if __name__ == "__main__":
    main()

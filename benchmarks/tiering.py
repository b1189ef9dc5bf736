"""The article's table, measured: everything to the large tier, tierserve, and routing by length, on the same traffic.

    python benchmarks/tiering.py --pair lab            trained models, whose answers are right or wrong
    python benchmarks/tiering.py --pair dummy-cpu      60 M and 510 M parameters without weights
    python benchmarks/tiering.py --pair dummy-cpu --rounds 5 --seconds 20 --plot table.png

The ways to serve take turns on the same cores, in every round; comparison/ways.py says which nodes they are and why
that is fair. The load comes from this process, on the same machine. The nodes remember nothing of prompts.

- SLO: end to end, 4 times (lab: 16 times) what the large tier takes for one answer with nothing beside it; or --slo-ms.
- highest rate: of evenly spaced requests, the highest at which 95 % keep the SLO and no backlog grows, by bisection.
- P99: end to end, of requests at random times, at one load for all: 0.8 of all large's highest rate, or --common-load.
- cost: CPU seconds of the node for a request, engines and serving process together, as a part of the host's CPU time,
  at --price-per-hour; with as many callers as it can serve, for at less load CPU time is also spent on waiting. The
  client's own is not in it.
- r: small's cost / large's, by what both, forced, answer a second with that many callers. The limit of the highest rate
  is 1 / (p + (1 - p) r) times all large's, with p the large tier's share at the common load.
- right: all of the lab's questions at temperature 0, 32 at once.
"""

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import psutil
from comparison import trials
from comparison.figures import Measured, Terms, explanation, rows, table, targets
from comparison.pairs import Pair, dummy_cpu, lab
from comparison.plots import draw
from comparison.search import highest
from comparison.ways import LARGE, SERVED, Way, running
from loadgen import PlanError, Slo, summarise
from measurement import Measurement, arguments

_LAB, _DUMMY_CPU = "lab", "dummy-cpu"
_QUICK = {"rounds": 1, "seconds": 1.0, "common_seconds": 2.0, "questions": 60, "tolerance": 0.4}
_FIRST, _ALONE = 2, 5  # answers before anything is measured, and those that the SLO is derived from
_COMMON_SHARE = 0.8
_BEGIN = 0.9  # of what a way answers at saturation: where its first search begins
_STEP, _LATER_STEP = 1.2, 1.09  # of the search: from the second round on about the rate is known


def main() -> None:
    options = _parser().parse_args()
    if options.quick:
        vars(options).update(_QUICK)
    try:
        with tempfile.TemporaryDirectory() as folder:
            pair = _pair(options, Path(folder))
            with running(pair) as ways:
                measured, terms = _Comparison(pair, ways, options).run()
    except PlanError as error:
        sys.exit(f"tiering.py: {error}")
    found = rows(measured, terms)
    if options.plot:
        draw(measured, found, options.plot)
    print(explanation(found), file=sys.stderr)
    Measurement("tiering", found, targets(found, costly=options.pair != _LAB), table=table(found)).show(options)


def _parser() -> argparse.ArgumentParser:
    parser = arguments(__doc__)
    add = parser.add_argument
    add("--pair", choices=(_LAB, _DUMMY_CPU), default=_LAB)
    add("--rounds", type=int, default=3, help="how often each way has its turn (%(default)s)")
    add("--seconds", type=float, default=8, help="length of each trial of the search (%(default)s)")
    add(
        "--tolerance",
        type=float,
        default=0.1,
        help="of the search: how far the rate may be below one that is too much",
    )
    add("--common-seconds", type=float, default=20, help="of each trial at the common load (%(default)s)")
    add("--slo-ms", type=float, help="end to end, instead of a multiple of the large tier's time alone")
    add("--common-load", type=float, metavar="PER_S", help="instead of 0.8 of all large's highest rate")
    add("--price-per-hour", type=float, default=1.0, help="of the whole host, in any money (%(default)s)")
    add("--questions", type=int, default=2_000, help="lab: asked and graded (%(default)s)")
    add("--prompts", type=Path, help="dummy-cpu: JSON Lines with `prompt`, instead of 650 everyday prompts")
    add("--length-key", default="output_tokens", help="dummy-cpu: what that file calls the length of the answer")
    add("--plot", type=Path, metavar="FILE.png")
    return parser


def _pair(options: argparse.Namespace, folder: Path) -> Pair:
    if options.pair == _LAB:
        return lab(options.questions)
    return dummy_cpu(folder, options.prompts, options.length_key)


class _Comparison:
    """Searches in rounds first: the common load follows from what all large could."""

    def __init__(self, pair: Pair, ways: dict[str, Way], options: argparse.Namespace) -> None:
        self._pair = pair
        self._ways = ways
        self._options = options
        self._measured = {name: Measured() for name in ways}
        self._started = time.monotonic()
        self._slo = Slo()

    def run(self) -> tuple[dict[str, Measured], Terms]:
        self._slo = Slo(e2e_ms=self._options.slo_ms or self._derived_slo_ms())
        for number in range(self._options.rounds):
            self._in_turns(number, list(self._ways), self._saturate)
            self._in_turns(number, list(SERVED), self._search)
        common_per_s = self._options.common_load or _COMMON_SHARE * median(self._measured[LARGE].highest_per_s)
        for number in range(self._options.rounds):
            self._in_turns(number, list(SERVED), lambda name, seed: self._offer(name, common_per_s, seed))
        if self._pair.questions:
            for name, way in self._ways.items():
                self._measured[name].right = trials.right(self._pair, way)
                self._say(name, f"{sum(self._measured[name].right)} of {len(self._pair.questions)} right")
        assert self._slo.e2e_ms is not None
        return self._measured, Terms(
            large=self._pair.large,
            slo_ms=self._slo.e2e_ms,
            common_per_s=common_per_s,
            idle_share=self._ways[LARGE].idle_share(self._options.seconds),
            price_per_hour=self._options.price_per_hour,
            cores=psutil.cpu_count() or 1,
        )

    def _in_turns(self, number: int, names: list[str], measure: Callable[[str, int], None]) -> None:
        turn = number % len(names)  # who is first changes, so that none always follows the same one
        for name in names[turn:] + names[:turn]:
            measure(name, number)

    def _derived_slo_ms(self) -> float:
        """After the first answers of every way, which may be slow."""
        for way in self._ways.values():
            trials.alone_s(self._pair, way, _FIRST)
        alone_ms = 1000 * trials.alone_s(self._pair, self._ways[LARGE], _ALONE)
        self._say(LARGE, f"{alone_ms:.0f} ms alone")
        return self._pair.slo_factor * alone_ms

    def _saturate(self, name: str, seed: int) -> None:
        found = trials.saturated(self._pair, self._ways[name], self._options.seconds, self._slo, seed)
        (row,) = summarise([found.trial])
        self._measured[name].saturated_per_s.append(row["requests_per_s"])
        self._measured[name].cpu_s_per_request.append(found.cpu_s_per_request)
        cpu_ms = 1000 * found.cpu_s_per_request
        self._say(
            name, f"{row['requests_per_s']:.2f}/s answered, {self._pair.at_once} at once, {cpu_ms:.0f} ms of CPU each"
        )

    def _search(self, name: str, seed: int) -> None:
        mine = self._measured[name]

        def holds(rate: float) -> bool:
            kept, found = trials.holds(self._pair, self._ways[name], rate, self._options.seconds, self._slo, seed)
            if kept:
                mine.client_late_ms = max(mine.client_late_ms, _late_ms(found))
            self._say(name, f"{rate:.2f}/s {'holds' if kept else 'is too much'}")
            return kept

        if mine.highest_per_s:
            start, step = mine.highest_per_s[-1], _LATER_STEP
        else:
            start, step = _BEGIN * mine.saturated_per_s[-1], _STEP
        rate = highest(holds, start, step, self._options.tolerance)
        if not rate:
            raise PlanError(f"{name} keeps an SLO of {self._slo.e2e_ms:.0f} ms at no rate: give more with --slo-ms")
        mine.highest_per_s.append(rate)

    def _offer(self, name: str, rate: float, seed: int) -> None:
        found = trials.offered(self._pair, self._ways[name], rate, self._options.common_seconds, seed)
        mine = self._measured[name]
        mine.common.append(found.trial.samples)
        mine.client_late_ms = max(mine.client_late_ms, _late_ms(found))
        (row,) = summarise([found.trial])
        self._say(name, f"{rate:.2f}/s at random: P99 {row['e2e_p99_ms'] or math.nan:.0f} ms")

    def _say(self, name: str, what: str) -> None:
        print(f"{time.monotonic() - self._started:5.0f} s  {name}: {what}", file=sys.stderr)


def _late_ms(found: trials.Run) -> float:
    (row,) = summarise([found.trial])
    return float(row["client_late_p99_ms"])


if __name__ == "__main__":
    main()

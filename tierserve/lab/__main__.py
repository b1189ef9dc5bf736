"""python -m tierserve.lab: trains the lab's checkpoints, and measures them on the real engines.

python -m tierserve.lab train                  from nothing to the three checkpoints; an interrupted run goes on
python -m tierserve.lab report                 the pair on held-out questions
python -m tierserve.lab outcomes --out FILE    who got which question right, for a router to be fitted on
python -m tierserve.lab judged --out FILE      how sure lab-small was of what, for its confidence to be calibrated on
"""

import argparse
import asyncio
import json
import sys
from pathlib import Path

from tierserve.errors import TierserveError
from tierserve.lab.checkpoint import FOLDER, SHAPES
from tierserve.lab.question import Split

_CONFIG = Path("configs/lab.yaml")


def main() -> None:
    options = _parser().parse_args()
    if out := vars(options).get("out"):
        out.parent.mkdir(parents=True, exist_ok=True)  # before minutes of answers that had nowhere to go
    try:
        options.run(options)
    except TierserveError as error:
        sys.exit(f"tierserve.lab: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tierserve.lab", description="Train the lab's checkpoints, and measure them on the real engines."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="train the checkpoints; an interrupted run goes on")
    train.add_argument("--folder", type=Path, default=FOLDER, help="where the checkpoints go")
    train.add_argument("--work", type=Path, default=Path("build/lab"), help="what an interrupted run needs")
    train.add_argument("--only", choices=list(SHAPES), action="append", help="one of them; may be repeated")
    train.add_argument("--threads", type=int, default=2)
    train.set_defaults(run=_train)

    report = commands.add_parser("report", help="measure the pair on held-out questions")
    report.add_argument("--config", type=Path, default=_CONFIG, help="the node whose tiers are asked")
    report.add_argument("--questions", type=int, help="how many")
    report.add_argument("--quick", action="store_true", help="few questions, for the tests")
    report.add_argument("--json", action="store_true", help="one JSON object on standard output")
    report.set_defaults(run=_report)

    asked = argparse.ArgumentParser(add_help=False)
    asked.add_argument("--config", type=Path, default=_CONFIG, help="the node whose tiers are asked")
    asked.add_argument("--split", type=Split, choices=list(Split), default=Split.CALIBRATION)
    asked.add_argument("--count", type=int, default=2_000)
    asked.add_argument("--seed", type=int, default=0)

    outcomes = commands.add_parser("outcomes", parents=[asked], help="write an outcome file")
    outcomes.add_argument("--out", type=Path, required=True, metavar="FILE.jsonl.gz")
    outcomes.set_defaults(run=_outcomes)

    judged = commands.add_parser("judged", parents=[asked], help="write a file of judged answers")
    judged.add_argument("--out", type=Path, required=True, metavar="FILE.jsonl")
    judged.set_defaults(run=_judged)
    return parser


def _train(options: argparse.Namespace) -> None:
    from tierserve.lab.train import train

    train(options.only or list(SHAPES), options.folder, options.work, options.threads)


def _report(options: argparse.Namespace) -> None:
    from tierserve.lab.report import QUESTIONS, QUICK, as_json, measure, table

    questions = options.questions or (QUICK if options.quick else QUESTIONS)
    measured = asyncio.run(measure(options.config, questions))
    report = as_json(measured, " ".join(["python -m tierserve.lab", *sys.argv[1:]]), options.quick)
    print(json.dumps(report) if options.json else table(report))


def _outcomes(options: argparse.Namespace) -> None:
    from tierserve.lab.outcomes import write_outcomes

    asyncio.run(write_outcomes(options.config, options.out, options.split, options.count, options.seed))


def _judged(options: argparse.Namespace) -> None:
    from tierserve.lab.judged import write_judged

    write_judged(options.config, options.out, options.split, options.count, options.seed)


if __name__ == "__main__":
    main()

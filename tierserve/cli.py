"""The command line.

    tierserve --config node.yaml                      serve
    tierserve check --config node.yaml                check the file, load nothing
    tierserve route --config node.yaml "a prompt"     which tier a prompt goes to, and why
    tierserve calibrate --data FILES --out HEAD       fit a head, and its threshold, to outcomes
    tierserve calibrate confidence --data FILES ...   so that a confidence of 0.7 means 70 % right
    tierserve distill --prompts FILE --out HEAD       fit what the assessor says of prompts into a head
    tierserve evaluate --data FILES                   how well scorers spend the large model's calls
    tierserve drift --config node.yaml                whether the node still does what it did; 3: it does not
    tierserve key --name NAME                         make a bearer key, and its entry for server.keys
    tierserve log tail|show ID|export                 what was decided for each request
    tierserve report --since 30d                      traffic, saving and latency, from the decision log
    tierserve schema                                  JSON Schema of the file, for editors
    tierserve reference                               every option and metric, as Markdown

Heavy imports stand in the commands that need them: `tierserve --help` answers at once.
"""

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from tierserve import __version__
from tierserve.errors import ConfigError, TierserveError

if TYPE_CHECKING:
    from tierserve.config import RouterConfig

_USAGE_ERROR = 2
_FOLLOW_S = 0.5  # between two looks of `log tail -f`
# Of a key's entry, what `tierserve key` is told.
_ENTRY = ("name", "requests_per_minute", "tokens_per_minute", "concurrency", "tiers", "priority", "admin")


def main() -> NoReturn:
    arguments = _parser().parse_args()
    status = _run(arguments)
    if arguments.command is _serve:
        # All that must end has ended. Python's own teardown of torch and vLLM takes seconds more, and can't stop a
        # thread that is inside a native import.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status, its error told."""
    try:
        status: int = arguments.command(arguments)
        return status
    except ConfigError as error:
        print(f"tierserve: {error}", file=sys.stderr)
        return _USAGE_ERROR
    except TierserveError as error:
        print(f"tierserve: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader of our output has enough
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tierserve",
        description="Serve a small and a large language model from one process; "
        "answer each prompt with the smallest that will do.",
    )
    parser.add_argument("--version", action="version", version=f"tierserve {__version__}")
    parser.add_argument("--config", type=Path, metavar="FILE", help="the node's configuration; serves it")
    parser.set_defaults(command=_serve, parser=parser)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help)
        sub.set_defaults(command=run, parser=sub)
        return sub

    def with_config(sub: argparse.ArgumentParser) -> argparse.ArgumentParser:
        # SUPPRESS: a --config before the command is not undone by its absence after it.
        sub.add_argument(
            "--config", type=Path, metavar="FILE", default=argparse.SUPPRESS, help="the node's configuration"
        )
        return sub

    with_config(command("check", _check, "check a configuration without loading a model"))
    _add_key(command("key", _key, "make a bearer key, and its entry for the file of server.keys"))
    command("schema", _schema, "print the configuration's JSON Schema")
    command("reference", _reference, "print every option and every metric as Markdown")
    route = with_config(command("route", _route, "print the decision for a prompt"))
    route.add_argument("prompt", help="the text to score; - reads it from standard input")
    route.add_argument("--json", action="store_true", help="one JSON object on standard output")
    _add_calibrate(
        with_config(command("calibrate", _calibrate, "fit the router's head, or the confidence, to what was right"))
    )
    _add_distill(with_config(command("distill", _distill, "fit what the assessor says of prompts into a head")))
    _add_evaluate(with_config(command("evaluate", _evaluate, "measure on outcome files how well scorers route")))
    _add_drift(
        with_config(command("drift", _drift, "compare the last days with those before; exit status 3: an alarm"))
    )
    _add_log(command("log", _log_tail, "read the decision log"), with_config)
    _add_report(with_config(command("report", _report, "report from the decision log: traffic, saving, latency")))
    return parser


def _add_log(
    parser: argparse.ArgumentParser, with_config: Callable[[argparse.ArgumentParser], argparse.ArgumentParser]
) -> None:
    readings = parser.add_subparsers(metavar="tail|show|export", required=True)

    def reading(name: str, run: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
        sub = with_config(readings.add_parser(name, help=help, description=help))
        sub.set_defaults(command=run, parser=sub)
        sub.add_argument("--file", type=Path, metavar="LOG", help="the log; default: the configuration's")
        return sub

    tail = reading("tail", _log_tail, "print the latest decisions, a line each")
    tail.add_argument("-n", "--lines", type=int, default=20, metavar="N", help="how many; default: 20")
    tail.add_argument("-f", "--follow", action="store_true", help="go on with what is decided from now on")
    show = reading("show", _log_show, "print all that is known of one request")
    show.add_argument("id", help="the answer's x-request-id")
    show.add_argument("--json", action="store_true", help="a JSON object for each row on standard output")
    export = reading("export", _log_export, "write decisions to a file for other programs")
    export.add_argument("--format", choices=("jsonl", "parquet"), default="jsonl")
    export.add_argument("--out", type=Path, metavar="FILE", help="default: standard output, for jsonl")
    _add_range(export, "all")


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--file", type=Path, metavar="LOG", help="the decision log; default: the configuration's")
    parser.add_argument("--key", metavar="NAME", help="of this key alone")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with charts, too")
    _add_range(parser, "30d")


def _add_range(parser: argparse.ArgumentParser, since: str) -> None:
    parser.add_argument(
        "--since", default=None if since == "all" else since, help=f"30d, 12h or a date; default: {since}"
    )
    parser.add_argument("--until", help="likewise; default: now")


def _add_drift(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--since", type=_days, metavar="7d", help="the recent window; default: drift.since_days")
    parser.add_argument("--baseline", type=_days, metavar="28d", help="before it; default: drift.baseline_days")
    parser.add_argument("--log", type=Path, metavar="FILE", help="the decision log; default: decisions.path")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")


def _add_key(parser: argparse.ArgumentParser) -> None:
    """The limits are those of an entry, and so are their bounds."""
    parser.add_argument("--name", required=True, help="whose key it is")
    for limit in ("requests-per-minute", "tokens-per-minute", "concurrency"):
        parser.add_argument(f"--{limit}", type=int, metavar="N", help="default: no limit")
    parser.add_argument("--tiers", nargs="+", metavar="TIER", help="small, large or both, which is the default")
    parser.add_argument("--priority", type=int, metavar="N", help="the lower is served first; default: 0")
    parser.add_argument("--admin", action="store_true", default=None, help="may see what the node knows of all")
    parser.add_argument("--add", type=Path, metavar="FILE", help="add the entry to this file, and print the key alone")


def _add_calibrate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what",
        nargs="?",
        choices=("head", "confidence"),
        default="head",
        help="the router's head, or the confidence in the small tier's answers",
    )
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="outcome files (JSON Lines, .gz); for confidence: files of judged answers",
    )
    parser.add_argument(
        "--traffic",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="outcome files of everyday prompts; the head keeps their texts, to explain",
    )
    parser.add_argument(
        "--log", type=Path, metavar="LOG", help="instead of --data: a decision log with text and shadow comparisons"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the head or calibration goes")
    parser.add_argument(
        "--kind", choices=("auto", "linear", "kernel", "net"), default="auto", help="auto: what ranks best"
    )
    parser.add_argument("--large-share", type=_share, default=0.15, help="of the prompts, for the threshold")


def _add_distill(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prompts", type=Path, required=True, metavar="FILE", help="JSON Lines with `prompt`, .gz or not"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="HEAD.npz", help="where the head goes")
    parser.add_argument("--large-share", type=_share, default=0.15, help="of the prompts, for the threshold")


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, nargs="+", required=True, metavar="FILE", help="outcome files")
    parser.add_argument("--head", type=Path, metavar="HEAD.npz", help="default: the one that comes with tierserve")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="quality over the large model's share")


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError("must lie between 0 and 1")
    return value


def _days(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([hdw])", text)
    if found is None or not float(found[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no time such as 7d (h: hours, d: days, w: weeks)")
    return float(found[1]) * {"h": 1 / 24, "d": 1.0, "w": 7.0}[found[2]]


def _config_path(arguments: argparse.Namespace) -> Path:
    if arguments.config is None:
        arguments.parser.error("--config FILE is missing, e.g. --config configs/lab.yaml")
    path: Path = arguments.config
    return path


def _serve(arguments: argparse.Namespace) -> int:
    from tierserve.config import load

    path = _config_path(arguments)
    config = load(path)
    from tierserve.server.serve import run

    return run(config, path.absolute())


def _check(arguments: argparse.Namespace) -> int:
    from tierserve.config import load

    path = _config_path(arguments)
    config = load(path)
    from tierserve.server.access import Access

    Access(config.server)  # reads the keys and the certificate
    print(f"{path}: reading vLLM's options ...", file=sys.stderr)
    from tierserve.tiers.pair import check_tiers

    for line in check_tiers(config.tiers):
        print(line)
    print(f"{path}: valid")
    return 0


def _key(arguments: argparse.Namespace) -> int:
    from tierserve.server.keys import add_entry, entry_line, make_entry, new_key

    key = new_key()
    stated = {name: getattr(arguments, name) for name in _ENTRY if getattr(arguments, name) is not None}
    entry = make_entry(key, stated)
    if arguments.add:
        add_entry(arguments.add, entry)
        print(key)
    else:
        print(f"key, shown only now:  {key}\nfor server.keys.file: {entry_line(entry)}")
    return 0


def _schema(arguments: argparse.Namespace) -> int:
    from tierserve.config import schema

    print(schema())
    return 0


def _reference(arguments: argparse.Namespace) -> int:
    from tierserve.reference import reference

    print(reference(), end="")
    return 0


def _route(arguments: argparse.Namespace) -> int:
    from tierserve.config import load

    config = load(_config_path(arguments))
    prompt = sys.stdin.buffer.read().decode(errors="replace") if arguments.prompt == "-" else arguments.prompt
    if not prompt.strip():
        arguments.parser.error("the prompt is empty")
    from tierserve.router.explanation import explain

    explanation = explain(config.router, prompt)
    tier = config.tiers[explanation.decision.role].name
    print(json.dumps({"tier": tier} | explanation.as_json()) if arguments.json else explanation.as_text(tier))
    return 0


def _calibrate(arguments: argparse.Namespace) -> int:
    return _calibrate_confidence(arguments) if arguments.what == "confidence" else _calibrate_head(arguments)


def _calibrate_confidence(arguments: argparse.Namespace) -> int:
    if not arguments.data or arguments.traffic or arguments.log is not None:
        arguments.parser.error("name files of judged answers: --data")
    from tierserve.quality.confidences import calibrate_confidence, read_judged

    _check_out(arguments.out)
    calibration, report = calibrate_confidence(read_judged(arguments.data))
    calibration.save(arguments.out)
    print(f"{calibration.estimator}: {report.answers} answers, {report.right:.1%} right, AUROC {report.auroc:.3f}")
    print(f"calibration error {report.raw_error:.3f}, calibrated {report.calibrated_error:.3f} (on answers kept back)")
    print(f"{arguments.out}: for `escalation.calibration`")
    return 0


def _calibrate_head(arguments: argparse.Namespace) -> int:
    if not arguments.data and not arguments.traffic and arguments.log is None:
        arguments.parser.error("name outcome files, --data, --traffic or both, or a decision log, --log")
    if arguments.data and arguments.log is not None:
        arguments.parser.error("--data and --log are two sources of the same: name one")
    from tierserve.quality.calibrate import calibrate
    from tierserve.quality.fit import KINDS
    from tierserve.quality.logged import read_logged
    from tierserve.quality.outcomes import read_outcomes
    from tierserve.router.embedding.encoder import load_encoder

    _check_out(arguments.out)
    data, traffic = (read_outcomes(files) if files else None for files in (arguments.data, arguments.traffic))
    data = data if arguments.log is None else read_logged(arguments.log)
    encoder = load_encoder(_router_config(arguments).encoder)
    kinds = KINDS if arguments.kind == "auto" else (arguments.kind,)
    # What callers asked is in the log for as long as that is kept, and is not to outlive it in a file of ours.
    private = arguments.log is not None
    head, report = calibrate(encoder, data, traffic, kinds, arguments.large_share, private)
    head.save(arguments.out)
    for kind, apgr in report.apgr.items():
        print(f"{kind:7} APGR {apgr:.3f} on {report.judged_by}s that it was not fitted on")
    print(f"{arguments.out}: fitted to {head.note}")
    print(f"router.threshold: {report.threshold:.2f} sends {arguments.large_share:.0%} to the large tier")
    return 0


def _distill(arguments: argparse.Namespace) -> int:
    from tierserve.config import AssessConfig
    from tierserve.quality.distill import assess, distill
    from tierserve.quality.outcomes import read_prompts
    from tierserve.router.assessing.assessor import load_assessor
    from tierserve.router.embedding.encoder import load_encoder
    from tierserve.router.scoring.head import DEFAULT
    from tierserve.router.scoring.scorers import load_head

    _check_out(arguments.out)
    prompts = read_prompts(arguments.prompts)
    router = _router_config(arguments)
    options = router.assess or AssessConfig()
    encoder = load_encoder(router.encoder)
    base = load_head(Path(router.head or DEFAULT), encoder)
    store = arguments.out.with_suffix(".ratings.jsonl")
    rated_by = f"{options.model} {options.dtype} {options.max_tokens}"
    ratings = assess(load_assessor(options), prompts, store, rated_by)
    head, report = distill(encoder, base, prompts, ratings, options.weight, arguments.large_share)
    head.save(arguments.out)
    print(f"Spearman with the assessor: {report.before:.3f} of the head before")
    for kind, kept in report.kept.items():
        print(f"                            {kept:.3f} of a {kind} one, on prompts that it was not fitted on")
    print(f"{arguments.out}: fitted to {head.note}")
    print(f"{store}: the ratings; another run with this --out goes on from them")
    print(f"router.threshold: {report.threshold:.2f} sends {arguments.large_share:.0%} to the large tier")
    return 0


def _check_out(path: Path) -> None:
    """Before the minutes of fitting."""
    if not path.parent.is_dir():
        raise ConfigError("--out", f"there is no folder {path.parent}", "make it first")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError("--out", f"{path} can't be written", "name another file")


def _evaluate(arguments: argparse.Namespace) -> int:
    from tierserve.quality import evaluate as evaluation
    from tierserve.quality.outcomes import read_outcomes
    from tierserve.router.embedding.encoder import load_encoder
    from tierserve.router.scoring.head import DEFAULT
    from tierserve.router.scoring.scorers import load_head

    outcomes = read_outcomes(arguments.data)
    router = _router_config(arguments)
    encoder = load_encoder(router.encoder)
    head = load_head(arguments.head or Path(router.head or DEFAULT), encoder)
    scores = evaluation.scores_of(encoder, head, outcomes)
    measured = evaluation.evaluate(scores, outcomes)
    if arguments.json:
        print(json.dumps(evaluation.as_json(arguments.data, measured)))
    else:
        print(evaluation.as_table(outcomes, measured))
    if arguments.plot:
        evaluation.plot(arguments.plot, scores, outcomes)
    return 0


def _drift(arguments: argparse.Namespace) -> int:
    from tierserve.config import DriftConfig, load

    config = load(arguments.config) if arguments.config else None
    path: Path | None = arguments.log
    if path is None and config is not None and config.decisions is not None:
        path = Path(config.decisions.path)
    if path is None:
        if config is None:
            arguments.parser.error("name a configuration, --config, or a decision log, --log")
        raise ConfigError(
            "decisions", "is off: there is no log to read", "set decisions.path, or name a file with --log"
        )
    windows = {"since_days": arguments.since, "baseline_days": arguments.baseline}
    stated = {name: value for name, value in windows.items() if value is not None}
    from tierserve.quality.drift.command import report_drift

    options = (config.drift if config else DriftConfig()).model_copy(update=stated)
    return report_drift(path, options, time.time(), arguments.json)


def _log_tail(arguments: argparse.Namespace) -> int:
    from tierserve.telemetry.decisions.printing import HEAD, line
    from tierserve.telemetry.decisions.reading import reading

    if arguments.lines < 0:
        arguments.parser.error("--lines can't be negative")
    with reading(_log_file(arguments)) as decisions:
        rows = decisions.last(max(arguments.lines, 1))
        print(HEAD)
        for row in rows[max(0, len(rows) - arguments.lines) :] if arguments.lines else ():
            print(line(row))
        latest = rows[-1]["seq"] if rows else 0
        with suppress(KeyboardInterrupt):
            while arguments.follow:
                sys.stdout.flush()
                time.sleep(_FOLLOW_S)
                for row in decisions.after(latest):
                    print(line(row))
                    latest = row["seq"]
    return 0


def _log_show(arguments: argparse.Namespace) -> int:
    from tierserve.telemetry.decisions.printing import as_json, whole
    from tierserve.telemetry.decisions.reading import reading

    with reading(_log_file(arguments)) as decisions:
        rows, pairs = decisions.find(arguments.id), decisions.comparisons_of(arguments.id)
    if not rows:
        print(f"tierserve: no request {arguments.id!r} in the log", file=sys.stderr)
        return 1
    for row in rows:
        print(as_json(row) if arguments.json else "\n".join(whole(row, pairs)))
    return 0


def _log_export(arguments: argparse.Namespace) -> int:
    from tierserve.telemetry.decisions.export import write_lines, write_parquet
    from tierserve.telemetry.decisions.reading import reading

    since, until = _range(arguments)
    if arguments.format == "parquet" and arguments.out is None:
        arguments.parser.error("--format parquet needs --out FILE")
    if arguments.out is not None:
        _check_out(arguments.out)
    with reading(_log_file(arguments)) as decisions:
        rows = decisions.between(since, until)
        if arguments.format == "parquet":
            count = write_parquet(rows, arguments.out)
        elif arguments.out is None:
            write_lines(rows, sys.stdout)
            return 0
        else:
            with arguments.out.open("w", encoding="utf-8") as out:
                count = write_lines(rows, out)
    print(f"{arguments.out}: {count} decisions", file=sys.stderr)
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from tierserve.quality.report.figures import COLUMNS, figures
    from tierserve.quality.report.page import page
    from tierserve.quality.report.tables import as_text
    from tierserve.telemetry.decisions.reading import reading

    since, until = _range(arguments)
    if arguments.html is not None:
        _check_out(arguments.html)
    with reading(_log_file(arguments)) as decisions:
        report = figures(decisions.between(since, until, arguments.key, COLUMNS), since, until, arguments.key)
    if arguments.html is not None:
        arguments.html.write_text(page(report), encoding="utf-8")
        print(f"{arguments.html}: written", file=sys.stderr)
    print(json.dumps(report.as_json()) if arguments.json else as_text(report))
    return 0


def _log_file(arguments: argparse.Namespace) -> Path:
    """The decision log that was named, or the configuration's."""
    if arguments.file is not None:
        return Path(arguments.file)
    if arguments.config is None:
        arguments.parser.error("name the log: --file LOG, or the node's --config FILE")
    from tierserve.config import load

    decisions = load(arguments.config).decisions
    if decisions is None:
        raise ConfigError("decisions", "no decision log is configured", "set decisions.path")
    return Path(decisions.path)


def _range(arguments: argparse.Namespace) -> tuple[float, float]:
    """Seconds since 1970."""
    from tierserve.telemetry.decisions.moments import moment

    now = time.time()
    try:
        since = moment(arguments.since, now) if arguments.since else 0.0
        until = moment(arguments.until, now) if arguments.until else now
    except ValueError as error:
        arguments.parser.error(str(error))
    if since >= until:
        arguments.parser.error("--since must lie before --until")
    return since, until


def _router_config(arguments: argparse.Namespace) -> "RouterConfig":
    """The node's, or the default where no configuration was named."""
    from tierserve.config import RouterConfig, load

    return load(arguments.config).router if arguments.config else RouterConfig()

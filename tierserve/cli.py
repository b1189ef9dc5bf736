"""The command line.

    tierserve --config node.yaml                      serve
    tierserve check --config node.yaml                check the file, load nothing
    tierserve route --config node.yaml "a prompt"     which tier a prompt goes to, and why
    tierserve schema                                  JSON Schema of the file, for editors

Heavy imports stand in the commands that need them: `tierserve --help` answers at once.
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from tierserve import __version__
from tierserve.errors import ConfigError, TierserveError

_USAGE_ERROR = 2


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
    command("schema", _schema, "print the configuration's JSON Schema")
    route = with_config(command("route", _route, "print the decision for a prompt"))
    route.add_argument("prompt", help="the text to score; - reads it from standard input")
    route.add_argument("--json", action="store_true", help="one JSON object on standard output")
    return parser


def _config_path(arguments: argparse.Namespace) -> Path:
    if arguments.config is None:
        arguments.parser.error("--config FILE is missing, e.g. --config configs/lab.yaml")
    path: Path = arguments.config
    return path


def _serve(arguments: argparse.Namespace) -> int:
    from tierserve.config import load

    config = load(_config_path(arguments))
    from tierserve.server.serve import run

    return run(config)


def _check(arguments: argparse.Namespace) -> int:
    from tierserve.config import load

    path = _config_path(arguments)
    config = load(path)
    print(f"{path}: reading vLLM's options ...", file=sys.stderr)
    from tierserve.tiers.pair import check_tiers

    for line in check_tiers(config.tiers):
        print(line)
    print(f"{path}: valid")
    return 0


def _schema(arguments: argparse.Namespace) -> int:
    from tierserve.config import schema

    print(schema())
    return 0


def _route(arguments: argparse.Namespace) -> int:
    from tierserve.config import load

    config = load(_config_path(arguments))
    prompt = sys.stdin.read() if arguments.prompt == "-" else arguments.prompt
    if not prompt.strip():
        arguments.parser.error("the prompt is empty")
    from tierserve.core import Call, Kind, Prompt
    from tierserve.router.router import build_router

    async def decide() -> dict[str, object]:
        router = build_router(config.router)
        await router.start()
        decision = await router.look(Call("route", Kind.CHAT, {}, (Prompt(prompt),)))
        await router.close()
        return {
            "tier": config.tiers[decision.role].name,
            "role": decision.role,
            "score": decision.score,
            "threshold": router.threshold,
            "cause": decision.cause,
        }

    decision = asyncio.run(decide())
    if arguments.json:
        print(json.dumps(decision))
    else:
        relation = "<=" if decision["role"] == "small" else ">"
        score, threshold = decision["score"], decision["threshold"]
        why = f"score {score:.2f} {relation} {threshold:g}" if score is not None else str(decision["cause"])
        print(f"{decision['tier']} ({decision['role']}): {why}")
    return 0

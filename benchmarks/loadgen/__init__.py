"""Load for any OpenAI-compatible server, and what came of it. benchmarks/load.py is its command.

    plan = Plan([Endpoint("http://host:8000", "auto")], built_in(), [Closed(8), Open(20)], seconds=30, warmup_s=5)
    trials = await run(plan)
    rows = summarise(trials, slo=Slo(ttft_ms=200), large="llama-70b")

It generates no text of its own, judges no answer, and starts no server. plan: what is asked for; prompts: from files;
asking: one request; runner: when each is sent; summary: numbers; plots: pictures.
"""

from loadgen.plan import Closed, Endpoint, Load, Open, Plan, PlanError, Prompt
from loadgen.prompts import built_in, read_prompts
from loadgen.runner import Trial, check, run
from loadgen.summary import Price, Slo, summarise

__all__ = [
    "Closed",
    "Endpoint",
    "Load",
    "Open",
    "Plan",
    "PlanError",
    "Price",
    "Prompt",
    "Slo",
    "Trial",
    "built_in",
    "check",
    "read_prompts",
    "run",
    "summarise",
]

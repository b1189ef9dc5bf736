"""From the configuration's engine options to vLLM's AsyncEngineArgs, checked name by name and value by value."""

import dataclasses
import difflib
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from tierserve.errors import ConfigError

if TYPE_CHECKING:
    from vllm.engine.arg_utils import AsyncEngineArgs

    from tierserve.config import TierConfig

# Defaults that the project depends on; the file can override each.
_DEFAULTS: Mapping[str, Any] = {
    "use_tqdm_on_load": False,  # a progress bar is no log line
    "scheduling_policy": "priority",  # what is read in advance waits for what is asked for; among equals first come
}
# Without the second small models, free to choose, emit white space for ever under a JSON grammar. vLLM ignores the
# per-request form of this option.
_STRUCTURED_OUTPUTS: Mapping[str, Any] = {"backend": "xgrammar", "disable_any_whitespace": True}
# tierserve sets these itself: the name on the wire is the tier's, and the layer needs the tokenizer.
_RESERVED = {
    "served_model_name": "set the tier's `name`",
    "skip_tokenizer_init": "remove it",
    "reasoning_parser": "set `reasoning_parser` on the tier, beside `engine:`",
    "enable_log_requests": "remove it; tierserve logs requests, without their text",
    "disable_log_stats": "remove it; /metrics needs them",
}


def engine_args(tier: "TierConfig", where: str) -> "AsyncEngineArgs":
    """vLLM's own arguments for a tier; `where` is its path in the file. Raises ConfigError."""
    from vllm.config import StructuredOutputsConfig
    from vllm.engine.arg_utils import AsyncEngineArgs

    _check_parsers(tier, where)
    options = tier.engine or {}
    _check_quantization(options.get("quantization"), f"{where}.engine.quantization")
    known = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    for name, value in options.items():
        path = f"{where}.engine.{name}"
        if name in _RESERVED:
            raise ConfigError(path, "is set by tierserve", _RESERVED[name])
        if name not in known or name.startswith("_"):
            near = difflib.get_close_matches(name, known, n=1)
            remedy = f"did you mean `{near[0]}`?" if near else "see vLLM's engine arguments"
            raise ConfigError(path, "vLLM's AsyncEngineArgs has no such option", remedy)
        _check_value(AsyncEngineArgs, name, value, path)
    if str(options.get("logprobs_mode", "")).endswith("logits"):
        remedy = "remove it: a confidence is read from logprobs"
        raise ConfigError(f"{where}.engine.logprobs_mode", "gives no logprobs, but logits", remedy)
    structured_outputs = {**_STRUCTURED_OUTPUTS, **options.get("structured_outputs_config", {})}
    try:
        return AsyncEngineArgs(
            **{
                **_DEFAULTS,
                **options,
                # As an object: vLLM writes the reasoning parser's name into it.
                "structured_outputs_config": StructuredOutputsConfig(**structured_outputs),
            },
            served_model_name=tier.name,
            reasoning_parser=tier.reasoning_parser,
            disable_log_stats=False,
        )
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{where}.engine", " ".join(str(error).split()), "see vLLM's engine arguments") from None


def _check_parsers(tier: "TierConfig", where: str) -> None:
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    for option, name, manager in (
        ("tool_parser", tier.tool_parser, ToolParserManager),
        ("reasoning_parser", tier.reasoning_parser, ReasoningParserManager),
    ):
        known = manager.list_registered()
        if name and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            remedy = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(known)}"
            raise ConfigError(f"{where}.{option}", f"vLLM has no parser {name!r}", remedy)


def _check_quantization(name: Any, path: str) -> None:
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS

    if isinstance(name, str) and name not in QUANTIZATION_METHODS:
        raise ConfigError(path, f"vLLM has no method {name!r}", f"there are {', '.join(QUANTIZATION_METHODS)}")


def _check_value(args_class: type, name: str, value: Any, path: str) -> None:
    """Check a value against the type that vLLM declares for it, and against the bounds of the section it ends in."""
    for declared in (_declared(args_class, name), _bounds(name) if value is not None else Any):
        try:
            # Strict, for vLLM takes the value as it stands; but a section may be written as a mapping.
            _adapter(declared).validate_python(value, strict=not isinstance(value, dict))
        except ValidationError as error:
            message = error.errors(include_url=False)[0]["msg"]
            raise ConfigError(path, f"{message} (it is {value!r})", "see vLLM's engine arguments") from None


def _adapter(declared: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(declared, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:  # one of vLLM's sections: it brings its own pydantic configuration
        return TypeAdapter(declared)


def _declared(args_class: type, name: str) -> Any:
    """The type of an option, or Any where it is spelt with names that exist for type checkers only."""
    for owner in args_class.__mro__:
        annotation = vars(owner).get("__annotations__", {}).get(name)
        if isinstance(annotation, str):
            try:
                return eval(annotation, vars(sys.modules[owner.__module__]))  # vLLM's own source, not input
            except NameError:
                return Any
        if annotation is not None:
            return annotation
    return Any


def _bounds(name: str) -> Any:
    """The bounds that vLLM puts on an option's value (`gpu_memory_utilization` is at most 1), as a type."""
    from vllm.config import CacheConfig, ModelConfig, ParallelConfig, SchedulerConfig

    for section in (CacheConfig, ModelConfig, ParallelConfig, SchedulerConfig):
        field = section.__pydantic_fields__.get(name)
        if field is not None and field.metadata:
            return Annotated[Any, *field.metadata]
    return Any

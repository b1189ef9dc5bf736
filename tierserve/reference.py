"""Every option and every metric, as Markdown: what configs/README.md holds."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import Metric

from tierserve.config import NodeConfig
from tierserve.core import Role
from tierserve.telemetry.metrics import Metrics

_HEAD = """\
# Reference

Every option of a node's configuration, and every metric that it exports. Written by `tierserve reference`; what the
parts are for is in [OPERATIONS.md](OPERATIONS.md) and in the project's [README](../README.md).

The `*.yaml` files here are whole configurations to start from. In a file the options stand indented under their
section: `router.encoder.threads` below is `threads` under `encoder:` under `router:`. An unknown one stops the start.
"""
_OPTIONS_HEAD = "| option | type | default | |\n|---|---|---|---|"
_METRICS_HEAD = """\
## Metrics

At `GET /metrics`, in Prometheus' text format. A histogram has the series `_bucket`, `_sum` and `_count`. Every series
whose labels are known beforehand exists from the start, at zero.

| metric | type | labels | |
|---|---|---|---|"""
_ENGINES = """\
Beside these stand vLLM's own, `vllm:*`, of each tier that is an engine in this process; the label `model_name` is the
tier's name. They are vLLM's to define, among them queue and cache use (`vllm:num_requests_running`,
`vllm:num_requests_waiting`, `vllm:kv_cache_usage_perc`) and the prefix cache (`vllm:prefix_cache_hits_total`).
`process_*` and `python_*` are of the node's process, without its engines'.
"""

Schema = dict[str, Any]


def reference() -> str:
    """The whole page."""
    metrics = Metrics(Role).registry.collect()
    return "\n".join([_HEAD, *_options(NodeConfig.model_json_schema()), _METRICS_HEAD, *_rows(metrics), "", _ENGINES])


def _options(schema: Schema) -> Iterator[str]:
    definitions: Schema = schema["$defs"]
    told: dict[str, str] = {}  # the section's model -> where it was told first

    def section(path: str, model: Schema) -> Iterator[str]:
        required = model.get("required", ())
        inner = []
        rows = [_OPTIONS_HEAD]
        for name, option in model["properties"].items():
            where = f"{path}.{name}" if path else name
            found = _section_of(option)
            if found is None:
                default = "required" if name in required else _default(option)
                rows.append(_row(where, _type(option), default, option.get("description", "")))
                continue
            place, target = f"{where}{found[0]}", found[1]
            same = told.setdefault(target, place)
            kind = "section" if same == place else f"as `{same}`"
            default = "required" if name in required else _default_of_section(option)
            about = option.get("description") or definitions[target].get("description", "")
            rows.append(_row(where, kind, default, about))
            if same == place:
                inner.append((place, definitions[target]))
        yield f"## {f'`{path}`' if path else 'Options'}\n"
        if "description" in model:
            yield f"{_one_line(model['description'])}\n"
        yield from rows
        yield ""
        for place, target_model in inner:
            yield from section(place, target_model)

    yield from section("", schema)


def _section_of(option: Schema) -> tuple[str, str] | None:
    """The model of which an option holds one or several, after what stands for their names in a path; None: none."""
    for candidate in [option, *option.get("anyOf", []), *option.get("allOf", [])]:
        if "$ref" in candidate:
            return "", candidate["$ref"].rpartition("/")[2]
        for mark, inner in (("[]", candidate.get("items")), (".NAME", candidate.get("additionalProperties"))):
            if isinstance(inner, dict) and "$ref" in inner:
                return mark, inner["$ref"].rpartition("/")[2]
    return None


def _row(where: str, kind: str, default: str, about: str) -> str:
    return f"| `{where}` | {kind} | {default} | {_cell(about)} |"


def _default(option: Schema) -> str:
    default = option.get("default")
    return f"`{_plain(default)}`" if default not in ("", None) else "none"


def _default_of_section(option: Schema) -> str:
    default = option.get("default")
    if default is None:
        return "`off`" if any("off" in choice.get("enum", ()) for choice in option["anyOf"]) else "none"
    return f"`{json.dumps(default)}`" if default in ([], {}) else "on, as below"


def _type(option: Schema) -> str:
    if "anyOf" in option:
        return " or ".join(_type(choice) for choice in option["anyOf"] if choice != {"type": "null"})
    if "enum" in option:
        return ", ".join(f"`{_plain(value)}`" for value in option["enum"])
    if "const" in option:
        return f"`{_plain(option['const'])}`"
    kind = {"boolean": "true or false", "string": "text", "object": "options"}.get(option.get("type", ""))
    if option.get("type") == "array":
        kind = f"list of {_type(option.get('items', {}))}"
    return " ".join(filter(None, [kind or option.get("type", "any"), _bounds(option)]))


def _bounds(option: Schema) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    return ", ".join(f"{sign} {option[name]:g}" for name, sign in signs.items() if name in option)


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _rows(metrics: Iterable[Metric]) -> Iterator[str]:
    for metric in sorted(metrics, key=lambda metric: metric.name):
        if not metric.name.startswith("tierserve_"):
            continue
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        labels = sorted({label for sample in metric.samples for label in sample.labels} - {"le"})
        names = ", ".join(f"`{label}`" for label in labels)
        yield f"| `{name}` | {metric.type} | {names} | {_cell(metric.documentation)} |"


def _cell(text: str) -> str:
    return _one_line(text).replace("|", "\\|")


def _one_line(text: str) -> str:
    return " ".join(text.split())

"""vLLM's tool parsers, held to their word where a caller demands a call."""

from typing import Any

from vllm.tool_parsers import ToolParserManager

# Structural tags (vLLM 0.32, tool_parsers/structural_tag_registry.py) of models whose native calls are plain JSON.
_JSON_CALLS = {"llama", "hermes"}


def demanding(name: str | None) -> str | None:
    """The name of a parser that is `name`'s, but answers a demanded call (`required`, or a named function) under a
    JSON schema.

    vLLM would use a structural tag there, as it does for `auto`. A tag allows white space without end inside the call
    and any text behind it: a small model need never finish its call, or spoils it, and the caller gets text instead.
    """
    if name is None:
        return None
    base: type[Any] = ToolParserManager.get_tool_parser(name)
    if base.structural_tag_model not in _JSON_CALLS:
        return name

    class Demanding(base):
        def get_structural_tag(self, request: Any, **options: Any) -> Any:
            return super().get_structural_tag(request, **options) if request.tool_choice == "auto" else None

    Demanding.supports_required_and_named = True
    own_name = f"demanding_{name}"
    ToolParserManager.register_module(own_name, module=Demanding)
    return own_name

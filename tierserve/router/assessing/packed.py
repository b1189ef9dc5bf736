"""Weights laid out once as the processor multiplies them.

torch lays bf16 weights out anew for every multiplication, which for a few dozen tokens takes longer than that itself:
Qwen2.5-1.5B, 32 tokens behind a cached prompt, one thread of a Xeon with AMX: 509 ms, and 384 with this. The two
operations are those that torch's own compiler uses for frozen models; they have no public names.
"""

from typing import Any

from tierserve.router.processor import has

_ROWS = 64  # tokens that are multiplied at once, about: a hint for the layout


def pack(decoder: Any) -> bool:
    """Replace the bf16 linear layers of a torch module, one by one, so that it takes no more memory; nothing is learned
    from it afterwards. False, and nothing done, where this processor or torch can't."""
    import torch

    operations = torch.ops.mkldnn
    if not (has("avx512_bf16") and hasattr(operations, "_linear_pointwise")):
        return False

    class Packed(torch.nn.Module):
        def __init__(self, linear: torch.nn.Linear) -> None:
            super().__init__()
            self.bias = linear.bias
            self.packed = operations._reorder_linear_weight(linear.weight.detach(), _ROWS)

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = operations._linear_pointwise(values, self.packed, self.bias, "none", [], "")
            return result

    for parent in list(decoder.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, torch.nn.Linear) and layer.weight.dtype == torch.bfloat16:
                setattr(parent, name, Packed(layer))
    return True

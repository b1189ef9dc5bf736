"""The network through OpenVINO: the fastest on x86, and the default there.

In which form depends on the processor (all-MiniLM-L6-v2, one core, ms at 32 / 64 tokens; least cosine to torch's fp32
over 240 texts, most of them of benchmarks, the rest as short as "thanks!"):

                                                    Xeon with AMX
    int8 weights, activations int8 in groups of 64  2.6 / 5.0       0.994
    the same, in groups of 32 (OpenVINO's own)      3.0 / 5.7       0.996
    the same, in groups of 128                      2.4 / 4.4       0.991
    bf16                                            1.9 / 3.1       0.9999

AMX multiplies bf16 in tiles, which no int8 form with activations quantized at run time makes use of. Elsewhere int8 is
the faster one, as half of the time goes into reading weights. Activations quantized beforehand from examples (NNCF's
`quantize`) would be faster still, but are as good as the examples: 0.957, on "thanks!".
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tierserve.router.embedding.network import Ids, Network, Vectors
from tierserve.router.embedding.torch_network import example
from tierserve.router.processor import has

if TYPE_CHECKING:
    import torch

_FILE = "network.xml"  # and network.bin, its weights, beside it
_PRECISION: dict[str, dict[str, Any]] = {
    "bf16": {"INFERENCE_PRECISION_HINT": "bf16"},
    "int8": {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 64},
}


@dataclass(frozen=True)
class OpenVino:
    form: Literal["int8", "bf16"]
    name = "openvino"

    @classmethod
    def here(cls) -> "OpenVino":
        """In the form that suits this processor."""
        return cls("bf16" if has("amx_bf16") else "int8")

    @property
    def packages(self) -> tuple[str, ...]:
        return ("openvino", "nncf") if self.form == "int8" else ("openvino",)

    def convert(self, module: "torch.nn.Module", folder: Path) -> None:
        import openvino
        import torch

        with torch.inference_mode():
            model = openvino.convert_model(module, example_input=example())
        if self.form == "int8":
            import nncf

            model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
        openvino.save_model(model, folder / _FILE, compress_to_fp16=False)

    def open(self, folder: Path, threads: int, shapes: Iterable[tuple[int, int]]) -> Network:
        return _OpenVinoNetwork(folder / _FILE, self.form, threads, list(shapes))


class _OpenVinoNetwork:
    """One network for every shape, and for a single text of the common lengths one each, which knows no other shape.

    A network of any shape takes 0.2 ms longer, and 0.8 to 1.0 ms after a text of another length, which in traffic is
    nearly every one: 3.0 ms at 32 tokens then, 1.9 with its own. Each costs 35 MB (int8: 25), and 0.2 s at the start.
    """

    def __init__(self, file: Path, form: str, threads: int, shapes: list[tuple[int, int]]) -> None:
        import openvino

        self._tensor = openvino.Tensor
        core = openvino.Core()
        settings = _PRECISION[form] | {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # which core is the system's to choose: the engines' processes choose too
        }
        model = core.read_model(file)

        def request(shape: tuple[int, int] | None = None) -> Any:
            of_shape = model.clone()  # shares the weights, as they lie in the file
            if shape is not None:
                of_shape.reshape({0: shape, 1: shape})
            return core.compile_model(of_shape, "CPU", settings).create_infer_request()

        self._of_any_shape = request()
        self._of_shape = {shape: request(shape) for shape in shapes if _is_common(shape)}
        for shape in shapes:  # kernels are compiled for a shape when it is met first, which takes 4 to 20 ms
            self(np.ones(shape, np.int64), np.ones(shape, np.int64))

    def __call__(self, ids: Ids, mask: Ids) -> Vectors:
        request = self._of_shape.get(ids.shape, self._of_any_shape)
        # infer() takes arrays too, and spends 40 microseconds on finding out what they are.
        request.set_input_tensor(0, self._tensor(ids, shared_memory=True))
        request.set_input_tensor(1, self._tensor(mask, shared_memory=True))
        request.infer(share_outputs=True)
        vectors: Vectors = request.get_output_tensor(0).data.copy()
        return vectors


def _is_common(shape: tuple[int, int]) -> bool:
    texts, tokens = shape
    return texts == 1 and tokens <= 128

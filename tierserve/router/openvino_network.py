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

from tierserve.router.network import Ids, Network, Vectors
from tierserve.router.torch_network import example

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
        return cls("bf16" if _has_amx() else "int8")

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
        network = _OpenVinoNetwork(folder / _FILE, self.form, threads)
        for shape in shapes:  # kernels are compiled for a shape when it is met first, which takes 4 to 20 ms
            network(np.ones(shape, np.int64), np.ones(shape, np.int64))
        return network


class _OpenVinoNetwork:
    def __init__(self, file: Path, form: str, threads: int) -> None:
        import openvino

        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # which core is the system's to choose: the engines' processes choose too
        }
        model = openvino.Core().compile_model(file, "CPU", settings | _PRECISION[form])
        self._request = model.create_infer_request()
        self._tensor = openvino.Tensor

    def __call__(self, ids: Ids, mask: Ids) -> Vectors:
        # infer() takes arrays too, and spends 40 microseconds on finding out what they are.
        self._request.set_input_tensor(0, self._tensor(ids, shared_memory=True))
        self._request.set_input_tensor(1, self._tensor(mask, shared_memory=True))
        self._request.infer(share_outputs=True)
        vectors: Vectors = self._request.get_output_tensor(0).data.copy()
        return vectors


def _has_amx() -> bool:
    try:
        return " amx_bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False

"""The network through onnxruntime, in fp32: half of torch's time, on any processor.

Not in int8. onnxruntime quantizes a whole activation with one scale, and in this network's feed-forward layers a few
values dwarf the others: the cosine to torch falls to 0.965 ("thanks!"; 0.994 on average), and with those layers left
out the time is fp32's again (6.2 ms at 32 tokens; fp32 6.1, int8 throughout 2.7). Blockwise int8 (MatMulNBits, 128
values) keeps 0.991 and takes 4.9 ms, for another package.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tierserve.router.embedding.network import Ids, Network, Vectors
from tierserve.router.embedding.torch_network import example

if TYPE_CHECKING:
    import torch

_FILE = "network.onnx"
_INPUTS = ("ids", "mask")


@dataclass(frozen=True)
class Onnx:
    name = "onnx"
    form = "fp32"
    packages = ("onnxruntime", "onnx")

    def convert(self, module: "torch.nn.Module", folder: Path) -> None:
        import torch

        shape = {0: "texts", 1: "tokens"}
        torch.onnx.export(
            module,
            example(),
            folder / _FILE,
            input_names=list(_INPUTS),
            output_names=["vectors"],
            dynamic_axes={name: shape for name in _INPUTS},
            opset_version=17,
            dynamo=False,  # the other exporter needs two more packages
        )

    def open(self, folder: Path, threads: int, shapes: Iterable[tuple[int, int]]) -> Network:
        return _OnnxNetwork(folder / _FILE, threads)


class _OnnxNetwork:
    def __init__(self, file: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Threads that wait for work would burn a core each by default.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def __call__(self, ids: Ids, mask: Ids) -> Vectors:
        vectors: Vectors = self._session.run(None, {"ids": ids, "mask": mask})[0]
        return vectors

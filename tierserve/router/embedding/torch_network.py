"""The network as its authors run it, in sentence-transformers on torch: what the converted ones are measured by.

all-MiniLM-L6-v2 (Reimers and Gurevych, 2019, arXiv:1908.10084) by default; fp32.
"""

from pathlib import Path
from typing import Any

from tierserve.router.embedding.network import Ids, Vectors


class TorchNetwork:
    def __init__(self, folder: Path, threads: int) -> None:
        import torch

        # The engines compute in processes of their own; here more threads would only take cores from them.
        torch.set_num_threads(threads)
        self._torch = torch
        self.module = sentence_module(folder)

    def __call__(self, ids: Ids, mask: Ids) -> Vectors:
        with self._torch.inference_mode():
            vectors: Vectors = self.module(self._torch.from_numpy(ids), self._torch.from_numpy(mask)).numpy()
        return vectors


def example() -> tuple[Any, Any]:
    """Ids and mask to trace the module with. One text is padded: a mask of ones would be traced as no mask at all."""
    import torch

    mask = torch.ones((2, 8), dtype=torch.int64)
    mask[1, 5:] = 0
    return torch.ones_like(mask), mask


def sentence_module(folder: Path) -> Any:
    """A torch module: (ids, mask) to vectors as network.py describes them. Imports torch."""
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # a progress bar is no log line

    class Sentence(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            # "eager": attention as plain operations, which every converter understands.
            options = {"attn_implementation": "eager"}
            self.model = SentenceTransformer(str(folder), device="cpu", model_kwargs=options)
            self.model[0].model.config.output_hidden_states = True

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            found = self.model({"input_ids": ids, "attention_mask": mask})
            states = found["all_layer_embeddings"]
            weights = (mask / mask.sum(dim=1, keepdim=True)).unsqueeze(2)
            means = [(state * weights).sum(dim=1) for state in (states[len(states) // 2], states[0])]
            parts = [found["sentence_embedding"], *means]
            return torch.cat([torch.nn.functional.normalize(part) for part in parts], dim=1)

    return Sentence().eval()

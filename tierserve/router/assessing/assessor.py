"""Rates prompts with a small language model: one forward pass each, behind a prompt that was read beforehand.

    assessor = load_assessor(config.router.assess)     # seconds, and 3.1 GB for Qwen2.5-1.5B in bf16
    assessor.rate(["What is Python?", "Prove it."])    # [0.8, 7.9]

Nothing is generated: the rating is the mean of what the model would say next, of 0 to 10 (scale.py). For models that
end in a norm and a linear head, as Qwen's and Llama's: of the head only the rows of the ratings are multiplied, which
saves reading 0.47 of Qwen2.5-1.5B's 3.1 GB for each prompt.
"""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tierserve.errors import ConfigError
from tierserve.router.assessing.frame import WHERE, Frame
from tierserve.router.assessing.packed import pack
from tierserve.router.assessing.scale import mean_ratings
from tierserve.router.processor import has
from tierserve.weights import check_weights

if TYPE_CHECKING:
    import torch

    from tierserve.config import AssessConfig

log = logging.getLogger(__name__)

_OFF = "or write `assess: off`"


class Assessor:
    """A model and its frame. For one thread at a time."""

    def __init__(self, model: Any, frame: Frame, threads: int) -> None:
        import torch

        self._torch, self._threads = torch, threads
        self._frame, self._decoder = frame, model.base_model
        head = model.get_output_embeddings()
        self._first, self._after_one = (
            head.weight[list(tokens)].detach().float() for tokens in (frame.scale.first, frame.scale.after_one)
        )
        self._prefix = self._read_prefix()

    def rate(self, texts: Sequence[str]) -> list[float]:
        """How hard each text is for a small model, 0..10; of a long one both ends are read."""
        sequences = self._frame.ids(texts)
        with self._torch.inference_mode():
            states = self._states(sequences)
            # Where 10 is two tokens, what follows a 1 is told by the last state, and the rating by the one before it.
            last = np.array([len(sequence) - 1 for sequence in sequences])
            rows, asked = np.arange(len(sequences)), last - bool(self._frame.scale.after_one)
            first, after_one = states[rows, asked] @ self._first.T, states[rows, last] @ self._after_one.T
        return [float(rating) for rating in mean_ratings(first.numpy(), after_one.numpy())]

    def _states(self, sequences: Sequence[Sequence[int]]) -> "torch.Tensor":
        """Last hidden states, float32. Padding stands at the right, where no token before it looks."""
        self._torch.set_num_threads(self._threads)  # each thread that computes has a number of its own
        ids = self._torch.zeros((len(sequences), max(map(len, sequences))), dtype=self._torch.int64)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = self._torch.tensor(sequence)
        found = self._decoder(input_ids=ids, past_key_values=self._prefix_of(len(sequences)), use_cache=True)
        states: torch.Tensor = found.last_hidden_state.float()
        return states

    def _prefix_of(self, count: int) -> Any:
        """The prefix's keys and values, for so many texts; what the model adds to it is its own."""
        from transformers import DynamicCache

        return DynamicCache([tuple(each.expand(count, -1, -1, -1) for each in layer) for layer in self._prefix])

    def _read_prefix(self) -> list[tuple["torch.Tensor", "torch.Tensor"]]:
        from transformers import DynamicCache

        cache = DynamicCache()
        self._torch.set_num_threads(self._threads)
        with self._torch.inference_mode():
            self._decoder(input_ids=self._torch.tensor([self._frame.prefix]), past_key_values=cache, use_cache=True)
        return [(layer.keys, layer.values) for layer in cache.layers]


def load_assessor(config: "AssessConfig") -> Assessor:
    """Find, check and load the model. Raises ConfigError when it can't be had or can't rate."""
    try:
        check_weights(config.model, WHERE)
    except ConfigError as error:
        raise ConfigError(error.where, error.problem, f"{error.remedy}, {_OFF}") from None
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # a progress bar is no log line
    try:
        assessor = _load(config)
        (rating,) = assessor.rate(["What is Python?"])  # the first pass is the slowest
    except ConfigError:
        raise
    except Exception as error:  # whatever a folder that holds something else brings about
        problem = f"{config.model} holds no language model that can be loaded ({type(error).__name__})"
        raise ConfigError(WHERE, problem, f"name one in the hub's format, {_OFF}") from error
    if not 0 <= rating <= 10:  # nor is NaN
        raise ConfigError(WHERE, f"{config.model} gives no ratings: is it damaged?", f"fetch it again, {_OFF}")
    log.info("%s rates prompts, in %s", config.model, config.dtype if config.dtype != "auto" else _best_dtype())
    return assessor


def _load(config: "AssessConfig") -> Assessor:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dtype = getattr(torch, _best_dtype() if config.dtype == "auto" else config.dtype)
    model = AutoModelForCausalLM.from_pretrained(config.model, dtype=dtype).eval()
    pack(model.base_model)
    stops = model.generation_config.eos_token_id
    stops = [] if stops is None else stops if isinstance(stops, list) else [stops]
    frame = Frame(AutoTokenizer.from_pretrained(config.model), stops, config.max_tokens)
    return Assessor(model, frame, config.threads)


def _best_dtype() -> str:
    """Half the bytes where the processor multiplies bf16 itself; elsewhere that would be slower by far."""
    return "bfloat16" if has("avx512_bf16") else "float32"

"""Structured answers of a model in training, by transformers: what it learns its confidence from.

The figures of the report come from the real engines instead.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm  # type: ignore[import-untyped]

from tierserve.lab import structured
from tierserve.lab.question import Question
from tierserve.lab.structured import INSTRUCTIONS, Position
from tierserve.lab.writer import Writer

_BATCH = 128
_LONGEST = 64
_BLANK = "0.50"
_BLANK_OPENING, _BLANK_CLOSING = f'{{"confidence": {_BLANK}', '", "confidence": '


@dataclass(frozen=True, slots=True)
class Reply:
    """`state` is what the model knows where it is about to write the number: the hidden state there, and the mean and
    the least logprob of what it has written up to there."""

    question: Question
    content: str
    confidence: float
    right: bool
    state: np.ndarray


def replies(model: Any, tokenizer: Any, questions: Sequence[Question], order: Position, blank: bool) -> Iterator[Reply]:
    """Greedy answers. One that does not keep to the form is left out: guided decoding would have kept it there.

    `blank`: the model has not learned any number yet, so one is put there for it.
    """
    writer = Writer(tokenizer)
    model.eval()
    ordered = sorted(questions, key=lambda question: len(question.prompt))
    for at in tqdm(range(0, len(ordered), _BATCH), desc=f"answering, confidence {order}", mininterval=5):
        asked = ordered[at : at + _BATCH]
        prompts = [writer.prompt(INSTRUCTIONS[order], question.prompt) for question in asked]
        yield from _replies(model, tokenizer, asked, prompts, order, blank)
    model.train()


@torch.inference_mode()
def _replies(
    model: Any, tokenizer: Any, asked: Sequence[Question], prompts: Sequence[list[int]], order: Position, blank: bool
) -> Iterator[Reply]:
    opening = _BLANK_OPENING if blank and order is Position.FIRST else ""
    opened = tokenizer.encode(opening, add_special_tokens=False)
    prompts = [prompt + opened for prompt in prompts]
    longest = max(map(len, prompts))
    begin = longest - len(opened)
    padded = [[tokenizer.pad_token_id] * (longest - len(prompt)) + prompt for prompt in prompts]
    tokens = torch.tensor(padded)
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    with torch.autocast("cpu", torch.bfloat16):
        said = model.generate(
            input_ids=tokens, attention_mask=mask, do_sample=False, max_new_tokens=_LONGEST, use_cache=True
        )
        attended = torch.cat([mask, torch.ones_like(said[:, longest:])], 1)
        position = (attended.cumsum(1) - 1).clamp(min=0)
        hidden = model.model(input_ids=said, attention_mask=attended, position_ids=position).last_hidden_state
        logprobs = model.lm_head(hidden[:, begin - 1 : -1]).float().log_softmax(-1)
    spoken = logprobs.gather(2, said[:, begin:, None])[:, :, 0]
    for row, question in enumerate(asked):
        written = said[row, begin:].tolist()
        text = tokenizer.decode(written, skip_special_tokens=True)
        if blank and order is Position.LAST:
            text = text.partition(_BLANK_CLOSING)[0] + _BLANK_CLOSING + f"{_BLANK}}}"
        answer = structured.read(text)
        if answer is None or not structured.is_in_form(order, text):
            continue
        stem = tokenizer.encode(structured.up_to_confidence(order, text), add_special_tokens=False)
        before = len(stem)
        if written[:before] != stem:  # cut off, or spelled with other tokens than training has
            continue
        own = spoken[row, : max(before, 1)]
        state = torch.cat([hidden[row, begin + before - 1].float(), own.mean()[None], own.min()[None]])
        yield Reply(question, answer.content, answer.confidence, question.is_right(answer.content), state.numpy())

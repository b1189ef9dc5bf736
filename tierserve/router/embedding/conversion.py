"""Converts the encoder for a backend and says how near the result is to the original. Runs in a process of its own:

    python -m tierserve.router.embedding.conversion openvino int8 MODEL_FOLDER TARGET_FOLDER

A conversion needs torch, a second copy of the weights and libraries that patch each other; of all that nothing stays in
the node. TARGET_FOLDER then holds the converted files and check.json, which converted.py reads.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tierserve.router.embedding.converted import CHECK, file_digest
from tierserve.router.embedding.encoder import Encoder, SentenceEncoder
from tierserve.router.embedding.network import Backend
from tierserve.router.embedding.onnx_network import Onnx
from tierserve.router.embedding.openvino_network import OpenVino
from tierserve.router.embedding.tokens import SentenceTokenizer
from tierserve.router.embedding.torch_network import TorchNetwork

# What the converted network is held against the original on: what a router meets, and what quantization does badly on.
SAMPLE = (
    "thanks!",
    "ok",
    "yes, go on",
    "",
    "🙂",
    "What is Python?",
    "Format this JSON",
    "why?",
    "I can't log in since this morning, the page only says 'invalid session'. Can you reset my account?",
    "Design a rate limiter with sliding window and token bucket",
    "Explain the CAP theorem trade-offs in distributed databases, with an example of a system for each choice.",
    "def fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\n\nMake this iterative, with O(1) space.",
    "SELECT o.id, SUM(l.price) FROM orders o JOIN lines l ON l.order_id = o.id GROUP BY o.id ORDER BY 2 DESC;",
    "Traceback (most recent call last):\n  File \"app.py\", line 7, in <module>\nKeyError: 'user'",
    "Show that $\\int_0^1 x^n (1-x)^m dx = \\frac{n! m!}{(n+m+1)!}$ for all integers $n, m \\ge 0$.",
    "A train leaves at 9:40 and travels 210 km at 84 km/h. When does it arrive if it waits 12 minutes on the way?",
    "2 + 2 * 2 =",
    "Wie kündige ich meinen Vertrag zum Monatsende, und welche Frist muss ich einhalten?",
    "¿Dónde está la biblioteca más cercana?",
    "この文章を要約してください。",
    "Объясни разницу между процессом и потоком.",
    "{\"name\": \"widget\", \"tags\": [\"a\", \"b\"], \"price\": 12.5, \"stock\": null}",
    "Which of these is not a noble gas? (A) helium (B) neon (C) nitrogen (D) argon",
    "https://example.com/a/b?c=1&d=2#e",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "Summarize: " + "The committee met on Tuesday and agreed on nothing but the date of its next meeting. " * 8,
    "Find the bug. " + "for (int i = 0; i <= n; i++) { sum += a[i] * b[n - i]; } " * 14,
)  # fmt: skip


def main() -> None:
    name, form, source, target = sys.argv[1:]
    # OpenVINO's and NNCF's converters otherwise report their use to their maker.
    os.environ |= {"CI": "true", "NNCF_CI": "1"}
    convert(_backend(name, form), Path(source), Path(target))


def convert(backend: Backend, source: Path, target: Path) -> None:
    """Fill `target`. Raises whatever the libraries raise."""
    network = TorchNetwork(source, threads=1)
    backend.convert(network.module, target)
    tokenizer = SentenceTokenizer(source, max_tokens=256)
    original = SentenceEncoder(tokenizer, network, "torch")
    converted = SentenceEncoder(tokenizer, backend.open(target, threads=1, shapes=()), backend.name)
    least = least_cosine(converted, original, SAMPLE)
    digests = {file.name: file_digest(file) for file in sorted(target.iterdir())}
    (target / CHECK).write_text(json.dumps({"least_cosine": least, "sha256": digests}))


def least_cosine(one: Encoder, other: Encoder, texts: Sequence[str]) -> float:
    """The least cosine between their vectors of a text, whole or the sentence's own; -1 where one is not finite."""
    first, second = (encoder.encode(texts).astype(np.float64) for encoder in (one, other))
    cosines = [_cosines(first, second), _cosines(first[:, : one.own], second[:, : one.own])]
    return float(np.min(cosines)) if np.isfinite(cosines).all() else -1.0


def _cosines(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    cosines: NDArray[np.float64] = (one * other).sum(axis=1) / lengths
    return cosines


def _backend(name: str, form: str) -> Backend:
    known: tuple[Backend, ...] = (OpenVino("int8"), OpenVino("bf16"), Onnx())
    return next(backend for backend in known if (backend.name, backend.form) == (name, form))


if __name__ == "__main__":
    main()

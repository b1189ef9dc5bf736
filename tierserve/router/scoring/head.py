"""A fitted scorer: the encoder's vector and the prompt's surface to 10 x P(the small model will not do).

    head = Head.load(DEFAULT)
    head.score(prompt, vector)            # 0..10
    head.nearest(vector, 3)               # the examples it knows that are nearest, for people

"Will not do" means that the large model answers better: where both fail nothing is won by asking it. `tierserve
calibrate` fits heads (quality/fit.py has the method); here is only the arithmetic, in numpy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from tierserve.core import Prompt
from tierserve.errors import ConfigError
from tierserve.router.scoring.features import NAMES, features

DEFAULT: Final = Path(__file__).parent / "heads" / "default.npz"
_FORMAT: Final = "tierserve-head-1"
_WHERE: Final = "router.head"

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt that the head was fitted on, kept to explain decisions."""

    text: str
    hard: bool
    cosine: float


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """Inputs are vector and features together, d = dimensions + len(NAMES), standardised.

    Two experts share the prompts. One knows everyday traffic, by two logits. The other ranks questions by what the
    large model wins on them: slopes, and for a head that was fitted to the questions at hand a small network and a
    kernel over landmarks besides; either may be empty.
    """

    center: Array  # (d,)
    scale: Array  # (d,); 0 where the input was constant
    slopes: Array  # (d,)
    net_in: Array  # (d, hidden)
    net_bias: Array  # (hidden,)
    net_out: Array  # (hidden,)
    landmarks: Array  # (m, dimensions), unit
    landmark_weights: Array  # (m,)
    width: Array  # (): gamma of the kernel exp(-gamma |x - landmark|^2)
    calibration: Array  # (2,): the logit of the probability is calibration @ (rank, 1)
    everyday: Array  # (d + 1,): is it everyday traffic? Weights and bias of a logit
    everyday_hard: Array  # (d + 1,): if so, is it hard?
    example_texts: NDArray[np.str_]  # (n,)
    example_hard: NDArray[np.bool_]  # (n,)
    example_vectors: Array  # (n, dimensions of the sentence's own vector), unit
    threshold: Array  # (): what the fit advises
    note: NDArray[np.str_]  # (): what it was fitted on

    @property
    def dimensions(self) -> int:
        """Of the encoder's vectors that it was fitted on."""
        return len(self.center) - len(NAMES)

    def score(self, prompt: Prompt, vector: Array) -> float:
        """`vector`: what the encoder gives for the prompt, shape (dimensions,). What is not finite scores 10."""
        return float(self.scores(vector[None], features(prompt)[None])[0])

    def scores(self, vectors: Array, surface: Array) -> Array:
        """Of many prompts: vectors (n, dimensions), surface (n, len(NAMES)); gives (n,), each within 0..10."""
        inputs = self.inputs(vectors, surface)
        everyday, hard = probability(_logit(inputs, self.everyday)), probability(_logit(inputs, self.everyday_hard))
        gain = probability(self.calibration[0] * self.rank(inputs) + self.calibration[1])
        scores: Array = np.clip(10 * (everyday * hard + (1 - everyday) * gain), 0, 10)
        finite = np.isfinite(inputs).all(axis=1) & np.isfinite(scores)
        return np.where(finite, scores, np.float32(10))

    def inputs(self, vectors: Array, surface: Array) -> Array:
        """Standardised, shape (n, d)."""
        standard: Array = (np.concatenate([vectors, surface], axis=1) - self.center) * self.scale
        return standard

    def rank(self, inputs: Array) -> Array:
        """What the large model is expected to win on questions, up to a monotone map; shape (n,)."""
        ranks: Array = inputs @ self.slopes
        if self.net_out.size:
            ranks = ranks + gelu(inputs @ self.net_in + self.net_bias) @ self.net_out
        if self.landmarks.size:
            ranks = ranks + self._kernel(inputs) @ self.landmark_weights
        return ranks

    def nearest(self, vector: Array, count: int) -> list[Example]:
        """The examples whose sentence vectors are nearest, nearest first."""
        cosines = self.example_vectors @ vector[: self.example_vectors.shape[1]]
        best = np.argsort(-cosines)[:count]
        return [Example(str(self.example_texts[i]), bool(self.example_hard[i]), float(cosines[i])) for i in best]

    def save(self, path: Path) -> None:
        """As .npz; large arrays at half precision, which moves a score by less than 0.01."""
        arrays: dict[str, Any] = {name: _packed(getattr(self, name)) for name in self.__slots__}
        beside = path.with_name(f".{path.name}.new")  # what is interrupted leaves the head that was there
        with beside.open("wb") as file:
            np.savez_compressed(file, format=np.array(_FORMAT), features=np.array(NAMES), **arrays)
        beside.replace(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises ConfigError when the file can't be read, or holds no head that this version can use."""
        remedy = "fit one with `tierserve calibrate`, or leave `router.head` out for the default"
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                arrays = {name: _unpacked(file[name]) for name in cls.__slots__}
                known = str(file["format"]) == _FORMAT and tuple(file["features"]) == NAMES
            head = cls(**arrays)
            usable = known and head._fits()
        except OSError as error:
            raise ConfigError(_WHERE, f"{path} can't be read ({error.strerror or error})", remedy) from None
        except Exception as error:  # zipfile, zlib and numpy each have their own for a file that is damaged
            raise ConfigError(_WHERE, f"{path} holds no head ({error})", remedy) from None
        if not usable:
            raise ConfigError(_WHERE, f"{path} is of another version of tierserve, or damaged", remedy)
        return head

    def _kernel(self, inputs: Array) -> Array:
        vectors = inputs[:, : self.dimensions]
        cosines = vectors @ self.landmarks.T / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
        kernel: Array = np.exp(-2 * self.width * (1 - cosines))
        return kernel

    def _fits(self) -> bool:
        """Whether the arrays belong together, are of the right kinds, and hold finite numbers."""
        d, hidden, landmarks, examples = map(
            len, (self.center, self.net_out, self.landmark_weights, self.example_texts)
        )
        numbers: Sequence[tuple[Array, tuple[int, ...]]] = (
            (self.center, (d,)),
            (self.scale, (d,)),
            (self.slopes, (d,)),
            (self.net_in, (d, hidden)),
            (self.net_bias, (hidden,)),
            (self.net_out, (hidden,)),
            (self.landmarks, (landmarks, d - len(NAMES))),
            (self.landmark_weights, (landmarks,)),
            (self.width, ()),
            (self.calibration, (2,)),
            (self.everyday, (d + 1,)),
            (self.everyday_hard, (d + 1,)),
            (self.example_vectors, (examples, self.example_vectors.shape[-1])),
            (self.threshold, ()),
        )
        others = ((self.example_texts, "U", (examples,)), (self.example_hard, "b", (examples,)), (self.note, "U", ()))
        return all(
            array.dtype == np.float32 and array.shape == shape and bool(np.isfinite(array).all())
            for array, shape in numbers
        ) and all(array.dtype.kind == kind and array.shape == shape for array, kind, shape in others)


def gelu(values: Array) -> Array:
    """The tanh form (Hendrycks and Gimpel, 2016, arXiv:1606.08415), which is torch's `approximate="tanh"`."""
    result: Array = 0.5 * values * (1 + np.tanh(0.7978845608 * (values + 0.044715 * values**3)))
    return result


def _logit(inputs: Array, weights: Array) -> Array:
    result: Array = inputs @ weights[:-1] + weights[-1]
    return result


def probability(logits: Array) -> Array:
    """The logistic function, without its overflow."""
    result: Array = 0.5 + 0.5 * np.tanh(0.5 * logits)
    return result


def _packed(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.float16) if array.dtype == np.float32 and array.ndim == 2 else array


def _unpacked(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.float32) if array.dtype == np.float16 else array

"""Fits a head to outcomes.

    head = fit_head(Fitted(vectors, outcomes), Fitted(traffic_vectors, traffic), "linear", own=384)

What is fitted is the gain: the large model's score less the small one's. P(the small model fails) ranks worse: many
questions are beyond both. Each source (a benchmark, a pair of models) is centred on its own mean first, so that what
is learned is what makes a question gain more than others of its kind, which is what holds for kinds not seen.

- linear: ridge regression on vector and surface, and a prior that the longer question of a kind gains more.
- kernel: beside it, ridge regression on RBF kernels over landmarks (Nystroem; Williams and Seeger, 2001).
- net: beside it, one hidden layer with much dropout, which also has to tell each model's own score.

Inside one benchmark the last two win; on a benchmark never seen they lose to the first (benchmarks/routing_quality.py).
`fit_head` takes the kind; quality/calibrate.py chooses one.
"""

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, Ridge

from tierserve.quality.outcomes import Outcomes
from tierserve.router.scoring.features import NAMES, features
from tierserve.router.scoring.head import Array, Head, probability

KINDS: Final = ("linear", "kernel", "net")
FEWEST: Final = 15  # hard and simple prompts of everyday traffic: cross-validation divides them by three, then by five

# The prior: of how much a spread of the length counts beside a spread of the fitted slopes. Anything from 0.5 to 1
# does as well across benchmarks.
_LENGTH_PRIOR: Final = 0.7
# An encoder has fifty times as many numbers as there are features: each counts for less.
_VECTOR_SCALE: Final = 0.2
_RIDGE: Final = 10_000
_LANDMARKS: Final = 1_000
_KERNEL_WIDTH: Final = 1.0
_KERNEL_RIDGE: Final = 10
_MEMBERS: Final = 3
_HIDDEN: Final = 32
_DROPOUT: Final = (0.7, 0.5)  # of inputs, of hidden units
_EPOCHS: Final = 12
_FOLDS: Final = 3
_EXAMPLES: Final = 500
_EXAMPLE_CHARACTERS: Final = 1_000  # in an array of texts each takes the room of the longest
_CERTAIN: Final = 30.0  # as a logit


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a head is fitted to: rows with the encoder's vectors, shape (rows, dimensions)."""

    vectors: Array
    outcomes: Outcomes

    def __getitem__(self, rows: NDArray[Any]) -> "Fitted":
        return Fitted(self.vectors[rows], self.outcomes[rows])

    def surface(self) -> Array:
        return np.stack([features(prompt) for prompt in self.outcomes.prompts])


def fit_head(
    questions: Fitted | None,
    traffic: Fitted | None,
    kind: str,
    own: int,
    seed: int = 0,
    note: str = "",
    private: bool = False,
) -> Head:
    """A head of this kind. `questions`: outcomes, ranked by gain; `traffic`: everyday prompts, of which those are hard
    that the small model fails. One of the two may be None. `own`: dimensions of the sentence's own vector.

    Its examples are of the traffic, or else of the questions, but for `private` ones: their texts are not kept.
    """
    known = questions or traffic
    assert known is not None
    head = _blank(known, own, note)
    if questions is not None:
        head = _with_rank(head, questions, kind, seed)
        head = replace(head, calibration=_calibrated(head, questions, kind, seed))
    shown = traffic or (None if private else questions)
    head = _with_traffic(head, questions, traffic)
    return _with_examples(head, shown) if shown is not None else head


def fit_opinions(rows: Fitted, ranks: NDArray[np.float64], kind: str, own: int, note: str) -> Head:
    """A head that gives opinions again: chances, 0..1, that the small model will not do, which are the rows' gains.

    `ranks`: the rows' by heads of this kind that were fitted without them, of `cross_ranks`.
    """
    head = _with_rank(_blank(rows, own, note), rows, kind, seed=0)
    return replace(head, calibration=_platt(ranks, rows.outcomes.gain))


def fit_rank(questions: Fitted, kind: str, seed: int = 0) -> Head:
    """A head whose `rank` alone is fitted: enough to order prompts."""
    return _with_rank(_blank(questions, 1, ""), questions, kind, seed)


def _blank(fitted: Fitted, own: int, note: str) -> Head:
    """Standardises the inputs, and says 5 to everything that is no everyday traffic."""
    rows = np.concatenate([fitted.vectors, fitted.surface()], axis=1)
    # In float32 the sum of 24,000 equal numbers is off by enough to give a constant a spread of 1e-4.
    center, spread = rows.mean(axis=0, dtype=np.float64), rows.std(axis=0, dtype=np.float64)
    scale = np.divide(1, spread, out=np.zeros_like(spread), where=spread > 1e-6)
    d, empty = rows.shape[1], np.zeros(0, np.float32)
    outcomes = fitted.outcomes
    return Head(
        center=center.astype(np.float32),
        scale=scale.astype(np.float32),
        slopes=np.zeros(d, np.float32),
        net_in=np.zeros((d, 0), np.float32),
        net_bias=empty,
        net_out=empty,
        landmarks=np.zeros((0, d - len(NAMES)), np.float32),
        landmark_weights=empty,
        width=np.array(_KERNEL_WIDTH, np.float32),
        calibration=np.zeros(2, np.float32),
        everyday=np.append(np.zeros(d, np.float32), np.float32(-_CERTAIN)),
        everyday_hard=np.zeros(d + 1, np.float32),
        example_texts=np.zeros(0, np.str_),
        example_hard=np.zeros(0, np.bool_),
        example_vectors=np.zeros((0, own), np.float32),
        threshold=np.array(4.0, np.float32),
        note=np.array(note or f"{len(outcomes)} outcomes"),
    )


def _with_rank(head: Head, questions: Fitted, kind: str, seed: int) -> Head:
    outcomes = questions.outcomes
    inputs = head.inputs(questions.vectors, questions.surface())
    slopes = _slopes(inputs, outcomes)
    head = replace(head, slopes=slopes)
    rest = _centred(outcomes.gain - inputs @ slopes, outcomes.sources)
    if kind == "net":
        targets = np.stack([rest, *(_centred(score, outcomes.sources) for score in (outcomes.small, outcomes.large))])
        head = replace(head, **_net(inputs, targets.T, seed))
    if kind == "kernel":
        head = replace(head, **_kernel(head, inputs, rest, seed))
    return head


def _slopes(inputs: Array, outcomes: Outcomes) -> Array:
    """Ridge regression of the gain within each source, with the prior on length; scaled to what the length and the
    slopes together say of the gain."""
    weights = np.full(inputs.shape[1], _VECTOR_SCALE, np.float32)
    weights[-len(NAMES) :] = 1
    within, gain = _centred(inputs * weights, outcomes.sources), _centred(outcomes.gain, outcomes.sources)
    slopes = weights * Ridge(alpha=_RIDGE, fit_intercept=False).fit(within, gain).coef_
    words = np.zeros_like(weights)
    words[inputs.shape[1] - len(NAMES) + NAMES.index("words")] = 1
    of_inputs = _centred(inputs, outcomes.sources)
    slopes = slopes / max((of_inputs @ slopes).std(), 1e-6)
    slopes = slopes + _LENGTH_PRIOR * words / max((of_inputs @ words).std(), 1e-6)
    told = of_inputs @ slopes
    amount = max(float(told @ gain / max(told @ told, 1e-6)), 1e-3)  # an order is kept even where nothing was found
    found: Array = (amount * slopes).astype(np.float32)
    return found


def _kernel(head: Head, inputs: Array, rest: NDArray[np.float64], seed: int) -> dict[str, Any]:
    # In float32 questions that are asked twice make the kernel's inverse square root a matter of rounding.
    vectors = inputs[:, : head.dimensions].astype(np.float64)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    count = min(_LANDMARKS, len(unit))
    nystroem = Nystroem(gamma=_KERNEL_WIDTH, n_components=count, random_state=seed).fit(unit)
    ridge = Ridge(alpha=_KERNEL_RIDGE, fit_intercept=False).fit(nystroem.transform(unit), rest)
    weights = nystroem.normalization_.T @ ridge.coef_
    return {"landmarks": nystroem.components_.astype(np.float32), "landmark_weights": weights.astype(np.float32)}


def _net(inputs: Array, targets: NDArray[np.float64], seed: int) -> dict[str, Any]:
    """Several small networks, put side by side as one; `targets`: (rows, 3), the first is what is asked of it later.
    In torch, as scikit-learn's have no dropout, without which they learn the questions by heart."""
    import torch
    from torch import nn

    x, y = torch.from_numpy(inputs), torch.from_numpy(targets.astype(np.float32))
    weight, members, batch = torch.tensor([4.0, 1.0, 1.0]), [], min(128, len(x))
    for member in range(_MEMBERS):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed * _MEMBERS + member)
            first, last = nn.Linear(x.shape[1], _HIDDEN), nn.Linear(_HIDDEN, 3)
            model = nn.Sequential(
                nn.Dropout(_DROPOUT[0]), first, nn.GELU(approximate="tanh"), nn.Dropout(_DROPOUT[1]), last
            )
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
            steps = _EPOCHS * (len(x) // batch)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps + 1)
            for _ in range(_EPOCHS):
                for rows in torch.randperm(len(x)).split(batch):  # type: ignore[no-untyped-call]
                    if len(rows) < batch:
                        continue
                    loss = ((model(x[rows]) - y[rows]) ** 2 * weight).mean()
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    schedule.step()
        members.append([first.weight.T, first.bias, last.weight[0] / _MEMBERS])
    net_in, net_bias, net_out = (torch.cat(parts, dim=-1).detach().numpy() for parts in zip(*members, strict=True))
    return {"net_in": net_in, "net_bias": net_bias, "net_out": net_out}


def _calibrated(head: Head, questions: Fitted, kind: str, seed: int) -> Array:
    """To the probability that the large model does better, on questions kept back."""
    return _platt(cross_ranks(questions, kind, _FOLDS, seed), (questions.outcomes.gain > 0).astype(np.float64))


def _platt(ranks: NDArray[np.float64], chances: NDArray[np.float64]) -> Array:
    """Platt's map (1999) from ranks to chances, 0..1; of what is not certain each row says both, by its weight."""
    if chances.min() == chances.max() and chances[0] in (0, 1):
        return np.array([0, _CERTAIN if chances[0] else -_CERTAIN], np.float32)
    both, weights = np.repeat([True, False], len(ranks)), np.concatenate([chances, 1 - chances])
    kept = weights > 0
    model = LogisticRegression(C=1e6)
    model.fit(np.concatenate([ranks, ranks])[kept, None], both[kept], weights[kept])
    slope = max(float(model.coef_[0, 0]), 1e-3)  # never turn an order round
    return np.array([slope, model.intercept_[0]], np.float32)


def cross_ranks(questions: Fitted, kind: str, folds: int, seed: int = 0) -> NDArray[np.float64]:
    """Each row's rank by a head that was fitted without its question."""
    fold = questions.outcomes.folds(folds, seed)
    ranks = np.zeros(len(fold))
    for number in range(folds):
        held = fold == number
        ranks[held] = rank_of(fit_rank(questions[~held], kind, seed), questions[held])
    return ranks


def rank_of(head: Head, rows: Fitted) -> Array:
    return head.rank(head.inputs(rows.vectors, rows.surface()))


def cross_scores(head: Head, questions: Fitted | None, traffic: Fitted | None, kind: str, seed: int = 0) -> Array:
    """Scores of the traffic, or else of the questions, each by a head that was fitted without it; shape (rows,)."""
    if traffic is None:
        assert questions is not None
        logits = head.calibration[0] * cross_ranks(questions, kind, _FOLDS, seed) + head.calibration[1]
        return 10 * probability(logits.astype(np.float32))
    fold = traffic.outcomes.folds(_FOLDS, seed)
    scores = np.zeros(len(fold), np.float32)
    for number in range(_FOLDS):
        held = traffic[fold == number]
        scores[fold == number] = _with_traffic(head, questions, traffic[fold != number]).scores(
            held.vectors, held.surface()
        )
    return scores


def _with_traffic(head: Head, questions: Fitted | None, traffic: Fitted | None) -> Head:
    if traffic is None:
        return head
    inputs = head.inputs(traffic.vectors, traffic.surface())
    hard = traffic.outcomes.gain > 0
    head = replace(head, everyday_hard=_logistic(inputs, hard))
    if questions is None:
        head = replace(head, everyday=np.append(np.zeros_like(head.center), np.float32(_CERTAIN)))
    else:
        others = head.inputs(questions.vectors, questions.surface())
        is_traffic = np.arange(len(inputs) + len(others)) < len(inputs)
        head = replace(head, everyday=_logistic(np.concatenate([inputs, others]), is_traffic, balanced=True))
    return head


def _with_examples(head: Head, rows: Fitted) -> Head:
    """What people are shown as near to a prompt: the rows, some of them where they are many."""
    kept = np.random.default_rng(0).permutation(len(rows.outcomes))[:_EXAMPLES]
    own = head.example_vectors.shape[1]
    return replace(
        head,
        example_texts=np.array([rows.outcomes.prompts[row].text[:_EXAMPLE_CHARACTERS] for row in kept]),
        example_hard=rows.outcomes.gain[kept] > 0,
        example_vectors=rows.vectors[kept, :own],
    )


def _logistic(inputs: Array, positive: NDArray[np.bool_], balanced: bool = False) -> Array:
    """Weights and bias, regularised as cross-validation says."""
    if balanced:
        model = LogisticRegression(C=1e-3, class_weight="balanced", max_iter=300).fit(inputs, positive)
    else:
        model = LogisticRegressionCV(
            Cs=np.logspace(-5, 0, 11),
            cv=5,
            scoring="neg_log_loss",
            max_iter=1000,
            l1_ratios=(0.0,),
            use_legacy_attributes=False,
        ).fit(inputs, positive)
    return np.append(model.coef_[0], model.intercept_).astype(np.float32)


def _centred(values: NDArray[Any], groups: NDArray[np.str_]) -> NDArray[Any]:
    """Each group's mean subtracted from its rows."""
    _, where, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    sums = np.zeros((len(sizes), *values.shape[1:]))
    np.add.at(sums, where, values)
    return values - (sums.T / sizes).T[where]

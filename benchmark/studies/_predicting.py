"""A small Transformer that says of each generated token whether it is the memorised one, and what it must beat."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..common.seeds import rng
from ..common.types import EncodedMemory
from ..models.subject import Subject
from ._continuations import continuations, inside

BINS = 10


@dataclass(frozen=True)
class Sequences:
    """Continuations of memories: last-layer states [B, T, H], entropies [B, T] in nats, and whether each token is the true one [B, T]."""

    states: np.ndarray = field(repr=False)
    entropies: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    memories: np.ndarray = field(repr=False)  # names [B]

    def of(self, names: Sequence[str]) -> Sequences:
        """Those of some memories."""
        mine = np.isin(self.memories, list(names))
        return Sequences(self.states[mine], self.entropies[mine], self.labels[mine], self.memories[mine])

    def first(self, length: int) -> Sequences:
        """The first `length` tokens of each."""
        return Sequences(self.states[:, :length], self.entropies[:, :length], self.labels[:, :length], self.memories)

    def moved(self, matrix: np.ndarray) -> Sequences:
        """With states that a map [H + 1, H'] takes into another model's."""
        return replace(self, states=_with_one(self.states) @ matrix)


def gathered(subject: Subject, memories: Sequence[EncodedMemory], boundaries: Sequence[int], context: int, length: int) -> Sequences:
    """Every memory continued from each of the boundaries."""
    made = [c for b in boundaries for c in continuations(subject, memories, b, context, length)]
    states, entropies = inside(subject, [c.prompt + c.said for c in made], length)
    return Sequences(states, entropies, np.stack([c.right for c in made]), np.array([c.memory.id for c in made]))


def alignment(mine: np.ndarray, theirs: np.ndarray, ridge: float = 1e-3) -> np.ndarray:
    """The linear map [H + 1, H'] from one model's states [N, H] to another's [N, H'] of the same tokens, by least squares."""
    x = _with_one(mine)
    return np.linalg.solve(x.T @ x + ridge * len(x) * np.eye(x.shape[1]), x.T @ theirs)


def split(names: Sequence[str], seed: int) -> tuple[list[str], list[str], list[str]]:
    """Memories to train on, to choose the epoch by, and to test on: three, one and one fifths."""
    order = [sorted(names)[i] for i in rng(seed, "predictor", "split").permutation(len(names))]
    a, b = max(1, len(order) * 3 // 5), max(2, len(order) * 4 // 5)
    return order[:a], order[a:b], order[b:]


class Predictor(nn.Module):
    """Logits [B, T] from states and entropies: a linear map, places, a Transformer encoder that sees the whole continuation."""

    def __init__(self, hidden: int, length: int, width: int, layers: int):
        super().__init__()
        self.inputs = nn.Linear(hidden + 1, width)
        self.places = nn.Parameter(torch.zeros(length, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.1, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.body(self.inputs(features) + self.places[: features.shape[1]]))[..., 0]


@dataclass(frozen=True)
class Trained:
    """A predictor with the scaling of its inputs."""

    model: Predictor = field(repr=False)
    centre: np.ndarray = field(repr=False)
    scale: np.ndarray = field(repr=False)

    @torch.no_grad()
    def probability(self, s: Sequences) -> np.ndarray:
        """Of each token to be memorised [B, T]."""
        self.model.eval()
        return torch.sigmoid(self.model(self.features(s))).numpy().astype(float)

    def features(self, s: Sequences) -> Tensor:
        return torch.from_numpy((_features(s) - self.centre) / self.scale).float()


def trained(train: Sequences, choose: Sequences, seed: int, epochs: int, width: int = 64, layers: int = 2, batch: int = 32) -> Trained:
    """Trained with AdamW on the binary cross-entropy per token; of all epochs the one with the least loss on `choose` is kept."""
    x = _features(train)
    centre, scale = x.mean((0, 1)), x.std((0, 1)) + 1e-6
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**31)
        made = Trained(Predictor(train.states.shape[-1], train.labels.shape[1], width, layers), centre, scale)
        inputs, labels = made.features(train), torch.from_numpy(train.labels).float()
        others, truth = made.features(choose), torch.from_numpy(choose.labels).float()
        optimizer = torch.optim.AdamW(made.model.parameters(), lr=1e-3, weight_decay=0.01)
        best, kept = float("inf"), copy.deepcopy(made.model.state_dict())
        for _ in range(epochs):
            made.model.train()
            for part in torch.randperm(len(inputs)).split(batch):
                optimizer.zero_grad()
                F.binary_cross_entropy_with_logits(made.model(inputs[part]), labels[part]).backward()
                optimizer.step()
            made.model.eval()
            with torch.no_grad():
                loss = float(F.binary_cross_entropy_with_logits(made.model(others), truth)) if len(others) else 0.0
            if loss <= best:
                best, kept = loss, copy.deepcopy(made.model.state_dict())
    made.model.load_state_dict(kept)
    return made


def logistic(train: Sequences, steps: int = 25, ridge: float = 1e-3) -> np.ndarray:
    """Intercept and slope of a logistic regression of the label on entropy alone, by Newton's method."""
    x = np.stack([np.ones(train.labels.size), train.entropies.ravel()], 1).astype(float)
    y, w = train.labels.ravel().astype(float), np.zeros(2)
    for _ in range(steps):
        p = _sigmoid(x @ w)
        slope = x.T @ (p - y) + ridge * w
        w = w - np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x + ridge * np.eye(2), slope)
    return w


def by_entropy(w: np.ndarray, s: Sequences) -> np.ndarray:
    """What the regression says of each token [B, T]."""
    return _sigmoid(w[0] + w[1] * s.entropies.astype(float))


def judged(probability: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Shares of tokens, and of whole sequences, that are right; Brier score and expected calibration error over ten bins."""
    right = (probability >= 0.5) == labels
    bins = calibration(probability, labels)
    error = sum(b["tokens"] * abs(b["said"] - b["true"]) for b in bins) / labels.size
    return {
        "token_accuracy": float(right.mean()),
        "sequence_accuracy": float(right.all(1).mean()),
        "brier": float(((probability - labels) ** 2).mean()),
        "calibration_error": float(error),
    }


def calibration(probability: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    """For each tenth of probability that occurs: the mean of what was said, the share that was memorised, and of how many tokens."""
    place = np.minimum((probability * BINS).astype(int), BINS - 1)
    return [
        {
            "bin": k,
            "said": float(probability[place == k].mean()),
            "true": float(labels[place == k].mean()),
            "tokens": int((place == k).sum()),
        }
        for k in range(BINS)
        if (place == k).any()
    ]


def _features(s: Sequences) -> np.ndarray:
    return np.concatenate([s.states, s.entropies[..., None]], -1)


def _with_one(states: np.ndarray) -> np.ndarray:
    return np.concatenate([states, np.ones((*states.shape[:-1], 1), states.dtype)], -1)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -50, 50)))

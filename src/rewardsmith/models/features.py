"""Known properties of a completion in place of its text (Nath et al. 2024, arXiv 2402.15473, paper 31).

Where experts know which few properties make an output good, rewards measure these (a judge per property, rules, scores
that are already there), and what is learned from preferences is only how they go together: a network with one input
per property, which a few hundred comparisons teach. `FeatureBackbone` measures, `FeatureHead` learns:

    backbone = FeatureBackbone({"relevance": Judge(chat, "opinion_relevance"), "length": from_function(length)}, ...)
    result = train(pairs, backbone, head="features")   # result.model.score(batch).parts has the measurements
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from rewardsmith.data.records import Batch, Text, as_columns, text_key
from rewardsmith.functions import ColumnReward
from rewardsmith.models.arrays import mlp
from rewardsmith.models.backbones import Backbone, Encoded
from rewardsmith.models.heads import Head, ScalarHead
from rewardsmith.models.reward_model import RewardModel
from rewardsmith.reward import Failure, Reward

if TYPE_CHECKING:
    from rewardsmith.models.trainer import TrainResult

SIZES: tuple[tuple[int, ...], ...] = ((), (5,), (3,), (5, 3), (4, 2), (6, 4, 2))  # of hidden layers, in the paper
FILE = "features.json"


class FeatureBackbone(Backbone):
    """Measurements of a completion by named rewards, as its hidden vector (K,), in [0, 1].

    A text is measured once, however often it is trained on or scored. A completion of which one measurement fails, or
    lies outside the scale, fails as a whole: training leaves it out, a score is NaN. Rewards that read columns beside
    `prompt` and `completion` (scores that the data already has: `ColumnReward`) are asked by `measure` before that.

    The rewards themselves are not saved. A loaded backbone knows their names and reads columns; the others have to be
    given again with `attach`.

    Args:
        rewards: K of them, by the name of what they measure, in the order of the inputs. None: to be given by `attach`.
        scale: lowest and highest score, which become 0 and 1: for all, or by name.
    """

    name = "features"
    trainable = False
    anchor: torch.Tensor

    def __init__(
        self,
        rewards: Mapping[str, Reward | None],
        scale: tuple[float, float] | Mapping[str, tuple[float, float]] = (0.0, 5.0),
    ) -> None:
        super().__init__()
        if not rewards:
            raise ValueError("there are no features: give rewards by name")
        self.features = tuple(rewards)
        self.hidden_size = len(self.features)
        self.scale: dict[str, tuple[float, float]] = {}
        for feature in self.features:
            if isinstance(scale, Mapping) and feature not in scale:
                raise ValueError(f"the feature {feature!r} has no scale; there are {sorted(scale)}")
            low, high = map(float, scale[feature] if isinstance(scale, Mapping) else scale)
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(f"the scale of {feature!r} must rise, got {low:g} to {high:g}")
            self.scale[feature] = (low, high)
        self.rewards: dict[str, Reward] = {}
        self._described: dict[str, Any] = {}
        self._measured: dict[bytes, np.ndarray] = {}  # text -> (K,), NaN where a feature is not known
        self._nothing = np.full(self.hidden_size, np.nan)
        self.attach({feature: reward for feature, reward in rewards.items() if reward is not None})
        self.register_buffer("anchor", torch.empty(0), persistent=False)  # knows the device

    def attach(self, rewards: Mapping[str, Reward]) -> None:
        """Give the rewards of some features, by name. What they measure from now on replaces nothing known.

        Raises:
            ValueError: for a name that is no feature.
            TypeError: for what is no `Reward`.
        """
        for feature, reward in rewards.items():
            if feature not in self.features:
                raise ValueError(f"{feature!r} is no feature of this model; they are {', '.join(self.features)}")
            if not isinstance(reward, Reward):
                raise TypeError(
                    f"the feature {feature!r} is a {type(reward).__name__}, not a Reward: see from_function"
                )
            described = _described(reward)
            if self._described.get(feature, described) != described:
                warnings.warn(f"the feature {feature!r} was measured by another reward in training", stacklevel=2)
            self._described.setdefault(feature, described)
            self.rewards[feature] = reward

    def measure(self, batch: Batch) -> np.ndarray:
        """Measure completions, with all columns of the batch at hand, and remember the result by text.

        Returns:
            (B, K) in [0, 1], NaN where a measurement failed.
        """
        columns = as_columns(batch)
        prompts = columns.get("prompt") or [""] * len(columns["completion"])
        keys = _keys(prompts, columns["completion"])
        self._ask({**columns, "prompt": prompts}, keys)
        return np.stack([self._known(key) for key in keys]) if keys else np.empty((0, self.hidden_size))

    def encode(self, prompts: Sequence[Text], completions: Sequence[Text]) -> Encoded:
        if len(prompts) != len(completions):
            raise ValueError(f"{len(prompts)} prompts but {len(completions)} completions")
        keys = _keys(prompts, completions)
        failures = self._ask({"prompt": list(prompts), "completion": list(completions)}, keys)
        failed = {row: failures[key] for row, key in enumerate(keys) if key in failures}
        items = [None if row in failed else self._known(key).astype(np.float32) for row, key in enumerate(keys)]
        return Encoded(items, [0 if item is None else 1 for item in items], failed)

    def _known(self, key: bytes) -> np.ndarray:
        return self._measured.get(key, self._nothing)

    def _ask(self, columns: Mapping[str, list[Any]], keys: Sequence[bytes]) -> dict[bytes, Failure]:
        """Measure what is not known of each distinct text; what could not be measured, by text."""
        first = {key: row for row, key in reversed(list(enumerate(keys)))}
        failures: dict[bytes, Failure] = {}
        for at, feature in enumerate(self.features):
            rows = sorted(row for key, row in first.items() if math.isnan(self._known(key)[at]))
            if not rows:
                continue
            if feature not in self.rewards:
                raise ValueError(f"the feature {feature!r} has no reward: give it with backbone.attach({{...}})")
            try:
                scores = self.rewards[feature].score({name: [of[i] for i in rows] for name, of in columns.items()})
            except ValueError as error:
                hint = "; backbone.measure(batch) reads columns" if len(columns) == 2 else ""
                raise ValueError(f"the feature {feature!r} cannot be measured: {error}{hint}") from error
            low, high = self.scale[feature]
            for place, row in enumerate(rows):
                value, failure = scores.values[place], scores.failures.get(place)
                if failure is not None:
                    failures[keys[row]] = Failure(failure.kind, f"{feature}: {failure.reason}", failure.latency)
                elif not low <= value <= high:
                    problem = f"{feature}: {value:g} is outside {low:g} to {high:g}"
                    failures[keys[row]] = Failure("out_of_range", problem)
                else:
                    known = self._measured.setdefault(keys[row], self._nothing.copy())
                    known[at] = (value - low) / (high - low)
        return failures

    def forward(self, items: Sequence[np.ndarray], groups: Sequence[Hashable] | None = None) -> torch.Tensor:
        return torch.from_numpy(np.stack(items)).to(self.anchor.device)

    def fingerprint(self) -> dict[str, Any]:
        return {"name": self.name, **self._config(), "dtype": "float32"}

    def _config(self) -> dict[str, Any]:
        scale = {feature: list(ends) for feature, ends in self.scale.items()}
        return {"features": list(self.features), "scale": scale, "rewards": self._described}

    def save(self, folder: str) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / FILE).write_text(json.dumps(self._config(), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str) -> FeatureBackbone:
        """What `save` wrote, without the rewards that do not read a column: see `attach`."""
        config = json.loads((Path(folder) / FILE).read_text(encoding="utf-8"))
        columns = {
            feature: ColumnReward(described["column"]) if described["class"] == _path(ColumnReward) else None
            for feature, described in config["rewards"].items()
        }
        backbone = cls({feature: columns.get(feature) for feature in config["features"]}, config["scale"])
        backbone._described = config["rewards"]
        return backbone


def _keys(prompts: Sequence[Text], completions: Sequence[Text]) -> list[bytes]:
    texts = [f"{text_key(prompt)}\0{text_key(completion)}" for prompt, completion in zip(prompts, completions)]
    return [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts]


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _described(reward: Reward) -> dict[str, Any]:
    """What tells a reward from another (JSON)."""
    fingerprint = getattr(reward, "fingerprint", None)
    told = fingerprint() if callable(fingerprint) else {"name": reward.__name__}
    return {**json.loads(json.dumps(told, default=str)), "class": _path(type(reward))}


class FeatureHead(ScalarHead):
    """A small network f from K measurements to a reward; `Scores.parts` has the measurements.

    Args:
        hidden_size: K.
        layers: sizes of the hidden layers; none is a weighted sum. Default: what the paper deployed; see `SIZES`.
        activation: after each hidden layer; the output is linear, so that no margin is out of reach.
        features: names of the measurements.
    """

    def __init__(
        self,
        hidden_size: int,
        layers: Sequence[int] = (6, 4, 2),
        activation: str = "relu",
        features: Sequence[str] = (),
    ) -> None:
        Head.__init__(self)  # not ScalarHead's, which makes a linear map
        if features and len(features) != hidden_size:
            raise ValueError(f"{len(features)} names for {hidden_size} features")
        self.layers, self.activation, self.features = list(layers), activation, list(features)
        self.net = mlp([hidden_size, *layers, 1], activation)

    @classmethod
    def build(cls, backbone: Backbone, **config: Any) -> Self:
        return cls(backbone.hidden_size, **{"features": getattr(backbone, "features", ()), **config})

    def reward(
        self, hidden: torch.Tensor, *, prompt_hidden: torch.Tensor | None = None, **columns: Any
    ) -> torch.Tensor:
        return self.net(hidden).squeeze(-1)

    def parts(self, hidden: torch.Tensor, **inputs: Any) -> dict[str, torch.Tensor]:
        return dict(zip(self.features, hidden.unbind(1)))

    def config(self) -> dict[str, Any]:
        return {"layers": self.layers, "activation": self.activation, "features": self.features}


@torch.no_grad()
def naive_mean(backbone: FeatureBackbone) -> RewardModel:
    """The mean of the measurements, which nothing was learned for: what a learned reward has to be better than."""
    head = FeatureHead.build(backbone, layers=[])
    linear = head.net[0]
    linear.weight.fill_(1 / backbone.hidden_size)  # type: ignore[operator]
    linear.bias.zero_()  # type: ignore[operator]
    return RewardModel(backbone, head, name="naive_mean")


@dataclass
class Search:
    """What `search` found.

    Attributes:
        best: the trained model with the least held-out loss, as `train` returns it.
        trials: what was tried, best first: layers, activation, learning_rate, eval_loss, eval_accuracy.
    """

    best: TrainResult
    trials: list[dict[str, Any]]


def search(
    records: Any, eval_data: Any, backbone: Backbone, *, trials: int = 50, epochs: float = 100, seed: int = 0
) -> Search:
    """A random search for size, activation and learning rate, on the held-out loss.

    Sizes are those of `SIZES`, learning rates are drawn evenly from 0.005 to 0.1; AdamW with a weight decay of 0.05,
    batches of 32 and a cosine schedule, as in the paper. Held-out rows that chose the model are no test of it.

    Args:
        records: preferences to train on.
        eval_data: preferences that choose.
        backbone: a `FeatureBackbone`, or another that is frozen, of few dimensions.
        trials: how many networks are trained.
        epochs: of each.
        seed: of the draws and of each network.

    Raises:
        ValueError: for fewer than one trial, or where no loss was finite.
    """
    from rewardsmith.models.trainer import train  # it takes seconds to import

    if trials < 1:
        raise ValueError(f"trials must be at least 1, got {trials}")
    rng = np.random.default_rng(seed)
    found: list[tuple[dict[str, Any], TrainResult]] = []
    for trial in range(trials):
        layers = SIZES[int(rng.integers(len(SIZES)))]
        activation = str(rng.choice(["tanh", "relu", "sigmoid", "none"]))
        rate = float(rng.uniform(5e-3, 1e-1))
        torch.manual_seed(seed + trial)
        head = FeatureHead.build(backbone, layers=layers, activation=activation)
        result = train(
            records, backbone, head=head, eval_data=eval_data, epochs=epochs, learning_rate=rate, batch_size=32,
            weight_decay=0.05, lr_scheduler="cosine", seed=seed + trial,
        )  # fmt: skip
        last = next(row for row in reversed(result.history) if "eval_loss" in row)
        tried = {"layers": list(layers), "activation": activation, "learning_rate": rate}
        found.append(({**tried, "eval_loss": last["eval_loss"], "eval_accuracy": last["eval_accuracy"]}, result))
    found = sorted((each for each in found if math.isfinite(each[0]["eval_loss"])), key=lambda e: e[0]["eval_loss"])
    if not found:
        raise ValueError(f"none of {trials} networks has a finite held-out loss: are the features finite?")
    return Search(found[0][1], [tried for tried, _ in found])

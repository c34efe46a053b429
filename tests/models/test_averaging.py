"""The mean of weights: exact for linear models, refused across architectures."""

from __future__ import annotations

import numpy as np
import pytest
from test_trainer import rows
from tiny import tiny_llama

from rewardsmith.models import HashedBackbone, RewardModel, train
from rewardsmith.models.averaging import average_weights


def test_the_mean_of_linear_models_scores_the_mean():
    models = [train(rows(40), "hashed", learning_rate=rate, seed=seed).model for rate, seed in ((5.0, 0), (10.0, 1))]
    texts = [[row[name] for row in rows(10, 3)] for name in ("prompt", "chosen")]
    before = [np.array(model(*texts)) for model in models]
    mean = average_weights(models)
    np.testing.assert_allclose(mean(*texts), np.mean(before, axis=0), atol=1e-5)
    np.testing.assert_allclose(models[0](*texts), before[0])


def test_transformers_average_and_other_architectures_are_refused():
    model = RewardModel(tiny_llama())
    texts = [[row[name] for row in rows(3, 3)] for name in ("prompt", "chosen")]
    np.testing.assert_allclose(average_weights([model, model])(*texts), model(*texts), atol=1e-6)
    with pytest.raises(ValueError, match="model 1 is not of the same architecture"):
        average_weights([model, RewardModel(HashedBackbone())])
    with pytest.raises(ValueError, match="no models"):
        average_weights([])

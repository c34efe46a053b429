"""The embedded sample: sizes, splits without leaks, determinism, and biases in the direction that is documented."""

import numpy as np
import pytest

from rewardsmith.data.records import kind_of
from rewardsmith.worlds import sample
from rewardsmith.worlds.sample import NAMES, load_sample
from rewardsmith.worlds.text import USERS, gold


def _words(texts):
    return np.array([len(text.split()) for text in texts])


def test_sizes_and_columns():
    assert len(load_sample("pairs")) >= 1400
    assert len(load_sample("users")) >= 300
    assert len(set(load_sample("users")["user"])) >= 6
    assert len(load_sample("candidates", "test")) >= 40
    assert all(len(group) >= 8 for group in load_sample("candidates")["candidates"])
    assert {name: kind_of(load_sample(name).column_names) for name in NAMES} == {
        "pairs": "preference",
        "honest": "preference",
        "candidates": "candidates",
        "users": "preference",
    }


@pytest.mark.parametrize("name", NAMES)
def test_splits_share_no_prompt_and_agree_between_names(name):
    train, test = set(load_sample(name, "train")["prompt"]), set(load_sample(name, "test")["prompt"])
    assert train and test and not train & test
    assert test <= set(load_sample("candidates", "test")["prompt"])
    assert len(load_sample(name)) == len(load_sample(name, "train")) + len(load_sample(name, "test"))


def test_no_pair_is_there_twice_and_no_pair_is_of_equal_texts():
    for name in ("pairs", "honest", "users"):
        rows = load_sample(name)
        pairs = {(p, *sorted((a, b))) for p, a, b in zip(rows["prompt"], rows["chosen"], rows["rejected"])}
        assert len(pairs) > 0.99 * len(rows)
        assert all(a != b for a, b in zip(rows["chosen"], rows["rejected"]))


def test_it_is_the_same_each_time():
    first = load_sample("pairs").to_list()
    sample._rows.cache_clear()
    assert load_sample("pairs").to_list() == first


def test_recorded_gold_is_gold_and_ratings_follow_it():
    rows = load_sample("pairs", "test")
    np.testing.assert_allclose(gold(rows["prompt"], rows["chosen"]), rows["gold_chosen"])
    worth = np.concatenate([rows["gold_chosen"], rows["gold_rejected"]])
    ratings = np.concatenate([rows["rating_chosen"], rows["rating_rejected"]])
    assert set(ratings) <= {1.0, 2.0, 3.0, 4.0, 5.0}
    assert np.corrcoef(worth, ratings)[0, 1] > 0.6


def test_the_crowd_likes_length_and_flattery_and_honest_labels_do_not():
    crowd, honest = load_sample("pairs"), load_sample("honest")
    key = {(p, *sorted((a, b))) for p, a, b in zip(honest["prompt"], honest["chosen"], honest["rejected"])}
    assert key == {(p, *sorted((a, b))) for p, a, b in zip(crowd["prompt"], crowd["chosen"], crowd["rejected"])}

    def longer_wins(rows):
        return np.mean(_words(rows["chosen"]) > _words(rows["rejected"]))

    def agrees(rows):
        return np.mean(np.array(rows["gold_chosen"]) > np.array(rows["gold_rejected"]))

    assert longer_wins(crowd) > longer_wins(honest) + 0.1
    assert 0.7 < agrees(crowd) < agrees(honest) - 0.05


def test_each_user_agrees_most_with_their_own_reward():
    rows = load_sample("users").to_list()
    for name, user in USERS.items():
        own = [row for row in rows if row["user"] == name]
        columns = [[row[key] for row in own] for key in ("prompt", "chosen", "rejected")]
        margin = gold(columns[0], columns[1], user.weights) - gold(columns[0], columns[2], user.weights)
        biased = user.length_bias or user.opener_bias
        assert np.mean(margin > 0) > (0.5 if biased else 0.75), name


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="pairs, honest, candidates, users"):
        load_sample("pair")
    with pytest.raises(ValueError, match="'train' or 'test'"):
        load_sample("pairs", "dev")

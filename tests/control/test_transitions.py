"""Transitions and rewards of them: rows, memory, terms and weights."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from walk_env import design, new_places

from rewardsmith.control.composer import Composer
from rewardsmith.control.transitions import TaskReward, TransitionReward, Transitions, from_transition_function
from rewardsmith.reward import Failure, Scores, linear_schedule


def steps(length: int, env: int = 0, terminated: bool = True) -> Transitions:
    observations = np.arange(length + 1.0)[:, None] + 10 * env
    task = np.arange(length) + 100.0 * env
    return Transitions.episode(
        observations, np.arange(length), terminated=terminated, infos={"task_reward": task}, env=env
    )


def doubled(next_observations: np.ndarray, factor: float = 2.0) -> np.ndarray:
    return factor * next_observations[:, 0]


def counted(action: int, memory: dict) -> tuple[float, dict[str, float]]:
    memory["n"] = memory.get("n", 0) + 1
    return float(memory["n"]), {"action": float(action)}


class Odd(TransitionReward):
    """Fails on odd actions."""

    __name__ = "odd"

    def score(self, transitions: Transitions) -> Scores:
        odd = np.flatnonzero(transitions.actions % 2)
        values = np.where(transitions.actions % 2, np.nan, 1.0)
        return Scores(values, failures={int(row): Failure("blind", "an odd action") for row in odd})


def test_an_episode_has_its_start_and_its_end():
    episode = steps(3, terminated=False)
    assert episode.start.tolist() == [True, False, False]
    assert episode.truncated.tolist() == [False, False, True]
    assert not episode.terminated.any()
    np.testing.assert_array_equal(episode.next_observations[:, 0], [1, 2, 3])


def test_concatenate_then_take_gives_back_the_parts():
    parts = [steps(3), steps(2, env=1, terminated=False), steps(4)]
    whole = Transitions.concatenate(parts)
    assert len(whole) == 9
    for part, rows in zip(parts, np.split(np.arange(9), [3, 5])):
        for got in (whole.take(rows), whole.take(np.isin(np.arange(9), rows))):
            np.testing.assert_array_equal(got.observations, part.observations)
            np.testing.assert_array_equal(got.truncated, part.truncated)
            np.testing.assert_array_equal(got.start, part.start)
            np.testing.assert_array_equal(got.infos["task_reward"], part.infos["task_reward"])
            np.testing.assert_array_equal(got.env, part.env)


def test_dict_observations_are_rows_too():
    place = {"place": np.arange(6.0).reshape(3, 2)}
    t = Transitions(place, np.zeros(3), place, np.zeros(3, bool), np.zeros(3, bool))
    twice = Transitions.concatenate([t, t]).take([0, 4])
    np.testing.assert_array_equal(twice.observations["place"], [[0, 1], [2, 3]])


def test_starts_and_episodes_of_mixed_environments():
    # two environments in turn: env 0 ends at its second row, env 1 never
    env = np.array([0, 1, 0, 1, 0, 1])
    ended = np.array([False, False, True, False, False, False])
    t = Transitions(np.zeros(6), np.zeros(6), np.zeros(6), ended, np.zeros(6, bool), env=env)
    assert t.start.tolist() == [True, True, False, False, True, False]
    assert t.episodes().tolist() == [0, 2, 0, 2, 1, 2]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"actions": np.zeros(2)}, "actions has shape"),
        ({"infos": {"frame": np.zeros(1)}}, r"infos\['frame'\]"),
        ({"start": np.zeros(5, bool)}, "start has shape"),
        ({"observations": {"a": np.zeros(3), "b": np.zeros(2)}}, r"observations\['b'\]"),
    ],
)
def test_columns_of_another_length_are_named(change, message):
    columns = {name: np.zeros(3) for name in ("observations", "actions", "next_observations")}
    columns |= {"terminated": np.zeros(3, bool), "truncated": np.zeros(3, bool)}
    with pytest.raises(ValueError, match=message):
        Transitions(**(columns | change))


def test_parts_with_other_infos_are_not_joined():
    bare = Transitions.episode(np.zeros(3), np.zeros(2))
    with pytest.raises(ValueError, match="part 1 has the infos"):
        Transitions.concatenate([steps(2), bare])


def test_a_function_reads_what_its_parameters_name():
    reward = from_transition_function(doubled)
    assert reward.needs == ()
    np.testing.assert_array_equal(reward(steps(3)), [2, 4, 6])
    reads = from_transition_function(lambda caption, actions: actions * (caption == "ore"))
    assert reads.needs == ("caption",)
    t = Transitions.episode(np.zeros(4), np.arange(3), infos={"caption": np.array(["ore", "lava", "ore"])})
    np.testing.assert_array_equal(reads(t), [0, 0, 2])
    with pytest.raises(ValueError, match=r"no info 'caption' \(there are: task_reward\)"):
        reads(steps(2))
    whole = from_transition_function(lambda transitions: transitions.start * 1.0)
    np.testing.assert_array_equal(whole(steps(3)), [1, 0, 0])


def test_memory_lives_for_one_episode_of_one_environment():
    reward = from_transition_function(counted)
    two = Transitions.concatenate([steps(3), steps(2)])
    scores = reward.score(two)
    assert scores.values.tolist() == [1, 2, 3, 1, 2]
    assert scores.parts["action"].tolist() == [0, 1, 2, 0, 1]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_one_step_at_a_time_gives_what_whole_episodes_give(lengths, random):
    parts = [steps(length, env=number % 3) for number, length in enumerate(lengths)]
    whole = Transitions.concatenate(parts)
    queues = {env: [row for row in range(len(whole)) if whole.env[row] == env] for env in range(3)}
    order = []
    while any(queues.values()):  # environments in a random order, each in its own order of time
        order.append(queues[random.choice([env for env, rows in queues.items() if rows])].pop(0))
    single, batched = from_transition_function(counted), from_transition_function(counted)
    together = batched(whole)
    apart = [single(whole.take([row]))[0] for row in order]
    np.testing.assert_array_equal(apart, together[order])


def test_reset_forgets_the_environments_named():
    reward = from_transition_function(counted)
    middle = [Transitions.concatenate([steps(3), steps(3, env=1)]).take([row, row + 3]) for row in range(3)]
    assert reward(middle[0]).tolist() == [1, 1]
    reward.reset([1])
    assert reward(middle[1]).tolist() == [2, 1]
    reward.reset()
    assert reward(middle[2]).tolist() == [1, 1]


def test_a_function_of_both_forms_is_refused():
    with pytest.raises(TypeError, match="mix one step"):
        from_transition_function(lambda observations, memory: observations)
    with pytest.raises(TypeError, match="by name"):
        from_transition_function(lambda *columns: columns)
    with pytest.raises(ValueError, match=r"shape \(3, 1\) for 3 steps"):
        from_transition_function(lambda observations: observations)(steps(3))


def test_terms_add_multiply_and_keep_their_names():
    task, twice, count = TaskReward(), from_transition_function(doubled), from_transition_function(counted)
    t = steps(3)
    np.testing.assert_array_equal((task + 0.5 * twice - 1)(t), [0, 2, 4])
    np.testing.assert_array_equal((3 - task)(t), [3, 2, 1])
    np.testing.assert_array_equal((-(task + twice) / 2)(t), [-1, -2.5, -4])
    np.testing.assert_array_equal((task * twice)(t), [0, 4, 12])
    scores = (task + 2 * (count + task)).score(t)
    np.testing.assert_array_equal(scores.values, [2, 7, 12])
    assert list(scores.parts) == ["task", "counted", "counted/action", "task_2"]
    np.testing.assert_array_equal(scores.parts["counted"], [1, 2, 3])  # without its weight


def test_weights_follow_the_training_step():
    reward = TaskReward() * linear_schedule(1.0, 0.0, 10) + from_transition_function(doubled)
    reward.set_step(5)
    np.testing.assert_allclose(reward(steps(3)), [2, 4.5, 7])
    np.testing.assert_allclose((2 * reward)(steps(3)), [4, 9, 14])
    reward.set_step(20)
    np.testing.assert_allclose(reward(steps(3)), [2, 4, 6])


def test_a_failed_term_is_named_and_nothing_is_scored_zero():
    scores = Composer({"task": TaskReward(), "eyes": Odd()}, {"eyes": 3.0}).score(steps(3))
    assert scores.to_list() == [3.0, None, 5.0]
    assert scores.failures == {1: Failure("blind", "eyes: an odd action", scores.failures[1].latency)}


def test_terms_may_be_combined_by_a_function():
    def signed_geometric_mean(terms: np.ndarray) -> np.ndarray:
        size = np.abs(terms).prod(axis=0) ** (1 / len(terms))
        return np.where((terms >= 0).all(axis=0), size, -size)

    columns = np.array([[0.5, 1.0, -0.5, 0.8], [0.5, 0.25, -0.5, 0.0]])
    t = Transitions.episode(np.zeros(5), np.zeros(4), infos={"a": columns[0], "b": columns[1]})
    terms = {"a": from_transition_function(lambda a: a), "b": from_transition_function(lambda b: b)}
    np.testing.assert_allclose(Composer(terms, op=signed_geometric_mean)(t), [0.5, 0.5, -0.5, 0.0])


def test_bad_compositions_are_refused():
    with pytest.raises(ValueError, match="at least one term"):
        Composer({})
    with pytest.raises(ValueError, match=r"weights \['b'\]"):
        Composer({"a": TaskReward()}, {"b": 1.0})
    with pytest.raises(TypeError, match="from_transition_function"):
        Composer({"a": lambda t: t})  # type: ignore[dict-item]
    with pytest.raises(TypeError):
        TaskReward() + "task"


def test_rewards_can_be_pickled():
    reward = pickle.loads(pickle.dumps(design()))
    assert list(reward.terms) == ["task", "shaping", "new_places", "far"]
    assert reward.terms["new_places"].function is new_places

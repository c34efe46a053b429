"""Layouts: every row exactly once, least cost among the possible cuts, budgets kept."""

from __future__ import annotations

import itertools
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardsmith.models.layout import LAYOUTS, Costs, Group, common_prefix, partition, plan, shared_prefixes

COSTS = Costs(pair=0.001, copy=0.1, call=50.0, budget=1000)
GROUPS = [Group((0, 1, 2), 300), Group((3,)), Group((4, 5), 20)]
LENGTHS = [350, 360, 340, 200, 90, 30]


@given(st.lists(st.lists(st.integers(0, 2), max_size=6), min_size=1, max_size=5))
def test_common_prefix_is_the_one_of_the_definition(sequences):
    assert common_prefix(sequences) == len(os.path.commonprefix(sequences))  # noqa: RUF071 - lists, not paths


def test_shared_prefixes_leave_each_row_a_token_of_its_own():
    rows = [[1, 2, 3, 4], [1, 2, 3], [1, 2, 3, 5, 6], [7, 8], [9, 8]]
    groups = shared_prefixes(rows, ["a", "a", "a", "b", "b"])
    assert groups == [Group((0, 1, 2), 2), Group((3,)), Group((4,))]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(20, 120))
def test_partition_is_the_cheapest_of_all_cuts(sizes, budget):
    sizes = np.array(sorted(sizes, reverse=True))

    def cost(starts, stop):
        return (stop - starts) * sizes[starts] ** 1.5 + 30.0

    def total(cuts):
        edges = [0, *cuts, len(sizes)]
        parts = list(itertools.pairwise(edges))
        if any((b - a) * sizes[a] > budget and b - a > 1 for a, b in parts):
            return np.inf
        return sum(float(cost(np.array([a]), b)[0]) for a, b in parts)

    found = partition(sizes, cost, budget)
    every = range(1, len(sizes))
    least = min(total(cuts) for n in range(len(sizes)) for cuts in itertools.combinations(every, n))
    assert [s.start for s in found] == [0, *[s.stop for s in found[:-1]]]
    assert total([s.start for s in found[1:]]) == pytest.approx(least)


@st.composite
def families(draw):
    lengths, groups = [], []
    for _ in range(draw(st.integers(1, 6))):
        prefix = draw(st.integers(0, 700))
        own = draw(st.lists(st.integers(1, 300), min_size=1, max_size=9))
        first = len(lengths)
        if len(own) == 1 or prefix == 0:
            groups += [Group((first + i,)) for i in range(len(own))]
        else:
            groups.append(Group(tuple(range(first, first + len(own))), prefix))
        lengths += [prefix + n for n in own]
    return lengths, groups


@settings(max_examples=60, deadline=None)
@given(families(), st.sets(st.sampled_from(LAYOUTS), min_size=1), st.booleans())
def test_a_plan_holds_every_row_once_and_keeps_to_layouts_and_budget(family, layouts, one_pass):
    lengths, groups = family
    passes = plan(lengths, groups, COSTS, layouts, one_pass=one_pass)
    assert sorted(row for each in passes for row in each.rows) == list(range(len(lengths)))
    if one_pass:
        assert len(passes) == 1 and passes[0].layout != "prefix_cache"
        return
    shared = {row for group in groups if group.prefix for row in group.rows}
    for each in passes:
        if each.layout == "separate":
            assert all(len(group.rows) == 1 for group in each.groups)
            assert "separate" in layouts or not shared & set(each.rows)
            assert len(each.rows) == 1 or len(each.rows) * max(lengths[row] for row in each.rows) <= COSTS.budget
        else:
            assert each.layout in layouts and all(group.prefix for group in each.groups)


def test_sharing_wins_for_long_prompts_and_not_for_short_ones():
    many = [Group(tuple(range(8)), 400)]
    assert {each.layout for each in plan([460] * 8, many, COSTS)} == {"prefix_cache"}
    few = [Group((0, 1), 5)]
    assert {each.layout for each in plan([90, 80], few, COSTS)} == {"separate"}


def test_the_chosen_plan_costs_no_more_than_any_single_layout():
    def cost(passes):
        total = 0.0
        for each in passes:
            if each.layout == "separate":
                total += COSTS.separate(len(each.rows), max(LENGTHS[row] for row in each.rows))
            elif each.layout == "block_mask":
                sizes = [g.prefix + sum(LENGTHS[row] - g.prefix for row in g.rows) for g in each.groups]
                total += COSTS.block_mask(len(sizes), max(sizes))
            else:
                longest = max(g.prefix for g in each.groups)
                total += COSTS.separate(len(each.groups), longest)
                for part in each.parts:
                    own = [sum(LENGTHS[row] - each.groups[i].prefix for row in rows) for i, rows in part]
                    total += COSTS.tails(len(own), max(own), longest)
        return total

    auto = cost(plan(LENGTHS, GROUPS, COSTS))
    for layout in LAYOUTS:
        assert auto <= cost(plan(LENGTHS, GROUPS, COSTS, [layout])) + 1e-9


def test_a_sequence_too_long_for_a_dense_mask_is_not_masked():
    groups = [Group((0, 1), 5000)]
    assert {each.layout for each in plan([9000, 9000], groups, COSTS, ["separate", "block_mask"])} == {"separate"}

"""Groups by key, against what a reader counts."""

import numpy as np

from feature_repo.groups import Groups

KEYS = np.array([7, 3, 7, 9, 3, 7])
MEMBER = np.array([True, True, True, False, True, True])
VALUES = np.array([1.0, 20.0, 3.0, 400.0, 50.0, 6.0])


def test_groups_sum_up_their_members_and_nobody_elses() -> None:
    groups = Groups.of(KEYS, MEMBER)
    assert groups.keys.tolist() == [3, 7]
    assert groups.total(VALUES).tolist() == [70, 10, 0]
    assert groups.total(np.column_stack([VALUES, VALUES > 2])).tolist() == [[70, 2], [10, 2], [0, 0]]
    assert groups.least(VALUES).tolist() == [20, 1, np.inf]
    assert groups.most(VALUES).tolist() == [50, 6, 0]


def test_keys_find_their_group_or_the_last() -> None:
    assert Groups.of(KEYS, MEMBER).find(np.array([[9, 7], [3, 10]])).tolist() == [[2, 1], [0, 2]]
    assert Groups.of(KEYS, np.zeros(6, bool)).find(KEYS).tolist() == [0] * 6


def test_different_values_are_counted_once_in_each_group() -> None:
    groups = Groups.of(KEYS, MEMBER)
    values = np.array([5, 5, 5, 5, 6, 8])
    assert groups.of_each(values).tolist() == [2, 2, 0]
    assert groups.of_each(values, worth=VALUES).tolist() == [70, 7, 0]


def test_a_row_is_in_one_group_per_kind_of_key() -> None:
    both = Groups.of(np.stack([KEYS, KEYS + 100]), np.stack([MEMBER, ~MEMBER]))
    assert both.keys.tolist() == [3, 7, 109]
    assert both.total(VALUES).tolist() == [70, 10, 400, 0]

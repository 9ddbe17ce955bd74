"""Which items go with which, in a catalogue and on disk."""

from pathlib import Path

import numpy as np

from feature_repo.neighbours import NOBODY, Links, Neighbours

# A mug goes with a lamp and, less, with a rug; a rug with nothing. After a lamp comes a rug.
KNOWN = Neighbours(
    np.array(["lamp", "mug", "rug"]),
    {
        "together": Links(
            np.array([[1, -1], [0, 2], [-1, -1]], np.int32),
            np.array([[0.5, 0.0], [0.6, 0.2], [0.0, 0.0]], np.float32),
        ),
        "next": Links(np.array([[2], [-1], [-1]], np.int32), np.array([[0.4], [0.0], [0.0]], np.float32)),
    },
)


def test_a_catalogue_of_other_items_in_another_order() -> None:
    """The lamp has left, a vase is new: nobody is its neighbour, and what led to the lamp leads nowhere."""
    links = KNOWN.among({"vase": 0, "rug": 1, "mug": 2})["together"]
    assert links.other.tolist() == [[3, 3], [3, 3], [3, 1], [3, 3]]
    assert links.weight[2, 1] == np.float32(0.2)
    assert links.weight[[0, 1, 3]].sum() == 0


def test_no_neighbours_at_all() -> None:
    for links in NOBODY.among({"mug": 0}).values():
        assert links.weight.sum() == 0
        assert links.other.tolist() == [[1], [1]]


def test_they_survive_the_disk(tmp_path: Path) -> None:
    KNOWN.save(tmp_path)
    found = Neighbours.load(tmp_path)
    assert found.item_ids.tolist() == KNOWN.item_ids.tolist()
    for name, links in KNOWN.links.items():
        np.testing.assert_array_equal(found.links[name].other, links.other)
        np.testing.assert_array_equal(found.links[name].weight, links.weight)

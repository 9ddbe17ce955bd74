"""Pictures that stay legible when there is much to show."""

from pathlib import Path

import pytest
from matplotlib import image

from pipelines import plots

LABEL = 7 * 120 / 72  # pixels of a bar's label


@pytest.mark.parametrize("slices", [2, 14])
def test_every_bar_of_a_slice_has_room_for_its_label(tmp_path: Path, slices: int) -> None:
    names = ["two towers", "popularity", "decayed popularity", "bought before", "EASE", "live release"]
    sizes = {f"slice {n}": 1_000 + n for n in range(slices)}
    groups = {name: dict.fromkeys(sizes, 0.5) for name in names}
    plots.slice_bars(tmp_path / "slices.png", "Recall@100 per slice", groups, sizes)
    height = image.imread(tmp_path / "slices.png").shape[0]
    assert height > slices * len(names) * LABEL

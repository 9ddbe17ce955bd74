"""What a person looks at to judge an index: the map of the embeddings, and recall by depth."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DRAWN = 5_000  # points; more only hide one another
COLOURED = 9  # categories with a colour of their own


def write(folder: Path, vectors: NDArray[np.float32], categories: Sequence[str], metrics: Mapping[str, Any]) -> None:
    """Write `embedding_map.png` and, if recall was measured, `recall.png`.

    Args:
        folder: where to.
        vectors: [n, dim].
        categories: [n] most general category of each item.
        metrics: those of the gate.
    """
    from matplotlib.figure import Figure  # a second to import, which only this needs

    figure = Figure(figsize=(9, 7), layout="constrained")
    _draw_map(figure.subplots(), vectors, categories)
    figure.savefig(folder / "embedding_map.png", dpi=110)
    figures = {name: metrics[name] for name in metrics if name.startswith("recall_")}
    if figures:
        figure = Figure(figsize=(5, 4), layout="constrained")
        axes = figure.subplots()
        bars = axes.bar([name.replace("recall_", "@") for name in figures], list(figures.values()))
        axes.bar_label(bars, fmt="%.3f")
        axes.set(title=f"Recall against exact search, {metrics['queries']} users", ylim=(0, 1.1))
        figure.savefig(folder / "recall.png", dpi=110)


def project(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """[n, 2] first two principal components."""
    centred = vectors - vectors.mean(axis=0)
    _, directions = np.linalg.eigh(centred.T @ centred)  # ascending; a dim x dim problem whatever n is
    return np.asarray(centred @ directions[:, [-1, -2]], np.float32)


def _draw_map(axes: Any, vectors: NDArray[np.float32], categories: Sequence[str]) -> None:
    drawn = np.linspace(0, len(vectors) - 1, min(DRAWN, len(vectors))).astype(int)
    points = project(np.nan_to_num(vectors[drawn]))
    labels = np.array(categories, object)[drawn]
    largest = [name for name, _ in Counter(labels).most_common(COLOURED)]
    rest = ~np.isin(labels, largest)
    axes.scatter(*points[rest].T, s=5, color="lightgrey", label="others" if rest.any() else None)
    for name in largest:
        axes.scatter(*points[labels == name].T, s=6, label=name, alpha=0.7)
    axes.set(title=f"{len(vectors)} items, first two principal components", xticks=[], yticks=[])
    axes.legend(fontsize="small", markerscale=3, loc="center left", bbox_to_anchor=(1, 0.5))

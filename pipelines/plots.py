"""Pictures that a person looks at to judge a run; every function writes one PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure  # without pyplot: no display, no global state

BLUE, GREY, RED = "#1f5fa8", "#8a8f98", "#c0392b"
BASELINES = ("#e08e2b", "#6f9e4c", "#8e6bb0", "#4aa3a2", "#b5657a", "#7a5c3e")


def _axes(title: str, size: tuple[float, float] = (7.5, 4.5)) -> tuple[Figure, Any]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontweight="bold", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def loss_curve(path: Path, curve: Sequence[Mapping[str, float]]) -> None:
    """Loss per epoch in training and validation, and validation recall beside it."""
    figure, axes = _axes("Training of the two towers")
    epochs = [int(point["epoch"]) for point in curve]
    axes.plot(epochs, [point["loss"] for point in curve], color=GREY, marker="o", label="loss, training (with dropout)")
    if all("val_loss" in point for point in curve):
        losses = [point["val_loss"] for point in curve]
        axes.plot(epochs, losses, color=BLUE, marker="o", label="loss, validation visitors")
        right = axes.twinx()
        recalls = [point["val_recall@100"] for point in curve]
        right.plot(epochs, recalls, color=BASELINES[1], marker="s", linestyle="--", label="recall@100, validation")
        right.set(ylabel="recall@100", ylim=(0, max(recalls) * 1.15 or 1))
        right.spines["top"].set_visible(False)
        right.legend(loc="lower right", frameon=False, fontsize=9)
    axes.set(xlabel="epoch", ylabel="softmax cross entropy", xticks=epochs)
    axes.margins(y=0.15)
    axes.legend(loc="upper right", frameon=False, fontsize=9)
    figure.savefig(path, dpi=120)


def recall_curves(
    path: Path, title: str, curves: Mapping[str, Mapping[int, float]], errors: Mapping[int, float]
) -> None:
    """Recall against list length; the first curve is the model, with its standard error as a band.

    Args:
        curves: by ranker, list length → mean recall.
        errors: list length → standard error of the first curve.
    """
    figure, axes = _axes(title)
    for number, (name, curve) in enumerate(curves.items()):
        lengths, values = np.array(list(curve)), np.array(list(curve.values()))
        if number == 0:
            error = np.array([errors[length] for length in curve])
            axes.fill_between(lengths, values - error, values + error, color=BLUE, alpha=0.15, linewidth=0)
        style = (
            {"color": BLUE, "linewidth": 2.6, "zorder": 5}
            if number == 0
            else {"color": BASELINES[(number - 1) % len(BASELINES)]}
        )
        axes.plot(lengths, values, marker="o", markersize=4, label=name, **style)
    axes.set_xscale("log")
    ticks = list(next(iter(curves.values())))
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel="length of the list", ylabel="mean recall per visitor", ylim=(0, None))
    axes.legend(loc="upper left", frameon=False, fontsize=9)
    figure.savefig(path, dpi=120)


def slice_bars(path: Path, title: str, groups: Mapping[str, Mapping[str, float]], sizes: Mapping[str, int]) -> None:
    """Horizontal bars per slice, one bar a ranker; the number of visitors is beside the name of the slice.

    Args:
        groups: by ranker, slice → recall; the first is the model.
        sizes: slice → visitors.
    """
    slices = list(sizes)
    figure, axes = _axes(title, (8.5, 1.6 + len(slices) * (0.2 + 0.15 * len(groups))))
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color="#e4e6ea", linewidth=0.8)
    height = 0.85 / len(groups)
    for number, (name, values) in enumerate(groups.items()):
        place = np.arange(len(slices)) + (number - (len(groups) - 1) / 2) * height
        found = [values.get(slice_, 0.0) for slice_ in slices]
        colour = BLUE if number == 0 else BASELINES[(number - 1) % len(BASELINES)]
        bars = axes.barh(place, found, height * 0.92, color=colour, label=name)
        axes.bar_label(bars, fmt="%.3f", fontsize=7, padding=2)
    axes.set_yticks(np.arange(len(slices)), [f"{name}\n{sizes[name]:,} visitors" for name in slices], fontsize=8)
    axes.set_ylim(len(slices) - 0.5, -0.5)  # the first slice on top
    axes.margins(x=0.12)
    axes.set_xlabel("recall@100")
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.savefig(path, dpi=120)

"""The pictures of gate G3, for people: quality beside the baselines, calibration, amounts, importance, slices, loss."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from pipelines.ranking_metrics import Reliability

mpl.use("Agg")
from matplotlib import pyplot as plt

INK, OURS, OTHER, WARN = "#22303c", "#1f6f8b", "#b9c4cc", "#c8553d"
STYLE = {
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.edgecolor": OTHER,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 13,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "figure.dpi": 110,
}


def quality(path: Path, figures: Mapping[str, tuple[float, float]], requests: int) -> None:
    """Bars of NDCG@10 with two standard errors; the ranker, named "ranker", in colour."""
    ordered = sorted(figures.items(), key=lambda pair: pair[1][0])
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(8, 0.7 * len(ordered) + 1.6))
        colours = [OURS if name == "ranker" else OTHER for name, _ in ordered]
        means, errors = [mean for _, (mean, _) in ordered], [2 * error for _, (_, error) in ordered]
        axis.barh([name for name, _ in ordered], means, xerr=errors, color=colours, ecolor=INK, capsize=3)
        for row, (mean, error) in enumerate(zip(means, errors, strict=True)):
            axis.text(mean + error, row, f"  {mean:.4f}", va="center")
        axis.set_xlim(0, max(m + e for m, e in zip(means, errors, strict=True)) * 1.18 + 1e-6)
        axis.set_xlabel(f"NDCG@10 over {requests} requests, ± 2 standard errors")
        axis.set_title("Order of the same candidates, by what sorts them")
        _save(figure, path)


def calibration(path: Path, heads: Mapping[str, Reliability]) -> None:
    """Observed against predicted, one panel per head."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(heads), figsize=(4.4 * len(heads), 4.4), squeeze=False)
        for axis, (head, found) in zip(axes[0], heads.items(), strict=True):
            noise = 2 * np.sqrt(found.observed * (1 - found.observed) / np.maximum(found.count, 1))
            limit = max(float((found.observed + noise).max()), float(found.predicted.max()), 1e-4) * 1.05
            axis.plot([0, limit], [0, limit], color=OTHER, lw=1.5, zorder=1)
            axis.errorbar(found.predicted, found.observed, noise, fmt="o", ms=5, color=OURS, ecolor=OTHER, zorder=2)
            axis.set(xlim=(0, limit), ylim=(0, limit), xlabel="predicted", ylabel="observed")
            axis.set_title(f"{head}: ECE {found.error:.4f}")
            axis.set_box_aspect(1)
            axis.locator_params(nbins=4)
            axis.ticklabel_format(style="sci", scilimits=(-2, 2))  # rare deeds have chances of many digits
        _save(figure, path)


def amounts(path: Path, found: Reliability) -> None:
    """What purchases brought in, from those expected to bring least to those expected to bring most."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(8, 4))
        place = np.arange(1, len(found.count) + 1)
        axis.bar(place, found.observed, color=OTHER, label="observed")
        axis.plot(place, found.predicted, color=OURS, lw=2, marker="o", ms=5, label="expected")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set(xlabel=f"tenth of {found.count.sum()} purchases, by what was expected", ylabel="average purchases")
        axis.set_title("What a purchase brings in")
        axis.legend(frameon=False)
        _save(figure, path)


def importance(path: Path, drops: Mapping[str, float], top: int = 25) -> None:
    """Bars of what NDCG@10 loses when one feature is shuffled between rows; the largest only."""
    kept = sorted(drops.items(), key=lambda pair: pair[1])[-top:]
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(8, 0.28 * len(kept) + 1.4))
        axis.barh([name for name, _ in kept], [drop for _, drop in kept], color=OURS)
        axis.axvline(0, color=INK, lw=0.8)
        axis.tick_params(axis="y", labelsize=9)
        axis.set_xlabel("NDCG@10 lost when the feature is shuffled")
        axis.set_title("What the ranker looks at")
        _save(figure, path)


def slices(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """NDCG@10 per slice, ranker beside retrieval order; the number of requests beside each name."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(8, 0.5 * len(rows) + 1.6))
        place = np.arange(len(rows))[::-1]
        axis.barh(place + 0.19, [row["ranker"] for row in rows], 0.36, color=OURS, label="ranker")
        axis.barh(place - 0.19, [row["retrieval"] for row in rows], 0.36, color=OTHER, label="retrieval order")
        axis.set_yticks(place, [f"{row['slice']} ({row['requests']})" for row in rows])
        axis.set_xlabel("NDCG@10")
        axis.set_title("NDCG@10 per slice (requests)")
        axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        _save(figure, path)


def loss(path: Path, curve: Sequence[Mapping[str, float]]) -> None:
    """Loss per epoch, on the training requests and on their tail."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(8, 4))
        epochs = np.arange(1, len(curve) + 1)
        tail = [point["tail_loss"] for point in curve]
        axis.plot(epochs, [point["loss"] for point in curve], color=OTHER, lw=2, marker="o", ms=4, label="training")
        axis.plot(epochs, tail, color=OURS, lw=2, marker="o", ms=4, label="newest 15 %, unseen")
        best = int(np.argmin(tail))
        axis.annotate("kept", (epochs[best], tail[best]), (0, -18), textcoords="offset points", ha="center", color=OURS)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.margins(y=0.15)
        axis.set(xlabel="epoch", ylabel="loss")
        axis.set_title("Ranker training")
        axis.legend(frameon=False)
        _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight", facecolor="white")
    plt.close(figure)

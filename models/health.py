"""Whether a model is well: embeddings that use the space they have, figures that turn before recall does, and weights
that are numbers.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.errors import Permanent

SAMPLE = 4_000  # vectors that the quadratic figures look at
NEIGHBOURS = 10


def check_finite(weights: Iterable[Any]) -> None:
    """Refuse the weights (TensorFlow variables) of a model that training has ruined: a table that few requests read may
    hold NaN, and no gate sees it.

    Raises:
        Permanent: some are not finite.
    """
    ruined = [weight.name for weight in weights if not np.isfinite(weight.numpy()).all()]
    if ruined:
        raise Permanent(
            f"training left weights that are no numbers in {', '.join(ruined)}; train with a lower learning_rate"
        )


def measure(vectors: NDArray[np.float32], seed: int) -> dict[str, float]:
    """Health of [n, dim] embeddings.

    Returns:
        norm_min, norm_max: 1 where the vectors are unit;
        effective_rank: exponential of the entropy of the normalised singular values (Roy and Vetterli 2007), from
        1 (collapsed to a line) to dim;
        mean_cosine: of random pairs; near 1, all vectors say the same;
        hubness: skewness of how often a vector is among the 10 nearest of another (Radovanović et al. 2010);
        above about 10, a few items are everybody's neighbours;
        hub_share: share of all neighbour places that the 1 % most frequent vectors take.
    """
    norms = np.linalg.norm(vectors, axis=1)
    found = {"norm_min": float(norms.min()), "norm_max": float(norms.max())}
    if len(vectors) <= 2 * NEIGHBOURS:
        return found
    random = np.random.default_rng(seed)
    drawn = vectors[random.permutation(len(vectors))[:SAMPLE]]
    strength = np.linalg.svd(drawn, compute_uv=False).astype(np.float64)
    share = strength / strength.sum()
    found["effective_rank"] = float(np.exp(-(share * np.log(share + 1e-12)).sum()))
    cosine = drawn @ drawn.T
    found["mean_cosine"] = float((cosine.sum() - np.trace(cosine)) / (len(drawn) * (len(drawn) - 1)))
    np.fill_diagonal(cosine, -np.inf)
    nearest = np.argpartition(-cosine, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
    times = np.bincount(nearest.ravel(), minlength=len(drawn)).astype(np.float64)
    found["hubness"] = float(((times - times.mean()) ** 3).mean() / max(times.std() ** 3, 1e-12))
    top = np.sort(times)[::-1][: max(len(times) // 100, 1)]
    found["hub_share"] = float(top.sum() / times.sum())
    return found

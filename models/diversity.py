"""What a candidate is worth at the next slot, given those already chosen: relevance, MMR or a determinantal process.

Each objective is kept up to date as candidates are chosen, so that a slot costs O(n d) for the similarity to the newest
one, and O(n window) for the rest. Similarity is the cosine of item embeddings.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Vectors = NDArray[np.float32]

# Share of the determinantal kernel that no two items have in common. Without it a twin would have the value -inf and,
# where the window is longer than the embedding, so would everybody; with it a third twin costs more than a second.
APART = 0.05


class Objective(Protocol):
    """What n candidates are worth at the next slot."""

    value: Floats  # [n], -inf once chosen

    def choose(self, position: int) -> None:
        """Take the candidate at this position into account from now on."""


class Relevance:
    """Relevance alone, [n]."""

    def __init__(self, relevance: Floats) -> None:
        self.value = relevance.copy()

    def choose(self, position: int) -> None:
        self.value[position] = -np.inf


class Mmr:
    """Maximal marginal relevance: (1 - strength) relevance - strength max cosine to the last `window` chosen.

    Carbonell and Goldstein, "The Use of MMR, Diversity-Based Reranking for Reordering Documents", SIGIR 1998.

    Args:
        relevance: [n] in [0, 1].
        vectors: [n, d] of length one or zero.
        strength: 0 is relevance alone, 1 is diversity alone.
        window: of the chosen, how many of the last count.
    """

    def __init__(self, relevance: Floats, vectors: Vectors, strength: float, window: int) -> None:
        self._vectors, self._strength = vectors, np.float64(strength)
        self._relevance = (1 - strength) * relevance
        # A ring of cosines to the last chosen, [window, n]. -1, below which none can be, stands for places still empty.
        self._alike = np.full((window, len(relevance)), -1.0, np.float32)
        self._chosen = 0
        self.value = self._relevance

    def choose(self, position: int) -> None:
        self._alike[self._chosen % len(self._alike)] = self._vectors @ self._vectors[position]
        self._chosen += 1
        self._relevance[position] = -np.inf
        self.value = self._relevance - self._strength * self._alike.max(axis=0)


class Dpp:
    """Greedy MAP inference of a determinantal point process over the last `window` chosen.

    Chen, Zhang and Zhou, "Fast Greedy MAP Inference for Determinantal Point Process to Improve Recommendation
    Diversity", NeurIPS 2018. The kernel is L_ij = r_i S_ij r_j with r = exp(relevance (1 - strength) / (2 strength)),
    so that strength log det L = (1 - strength) sum of relevance + strength log det S. What a candidate adds to it is
    its value: (1 - strength) relevance + strength log d², where d² is the part of it that the chosen do not explain.

    S is (1 + cosine) / 2 as in the paper, lest opposites count as alike, less the share APART that an item has for
    itself alone. It is kept apart from r, so that a small strength overflows nothing.

    The paper grows a Cholesky factor by a row per slot, and takes the oldest out of it by a rotation per row. Here it
    is the inverse of the chosen ones' kernel that grows and shrinks, with the same result (Schur complements): each way
    is one product in numpy. APART keeps its condition below window / APART, so that nothing is lost in doubles.

    Args:
        relevance: [n] in [0, 1].
        vectors: [n, d] of length one or zero.
        strength: 0 is relevance alone, 1 is diversity alone.
        window: of the chosen, how many of the last count.
    """

    def __init__(self, relevance: Floats, vectors: Vectors, strength: float, window: int) -> None:
        self._strength = strength
        self._relevance = (1 - strength) * relevance
        # Vectors whose inner products are S: one that all have in common is the 1 in (1 + cosine) / 2.
        common = np.ones((len(vectors), 1), np.float32)
        self._vectors = np.float32(np.sqrt((1 - APART) / 2)) * np.hstack([vectors, common])
        self._kernel = np.zeros((window, len(relevance)))  # a ring: of each chosen one with all candidates
        self._inverse = np.zeros((window, window))  # of the chosen among themselves; zeros at places still empty
        self._unexplained = np.ones(len(relevance))  # d²
        self._chosen = 0
        self.value = self._relevance

    def choose(self, position: int) -> None:
        place = self._chosen % len(self._kernel)
        if self._chosen >= len(self._kernel):
            self._forget(place)
        # The chosen one meets itself as a twin here, not as itself; so its d² stays positive, as everybody's does.
        kernel = self._vectors @ self._vectors[position]
        known = self._inverse @ self._kernel[:, position]
        unexplained = self._unexplained[position]
        self._unexplained = self._unexplained - (kernel - known @ self._kernel) ** 2 / unexplained
        known[place] = -1
        self._inverse += known[:, None] @ (known / unexplained)[None]
        self._kernel[place] = kernel
        self._chosen += 1
        self._relevance[position] = -np.inf
        self.value = self._relevance + self._strength * np.log(self._unexplained)

    def _forget(self, place: int) -> None:
        oldest = self._inverse[place].copy()
        self._unexplained = self._unexplained + (oldest @ self._kernel) ** 2 / oldest[place]
        self._inverse -= oldest[:, None] @ (oldest / oldest[place])[None]
        self._inverse[place] = self._inverse[:, place] = 0

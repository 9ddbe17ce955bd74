"""Two-tower retrieval: the towers as they are served.

`Towers` opens the SavedModels of a "retrieval" artifact. Both take strings; vocabularies and normalisation are
inside the graph, so a caller needs `feature_repo.transforms` and nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

USER_TOWER = "user_tower"
ITEM_TOWER = "item_tower"


@dataclass(frozen=True)
class Towers:
    """The two towers of one artifact; thread-safe.

    Attributes:
        user_signature, item_signature: concrete functions of the SavedModels.
    """

    user_signature: Any
    item_signature: Any

    @staticmethod
    def load(folder: Path) -> "Towers":
        """Open the towers under an artifact's folder (verify it with `artifact.load` first)."""
        raise NotImplementedError

    def users(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Embed requests; `inputs` from `transforms.user_tower_inputs`. Returns [batch, dim], unit norm."""
        raise NotImplementedError

    def items(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Embed items in batches; `inputs` from `transforms.item_tower_inputs`. Returns [n, dim], unit norm."""
        raise NotImplementedError

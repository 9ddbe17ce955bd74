"""Towers that know the two tastes of `tiny_shop`, but hide some mugs from everybody.

Whoever bought mugs wants mugs. So perfect towers find everything that people then buy, and each hidden mug costs
those who like mugs exactly that mug.
"""

from pathlib import Path
from typing import Any

import fake_models


def write(folder: Path, hidden: str = "") -> None:
    """SavedModels `user_tower` and `item_tower` under a folder.

    Args:
        folder: where to.
        hidden: regular expression for the mugs that are nearest to nobody.
    """
    import tensorflow as tf

    def unused(inputs: dict[str, Any], *used: str) -> Any:
        """Zero for each request, from all other inputs: a signature keeps only what is read."""
        total: Any = 0.0
        for name, values in inputs.items():
            if name not in used:
                number = tf.strings.length(values) if values.dtype == tf.string else values
                number = tf.cast(number, tf.float32)
                total += 0.0 * (tf.reduce_sum(number, 1) if len(values.shape) == 2 else number)
        return total

    def of(mug: Any, lamp: Any, nothing: Any) -> dict[str, Any]:
        return {"embedding": tf.math.l2_normalize(tf.stack([mug + nothing, lamp], 1), 1)}

    def user(**inputs: Any) -> dict[str, Any]:
        bought = inputs["history_items"]
        mugs, lamps = (
            tf.reduce_sum(tf.cast(tf.strings.regex_full_match(bought, f"{kind}-.*"), tf.float32), 1)
            for kind in ("mug", "lamp")
        )
        return of(mugs + 1e-3, lamps + 1e-3, unused(inputs, "history_items"))

    def item(**inputs: Any) -> dict[str, Any]:
        mug = tf.cast(tf.strings.regex_full_match(inputs["category"], ".*Mugs"), tf.float32)
        away = 1.0 - 2.0 * tf.cast(tf.strings.regex_full_match(inputs["item_id"], hidden), tf.float32)
        return of(mug * away, (1.0 - mug) * away, unused(inputs, "category", "item_id"))

    fake_models.save_towers(folder, user, item)

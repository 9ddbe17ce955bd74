"""A graph that is called by position answers what TensorFlow's own call does."""

from pathlib import Path

import pytest
import tensorflow as tf

from models import graphs


class Shop(tf.Module):  # type: ignore[misc]
    """Prices of items, by a variable and a table."""

    def __init__(self) -> None:
        super().__init__()
        self.discount = tf.Variable(2.0)
        words = tf.lookup.KeyValueTensorInitializer(["mug", "cup"], [5.0, 3.0])
        self.prices = tf.lookup.StaticHashTable(words, 0.0)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "item"), tf.TensorSpec([], tf.float32, "count")])
    def total(self, item: tf.Tensor, count: tf.Tensor) -> dict[str, tf.Tensor]:
        price = self.prices[item]
        return {"total": price * count - self.discount, "price": price}


ITEM, COUNT = tf.constant(["cup", "mug", "fork"]), tf.constant(10.0)


def test_answers_come_in_the_order_of_their_names() -> None:
    shop = Shop()  # owns the variable and the table
    price, total = graphs.Graph(shop.total.get_concrete_function())(ITEM, COUNT)
    assert price.numpy().tolist() == [3.0, 5.0, 0.0]
    assert total.numpy().tolist() == [28.0, 48.0, -2.0]


def test_a_variable_is_read_at_each_call() -> None:
    shop = Shop()
    graph = graphs.Graph(shop.total.get_concrete_function())
    shop.discount.assign(20.0)
    assert graph(ITEM, COUNT)[1].numpy().tolist() == [10.0, 30.0, -20.0]


def test_a_signature_is_called_by_names(tmp_path: Path) -> None:
    shop = Shop()
    tf.saved_model.save(shop, str(tmp_path), signatures=shop.total)
    model = tf.saved_model.load(str(tmp_path))
    signature = graphs.Signature(model.signatures["serving_default"])
    found = signature({"count": COUNT, "item": ITEM})
    assert {name: value.numpy().tolist() for name, value in found.items()} == {
        "price": [3.0, 5.0, 0.0],
        "total": [28.0, 48.0, -2.0],
    }
    with pytest.raises(KeyError, match="count"):
        signature({"item": ITEM})

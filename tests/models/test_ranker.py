"""What every served ranker must keep to, on a tiny one whose weights are random or trained for a moment."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from models import calibration, forest, places, ranker
from recsys.errors import Permanent

FEATURES = 4
ROWS = 12
PRICE = ranker.Start(column=1, slope=0.5, shift=1.0, usual=4.0)
UNCALIBRATED = np.tile([1.0, 0.0, 0.0], (len(ranker.HEADS), 1))


def rows(seed: int = 0, n: int = ROWS) -> dict[str, Any]:
    """Inputs of the serving signature; the last row is of a category and brand that nobody knows."""
    rng = np.random.default_rng(seed)
    strings = {name: np.array([f"{name}-{k % 2}" for k in range(n)], dtype=object) for name in ranker.STRINGS}
    strings["category"] = np.array(["Home > Tea" if k % 2 else "Art" for k in range(n)], dtype=object)
    strings["category"][-1] = strings["brand"][-1] = "never seen"
    return {"numeric": rng.normal(size=(n, FEATURES)).astype(np.float32), **strings}


def untrained(seed: int = 1, debias: places.Debias = "tower", amount: ranker.Start = PRICE) -> ranker.Ranker:
    tf.keras.utils.set_random_seed(seed)
    inputs = rows()
    known = {name: values[:-1] for name, values in inputs.items() if name != "numeric"}
    words = ranker.Words(ranker.vocabulary(known, floor=1))
    scaling = ranker.Scaling.learn(inputs["numeric"], 4)
    slots = places.Slots.learn(np.array([0, 1], np.int32), np.array([1, 0], np.float32))
    shape = ranker.Shape(pieces=4, deep=8, experts=2, expert=4, head=4, rank=2, embedding=2, debias=debias)
    click = ranker.Start(column=0, slope=2.0, shift=-1.0, usual=3.0)
    return ranker.Ranker(shape, scaling, words, slots, click, amount, ranker.Amounts(3, mean=10.0, limit=40.0))


def small(seed: int = 1, debias: places.Debias = "tower") -> ranker.Ranker:
    """As if trained: all weights are random, those that start at 0 too."""
    model = untrained(seed, debias)
    model({"numeric": tf.zeros([1, FEATURES]), "words": tf.zeros([1, 5], tf.int32)})
    rng = np.random.default_rng(seed)
    for weight in model.trainable_variables:
        weight.assign(rng.normal(0, 0.3, weight.shape))
    return model


def saved(folder: Path, model: ranker.Ranker) -> ranker.Scorer:
    calibrated = np.array([[1.0, 0.0, 0.0], [0.9, 0.0, 0.1], [1.1, 0.0, -0.1], [1.0, 0.0, 0.2]])
    ranker.Served(model, calibrated).save(folder / "model", FEATURES)
    return ranker.Scorer.load(folder / "model")


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> ranker.Scorer:
    return saved(tmp_path_factory.mktemp("ranker"), small())


def test_saved_and_loaded_answers_the_same(tmp_path: Path) -> None:
    model = small()
    served = ranker.Served(model, UNCALIBRATED)
    before = served.score({name: tf.constant(values) for name, values in rows().items()})
    served.save(tmp_path / "model", FEATURES)
    after = ranker.Scorer.load(tmp_path / "model").score(rows())
    for head in ranker.HEADS:
        np.testing.assert_allclose(after[head], before[head].numpy(), rtol=1e-6)


def test_a_model_of_no_numbers_is_not_saved(tmp_path: Path) -> None:
    model = small()
    ruined = model.trainable_weights[0]
    ruined.assign(tf.fill(ruined.shape, np.nan))
    with pytest.raises(Permanent, match="no numbers in"):
        ranker.Served(model, UNCALIBRATED).save(tmp_path / "model", FEATURES)
    assert not (tmp_path / "model").exists()


def test_position_is_no_input_of_what_is_served(scorer: ranker.Scorer) -> None:
    inputs = scorer.module.signatures["serving_default"].structured_input_signature[1]
    assert set(inputs) == {"numeric", "category", "brand", "region", "surface"}
    assert inputs["numeric"].shape.as_list() == [None, FEATURES]


def test_probabilities_nest(scorer: ranker.Scorer) -> None:
    found = scorer.score(rows(3, 200))
    assert (found["purchase"] <= found["cart"]).all()
    assert (found["cart"] <= found["click"]).all()
    assert (found["purchase"] > 0).all()
    assert (found["click"] < 1).all()


def test_revenue_is_the_chance_of_a_purchase_times_what_one_brings_in(scorer: ranker.Scorer) -> None:
    inputs = rows(3, 200)
    found, model = scorer.score(inputs), small()
    words = model.words({name: tf.constant(values) for name, values in inputs.items() if name != "numeric"})
    expected = np.exp(model({"numeric": inputs["numeric"], "words": words})[:, -1] + 0.2)
    np.testing.assert_allclose(found["revenue"], found["purchase"] * expected, rtol=1e-4)
    assert len(np.unique(expected)) > 100


def test_order_and_company_of_rows_do_not_matter(scorer: ranker.Scorer) -> None:
    inputs = rows(4)
    whole = scorer.score(inputs)
    turned = scorer.score({name: values[::-1] for name, values in inputs.items()})
    alone = scorer.score({name: values[:1] for name, values in inputs.items()})
    for head in ranker.HEADS:
        np.testing.assert_allclose(turned[head][::-1], whole[head], rtol=1e-5)
        np.testing.assert_allclose(alone[head], whole[head][:1], rtol=1e-5)


def test_wild_numbers_and_unknown_words_give_finite_answers(scorer: ranker.Scorer) -> None:
    inputs = rows()
    inputs["numeric"] = np.where(inputs["numeric"] > 0, 1e30, -1e30).astype(np.float32)
    for name in ranker.STRINGS:
        inputs[name][:] = ""
    assert all(np.isfinite(p).all() for p in scorer.score(inputs).values())


def test_the_same_seed_gives_the_same_model(tmp_path: Path) -> None:
    one, two, other = (saved(tmp_path / str(k), small(seed)).score(rows()) for k, seed in enumerate((1, 1, 2)))
    np.testing.assert_array_equal(one["click"], two["click"])
    assert not np.array_equal(one["click"], other["click"])


def test_an_average_place_has_no_bias() -> None:
    model = small()
    bias = model.position_bias(tf.constant([0, 1, -1, 10_000])).numpy()
    assert bias[2] == 0
    assert bias[:2].mean() == pytest.approx(0, abs=1e-6)


def test_numbers_become_steps_of_their_quantiles_and_what_never_varied_is_not_looked_at() -> None:
    numeric = np.array([[0.0, 7.0, 1.0], [1.0, 7.0, 1.0], [2.0, 7.0, 1.0], [4.0, 7.0, 5.0]], np.float32)
    scaling = ranker.Scaling.learn(numeric, 2)
    assert scaling.columns.tolist() == [0, 2]
    normal, pieces = ranker.Numbers(scaling)(tf.constant([[0.75, -1e9, 2.0], [9.0, 1e9, 1.0]]))
    # Quantiles of the first: 0, 1.5, 4. Of the second: 1, 1, 5; its first piece has no width. First pieces come first.
    np.testing.assert_allclose(pieces, [[0.5, 1.0, 0.0, 0.25], [1.0, 0.0, 1.0, 0.0]], atol=1e-6)
    assert normal.shape == (2, 2)
    assert normal[1, 0] == 4.0


def test_rows_that_are_all_alike_say_nothing() -> None:
    scaling = ranker.Scaling.learn(np.ones((5, FEATURES), np.float32), 4)
    normal, pieces = ranker.Numbers(scaling)(tf.ones([3, FEATURES]))
    assert (normal.shape, pieces.shape) == ((3, 0), (3, 0))


@pytest.mark.parametrize(("debias", "moved"), [("tower", True), ("propensity", True), ("none", False)])
def test_where_an_item_was_shown_enters_the_loss_as_asked(debias: places.Debias, moved: bool) -> None:
    model = small(debias=debias)
    batch = {
        "numeric": tf.zeros([2, FEATURES]),
        "words": tf.zeros([2, 5], tf.int32),
        "group": tf.constant([0, 0], tf.int64),
        "labels": tf.constant([[1.0, 0, 0], [0, 0, 0]]),
        "amount": tf.zeros([2]),
        "log_rate": tf.zeros([2]),
    }
    first, last = (float(model.compute_loss(batch | {"position": tf.constant(p)})) for p in ([0, 1], [1, 0]))
    assert (abs(first - last) > 1e-4) is moved


def test_inverse_propensities_bring_back_the_true_chance() -> None:
    """Liked by 2 in 5 and looked at by 1 in 2: a fifth is clicked, and the loss is least at the logit of 2 in 5."""
    labels = np.zeros((1000, 3), np.float32)
    labels[:200, 0] = 1 / 0.5
    logits = np.linspace(-3, 3, 601)
    losses = [
        float(tf.reduce_mean(ranker.chain_loss(tf.fill([1000, 3], np.float32(z)), tf.constant(labels))[:, 0]))
        for z in logits
    ]
    assert logits[int(np.argmin(losses))] == pytest.approx(np.log(0.4 / 0.6), abs=0.02)


def test_every_head_mixes_the_experts_in_its_own_way() -> None:
    model = small()
    known = tf.constant([[1.0] * 4 + [0.0] * 4])  # what the first expert knows is all ones
    mixed = model._mixed(known, tf.random.normal([1, model._gates.input_spec.axes[-1]])).numpy()
    assert mixed.shape == (1, len(ranker.HEADS), 4)
    assert ((mixed > 0) & (mixed < 1)).all(), "shares of both experts"
    assert len(np.unique(mixed[0, :, 0])) == len(ranker.HEADS)


def test_a_purchase_is_worth_the_average_where_no_price_is_known() -> None:
    model = untrained(amount=ranker.Start.amount(1, np.ones(9), np.zeros(9)))
    batch = {
        "numeric": tf.ones([2, FEATURES]),
        "words": tf.zeros([2, 5], tf.int32),
        "group": tf.constant([0, 0], tf.int64),
        "position": tf.constant([-1, -1]),
        "labels": tf.constant([[1.0, 1, 1], [0, 0, 0]]),
        "log_rate": tf.zeros([2]),
    }

    def pull(amount: list[float]) -> float:
        """What the loss does to the expected log amount before it."""
        with tf.GradientTape() as tape:
            loss = model.compute_loss(batch | {"amount": tf.constant(amount)})
        return float(tape.gradient(loss, model._heads._shift)[-1])

    assert pull([0.0, 0.0]) == 0
    assert pull([3.0, 0.0]) < 0 < pull([0.1, 0.0]), "down the slope: more is expected, or less"
    found = ranker.Served(model, UNCALIBRATED).score({name: tf.constant(values) for name, values in rows().items()})
    np.testing.assert_allclose(found["revenue"], found["purchase"], rtol=1e-6)


def test_the_loss_of_amounts_is_least_at_their_mean_whatever_their_shape() -> None:
    amount = np.array([0.1] * 90 + [9.1] * 10, np.float32)
    logs = np.linspace(-2, 2, 401)
    losses = [float(tf.reduce_mean(ranker.amount_loss(tf.fill([100], np.float32(z)), amount))) for z in logs]
    assert logs[int(np.argmin(losses))] == pytest.approx(0, abs=0.01)
    odd = ranker.amount_loss(tf.constant([0.0, 5.0, -7.0, 7.0]), tf.constant([1.0, 0.0, np.nan, -3.0])).numpy()
    assert odd.tolist() == [0, 0, 0, 0], "as expected, not bought, and no amounts at all"


def test_wild_amounts_neither_make_the_unit_nor_outweigh_the_rest() -> None:
    amount = np.array([0, np.nan, -5, *[10.0, 20, 30] * 100, 1e30], np.float32)
    found = ranker.Amounts.learn(amount)
    assert (found.purchases, found.limit) == (301, 30)
    assert found.mean == pytest.approx(20, abs=0.1)
    assert found.relative(np.array([0, 10, 1e30], np.float32)) == pytest.approx([0, 0.5, 1.5], rel=0.01)
    assert ranker.Amounts.learn(np.zeros(3, np.float32)) == ranker.Amounts(0, 1.0, 1.0)


def test_before_training_a_click_follows_retrieval_an_amount_the_price_and_nothing_else() -> None:
    numeric = np.random.default_rng(3).normal(size=(5, FEATURES)).astype(np.float32)
    numeric[:, 0] = [-1, 0.5, 2, 0, 7]  # 0: retrieval did not score the item, which then is a usual one
    numeric[:, 1] = [2, -2, 0, 1, 99]  # 0: nobody knows the price; and a wild one
    outputs = untrained()({"numeric": numeric, "words": tf.zeros([5, 5], tf.int32)}).numpy()
    assert outputs[:, 0] == pytest.approx([-3, 0, 3, 5, 13], abs=1e-5)
    assert not outputs[:, 1:3].any()
    assert outputs[:, 3] == pytest.approx([2, 0, 3, 1.5, ranker.LARGEST_LOG], abs=1e-5)


def test_the_start_is_the_odds_of_a_click_at_a_score() -> None:
    rng = np.random.default_rng(4)
    score = rng.normal(3, 2, 50_000)
    clicked = (rng.random(50_000) < 1 / (1 + np.exp(-(0.8 * score - 4)))).astype(float)
    found = ranker.Start.click(2, score, clicked, np.zeros(50_000))
    assert (found.column, found.slope, found.shift) == (2, pytest.approx(0.8, abs=0.05), pytest.approx(-4, abs=0.2))
    kept = (clicked > 0) | (rng.random(50_000) < 0.1)
    rate = np.full(kept.sum(), np.log(0.1))
    sampled = ranker.Start.click(2, score[kept], clicked[kept], rate)
    assert (sampled.slope, sampled.shift) == (pytest.approx(0.8, abs=0.06), pytest.approx(-4, abs=0.3))


def test_the_start_of_an_amount_is_what_its_price_usually_brings_in() -> None:
    rng = np.random.default_rng(4)
    price = rng.normal(3, 1, 50_000)
    amount = np.exp(0.7 * price - 2) * rng.gamma(2, 0.5, 50_000)  # 1 on average
    price[:5_000], amount[5_000:10_000] = 0, 0  # unknown
    found = ranker.Start.amount(2, price, amount)
    assert (found.column, found.usual) == (2, pytest.approx(3, abs=0.02))
    assert (found.slope, found.shift) == (pytest.approx(0.7, abs=0.02), pytest.approx(-2, abs=0.05))
    assert ranker.Start.amount(2, price[:5_000], amount[:5_000]) == ranker.Start(2, 0.0, 0.0, 0.0)


def test_sampled_negatives_are_corrected_in_the_first_head_only() -> None:
    """With negatives kept at 1/4, a logit of log 4 in the sample is even odds in truth."""
    model = small()
    batch = {
        "numeric": tf.zeros([2, FEATURES]),
        "words": tf.zeros([2, 5], tf.int32),
        "group": tf.constant([0, 0], tf.int64),
        "position": tf.constant([-1, -1]),
        "labels": tf.constant([[1.0, 0, 0], [0, 0, 0]]),
        "amount": tf.zeros([2]),
        "log_rate": tf.constant([0.0, 0.0]),
    }
    logits = model(batch)[:, :-1]
    plain = tf.reduce_sum(tf.reduce_mean(ranker.chain_loss(logits, batch["labels"]), axis=0))
    shifted = logits + tf.constant([[np.log(0.25), 0, 0]], tf.float32)
    corrected = tf.reduce_sum(tf.reduce_mean(ranker.chain_loss(logits - shifted + logits, batch["labels"]), axis=0))
    rate = tf.fill([2], tf.constant(np.log(0.25), tf.float32))
    difference = model.compute_loss(batch | {"log_rate": rate}) - model.compute_loss(batch)
    assert float(difference) == pytest.approx(float(corrected - plain), rel=1e-4)


def test_listwise_loss_prefers_the_right_order() -> None:
    gains, group = tf.constant([1.0, 0.0, 0.0, 8.0]), tf.constant([0, 0, 1, 1])
    right = ranker.listwise_loss(tf.constant([2.0, 0.0, 0.0, 2.0]), gains, group)
    wrong = ranker.listwise_loss(tf.constant([0.0, 2.0, 2.0, 0.0]), gains, group)
    assert float(right) < float(wrong)
    nothing = ranker.listwise_loss(tf.constant([1.0, 2.0]), tf.zeros([2]), tf.constant([0, 0]))
    assert float(nothing) == 0


def test_calibration_finds_slope_and_shift() -> None:
    rng = np.random.default_rng(5)
    outputs = rng.normal(size=(20_000, 4))
    truth = 1 / (1 + np.exp(-(2.0 * outputs[:, 0] - 1.0)))
    click = (rng.random(20_000) < truth).astype(float)
    cart = click * (rng.random(20_000) < 1 / (1 + np.exp(-outputs[:, 1])))
    nothing = np.zeros(20_000)
    found = calibration.calibrate(outputs, nothing, np.column_stack([click, cart, nothing]), nothing, nothing)
    assert found[0] == pytest.approx([2.0, 0.0, -1.0], abs=0.1)
    assert found[1] == pytest.approx([1.0, 0.0, 0.0], abs=0.1)
    assert found[2:].tolist() == [[1.0, 0.0, 0.0]] * 2  # nobody bought: nothing to learn from


@pytest.mark.parametrize("share", [0.7, -0.5])
def test_calibration_gives_the_trees_the_share_that_they_earn_and_never_one_against_them(share: float) -> None:
    rng = np.random.default_rng(5)
    outputs, trees, nothing = rng.normal(size=(20_000, 4)), rng.normal(size=20_000), np.zeros(20_000)
    truth = 1 / (1 + np.exp(-(outputs[:, 0] + share * trees)))
    click = (rng.random(20_000) < truth).astype(float)
    found = calibration.calibrate(outputs, trees, np.column_stack([click, nothing, nothing]), nothing, nothing)
    assert found[0, 1] == pytest.approx(max(share, 0.0), abs=0.1)


def test_calibration_brings_the_amounts_to_what_purchases_brought_in() -> None:
    outputs, labels = np.zeros((2_000, 4)), np.ones((2_000, 3))
    amount = np.tile([0.0, 1.0, 5.0, 6.0], 500)  # one of an unknown price, and others that bring in 4 on average
    found = calibration.calibrate(outputs, np.zeros(2_000), labels, amount, np.zeros(2_000))
    assert found[-1] == pytest.approx([1.0, 0.0, np.log(4)], abs=0.02)
    few = calibration.calibrate(outputs[:2], np.zeros(2), labels[:2], amount[:2] * 100, np.zeros(2))
    assert few[-1, 2] == pytest.approx(np.log(120 / 21)), "one says little: twenty as expected stand beside it"


def test_the_trees_add_their_share_to_the_logit_of_a_click() -> None:
    model, inputs = small(), {name: tf.constant(values) for name, values in rows().items()}
    stump = forest.Forest(np.zeros((1, 1), np.int32), np.zeros((1, 1), np.float32), np.array([[-1.0, 2.0]], np.float32))
    calibrated = UNCALIBRATED + np.array([[0.0, 0.5, 0.0], *[[0.0] * 3] * 3])
    alone, together = (
        ranker.Served(model, *told).score(inputs)["click"].numpy().astype(float)
        for told in ((UNCALIBRATED,), (calibrated, stump))
    )
    logits = [np.log(p) - np.log1p(-p) for p in (alone, together)]
    expected = 0.5 * np.where(rows()["numeric"][:, 0] < 0, -1.0, 2.0)
    assert logits[1] - logits[0] == pytest.approx(expected, abs=1e-3)


def test_many_rows_are_scored_in_blocks_as_all_at_once(scorer: ranker.Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = scorer.score(rows())
    monkeypatch.setattr(ranker, "PASS_ROWS", 3)
    assert len(ranker.blocks(len(rows()["numeric"]))) > 1
    for head, values in scorer.score(rows()).items():
        assert values == pytest.approx(whole[head], rel=1e-4)


def test_blend_weighs_purchases_most_and_can_be_changed() -> None:
    chances = {"click": np.array([0.9, 0.5]), "cart": np.array([0.1, 0.3]), "purchase": np.array([0.0, 0.3])}
    heads = chances | {"revenue": np.array([9.0, 0.1])}
    ours = ranker.blend(heads, ranker.BLEND)
    assert ours[1] > ours[0], "revenue counts where it is asked for only"
    assert ranker.blend(heads, {**ranker.BLEND, "revenue": 1.0})[0] > ours[0]
    clicks = ranker.blend(heads, {"click": 1.0, "cart": 0.0, "purchase": 0.0})
    assert clicks == pytest.approx([0.9, 0.5])
    with pytest.raises(ValueError, match="likes"):
        ranker.blend(heads, {"likes": 1.0})
    with pytest.raises(ValueError, match="not all 0"):
        ranker.blend(heads, {"click": 0.0})

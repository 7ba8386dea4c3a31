import numpy as np
import pytest

from tests.helpers.coco import entry, ground_truth_of
from vocseg_lib.metrics.bootstrap import bootstrap_weights, sample
from vocseg_lib.metrics.coco_eval import evaluate
from vocseg_lib.metrics.rule_book import RULES, image_that_flips, rule_book
from vocseg_lib.metrics.table import KEYS, metrics_table

BOX, SMALLER = (0, 0, 10, 10), (0, 0, 10, 6)
BY_TITLE = {rule.title: rule for rule in RULES}


@pytest.fixture(scope="module")
def models():
    """The first has exact masks on few objects, the second rough ones on all."""
    objects = [entry(image, 3, BOX) for image in range(1, 9)]
    content = ground_truth_of(*objects, images=8)
    exact = [entry(image, 3, BOX, 0.9) for image in (1, 2, 3)]
    rough = [entry(image, 3, SMALLER, 0.9) for image in range(1, 9)]
    return evaluate(content, exact), evaluate(content, rough)


def test_the_lead_is_that_of_the_metrics_and_flips(models):
    weights = bootstrap_weights(8, 200)
    table = rule_book(*(sample([model], weights) for model in models)).set_index("rule")
    values = [metrics_table(model).set_index(KEYS)["value"] for model in models]
    for title, row in table.iterrows():
        first, second = (v[row["kind"], row["metric"], "all"] for v in values)
        assert (row["first"], row["second"]) == pytest.approx((first, second))
        sign = -1 if BY_TITLE[title].less_is_better else 1
        assert row["lead"] == pytest.approx(sign * (first - second), abs=1e-9)
        assert row["low"] <= row["high"]
    assert table.loc["COCO AP75", "lead"] > 0 > table.loc["COCO AP50", "lead"]
    same_winner = table["lead"] * table["lead"].iloc[0] >= 0
    assert (table["flips"] == ~same_winner).all()
    assert table["flips"].any()
    assert table.loc["oLRP", "lead"] != 0


def test_boxes_alone_have_their_rules(models):
    content = models[0].ground_truth
    boxes = [{k: v for k, v in d.items() if k != "segmentation"} for d in models[0].detections]
    sampled = sample([evaluate(content, boxes)], bootstrap_weights(8, 20))
    assert set(rule_book(sampled, sampled)["kind"]) == {"box"}


def test_the_image_that_flips_is_one_that_helps_both_winners(models):
    rules = BY_TITLE["COCO AP75"], BY_TITLE["COCO AP50"]
    image, table = image_that_flips(*models, rules)
    without = [i for i in range(8) if i != image]
    content = models[0].ground_truth
    ids = {content["images"][i]["id"] for i in without}
    kept = [a for a in content["annotations"] if a["image_id"] in ids]
    content = {**content, "annotations": kept}
    content["images"] = [i for i in content["images"] if i["id"] in ids]
    parts = [
        evaluate(content, [d for d in m.detections if d["image_id"] in ids]).summary for m in models
    ]
    for row, name in zip(table.itertuples(), ("mask_AP75", "mask_AP50"), strict=True):
        assert row.lead == pytest.approx(models[0].summary[name] - models[1].summary[name])
        assert row.without == pytest.approx(parts[0][name] - parts[1][name])
    assert np.sign(table["lead"]).tolist() == [1, -1]

import numpy as np
import pytest
from PIL import Image

from tests.helpers.coco import entry, ground_truth_of
from tests.helpers.figures import is_labeled
from vocseg_lib import plots
from vocseg_lib.metrics.bootstrap import bootstrap_weights, sample
from vocseg_lib.metrics.coco_eval import evaluate
from vocseg_lib.metrics.power import Spread
from vocseg_lib.metrics.rule_book import rule_book
from vocseg_lib.plots.style import write_figure

BOX, SMALLER = (0, 0, 10, 10), (0, 0, 10, 6)


@pytest.fixture
def models():
    """The first has exact masks on few objects, the second rough ones on all."""
    content = ground_truth_of(*(entry(i, 3, BOX) for i in range(1, 7)), images=6)
    for image in content["images"]:
        image["file_name"] = f"{image['id']}.png"
    exact = [entry(i, 3, BOX, 0.9) for i in (1, 2, 3)]
    rough = [entry(i, 3, SMALLER, 0.9) for i in range(1, 7)]
    return {"exact": evaluate(content, exact), "rough": evaluate(content, rough)}


def test_the_rule_book_is_drawn_and_its_flips_explained(models, tmp_path):
    table = rule_book(*(sample([m], bootstrap_weights(6, 50)) for m in models.values()))
    ax = plots.rule_book_chart(table, *models)
    assert is_labeled(ax)
    assert [t.get_text() for t in ax.get_yticklabels()] == table["rule"].tolist()
    for image in models["exact"].ground_truth["images"]:
        pixels = np.zeros((image["height"], image["width"], 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / image["file_name"])
    flips = dict(plots.explain_flips(models, table, tmp_path))
    assert 1 <= len(flips) <= 3
    assert set(flips) <= set(table.loc[table["flips"], "rule"])
    for rule, axes in flips.items():
        assert rule in axes[0].figure.get_suptitle()
        assert len(axes) == 3


@pytest.mark.parametrize(
    ("spread", "trainings"),
    [
        (Spread(of_image=900.0, of_pair=100.0, of_training=2.0), 3),
        (Spread(of_image=900.0, of_pair=0.0, of_training=0.0), 1),
    ],
)
def test_what_can_be_shown_is_drawn(spread, trainings, tmp_path):
    ax = plots.detectable_differences(spread, 135, trainings, "mask AP50")
    assert is_labeled(ax)
    assert f"{spread.detectable(135, trainings):.1f} points" in ax.get_title(loc="left")
    write_figure(ax, tmp_path / "plan.png")

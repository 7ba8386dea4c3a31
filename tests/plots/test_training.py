import pandas as pd
import pytest

from tests.helpers.figures import is_labeled
from vocseg_lib.plots import training
from vocseg_lib.plots.training import ap_against_iteration, training_curves

NAN = float("nan")


def make_log(best, val_losses=(4.0, 2.5, 2.0, 1.95, 1.9), train_loss=lambda i: 5 / i):
    """100 updates, evaluations at iterations 20, 40, 60, 80, 100 with the highest AP at `best`."""
    log = [
        {"iteration": i, "lr": 1e-3, "loss": train_loss(i), "class": 3 / i, "mask": 2 / i}
        for i in range(1, 101)
    ]
    log[20] |= {"hours_left": 2.0, "peak_memory_gb": 3.0, "gradient_norm": 9.0, "data_seconds": 1.0}
    for i, loss in zip(range(20, 101, 20), val_losses, strict=True):
        ap = dict.fromkeys(("mask_AP50", "mask_AP", "box_AP50", "box_AP"), 50 - abs(i - best))
        log.append({"iteration": i, "seconds": 36.0 * i, **ap, "val_loss": loss})
        log[-1]["val_class"] = loss / 2
    return log


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


RISING, FALLING = (4.0, 3.0, 2.0, 2.5, 3.0), (4.0, NAN, 2.0, 1.95, 1.9)
SKIPPED = {"iteration": 1, "lr": 1, "skipped_updates": "loss", "images": ["a"]}
UNKNOWN = make_log(60, (NAN,) * 5)


@pytest.mark.parametrize(
    ("log", "parts"),
    [
        (make_log(60, RISING), ("starts", "60", "2.00 to 3.00", "10.0 %")),
        (make_log(100), ("No overfitting", "100", "more training")),
        (make_log(100, (4.0, 3.0, 2.0, 2.0, 2.5)), ("Too early", "2.00 to 2.50")),
        (make_log(60, RISING, lambda i: i), ("diverges",)),
        (make_log(100, FALLING), ("No overfitting",)),
        *((log, ("Too few",)) for log in (make_log(60)[:101], UNKNOWN)),
    ],
)
def test_overfitting_is_detected(log, parts):
    assert all(part in training.overfitting(log) for part in parts)


def test_curves_show_terms_and_published_marks():
    axes = training_curves(make_log(60), "YOLACT", 12_000)
    assert axes[3].lines[0].get_ydata().tolist() == [10, 30, 50, 30, 10]
    assert all(ax.get_xlabel() and ax.get_ylabel() and ax.get_legend() for ax in axes)
    assert legend(axes[0]) == ["loss", "class", "mask"]
    assert legend(axes[1]) == ["loss", "class"]
    assert legend(axes[3])[-2:] == ["6000: published 6K", "12000: published 12K"]
    # The half only of trainings of equal length; time in hours.
    ax = ap_against_iteration({"YOLACT": make_log(60)}, 400)  # stopped early
    assert is_labeled(ax)
    assert legend(ax) == ["YOLACT", "200: published 6K", "400: published 12K"]
    logs = {"YOLACT": make_log(60), "Mask R-CNN": make_log(100)}
    assert legend(ap_against_iteration(logs, 60)) == ["YOLACT", "Mask R-CNN"]
    ax = training.ap_against_time(logs)
    assert is_labeled(ax)
    assert "YOLACT peaks after 0.6 hours" in ax.get_title(loc="left")


@pytest.mark.parametrize(
    "log", [[], make_log(60)[:1], make_log(60)[100:], [SKIPPED], make_log(NAN), UNKNOWN]
)
def test_curves_can_be_drawn_from_the_start_of_a_training(log):
    axes = training_curves(log, "YOLACT", 100)
    axes[0].figure.canvas.draw()
    assert len(axes) == 4
    ap_against_iteration({"YOLACT": log}, 100).figure.canvas.draw()


def test_batch_norm_statistics_show_batches_running_values_and_outputs():
    rows = {"mean": [0.1, 0.3], "variance": [1.0, 2.0]}
    rows |= {"running_mean": [9.0, 0.9], "running_variance": [1.0, 1.1]}
    statistics = {2: pd.DataFrame(rows), 8: pd.DataFrame(rows)[:1]}
    outputs = pd.DataFrame({"frozen": [0.5, 0.5], "unfrozen": [0.25, 0.75]})
    axes = training.batch_norm_statistics(statistics, outputs)
    of_two, of_eight, running = axes[0].lines
    assert of_two.get_xydata().tolist() == [[2, 0.1], [4, 0.3]]
    assert of_eight.get_xydata().tolist() == [[8, 0.1]]
    assert running.get_xydata().tolist() == [[2, 9.0], [4, 0.9]]
    assert axes[0].get_ylim()[1] == 0.9  # where it ends, not from how far away it comes
    assert legend(axes[2]) == ["unfrozen", "frozen"]
    assert all(ax.get_xlabel() and ax.get_ylabel() and ax.get_legend() for ax in axes)
    assert axes[0].figure.get_figwidth() <= 9

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from tests.helpers.figures import is_labeled
from vocseg_lib.plots import data, models
from vocseg_lib.plots.style import new_axes, save_figure


def test_charts_are_labeled():
    counts = pd.DataFrame({"train": [3, 9], "val": [1, 2]}, index=["cat", "person"])
    assert is_labeled(data.class_counts(counts))
    assert is_labeled(data.objects_per_image([1, 2, 2, 5]))
    assert is_labeled(models.coefficients([torch.rand(32), torch.rand(32)], ["a", "b"]))
    _, ax = plt.subplots()
    assert data.object_sizes([4, 90, 4000, 20000], ax=ax) is ax
    assert is_labeled(ax)


def test_samples_and_maps_are_drawn(sample):
    maps = sample.masks.sum(0).numpy().astype(np.uint8)
    assert len(data.sample_maps(sample.image, maps, maps)) == 3
    target = {"masks": sample.masks, "boxes": sample.boxes, "labels": sample.labels}
    axes = data.augmented([(sample.image, target)] * 5)
    assert [len(ax.patches) for ax in axes] == [len(sample.boxes)] * 5
    assert len(models.prototypes(torch.rand(9, 9, 32))) == 32
    axes = models.stages([np.eye(4), np.zeros((4, 4, 3))], ["map", "image"], "title", "caption")
    assert len(axes[0].figure.axes) == 3  # the map has a color bar


def test_figures_are_saved_and_spare_axes_hidden(tmp_path):
    axes = new_axes(4, 3, (2, 2))
    assert [ax.axison for ax in axes[0].figure.axes] == [True] * 4 + [False] * 2
    save_figure(axes[0], tmp_path, "four")
    assert plt.imread(tmp_path / "figures" / "four.png").std() > 0

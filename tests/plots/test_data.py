import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from tests.helpers.figures import is_labeled
from vocseg_lib.plots import data, images
from vocseg_lib.plots.style import new_axes, save_figure


def test_charts_are_labeled():
    counts = pd.DataFrame({"train": [3, 9], "val": [1, 2]}, index=["cat", "person"])
    assert is_labeled(data.class_counts(counts))
    assert is_labeled(data.objects_per_image([1, 2, 2, 5]))
    assert is_labeled(images.coefficients([torch.rand(32), torch.rand(32)], ["a", "b"]))
    _, ax = plt.subplots()
    assert data.object_sizes([4, 90, 4000, 20000], ax=ax) is ax
    assert is_labeled(ax)


def test_samples_and_maps_are_drawn(sample):
    maps = sample.masks.sum(0).numpy().astype(np.uint8)
    assert len(data.sample_maps(sample.image, maps, maps)) == 3
    many = np.arange(40, dtype=np.uint8).reshape(5, 8)
    axes = data.sample_maps(sample.image, many, many, window=(2, 1, 4, 4))
    assert [len(ax.get_legend().texts) for ax in axes[1:]] == [data.MAX_LEGEND_VALUES] * 2
    assert [ax.patches[0].get_bbox().bounds for ax in axes[1:]] == [(1.5, 0.5, 2, 3)] * 2
    target = {"masks": sample.masks, "boxes": sample.boxes, "labels": sample.labels}
    axes = data.augmented([(sample.image, target)] * 5)
    assert [len(ax.patches) for ax in axes] == [len(sample.boxes)] * 5
    assert len(images.prototypes(torch.rand(9, 9, 32))) == 32
    axes = images.stages([np.eye(4), np.zeros((4, 4, 3))], ["map", "image"], "title", "caption")
    assert len(axes[0].figure.axes) == 3  # the map has a color bar


def test_an_objects_steps_are_drawn_until_it_is_dropped(sample):
    mask, box = sample.masks[0].numpy().astype(bool), sample.boxes[0].int().tolist()
    steps = {"stored": (sample.image, mask, box), "crop": (sample.image, None, None)}
    stored, crop = data.augmentation_steps(steps, "title", "caption")
    assert (len(stored.patches), len(crop.patches)) == (1, 0)
    assert crop.get_title().endswith("dropped")


def test_a_block_has_background_void_and_an_object_if_the_map_has_them():
    object_map = np.zeros((40, 60), np.uint8)
    assert data.border_block(object_map) == (0, 0, 16, 9)
    object_map[20:30, 31:50], object_map[20:30, 30] = 3, 255
    x1, y1, x2, y2 = data.border_block(object_map)
    assert (x2 - x1, y2 - y1) == (16, 9)
    assert set(np.unique(object_map[y1:y2, x1:x2])) == {0, 3, 255}
    assert data.border_block(object_map[20:24, 30:36]) == (0, 0, 6, 4)


def test_figures_are_saved_and_spare_axes_hidden(tmp_path):
    axes = new_axes(4, 3, (2, 2))
    assert [ax.axison for ax in axes[0].figure.axes] == [True] * 4 + [False] * 2
    save_figure(axes[0], tmp_path, "four")
    assert plt.imread(tmp_path / "figures" / "four.png").std() > 0

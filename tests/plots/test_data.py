import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from tests.helpers.figures import is_labeled
from vocseg_lib.plots import data


def test_charts_are_labeled():
    counts = pd.DataFrame({"train": [3, 9], "val": [1, 2]}, index=["cat", "person"])
    assert is_labeled(data.class_counts(counts))
    assert is_labeled(data.objects_per_image([1, 2, 2, 5]))
    _, ax = plt.subplots()
    assert data.object_sizes([4, 90, 4000, 20000], ax=ax) is ax
    assert is_labeled(ax)


def test_samples_are_drawn(sample):
    maps = sample.masks.sum(0).numpy().astype(np.uint8)
    assert len(data.sample_maps(sample.image, maps, maps)) == 3
    target = {"masks": sample.masks, "boxes": sample.boxes, "labels": sample.labels}
    axes = data.augmented([(sample.image, target)] * 5)
    assert [len(ax.patches) for ax in axes] == [len(sample.boxes)] * 5

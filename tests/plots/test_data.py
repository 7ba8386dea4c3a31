import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from vocseg_lib.plots.data import (
    augmented,
    class_counts,
    object_sizes,
    objects_per_image,
    sample_maps,
)


def test_charts_are_labeled(is_labeled):
    counts = pd.DataFrame({"train": [3, 9], "val": [1, 2]}, index=["cat", "person"])
    sizes = object_sizes([4, 90, 4000, 20000])
    for ax in (class_counts(counts), sizes, objects_per_image([1, 2, 2, 5])):
        assert is_labeled(ax), ax.get_title(loc="left")
    _, ax = plt.subplots()
    assert object_sizes([4, 90], ax=ax) is ax


def test_samples_are_drawn(sample):
    maps = sample.masks.sum(0).numpy().astype(np.uint8)
    assert len(sample_maps(sample.image, maps, maps)) == 3
    target = {"masks": sample.masks, "boxes": sample.boxes, "labels": sample.labels}
    axes = augmented([(sample.image, target)] * 5)
    assert [len(ax.patches) for ax in axes] == [len(sample.boxes)] * 5

import hashlib

import numpy as np
import pytest

from vocseg_lib.data import synthetic
from vocseg_lib.data.classes import VOID
from vocseg_lib.data.verify import verify
from vocseg_lib.data.voc import FOLDERS, read_sample, split_ids


def digest(devkit):
    paths = sorted(p for folder in FOLDERS for p in (devkit / folder).iterdir())
    return hashlib.sha256(b"".join(p.name.encode() + p.read_bytes() for p in paths)).hexdigest()


def test_the_seed_decides_every_byte(tmp_path):
    first, same, other = (
        digest(synthetic.write(tmp_path / str(i), train=3, val=2, seed=seed))
        for i, seed in enumerate((5, 5, 6))
    )
    assert first == same != other


def test_scenes_are_whole_and_hard(tmp_path):
    devkit = synthetic.write(tmp_path, train=60, val=20)
    assert verify(devkit) == []
    samples = [read_sample(devkit, name) for name in split_ids(devkit, "trainval")]
    labels = np.concatenate([s.labels for s in samples])
    sides = np.concatenate([s.masks.sum((1, 2)).sqrt() for s in samples])
    assert len(np.unique(labels)) == len(synthetic.SHAPES) >= 5
    assert sides.min() < 16
    assert sides.max() > 60
    crowds = [s for s in samples if len(s.labels) and np.bincount(s.labels).max() >= 4]
    assert len(crowds) >= 5
    assert all(s.void.any() for s in samples)
    gray = samples[0]  # the edge case: gray, and cut by the borders
    assert gray.masks[0].float().mean() > 0.5
    assert (gray.image[0].float() - gray.image[2]).abs().mean() < 2


def test_evenly_spaced_images_are_not_all_alike(tmp_path):
    devkit = synthetic.write(tmp_path, train=101, val=1)
    names = split_ids(devkit, "train")
    labels = [read_sample(devkit, names[i]).labels.tolist() for i in (0, 50, 100)]
    assert len({str(of_image) for of_image in labels}) == 3


def test_it_is_reused_and_written_again_for_other_numbers_but_replaces_no_other_data(tmp_path):
    devkit = synthetic.write(tmp_path, train=3, val=2)
    stamp = devkit / synthetic.STAMP_NAME
    before = stamp.stat().st_mtime_ns
    assert synthetic.write(tmp_path, train=3, val=2) == devkit
    assert stamp.stat().st_mtime_ns == before
    synthetic.write(tmp_path, train=4, val=2)
    assert len(split_ids(devkit, "train")) == 4
    stamp.unlink()
    with pytest.raises(FileExistsError):
        synthetic.write(tmp_path)


def test_every_border_between_objects_is_void():
    objects = np.zeros((5, 6), dtype=np.uint8)
    objects[:, 3:] = 1
    assert synthetic._with_void_borders(objects).tolist()[0] == [0, 0, VOID, VOID, 1, 1]

import hashlib

import numpy as np
import pytest

from vocseg_lib.data import synthetic
from vocseg_lib.data.classes import VOID
from vocseg_lib.data.verify import verify
from vocseg_lib.data.voc import read_sample, split_ids


def digest(folder):
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    return hashlib.sha256(b"".join(p.name.encode() + p.read_bytes() for p in paths)).hexdigest()


def test_same_seed_same_bytes_and_other_seed_other_bytes(tmp_path):
    folders = [
        synthetic.write(tmp_path / str(i), train=3, val=2, seed=seed)
        for i, seed in enumerate((5, 5, 6))
    ]
    assert digest(folders[0]) == digest(folders[1]) != digest(folders[2])


def test_it_is_a_whole_devkit_with_hard_scenes(tmp_path):
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
    covered = samples[0].masks[0]  # the awkward one: grey, and cut by the borders
    assert covered.float().mean() > 0.5
    assert (samples[0].image[0].float() - samples[0].image[2]).abs().mean() < 2


def test_it_is_used_as_it_is_and_written_anew_for_other_numbers(tmp_path):
    devkit = synthetic.write(tmp_path, train=3, val=2)
    before = (devkit / "synthetic.txt").stat().st_mtime_ns
    assert synthetic.write(tmp_path, train=3, val=2) == devkit
    assert (devkit / "synthetic.txt").stat().st_mtime_ns == before
    synthetic.write(tmp_path, train=4, val=2)
    assert len(split_ids(devkit, "train")) == 4


def test_it_never_writes_over_other_data(tmp_path):
    (tmp_path / "VOCdevkit" / "VOC2012" / "JPEGImages").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="other data"):
        synthetic.write(tmp_path)


def test_void_lies_on_every_border_between_things():
    objects = np.zeros((5, 6), dtype=np.uint8)
    objects[:, 3:] = 1
    assert synthetic._with_void_borders(objects).tolist()[0] == [0, 0, VOID, VOID, 1, 1]

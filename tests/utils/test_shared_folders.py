"""Several processes that write to one folder, which two users or notebooks share."""

import multiprocessing

import pytest
import torch

from vocseg_lib.data import synthetic
from vocseg_lib.data.voc import VocDataset
from vocseg_lib.models.lineage.proposals import SelectiveSearch
from vocseg_lib.utils.files import read_json, rebuild_folder, write_json

WRITERS = 4


def write_devkit(folder, number):
    devkit = synthetic.write(folder, train=6, val=2)
    assert len([*VocDataset(devkit, "train")]) == 6  # read while others write


def write_results(folder, number):
    for _ in range(50):
        write_json(folder / "results.json", [number] * 5_000)
        content = read_json(folder / "results.json")
        assert content == [content[0]] * 5_000


def write_proposals(folder, number):
    search = SelectiveSearch(10, cache=folder)
    for seed in range(10):
        image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(seed))
        assert len(search(image))


def started_together(write, folder, number, barrier):
    torch.set_num_threads(1)
    barrier.wait()
    write(folder, number)


@pytest.mark.parametrize("write", [write_devkit, write_results, write_proposals])
def test_what_is_written_by_several_at_once_ends_whole(write, tmp_path):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(WRITERS)
    arguments = [(write, tmp_path, number, barrier) for number in range(WRITERS)]
    processes = [context.Process(target=started_together, args=args) for args in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * WRITERS
    assert not [*tmp_path.rglob("*.writing"), *tmp_path.rglob("*.old")]


def test_a_killed_writer_leaves_nothing_for_long_and_its_lock_file_stays(tmp_path):
    folder, others = tmp_path / "data", tmp_path / f".data.v2.{'0' * 32}.writing"
    leftovers = [tmp_path / f".data.{'0' * 32}.{ending}" for ending in ("writing", "old")]
    for path in (others, *leftovers):
        path.mkdir()
    for content in (1, 2, 2):
        with rebuild_folder(folder, "record.json", {"content": content}) as temporary:
            if temporary:
                (temporary / "file").write_text(str(content))
        if content == 1:
            lock = (tmp_path / ".data.lock").stat().st_ino
    assert temporary is None  # the third time, nothing had changed
    assert (tmp_path / ".data.lock").stat().st_ino == lock
    assert {path.name for path in tmp_path.iterdir()} == {"data", ".data.lock", others.name}

import errno
import resource
import signal

import pytest
import torch

from vocseg_lib.engine.checkpoint import load_checkpoint, save_checkpoint


def test_a_changed_weight_is_detected(tmp_path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"x": torch.zeros(10), "nested": [{"y": (1.5, None)}]})
    assert torch.equal(load_checkpoint(path, ("x", "nested"))["x"], torch.zeros(10))
    with pytest.raises(ValueError, match=r"last\.pt.*model"):
        load_checkpoint(path, ("x", "model"))
    content = torch.load(path, weights_only=True)
    assert len(content["checksum"]) == 64
    content["x"][3] += 1e-7
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"last\.pt"):
        load_checkpoint(path)


def test_a_file_that_may_not_grow_leaves_the_checkpoint_before(tmp_path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"x": torch.zeros(10)})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(OSError) as caught:  # noqa: PT011
            save_checkpoint(path, {"x": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
    assert len(load_checkpoint(path)["x"]) == 10
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]

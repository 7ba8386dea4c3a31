import hashlib
from dataclasses import replace

import pytest
import torch

from tests.helpers import models as detectors
from tests.helpers.server import serve, urls
from vocseg_lib.study import initial_weights


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Files of detectors of other code, under names that say nothing, and the detectors."""
    folder = tmp_path_factory.mktemp("files")
    yolact, mask_rcnn = detectors.yolact(), detectors.mask_rcnn()
    torch.save(detectors.official_state(yolact), folder / "a.bin")
    torch.save(mask_rcnn.state_dict(), folder / "b.bin")
    return {"yolact": (folder / "a.bin", yolact), "mask_rcnn": (folder / "b.bin", mask_rcnn)}


@pytest.fixture
def published(files, tmp_path, monkeypatch):
    """`published(path)`: stand-ins of both published detectors come from a local server."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with serve(b"") as server:

        def use(name, path, content=None):
            server.archive = content or files[name][0].read_bytes()
            known = initial_weights.COCO_DETECTORS[name]
            sha256, size = hashlib.sha256(files[name][0].read_bytes()), len(server.archive)
            source = {"url": urls(server, path)[0], "max_bytes": size}
            changed = replace(known, **source, sha256=sha256.hexdigest())
            monkeypatch.setitem(initial_weights.COCO_DETECTORS, name, changed)
            return server.requests

        yield use

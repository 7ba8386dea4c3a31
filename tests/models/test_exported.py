import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.cli import vocseg
from vocseg_lib.data.image_files import read_picture
from vocseg_lib.models.exported import OUTPUTS, ExportedNetwork, export_network
from vocseg_lib.study.run import load_model

ort = pytest.importorskip("onnxruntime")
ROOT = Path(__file__).parents[2]
PICTURES = sorted((ROOT / "vocseg_lib" / "study" / "demo").glob("*.jpg"))


@pytest.fixture(scope="module")
def model():
    return load_model("pilot/yolact", "cpu")


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """The pilot's YOLACT as ONNX by precision: session and description."""
    folder, opened = tmp_path_factory.mktemp("onnx"), {}
    for precision in ("fp32", "fp16"):
        path, beside = export_network(model, folder / f"{precision}.onnx", precision)
        opened[precision] = ort.InferenceSession(path), json.loads(beside.read_text())
        assert path.stat().st_size < {"fp32": 17e6, "fp16": 9e6}[precision]
        assert b"site-packages" not in path.read_bytes()
    return opened


def as_tensor(path):
    return torch.from_numpy(read_picture(path).copy()).permute(2, 0, 1) / 255


@torch.no_grad()
def test_the_network_is_equal_to_pytorchs_on_real_pictures(model, exported):
    network, largest = ExportedNetwork(model), dict.fromkeys(exported, 0.0)
    for path in PICTURES:
        images = as_tensor(path)[None]
        expected, raw = network(images), model.network([images[0]])
        for name, of_network in zip(OUTPUTS[1:], expected[1:], strict=True):
            torch.testing.assert_close(of_network, raw[name], atol=1e-4, rtol=0)
        for precision, (session, _) in exported.items():
            for out, value in zip(
                session.run(None, {"images": images.numpy()}), expected, strict=True
            ):
                difference = float(np.abs(out - value.numpy()).max())
                largest[precision] = max(largest[precision], difference)
    assert max(largest.values()) < 1e-4


@torch.no_grad()
def test_batches_of_any_number_and_size_or_of_one(model, exported, tmp_path):
    session, _ = exported["fp32"]
    images = torch.rand(3, 3, 97, 211)
    together = session.run(None, {"images": images.numpy()})
    for k in range(3):
        alone = session.run(None, {"images": images[k : k + 1].numpy()})
        for several, one in zip(together, alone, strict=True):
            np.testing.assert_allclose(several[k], one[0], atol=1e-4)
    path, _ = export_network(model, tmp_path / "one.onnx", batch=1)
    assert ort.InferenceSession(path).get_inputs()[0].shape[:2] == [1, 3]
    path, _ = export_network(model, tmp_path / "net.pt2")
    program = torch.export.load(path).module()
    for out, value in zip(program(images), ExportedNetwork(model)(images), strict=True):
        torch.testing.assert_close(out, value)


def test_numpy_code_of_the_page_finds_what_the_library_finds(model, exported):
    page = (ROOT / "docs" / "onnx.md").read_text()
    code = re.search(r"<!-- onnx -->\n```python\n(.*?)\n\nsession = ", page, re.DOTALL)[1]
    exec(code, names := {})
    body = [line for line in code.splitlines() if line and not line.startswith(("import", "from"))]
    assert len(body) <= 50
    for path in PICTURES:
        found = names["detect"](read_picture(path), *exported["fp16"])
        (expected,) = model([as_tensor(path)])
        scores, labels, boxes, masks = map(np.array, zip(*found, strict=True))
        np.testing.assert_allclose(scores, expected["scores"].numpy(), atol=1e-4)
        assert labels.tolist() == expected["labels"].tolist()
        np.testing.assert_allclose(boxes, expected["boxes"].detach().numpy(), atol=0.05)
        reference = expected["masks"].numpy()
        union = (masks | reference).sum((1, 2))
        assert ((masks & reference).sum((1, 2)) >= 0.99 * union).all()


def test_what_cannot_be_exported_is_one_line(tmp_path):
    for arguments, message in (
        (("pilot/mask_rcnn", "--onnx"), "Mask R-CNN cannot be exported"),
        (("pilot/yolact",), "either --onnx or --torch"),
        (("pilot/yolact", "--onnx", "--torch"), "either --onnx or --torch"),
        (("pilot/yolact", "--onnx", "--out", tmp_path / "x.pb"), "must end with .onnx"),
        (("pilot/yolact", "--torch", "--precision", "fp16"), "fp32"),
        ((tmp_path / "missing", "--onnx"), "missing"),
    ):
        result = vocseg("export", *arguments)
        assert result.exit_code == 2
        assert message in result.stderr
        assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []

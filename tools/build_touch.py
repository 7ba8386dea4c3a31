"""Build what the page docs/touch needs besides itself: python -m tools.build_touch.

Into docs/touch/build/: the runtime (onnxruntime-web's npm package), the pilot's YOLACT as ONNX, and
sample pictures with Mask R-CNN's small masks. As scripts, since a page on a disk may fetch no file.
"""

import argparse
import base64
import gzip
import json
import subprocess
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from vocseg_lib.data.image_files import read_picture
from vocseg_lib.models.exported import export_network
from vocseg_lib.study.run import load_model
from vocseg_lib.utils.files import write_text

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "docs" / "touch" / "build"
PICTURES = ROOT / "vocseg_lib" / "study" / "demo"
NPM_PACKAGE = "onnxruntime-web@1.30.0"
RUNTIMES = {
    "wasm": ("ort.wasm.min.js", "ort-wasm-simd-threaded"),
    "webgpu": ("ort.webgpu.min.js", "ort-wasm-simd-threaded.asyncify"),
}
"""By execution provider: the script, and the name of its module and WebAssembly."""
SAMPLES = ("dog", "cows", "horses")
LEAST_SCORE = 0.3


def packed(content: bytes) -> str:
    """Content as the page unpacks it: gzip, as base64."""
    return base64.b64encode(gzip.compress(content, mtime=0)).decode()


def script(name: str, value: object) -> str:
    return f"globalThis.{name} = {json.dumps(value)};\n"


def write_runtimes(package: Path, out: Path) -> None:
    """The runtime of each execution provider, from the npm package's archive."""
    with tarfile.open(package) as archive:
        for kind, (name, module) in RUNTIMES.items():
            files = {"script": name, "module": f"{module}.mjs", "wasm": f"{module}.wasm"}
            parts = {
                part: packed(archive.extractfile(f"package/dist/{file}").read())
                for part, file in files.items()
            }
            text = "globalThis.vocsegRuntime ??= {};\n" + script(f"vocsegRuntime.{kind}", parts)
            write_text(out / f"runtime_{kind}.js", text)


def write_model(out: Path) -> None:
    """The pilot's YOLACT: ONNX with weights in fp16, and what its detections take."""
    with TemporaryDirectory() as folder:
        model = load_model("pilot/yolact", "cpu")
        onnx, beside = export_network(model, Path(folder) / "yolact.onnx", "fp16", batch=1)
        content = {"onnx": packed(onnx.read_bytes()), "description": json.loads(beside.read_text())}
    write_text(out / "model.js", script("vocsegModel", content))


@torch.no_grad()
def small_masks(model: torch.nn.Module, picture: Path) -> list[dict]:
    """Mask R-CNN's detections: relative boxes, labels, scores and 28 x 28 masks in 0..255."""
    image = torch.from_numpy(read_picture(picture).copy()).permute(2, 0, 1) / 255
    (raw,) = model.detect(model.network([image]))
    (height, width), masks = raw["resized"], raw["masks"][:, 0]
    boxes = raw["boxes"] / torch.tensor([width, height, width, height])
    return [
        {
            "box": [round(v, 5) for v in box.tolist()],
            "label": int(label),
            "score": round(float(score), 4),
            "mask": base64.b64encode((mask * 255).round().byte().numpy().tobytes()).decode(),
        }
        for box, label, score, mask in zip(boxes, raw["labels"], raw["scores"], masks, strict=True)
        if score >= LEAST_SCORE
    ]


def write_samples(out: Path) -> None:
    """Sample pictures, Mask R-CNN's detections on them, and the lessons."""
    lessons = json.loads((BUILD.parent / "lessons.json").read_text())
    model, pictures = load_model("pilot/mask_rcnn", "cpu"), []
    for name in SAMPLES:
        path = PICTURES / f"{name}.jpg"
        source = "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode()
        pictures.append({"name": name, "source": source, "mask_rcnn": small_masks(model, path)})
    write_text(
        out / "samples.js", script("vocsegSamples", {"pictures": pictures, "lessons": lessons})
    )


def npm_package(folder: Path) -> Path:
    """Download the runtime's package with npm; its archive."""
    subprocess.run(
        ["npm", "pack", "--silent", NPM_PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL
    )
    return next(folder.glob("*.tgz"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--package", type=Path, help="onnxruntime-web's archive (.tgz), if there")
    options = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder:
        write_runtimes(options.package or npm_package(Path(folder)), BUILD)
    write_model(BUILD)
    write_samples(BUILD)


if __name__ == "__main__":
    main()

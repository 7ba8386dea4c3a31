"""What predict writes for pictures and videos as people have them."""

import imageio_ffmpeg
import pytest
import torch
from PIL import Image

from tests.helpers.cli import vocseg
from vocseg_lib.plots.pictures import Visualizer
from vocseg_lib.study import run as study_run


class NoDetections(torch.nn.Module):
    def forward(self, images):
        empty = {"labels": torch.zeros(0, dtype=torch.long), "scores": torch.zeros(0)}
        shape = (0, *images[0].shape[-2:])
        return [empty | {"boxes": torch.zeros(0, 4), "masks": torch.zeros(shape)} for _ in images]


@pytest.fixture
def predicted(tmp_path, monkeypatch):
    """`vocseg predict --image ...` of a model without detections: names of what it writes."""
    visualizer = Visualizer(model=NoDetections())
    monkeypatch.setattr(study_run, "load_visualizer", lambda *options: visualizer)
    monkeypatch.chdir(tmp_path)

    def predict(*images, out="drawn"):
        result = vocseg("predict", "--weights", tmp_path, "--image", *images, "--out", out)
        names = sorted(p.name for p in (tmp_path / out).iterdir() if p.suffix in (".png", ".mp4"))
        return result.exit_code, names, result

    return predict


def seconds_and_size(path):
    metadata = next(imageio_ffmpeg.read_frames(str(path)))
    return metadata["duration"], metadata["size"]


def test_predict_overwrites_the_third_folder(case, predicted, tmp_path):
    folder = case("predict_overwrites_the_third_folder")
    inputs = [folder / name for name in "abc"]
    for _ in range(2):  # again, it replaces its own
        code, names, _ = predicted(*inputs)
        assert (code, names) == (0, ["a_frame_1.png", "b_frame_1.png", "c_frame_1.png"])
    for name in "abc":
        drawn = Image.open(tmp_path / "drawn" / f"{name}_frame_1.png").convert("RGB")
        assert drawn.tobytes() == Image.open(folder / name / "frame_1.jpg").convert("RGB").tobytes()


def test_video_of_variable_rate(case, predicted, tmp_path):
    folder = case("video_of_variable_rate")
    code, names, _ = predicted(*(folder / f"{name}.mp4" for name in ("webcam_dark", "screen")))
    assert (code, names) == (0, ["screen.mp4", "webcam_dark.mp4"])
    for name, seconds, frame in (("webcam_dark", 3.5, 1 / 12.86), ("screen", 1.1, 1 / 5.45)):
        drawn, size = seconds_and_size(tmp_path / "drawn" / f"{name}.mp4")
        assert (drawn, size) == (pytest.approx(seconds, abs=frame), (64, 48))
    code, names, _ = predicted(folder / "clip.wmv", folder / "clip.ts", out="clips")
    assert (code, names) == (0, ["clip.mp4", "clip.ts.mp4"])
    assert seconds_and_size(tmp_path / "clips" / "clip.ts.mp4") == (1.0, (64, 48))

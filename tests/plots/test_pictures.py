import sys

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from vocseg_lib.plots import pictures
from vocseg_lib.plots.pictures import LONGEST_SIDE, Visualizer, draw_predictions


class BrightestCup(nn.Module):
    """A model that detects a cup where it is bright, and with a low score a plate everywhere."""

    def forward(self, images):
        bright = images[0].mean(0) > 0.5
        boxes, scores = [[10.0, 5, 30, 25], [0, 0, 60, 40]], torch.tensor([0.9, 0.2])
        masks = torch.stack([bright, torch.ones_like(bright)])
        labels = torch.tensor([1, 2])
        return [dict(boxes=torch.tensor(boxes), labels=labels, scores=scores, masks=masks)]


@pytest.fixture
def visualizer():
    return Visualizer(BrightestCup(), ("cup", "plate"))


def bright_square(width=60, height=40):
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[5:25, 10:30] = 200
    return pixels


def test_detections_are_drawn_where_they_are(visualizer):
    picture = bright_square()
    drawn, detections = visualizer.draw(picture)
    assert (picture == bright_square()).all()
    assert visualizer.describe(detections) == "cup 0.90"  # the plate is below the score
    changed = (drawn != picture).any(2)
    assert changed[5:25, 10:30].all()
    assert not changed[30:].any()
    low = Visualizer(BrightestCup(), ("cup", "plate"), score=0.1)
    assert len(low.predict(picture)["labels"]) == 2
    none = Visualizer(BrightestCup(), ("cup", "plate"), score=1.0)
    assert (none.draw(picture)[0] == picture).all()


def test_a_folder_of_pictures_with_unreadable_files(visualizer, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name, mode in (("a.png", "RGB"), ("a.jpg", "L"), ("c.webp", "RGBA")):
        Image.fromarray(bright_square()).convert(mode).save(folder / name)
    (folder / "broken.jpg").write_bytes((folder / "a.jpg").read_bytes()[:300])
    (folder / "notes.txt").write_text("not a picture")
    (folder / ".hidden").touch()
    results = list(draw_predictions(visualizer, [folder], out))
    names = [(file.name, written and written.name) for file, written, _ in results]
    good = [("a.jpg", "a.png"), ("a.png", "a.png.png"), ("c.webp", "c.png")]
    assert names == sorted([*good, ("broken.jpg", None), ("notes.txt", None)])
    assert all(str(file) in text for file, written, text in results if not written)
    assert sorted(path.name for path in out.iterdir()) == [written for _, written in good]
    assert {Image.open(path).size for path in out.iterdir()} == {(60, 40)}


@pytest.mark.parametrize(
    ("paths", "out", "error"),
    [
        (["a.png"], ".", ValueError),
        (["a.png"], "a.png", ValueError),
        (["empty"], "out", ValueError),
        (["missing.png"], "out", FileNotFoundError),
    ],
)
def test_inputs_and_outputs_that_cannot_be_used(visualizer, tmp_path, paths, out, error):
    Image.fromarray(bright_square()).save(tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(error, match=paths[0]):
        list(draw_predictions(visualizer, [tmp_path / path for path in paths], tmp_path / out))


def test_pictures_are_read_upright_and_not_too_large(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (2 * LONGEST_SIDE, LONGEST_SIDE)).save(tmp_path / "a.jpg", exif=exif)
    assert pictures.read_picture(tmp_path / "a.jpg").shape == (LONGEST_SIDE, LONGEST_SIDE // 2, 3)
    (tmp_path / "b.jpg").write_bytes(b"")
    with pytest.raises(pictures.UnreadablePicture, match=r"b\.jpg"):
        pictures.read_picture(tmp_path / "b.jpg")


def write_video(path, frames, size):
    options = {"fps": 5, "macro_block_size": 1, "codec": "ffv1", "pix_fmt_out": "rgb24"}
    writer = imageio_ffmpeg.write_frames(str(path), size, **options)
    writer.send(None)
    for k in range(frames):
        writer.send(np.ascontiguousarray(np.roll(bright_square(*size), 3 * k, 1)))
    writer.close()


def test_a_video_is_drawn_frame_by_frame(visualizer, tmp_path):
    write_video(tmp_path / "clip.mkv", 7, (61, 41))
    ((_, written, _),) = draw_predictions(visualizer, [tmp_path / "clip.mkv"], tmp_path / "out")
    assert [*(tmp_path / "out").iterdir()] == [written] == [tmp_path / "out" / "clip.mp4"]
    metadata, *frames = imageio_ffmpeg.read_frames(str(written))
    assert (metadata["size"], metadata["codec"], len(frames)) == ((60, 40), "h264", 7)
    for k, frame in enumerate(frames[:6]):  # blue, as the first object is, where the square went
        pixels = np.frombuffer(frame, np.uint8).reshape(40, 60, 3).astype(int)
        square = np.roll(pixels, -3 * k, 1)[12:22, 14:26]
        assert (square[..., 2] - square[..., 0]).mean() > 30


def test_an_interrupted_video_leaves_no_file(visualizer, tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError

    write_video(tmp_path / "clip.mkv", 3, (40, 40))
    monkeypatch.setattr(Visualizer, "draw", fail)
    with pytest.raises(MemoryError):
        list(draw_predictions(visualizer, [tmp_path / "clip.mkv"], tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []


def test_an_unreadable_video_and_a_missing_decoder(visualizer, tmp_path, monkeypatch):
    (tmp_path / "bad.mp4").write_text("not a video")
    ((file, written, text),) = draw_predictions(
        visualizer, [tmp_path / "bad.mp4"], tmp_path / "out"
    )
    assert written is None
    assert str(file) in text
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ModuleNotFoundError, match=r"vocseg_lib\[video\]"):
        list(draw_predictions(visualizer, [tmp_path / "bad.mp4"], tmp_path / "out"))

"""Predictions drawn into anyone's pictures and videos."""

import sys

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from vocseg_lib.plots.pictures import (
    LONGEST_SIDE,
    UnreadablePicture,
    Visualizer,
    draw_instances,
    draw_predictions,
    read_picture,
)

NAMES = ("cup", "plate")


class FindsTheBrightest(nn.Module):
    """A model under the contract: one cup where it is bright, and a plate that it is not sure of."""

    def forward(self, images):
        masks = torch.stack(
            [images[0].mean(0) > 0.5, torch.ones_like(images[0][0], dtype=torch.bool)]
        )
        boxes = torch.tensor([[10.0, 5, 30, 25], [0, 0, 60, 40]])
        return [
            {
                "boxes": boxes,
                "labels": torch.tensor([1, 2]),
                "scores": torch.tensor([0.9, 0.2]),
                "masks": masks,
            }
        ]


@pytest.fixture
def painter():
    return Visualizer(FindsTheBrightest(), NAMES)


def bright_square(width=60, height=40):
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[5:25, 10:30] = 200
    return pixels


def test_what_is_drawn_lies_where_it_was_found(painter):
    picture = bright_square()
    before = picture.copy()
    drawn, found = painter.paint(picture)
    assert (picture == before).all()
    assert found["scores"].tolist() == pytest.approx([0.9])  # the plate is below the score
    assert painter.words(found) == "cup 0.90"
    changed = (drawn != picture).any(2)
    assert changed[5:25, 10:30].all()
    assert not changed[30:].any()
    low = Visualizer(FindsTheBrightest(), NAMES, score=0.1)
    assert len(low.find(picture)["labels"]) == 2


def test_nothing_found_leaves_the_picture_as_it_is(painter):
    found = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0), "scores": torch.zeros(0)}
    picture = bright_square()
    assert (
        draw_instances(picture, {**found, "masks": torch.zeros(0, 40, 60, dtype=torch.bool)})
        == picture
    ).all()


def test_a_folder_of_pictures_with_what_cannot_be_read(painter, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    Image.fromarray(bright_square()).save(folder / "a.png")
    Image.fromarray(bright_square()).convert("L").save(folder / "a.jpg")
    Image.fromarray(bright_square()).convert("RGBA").save(folder / "c.webp")
    (folder / "torn.jpg").write_bytes((folder / "a.jpg").read_bytes()[:300])
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden").touch()
    results = list(draw_predictions(painter, [folder], out))
    assert [file.name for file, *_ in results] == [
        "a.jpg",
        "a.png",
        "c.webp",
        "notes.txt",
        "torn.jpg",
    ]
    assert [written.name if written else None for _, written, _ in results] == [
        "a.png",
        "a.png.png",
        "c.png",
        None,
        None,
    ]
    assert all(str(file) in said for file, written, said in results if not written)
    for _, written, _ in results[:3]:
        with Image.open(written) as image:
            assert image.size == (60, 40)
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "a.png.png", "c.png"]


def test_inputs_are_never_written_over(painter, tmp_path):
    Image.fromarray(bright_square()).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="choose another folder"):
        list(draw_predictions(painter, [tmp_path / "a.png"], tmp_path))
    with pytest.raises(FileNotFoundError, match=r"nothing.png is not there"):
        list(draw_predictions(painter, [tmp_path / "nothing.png"], tmp_path / "out"))
    with pytest.raises(ValueError, match=r"a.png is a file: pictures are written to a folder"):
        list(draw_predictions(painter, [tmp_path / "a.png"], tmp_path / "a.png"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty holds no file"):
        list(draw_predictions(painter, [tmp_path / "empty"], tmp_path / "out"))


def test_pictures_are_read_upright_and_not_too_large(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (2 * LONGEST_SIDE, LONGEST_SIDE)).save(tmp_path / "a.jpg", exif=exif)
    assert read_picture(tmp_path / "a.jpg").shape == (LONGEST_SIDE, LONGEST_SIDE // 2, 3)


def write_video(path, frames, size, fps=5):
    writer = imageio_ffmpeg.write_frames(
        str(path), size, fps=fps, macro_block_size=1, codec="ffv1", pix_fmt_out="rgb24"
    )
    writer.send(None)
    for k in range(frames):
        writer.send(np.ascontiguousarray(np.roll(bright_square(*size), 3 * k, 1)))
    writer.close()


def test_a_video_is_drawn_frame_by_frame(painter, tmp_path):
    write_video(tmp_path / "clip.mkv", 7, (61, 41))
    ((_, written, said),) = draw_predictions(painter, [tmp_path / "clip.mkv"], tmp_path / "out")
    assert written == tmp_path / "out" / "clip.mp4"
    assert said == "7 frames of 60 x 40 pixels at 5 a second"
    frames = imageio_ffmpeg.read_frames(str(written))
    about = next(frames)
    assert about["size"] == (60, 40)
    assert about["codec"] == "h264"
    drawn = [np.frombuffer(frame, np.uint8).reshape(40, 60, 3).astype(int) for frame in frames]
    assert len(drawn) == 7
    for k, frame in enumerate(drawn):  # blue, as the first object is, where the square went
        square = np.roll(frame, -3 * k, 1)[12:22, 14:26] if k < 6 else None
        assert square is None or (square[..., 2] - square[..., 0]).mean() > 30
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["clip.mp4"]


def test_a_video_that_ends_in_an_error_leaves_nothing(painter, tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError

    write_video(tmp_path / "clip.mkv", 3, (40, 40))
    monkeypatch.setattr(type(painter), "paint", fail)
    with pytest.raises(MemoryError):
        list(draw_predictions(painter, [tmp_path / "clip.mkv"], tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []


def test_no_video_is_named(painter, tmp_path, monkeypatch):
    (tmp_path / "bad.mp4").write_text("no video")
    ((file, written, said),) = draw_predictions(painter, [tmp_path / "bad.mp4"], tmp_path / "out")
    assert written is None
    assert f"{file} cannot be read as a video" in said
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'vocseg_lib\[video\]'"):
        list(draw_predictions(painter, [tmp_path / "bad.mp4"], tmp_path / "out"))


def test_a_broken_picture_is_named(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(UnreadablePicture, match=r"a.jpg cannot be read as a picture"):
        read_picture(tmp_path / "a.jpg")

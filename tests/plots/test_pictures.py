import os
import subprocess
import sys
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from unittest.mock import Mock

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from vocseg_lib.data.image_files import read_picture
from vocseg_lib.plots.pictures import (
    LONGEST_SIDE,
    Visualizer,
    draw_predictions,
    output_names,
    shrink,
)


class BrightestCup(nn.Module):
    """A model that detects a cup where it is bright, and with a low score a plate everywhere."""

    def forward(self, images):
        bright = images[0].mean(0) > 0.5
        output = {"boxes": torch.tensor([[10.0, 5, 30, 25], [0, 0, 60, 40]])}
        output |= {"labels": torch.tensor([1, 2]), "scores": torch.tensor([0.9, 0.2])}
        return [output | {"masks": torch.stack([bright, torch.ones_like(bright)])}]


VISUALIZER = Visualizer(model=BrightestCup(), class_names=("cup", "plate"))


def bright_square(width=60, height=40):
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[5:25, 10:30] = 200
    return pixels


def test_detections_are_drawn_where_they_are():
    picture = bright_square()
    drawn, detections = VISUALIZER.draw(picture)
    assert (picture == bright_square()).all()
    assert VISUALIZER.describe(detections) == "cup 0.90"  # the plate is below the score
    changed = (drawn != picture).any(2)
    assert changed[5:25, 10:30].all()
    assert not changed[30:].any()
    assert len(VISUALIZER.detect(picture)["labels"]) == 2
    assert (replace(VISUALIZER, score=1.0).draw(picture)[0] == picture).all()


def test_a_folder_of_pictures_with_unreadable_files(tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name, mode in (("a.png", "RGB"), ("a.jpg", "L"), ("c.webp", "RGBA")):
        Image.fromarray(bright_square()).convert(mode).save(folder / name)
    (folder / "broken.jpg").write_bytes((folder / "a.jpg").read_bytes()[:300])
    (folder / "notes.txt").write_text("not a picture")
    (folder / ".hidden").touch()
    results = list(draw_predictions(VISUALIZER, [folder], out))
    names = [(file.name, written and written.name) for file, written, _ in results]
    good = [("a.jpg", "a.png"), ("a.png", "a.png.png"), ("c.webp", "c.png")]
    assert names == sorted([*good, ("broken.jpg", None), ("notes.txt", None)])
    reasons = {file.name: text for file, written, text in results if not written}
    assert all(str(folder / name) in text for name, text in reasons.items())
    assert [name for name in reasons if ".wmv" in reasons[name]] == ["notes.txt"]
    assert sorted(path.name for path in out.iterdir()) == [written for _, written in good]
    assert {Image.open(path).size for path in out.iterdir()} == {(60, 40)}


@pytest.mark.parametrize(
    ("files", "names"),
    [
        ("a/f.jpg b/f.png c/f.webp g.mp4", "a_f.png b_f.png c_f.png g.mp4"),
        ("x/a/f.jpg y/a/f.jpg x/b/f.jpg", "x_a_f.png y_a_f.png x_b_f.png"),
        ("F.jpg f.png f.PNG f.bmp f.bmp.jpg", "F.png f.png.png f_2.png f_3.png f.bmp.png"),
        ("a/f.jpg b/f.jpg c/a_f.jpg f.mov f.MP4", "a_f.jpg.png b_f.png a_f.png f.mp4 f.MP4.mp4"),
        ("a_b/c.jpg a/b_c.jpg z/c.jpg z/b_c.jpg", "a_b_c.png a_b_c.jpg.png z_c.png z_b_c.png"),
    ],
)
def test_outputs_have_names_of_their_own(files, names):
    paths = [Path(file) for file in files.split()]
    given = output_names(paths)
    assert len({name.casefold() for name in given}) == len(given)
    assert given == names.split()
    for others in permutations(zip(paths, given, strict=True)):
        paths, given = zip(*others, strict=True)
        assert output_names(paths) == [*given]


def test_names_of_any_letters_and_length(tmp_path, capsys):
    folder, out = tmp_path / "in", tmp_path / "out"
    names = ["a\udcff.jpg", "new\nline.png", "$x$ %d.png", "-o.png", "é.png", "e\u0301.png"]
    names += [f"{'x' * 250}{end}.png" for end in "ab"]
    folder.mkdir()
    for name in names:
        Image.fromarray(bright_square()).save(folder / name, "PNG")
    (tmp_path / "link").symlink_to(folder)
    given = [folder, folder / names[0], tmp_path / "link" / names[1]]
    written = [target for _, target, _ in draw_predictions(VISUALIZER, given, out)]
    assert len(set(written)) == len(names) == len([*out.iterdir()])
    assert {"a_.png", "new_line.png", "$x$ %d.png", "-o.png"} < {path.name for path in written}
    assert all(path.name.isprintable() for path in written)
    said = [line for line in capsys.readouterr().err.splitlines() if "given again" in line]
    assert ["udcff" in line for line in said] == [True, False]


@pytest.mark.parametrize("name", ["pipe", "device", "folder", "sparse"])
def test_what_is_no_picture_is_not_waited_for(tmp_path, name):
    for path in (tmp_path / f"{name}.jpg", tmp_path / f"{name}.mp4"):
        if name == "pipe":
            os.mkfifo(path)
        elif name == "device":
            path.symlink_to("/dev/zero")
        elif name == "folder":
            (path / "a.png").mkdir(parents=True)
        else:
            with path.open("wb") as file:
                file.truncate(3 << 30)
        if name == "folder":
            with pytest.raises(ValueError, match=path.name):
                list(draw_predictions(VISUALIZER, [path], tmp_path / "out"))
            continue
        ((_, written, text),) = draw_predictions(VISUALIZER, [path], tmp_path / "out")
        assert (written, str(path) in text) == (None, True)


def test_files_of_others_are_not_replaced(tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    for path in (folder, out):
        path.mkdir()
        Image.fromarray(bright_square()).save(path / "a.png")
    before = (out / "a.png").read_bytes()
    with pytest.raises(ValueError, match=r"a\.png"):
        list(draw_predictions(VISUALIZER, [folder], out))
    assert (out / "a.png").read_bytes() == before
    (out / "a.png").unlink()
    for _ in range(2):
        assert len(list(draw_predictions(VISUALIZER, [folder, folder / "a.png"], out))) == 1


@pytest.mark.parametrize(
    ("path", "out"),
    [
        ("a.png", "."),
        ("a.png", "a.png"),
        ("a.png", "a.png.mp4"),
        ("empty", "out"),
        ("missing", "out"),
    ],
)
def test_inputs_and_outputs_that_cannot_be_used(tmp_path, path, out):
    Image.fromarray(bright_square()).save(tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError if path == "missing" else ValueError, match=path):
        list(draw_predictions(VISUALIZER, [tmp_path / path], tmp_path / out))


def test_pictures_are_read_upright_and_not_too_large(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.new("RGB", (2 * LONGEST_SIDE, LONGEST_SIDE)).save(tmp_path / "a.jpg", exif=exif)
    assert shrink(read_picture(tmp_path / "a.jpg")).shape == (LONGEST_SIDE, LONGEST_SIDE // 2, 3)


@pytest.fixture
def clip(tmp_path):
    """A video of seven frames of 61 x 41 pixels, in which the bright square moves."""
    options = {"fps": 5, "macro_block_size": 1, "codec": "ffv1", "pix_fmt_out": "rgb24"}
    writer = imageio_ffmpeg.write_frames(str(tmp_path / "clip.mkv"), (61, 41), **options)
    writer.send(None)
    for k in range(7):
        writer.send(np.ascontiguousarray(np.roll(bright_square(61, 41), 3 * k, 1)))
    writer.close()
    return tmp_path / "clip.mkv"


def test_a_video_is_drawn_frame_by_frame(clip, tmp_path):
    ((_, written, _),) = draw_predictions(VISUALIZER, [clip], tmp_path / "out")
    assert [*(tmp_path / "out").iterdir()] == [written] == [tmp_path / "out" / "clip.mp4"]
    metadata, *frames = imageio_ffmpeg.read_frames(str(written))
    assert (metadata["size"], metadata["codec"], len(frames)) == ((60, 40), "h264", 7)
    for k, frame in enumerate(frames[:6]):  # blue, as the first object is, where the square went
        pixels = np.frombuffer(frame, np.uint8).reshape(40, 60, 3).astype(int)
        square = np.roll(pixels, -3 * k, 1)[12:22, 14:26]
        assert (square[..., 2] - square[..., 0]).mean() > 30


PLAIN = "-i testsrc=size=96x64:rate=10:duration=1"
VARIABLE = "-i testsrc=size=96x64:rate=30:duration=9 -fps_mode vfr -bf 0 -vf select='"


@pytest.mark.parametrize(
    ("name", "options", "size", "seconds", "count"),
    [
        *((f"c{end}", PLAIN, (96, 64), 1, 10) for end in (".flv", ".M4V", ".m2ts", ".mts")),
        ("c.3gp", f"{PLAIN} -c:v h264 -pix_fmt yuv420p", (96, 64), 1, 10),
        ("c.ogv", f"{PLAIN} -c:v libtheora", (96, 64), 1, 10),  # without a mean rate
        ("wide.mp4", f"{PLAIN} -vf setsar=4/3", (128, 64), 1, 10),
        ("narrow.mkv", f"{PLAIN} -vf setsar=8/9", (96, 72), 1, 10),
        ("a:b.mp4", f"{PLAIN} -frames:v 1", (96, 64), 0.1, 1),
        ("odd.mkv", "-i testsrc=size=97x65:rate=10:duration=1 -c:v ffv1", (96, 64), 1, 10),
        ("dark.mov", f"{VARIABLE}lt(t,1)+not(mod(n,5))'", (96, 64), 9, None),
        ("slides.mp4", f"{VARIABLE}eq(n,0)+eq(n,40)+eq(n,269)'", (96, 64), 9, 90),
        ("screen.webm", f"{VARIABLE}lt(t,1)+not(mod(n,60))' -c:v libvpx", (96, 64), 8, None),
    ],
)
def test_videos_keep_their_duration_and_are_drawn_as_they_are_shown(
    tmp_path, name, options, size, seconds, count
):
    source = make_video(tmp_path / name, options)
    ((_, written, _),) = draw_predictions(VISUALIZER, [source], tmp_path / "out")
    metadata, *frames = imageio_ffmpeg.read_frames(str(written))
    assert (metadata["size"], len(frames)) == (size, count or len(frames))
    assert metadata["duration"] == pytest.approx(seconds, abs=1 / 10)


def make_video(path, options):
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error"]
    command += [*(("-f", "lavfi") if "testsrc" in options else ()), *options.split()]
    subprocess.run([*command, f"file:{path}"], check=True)
    return path


def test_a_video_of_a_phone_is_upright(tmp_path):
    flat = make_video(tmp_path / "flat.mp4", f"{PLAIN} -vf setsar=4/3 -pix_fmt yuv420p")
    turned = make_video(tmp_path / "turned.mp4", f"-display_rotation 90 -i {flat} -c copy")
    pictures = []
    for source in (flat, turned):
        ((_, written, _),) = draw_predictions(
            replace(VISUALIZER, score=1.0), [source], tmp_path / "out"
        )
        metadata, frame, *_ = imageio_ffmpeg.read_frames(str(written))
        pictures.append(np.frombuffer(frame, np.uint8).reshape(*metadata["size"][::-1], 3))
    assert pictures[0].shape == (64, 128, 3)
    difference = np.rot90(pictures[0]).astype(int) - pictures[1]
    assert np.abs(difference).mean() < 10  # H.264


def test_an_interrupted_video_leaves_no_file(clip, tmp_path, monkeypatch):
    monkeypatch.setattr(BrightestCup, "forward", Mock(side_effect=MemoryError))
    with pytest.raises(MemoryError):
        list(draw_predictions(VISUALIZER, [clip], tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []


def test_an_unreadable_video_and_a_missing_decoder(tmp_path, monkeypatch):
    bad, out = tmp_path / "bad.mp4", tmp_path / "out"
    bad.write_text("not a video")
    ((file, written, text),) = draw_predictions(VISUALIZER, [bad], out)
    assert (file, written, str(bad) in text) == (bad, None, True)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ModuleNotFoundError, match=r"vocseg_lib\[video\]"):
        list(draw_predictions(VISUALIZER, [bad], out))

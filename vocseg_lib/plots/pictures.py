"""A trained model's predictions drawn on any pictures and videos."""

import os
import sys
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, PngImagePlugin
from torch import Tensor, nn
from tqdm import tqdm

from vocseg_lib.data.classes import CLASS_NAMES
from vocseg_lib.data.coco import CONTENT
from vocseg_lib.data.coco_import.files import path_key
from vocseg_lib.data.coco_import.images import MAX_NAME_BYTES
from vocseg_lib.data.image_files import PICTURE_ENDINGS, BadFile, Picture, read_picture
from vocseg_lib.data.transforms import model_input
from vocseg_lib.plots.images import DRAWN_SCORE, draw_instances
from vocseg_lib.plots.style import MAX_WIDTH, new_axes, write_figure
from vocseg_lib.plots.videos import VIDEO_SUFFIXES, is_video, read_video
from vocseg_lib.utils.device import autocast
from vocseg_lib.utils.files import atomic_write, file_checksum, resolve_path

MARK = "vocseg predict"  # in the metadata of what is written
LONGEST_SIDE = 1_600
"""Pixels: larger pictures are shrunk to it, as masks of their full size would fill the memory."""


@dataclass(frozen=True, kw_only=True)
class Visualizer:
    """A trained model that draws its detections of at least a score on pictures."""

    model: nn.Module
    class_names: Sequence[str] = CLASS_NAMES
    score: float = DRAWN_SCORE
    mixed_precision: bool = False
    header: dict[str, Any] = field(default_factory=dict)  # of its prediction files

    @torch.inference_mode()
    def detect(self, picture: Picture) -> dict[str, Tensor]:
        """Boxes, labels, scores and masks [n, h, w] of all detections, best first, on the CPU."""
        device = next((p.device for p in self.model.parameters()), "cpu")
        image = model_input(torch.from_numpy(picture.transpose(2, 0, 1).copy()), device)
        with autocast(device, self.mixed_precision, predicting=True):
            (output,) = self.model.eval()([image])
        return {key: output[key].cpu() for key in ("boxes", "labels", "scores", "masks")}

    def draw(
        self, picture: Picture, detections: dict[str, Tensor] | None = None
    ) -> tuple[Picture, dict[str, Tensor]]:
        """A copy of a picture with its detections of at least `score`, and these."""
        detections = detections or self.detect(picture)
        keep = detections["scores"] >= self.score
        detections = {key: values[keep] for key, values in detections.items()}
        if not len(detections["scores"]):
            return picture.copy(), detections
        # A figure of the picture's pixels; lines and text grow with the picture.
        height, width = picture.shape[:2]
        dpi = max(100, min(height, width) / 4)
        size = ((width + 0.01) / dpi, (height + 0.01) / dpi)  # not to lose a pixel by rounding
        canvas = FigureCanvasAgg(Figure(figsize=size, dpi=dpi))
        ax = canvas.figure.add_axes((0, 0, 1, 1), frame_on=False)
        draw_instances(picture, **detections, class_names=self.class_names, ax=ax)
        ax.images[0].set_interpolation("nearest")
        canvas.draw()
        return np.array(canvas.buffer_rgba())[..., :3], detections

    def describe(self, detections: dict[str, Tensor]) -> str:
        """Detections as "person 0.93, dog 0.52"."""
        pairs = zip(detections["labels"].tolist(), detections["scores"].tolist(), strict=True)
        names = [f"{self.class_names[label - 1]} {score:.2f}" for label, score in pairs]
        return ", ".join(names) or "nothing"


def shrink(picture: Picture) -> UInt8[np.ndarray, "rows columns 3"]:
    """A picture as it is shown, at most `LONGEST_SIDE` long."""
    image = Image.fromarray(picture)
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return np.array(image)


def input_files(paths: Sequence[str | Path]) -> list[Path]:
    """Files and those in folders (folders inside are not searched), sorted by folder, each once.

    What is given again, and folders not searched, are printed. Raises FileNotFoundError for a
    missing path, ValueError for an empty folder.
    """
    files = {}
    for path in map(resolve_path, paths):
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing: give pictures, videos or folders of them")
        shown = sorted(p for p in path.iterdir() if p.name[0] != ".") if path.is_dir() else [path]
        inside = [p for p in shown if p.is_file() or p is path]
        folders = [p.name for p in shown if p.is_dir()]
        if not inside:
            raise ValueError(f"{path} has no file in it (folders inside are not searched)")
        if folders:
            print(f"{path}: folders not searched: {', '.join(folders)}", file=sys.stderr)
        for file in inside:
            first = files.setdefault((os.path.realpath(file.parent), file.name), file)
            if first is not file:
                print(f"{str(file)!a} is given again: it is used once", file=sys.stderr)
    return list(files.values())


def output_names(files: Sequence[Path]) -> list[str]:
    """A file name for what is drawn of each file, no two alike, even where case does not count.

    `frame.png` for frame.jpg; files that share it have their folders in it (`a_frame.png`,
    `b_frame.png`) or, in the same folder, all but one their ending (`frame.webp.png`). They do not
    depend on the order of the files. Of long names, the end is a checksum.
    """
    groups, names, taken = defaultdict(list), {}, set()
    for file in sorted(files, key=_rank):
        groups[path_key(_named(file, file.stem))].append(file)
    # Names of one file alone are not changed.
    for _, group in sorted(groups.items(), key=lambda item: (len(item[1]), len(item[0]), item[0])):
        paths = [Path(os.path.abspath(file)) for file in group]
        common = os.path.commonpath([path.parent for path in paths])
        for file, path in zip(group, paths, strict=True):
            stem = "_".join((*path.relative_to(common).parent.parts, path.stem))
            numbered = (f"{stem}_{number}" for number in count(2))
            forms = (_named(file, form) for form in chain((stem, stem + path.suffix), numbered))
            names[file] = next(name for name in forms if path_key(name) not in taken)
            taken.add(path_key(names[file]))
    return [names[file] for file in files]


def _rank(file: Path) -> tuple[int, str]:
    """Order of files: by how usual their ending is, then by name, small letters first."""
    ending, endings = file.suffix.lower(), (*PICTURE_ENDINGS, *VIDEO_SUFFIXES)
    known = next((k for k, e in enumerate(endings) if e.strip(".") == ending[1:]), len(endings))
    return known, os.path.abspath(file).swapcase()


def _named(file: Path, stem: str) -> str:
    """The name of what is drawn of a file, in letters that can be printed."""
    code = os.fsencode(stem)
    if len(code) > MAX_NAME_BYTES:
        stem = f"{code[:MAX_NAME_BYTES].decode(errors='ignore')}_{zlib.crc32(code):08x}"
    stem = "".join(letter if letter.isprintable() else "_" for letter in stem)
    return stem + (".mp4" if is_video(file) else ".png")


def names_below(files: Sequence[Path]) -> list[str]:
    """Files by their path below the folder that all have in common."""
    absolute = [Path(os.path.abspath(file)) for file in files]
    common = os.path.commonpath([file.parent for file in absolute])
    return [file.relative_to(common).as_posix() for file in absolute]


def draw_predictions(
    visualizer: Visualizer,
    paths: Sequence[str | Path],
    out: str | Path,
    record: Any = None,
) -> Iterator[tuple[Path, Path | None, str]]:
    """Draw predictions on pictures, videos and folders of them: (file, written file, description).

    Pictures are written to the folder `out` as PNG, videos as MP4, see `output_names`; for a file
    that cannot be read, the second is None and the third the reason. All detections of each picture
    and frame go to `record`, if given, as to `MaskFiles`, which starts.
    Raises FileNotFoundError for a missing path, ValueError for an empty folder, or if `out` is a
    file or an input's folder, or holds a file of the same name that this did not write.
    """
    files, out = input_files(paths), Path(out)
    if out.is_file() or (
        out.suffix.lower() in (".png", ".jpg", *VIDEO_SUFFIXES) and not out.is_dir()
    ):
        raise ValueError(f"{out} is a file; the output needs a folder")
    targets = [out / name for name in output_names(files)]
    for file, target in zip(files, targets, strict=True):
        if os.path.dirname(os.path.realpath(file)) == os.path.realpath(out):
            raise ValueError(f"{out} holds the input {file}; the output needs another folder")
        _check_replaceable(target)
    out.mkdir(parents=True, exist_ok=True)
    if record:
        record.start()
    jobs = zip(files, targets, names_below(files), strict=True)
    bar = tqdm(jobs, "predict", len(files), unit="file", disable=len(files) < 2)
    for file, target, name in bar:
        try:
            if is_video(file):
                of_frame = record and partial(_record_frame, record, name, target.stem)
                description = _draw_video(visualizer, file, target, of_frame)
            else:
                shown = shrink(picture := read_picture(file))
                predicted = visualizer.detect(shown)
                drawn, detections = visualizer.draw(shown, predicted)
                if record:
                    content = {CONTENT: file_checksum(file)}
                    record.add(name, target.stem, picture, predicted, **content)
                metadata = PngImagePlugin.PngInfo()
                metadata.add_text("Software", MARK)
                with atomic_write(target) as temporary:
                    Image.fromarray(drawn).save(temporary, "PNG", pnginfo=metadata)
                description = visualizer.describe(detections)
            yield file, target, description
        except BadFile as error:
            if record:
                record.forget(name)
            yield file, None, f"{error}{_hint(file)}"


def _hint(path: Path) -> str:
    """What may help with a file that cannot be read."""
    if path.suffix.lower() in (".heic", ".heif"):
        return "; export it as JPEG"
    known = is_video(path) or path.suffix[1:].lower() in PICTURE_ENDINGS
    return "" if known else f"; files are taken as videos by {' '.join(VIDEO_SUFFIXES)}"


def draw_side_by_side(pictures: dict[str, Path], folder: Path) -> Path:
    """Write drawn pictures (PNG) of one name, by title, side by side to a folder: the file."""
    target = folder / next(iter(pictures.values())).name
    _check_replaceable(target)
    images = [Image.open(path) for path in pictures.values()]
    width, height = images[0].size
    axes = new_axes(len(images), 2, (MAX_WIDTH / 2, MAX_WIDTH / 2 * height / width + 0.3))
    for ax, title, image in zip(axes, pictures, images, strict=True):
        ax.imshow(image)
        ax.set_title(title)
        ax.axis("off")
    write_figure(axes[0], target, metadata={"Software": MARK})
    plt.close(axes[0].figure)
    return target


def _check_replaceable(path: Path) -> None:
    """Raise ValueError for what is no picture or video that was written here.

    These have `MARK` near their start or end.
    """
    if path.exists() and not (path.is_file() and _is_drawn(path)):
        raise ValueError(f"{path} exists and is not of this command; choose another folder")


def _is_drawn(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(4_096)
        file.seek(-min(4_096, path.stat().st_size), os.SEEK_END)
        return MARK.encode() in start + file.read()


def _record_frame(
    record: Any, name: str, stem: str, number: int, frame: Picture, detections: dict
) -> None:
    code = f"{number:06d}"
    record.add(f"{name}/{code}", f"{stem}_{code}", frame, detections, video=name, frame=number)


def _draw_video(
    visualizer: Visualizer, source: Path, target: Path, record: Callable | None = None
) -> str:
    """Draw predictions on each frame of a video and write it as MP4 (H.264); a summary.

    `record(number, frame, detections)` gets each, from 1.

    Raises as `read_video`, and BadFile when no frame can be read.
    """
    metadata, total, frames = read_video(source)
    import imageio_ffmpeg

    (width, height), fps = metadata["size"], metadata["fps"]
    even = (width - width % 2, height - height % 2)  # H.264 needs even sides
    options = {"fps": fps, "macro_block_size": 2, "quality": 7}
    options["output_params"] = ["-f", "mp4", "-metadata", f"comment={MARK}"]
    number, previous = 0, None
    with atomic_write(target) as temporary:
        path = str(temporary.absolute())
        with closing(imageio_ffmpeg.write_frames(path, even, **options)) as writer:
            writer.send(None)
            for frame in tqdm(frames, source.name, total or None, unit="frame", leave=False):
                shown, number = frame[: even[1], : even[0]], number + 1
                if previous is None or not np.array_equal(frame, previous):
                    detections = visualizer.detect(shown)
                    drawn, _ = visualizer.draw(shown, detections)
                if record:
                    record(number, shown, detections)
                writer.send(np.ascontiguousarray(drawn))
                previous = frame
        if not number:
            raise BadFile(source, "undecodable", "has no readable frame")
    expected = f" (of about {total})" if number < 0.9 * total else ""
    sound = ", without the sound" if "audio_codec" in metadata else ""
    size = f"{even[0]} x {even[1]} pixels"
    return f"{number} frames{expected} of {size} at {fps:g} per second{sound}"

"""A trained model's predictions drawn on any pictures and videos."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from vocseg_lib.data.classes import CLASS_NAMES
from vocseg_lib.data.image_files import BadFile, Picture, read_picture
from vocseg_lib.data.transforms import model_input
from vocseg_lib.plots.images import DRAWN_SCORE, draw_instances
from vocseg_lib.utils.device import autocast
from vocseg_lib.utils.files import resolve_path

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
LONGEST_SIDE = 1_600
"""Pixels: larger pictures are shrunk to it, as masks of their full size would fill the memory."""


@dataclass(frozen=True, kw_only=True)
class Visualizer:
    """A trained model that draws its detections of at least a score on pictures."""

    model: nn.Module
    class_names: Sequence[str] = CLASS_NAMES
    score: float = DRAWN_SCORE
    mixed_precision: bool = False

    @torch.inference_mode()
    def predict(self, picture: Picture) -> dict[str, Tensor]:
        """Boxes, labels, scores and masks [n, h, w] of the detections, best first, on the CPU."""
        device = next((p.device for p in self.model.parameters()), "cpu")
        image = model_input(torch.from_numpy(picture.transpose(2, 0, 1).copy()), device)
        with autocast(device, self.mixed_precision):
            (output,) = self.model.eval()([image])
        keep = output["scores"] >= self.score
        return {key: output[key][keep].cpu() for key in ("boxes", "labels", "scores", "masks")}

    def draw(self, picture: Picture) -> tuple[Picture, dict[str, Tensor]]:
        """A copy of a picture with the detections drawn on it, and the detections."""
        detections = self.predict(picture)
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


def read_shrunk(path: Path) -> Picture:
    """A picture as it is shown, at most `LONGEST_SIDE` long. Raises BadFile."""
    picture = Image.fromarray(read_picture(path))
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return np.array(picture)


def draw_predictions(
    visualizer: Visualizer, paths: Sequence[str | Path], out: str | Path
) -> Iterator[tuple[Path, Path | None, str]]:
    """Draw predictions on pictures, videos and folders of them: (file, written file, description).

    Pictures are written to the folder `out` as PNG, videos as MP4; for a file that cannot be read,
    the second is None and the third the reason.
    Raises FileNotFoundError for a missing path, ValueError for an empty folder, or if `out` is a
    file or an input's folder.
    """
    files, out, taken = [], Path(out), set()
    for path in map(resolve_path, paths):
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing: give pictures, videos or folders of them")
        inside = [path]
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
        files += inside
        if not inside:
            raise ValueError(f"{path} has no file in it (folders inside are not searched)")
    if out.is_file():
        raise ValueError(f"{out} is a file; the output needs a folder")
    for file in files:
        if file.resolve().parent == out.resolve():
            raise ValueError(f"{out} holds the input {file}; the output needs another folder")
    out.mkdir(parents=True, exist_ok=True)
    for file in tqdm(files, "predict", unit="file", disable=len(files) < 2):
        suffix = ".mp4" if file.suffix.lower() in VIDEO_SUFFIXES else ".png"
        target = out / f"{file.stem}{suffix}"
        if target in taken:
            target = out / f"{file.name}{suffix}"
        taken.add(target)
        try:
            if suffix == ".mp4":
                description = _draw_video(visualizer, file, target)
            else:
                drawn, detections = visualizer.draw(read_shrunk(file))
                Image.fromarray(drawn).save(target)
                description = visualizer.describe(detections)
            yield file, target, description
        except BadFile as error:
            yield file, None, str(error)


def _draw_video(visualizer: Visualizer, source: Path, target: Path) -> str:
    """Draw predictions on each frame of a video and write it as MP4 (H.264); a summary.

    Raises BadFile when no frame can be read, ModuleNotFoundError without imageio-ffmpeg.
    """
    try:
        import imageio_ffmpeg
    except ModuleNotFoundError:
        message = "videos need imageio-ffmpeg: pip install 'vocseg_lib[video]'"
        raise ModuleNotFoundError(message) from None
    frames = imageio_ffmpeg.read_frames(str(source))
    try:
        metadata = next(frames)
    except (OSError, StopIteration) as error:
        reason = (str(error).strip().splitlines() or ["no frame"])[-1]
        raise BadFile(source, "undecodable", f"is not a readable video ({reason})") from None
    (width, height), fps = metadata["size"], metadata["fps"]
    even = (width - width % 2, height - height % 2)  # H.264 needs even sides
    partial, count = target.with_name(f"{target.stem}.part.mp4"), 0
    writer = imageio_ffmpeg.write_frames(str(partial), even, fps=fps, macro_block_size=2, quality=7)
    writer.send(None)
    total = round(metadata["duration"] * fps) or None
    try:
        for frame in tqdm(frames, source.name, total, unit="frame", leave=False):
            picture = np.frombuffer(frame, np.uint8).reshape(height, width, 3)[: even[1], : even[0]]
            writer.send(np.ascontiguousarray(visualizer.draw(picture)[0]))
            count += 1
        writer.close()
        if not count:
            raise BadFile(source, "undecodable", "has no readable frame")
        partial.replace(target)
    finally:
        writer.close()
        partial.unlink(missing_ok=True)
    return f"{count} frames of {even[0]} x {even[1]} pixels at {fps:g} per second"

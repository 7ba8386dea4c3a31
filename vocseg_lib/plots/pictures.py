"""What a trained model finds in anyone's pictures and videos, drawn into them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor, nn
from tqdm import tqdm

from vocseg_lib.data.classes import CLASS_NAMES
from vocseg_lib.data.transforms import model_input
from vocseg_lib.plots.style import COLORS
from vocseg_lib.utils.device import autocast
from vocseg_lib.utils.files import resolve_path

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
LONGEST_SIDE = 1_600
"""Pixels: larger pictures are shrunk to it, as masks of their full size would fill the memory."""
DRAWN_SCORE = 0.3
TINT = 0.45
RGB = tuple(tuple(bytes.fromhex(colour.removeprefix("#"))) for colour in COLORS)


class UnreadablePicture(ValueError):
    """A file that is neither a picture nor a video that can be read; the message names it."""


@dataclass(frozen=True)
class Visualizer:
    """A trained model that draws what it finds, from a score on, into pictures."""

    model: nn.Module
    class_names: Sequence[str] = CLASS_NAMES
    score: float = DRAWN_SCORE
    mixed_precision: bool = False

    @torch.inference_mode()
    def find(self, picture: UInt8[np.ndarray, "h w 3"]) -> dict[str, Tensor]:
        """Boxes, labels, scores and masks [n, h, w] of the detections from `score` on, best first, on the CPU."""
        device = next((p.device for p in self.model.parameters()), "cpu")
        image = model_input(torch.from_numpy(picture.transpose(2, 0, 1).copy()), device)
        with autocast(device, self.mixed_precision):
            (found,) = self.model.eval()([image])
        sure = found["scores"] >= self.score
        return {key: found[key][sure].cpu() for key in ("boxes", "labels", "scores", "masks")}

    def paint(
        self, picture: UInt8[np.ndarray, "h w 3"]
    ) -> tuple[UInt8[np.ndarray, "h w 3"], dict[str, Tensor]]:
        """A copy of a picture with the detections drawn into it, and the detections."""
        found = self.find(picture)
        return draw_instances(picture, found, self.class_names), found

    def words(self, found: dict[str, Tensor]) -> str:
        """Detections as "person 0.93, dog 0.52"."""
        pairs = zip(found["labels"].tolist(), found["scores"].tolist(), strict=True)
        return (
            ", ".join(f"{self.class_names[label - 1]} {score:.2f}" for label, score in pairs)
            or "nothing"
        )


def draw_instances(
    picture: UInt8[np.ndarray, "h w 3"],
    found: dict[str, Tensor],
    class_names: Sequence[str] = CLASS_NAMES,
) -> UInt8[np.ndarray, "h w 3"]:
    """A copy of a picture with masks tinted and outlined, boxes, class names and scores; a colour an object."""
    canvas, masks = picture.copy(), found["masks"].numpy()
    for k in reversed(range(len(masks))):  # the surest last, on top
        colour = np.array(RGB[k % len(RGB)])
        canvas[masks[k]] = ((1 - TINT) * canvas[masks[k]] + TINT * colour).astype(np.uint8)
        near_outside = F.max_pool2d((~found["masks"][k]).float()[None, None], 3, 1, 1)[0, 0] > 0
        canvas[masks[k] & near_outside.numpy()] = colour
    image = Image.fromarray(canvas)
    draw, font = (
        ImageDraw.Draw(image),
        ImageFont.load_default(max(10, min(picture.shape[:2]) // 28)),
    )
    for k in reversed(range(len(masks))):
        x1, y1, x2, y2 = found["boxes"][k].tolist()
        draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=RGB[k % len(RGB)])
        text = f"{class_names[int(found['labels'][k]) - 1]} {float(found['scores'][k]):.2f}"
        place = (max(0, x1) + 2, max(0, y1) + 1)
        draw.rectangle(draw.textbbox(place, text, font), fill=RGB[k % len(RGB)])
        draw.text(place, text, "white", font)
    return np.array(image)


def read_picture(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """A picture the way up its EXIF says, its longer side at most `LONGEST_SIDE`. Raises UnreadablePicture."""
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UnreadablePicture(f"{path} cannot be read as a picture ({error})") from None
    upright.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return np.array(upright)


def list_files(paths: Sequence[str | Path]) -> list[Path]:
    """The files named, and those in the folders named, in the order of their names.

    Raises FileNotFoundError for what is not there, and ValueError for an empty folder.
    """
    files = []
    for path in map(resolve_path, paths):
        if not path.exists():
            raise FileNotFoundError(
                f"{path} is not there: --image takes pictures, videos and folders of them"
            )
        inside = (
            sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
            if path.is_dir()
            else [path]
        )
        if not inside:
            raise ValueError(
                f"{path} holds no file: --image takes pictures, videos and folders of them, without those inside"
            )
        files += inside
    return files


def draw_predictions(
    painter: Visualizer, paths: Sequence[str | Path], out: str | Path
) -> Iterator[tuple]:
    """Draw predictions into pictures, videos and folders of them: yields each file, what was written and what was found.

    Pictures are written to the folder `out` as PNG, videos as MP4. A file that cannot be read yields itself, None and the reason.
    Raises FileNotFoundError for a path that is not there, and ValueError when `out` is where an input lies, or a file.
    """
    files, out, taken = list_files(paths), Path(out), set()
    if out.is_file():
        raise ValueError(f"{out} is a file: pictures are written to a folder")
    for file in files:
        if file.resolve().parent == out.resolve():
            raise ValueError(
                f"{file} lies in {out}, where results go: choose another folder for them"
            )
    out.mkdir(parents=True, exist_ok=True)
    for file in tqdm(files, "predict", unit="file", disable=len(files) < 2):
        ending = ".mp4" if file.suffix.lower() in VIDEOS else ".png"
        target = out / f"{file.stem}{ending}"
        if target in taken:
            target = out / f"{file.name}{ending}"
        taken.add(target)
        try:
            if ending == ".mp4":
                said = draw_video(painter, file, target)
            else:
                drawn, found = painter.paint(read_picture(file))
                Image.fromarray(drawn).save(target)
                said = painter.words(found)
            yield file, target, said
        except UnreadablePicture as error:
            yield file, None, str(error)


def draw_video(painter: Visualizer, source: Path, target: Path) -> str:
    """Draw predictions into each frame of a video and write it as MP4 (H.264); what was done, in words.

    Raises UnreadablePicture when no frame can be read, and ModuleNotFoundError, saying what to install, without imageio-ffmpeg.
    """
    try:
        import imageio_ffmpeg
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "videos need imageio-ffmpeg: pip install 'vocseg_lib[video]'"
        ) from None
    frames, written, beside = (
        imageio_ffmpeg.read_frames(str(source)),
        0,
        target.with_name(f"{target.stem}.part.mp4"),
    )
    try:
        about = next(frames)
    except (OSError, StopIteration) as error:
        reason = (str(error).strip().splitlines() or ["no frame"])[-1]
        raise UnreadablePicture(f"{source} cannot be read as a video ({reason})") from None
    width, height = about["size"]
    count = round(about["duration"] * about["fps"]) or None
    even = (width - width % 2, height - height % 2)  # as H.264 wants
    writer = imageio_ffmpeg.write_frames(
        str(beside), even, fps=about["fps"], macro_block_size=2, quality=7
    )
    writer.send(None)
    try:
        for frame in tqdm(frames, source.name, count, unit="frame", leave=False):
            picture = np.frombuffer(frame, np.uint8).reshape(height, width, 3)[: even[1], : even[0]]
            writer.send(np.ascontiguousarray(painter.paint(picture)[0]))
            written += 1
        writer.close()
        if not written:
            raise UnreadablePicture(f"{source} has no frame that can be read")
        beside.replace(target)
    finally:
        writer.close()
        beside.unlink(missing_ok=True)
    return f"{written} frames of {even[0]} x {even[1]} pixels at {about['fps']:g} a second"

"""Read videos frame by frame, as they are shown."""

import logging
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np

from vocseg_lib.data.image_files import BadFile
from vocseg_lib.utils.files import open_file

VIDEO_SUFFIXES = tuple(  # of files of one name, the first of these keeps it
    ".mov .mp4 .m4v .avi .wmv .mkv .webm .mpg .mpeg .ts .mts .m2ts .3gp .3g2 .flv .f4v .ogv .qt "
    ".asf .divx .mpe .mxf .vob".split()
)
MIN_FPS, DEFAULT_FPS = 10.0, 30.0
"""Frames per second: the least for a video of a variable rate, and if its file has none."""


def is_video(path: Path) -> bool:
    """Whether a file has the ending of a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def read_video(path: Path) -> tuple[dict, int, Iterator[np.ndarray]]:
    """A video's metadata, about how many frames, and the frames [h, w, 3], as they are shown.

    They are upright, with square pixels, and come at a constant rate, `metadata["fps"]`: the mean
    of the video's, `MIN_FPS` or more if that varies. Raises BadFile, and ModuleNotFoundError
    without imageio-ffmpeg.
    """
    try:
        import imageio_ffmpeg
    except ModuleNotFoundError:
        message = "videos need imageio-ffmpeg: pip install 'vocseg_lib[video]'"
        raise ModuleNotFoundError(message) from None
    try:
        open_file(path).close()  # ffmpeg would wait for a pipe
    except OSError as error:
        raise BadFile(path, "undecodable", f"cannot be read ({error})") from None
    logging.getLogger("imageio_ffmpeg").setLevel(logging.ERROR)  # other sizes are meant
    name = os.path.abspath(path)  # ffmpeg takes "a:b.mp4" for a protocol
    square = "scale='round(iw*clip(sar,1,4))':'round(ih*clip(1/sar,1,4))',setsar=1"
    try:
        with closing(imageio_ffmpeg.read_frames(name, output_params=["-vf", square])) as frames:
            metadata = next(frames)
    except (OSError, StopIteration, LookupError, AttributeError) as error:
        reason = (str(error).strip().splitlines() or ["no frame"])[-1]
        raise BadFile(path, "undecodable", f"is not a readable video ({reason})") from None
    log = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-i", name], capture_output=True).stderr
    if metadata["fps"] < MIN_FPS:  # few frames, or unknown
        base, fps = float((re.findall(rb" ([\d.]+) tbr", log) or [DEFAULT_FPS])[0]), metadata["fps"]
        metadata["fps"] = max(fps, min(base, MIN_FPS)) if fps else min(base, DEFAULT_FPS)
    # The log has hundredths of a second. Containers without a header have estimates only.
    total = round((metadata["duration"] + 0.005) * metadata["fps"])
    exact = metadata["duration"] and re.search(rb"Input #0, (mov|matroska|avi|asf|flv)", log)
    width, height = metadata["size"]

    def read() -> Iterator[np.ndarray]:
        # The size is given, as that of the stream may change on the way.
        options = ["-r", f"{metadata['fps']}", "-vf", f"scale={width}:{height},setsar=1"]
        options += ["-frames:v", f"{max(total, 1)}"] if exact else []
        try:
            for frame in imageio_ffmpeg.read_frames(name, output_params=options):
                if isinstance(frame, bytes):  # the first is the metadata
                    yield np.frombuffer(frame, np.uint8).reshape(height, width, 3)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise BadFile(path, "undecodable", f"is a broken video ({reason})") from None

    return metadata, total, read()

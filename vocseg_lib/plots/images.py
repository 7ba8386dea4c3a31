"""Images with masks, boxes and labels drawn on them; a model's prototypes and coefficients."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from vocseg_lib.data.classes import CLASS_NAMES
from vocseg_lib.data.voc import find_devkit
from vocseg_lib.plots.labels import place_label
from vocseg_lib.plots.style import (
    COLORS,
    add_suptitle,
    add_title,
    as_label,
    new_ax,
    new_axes,
    short,
    show_as_written,
)
from vocseg_lib.utils.files import resolve_path

DRAWN_SCORE = 0.3  # the least of a detection on a picture

Array = torch.Tensor | np.ndarray


class Layer(NamedTuple):
    """One object to draw: mask bool [h, w] and box (xywh pixels), each or None, color and text."""

    mask: np.ndarray | None
    box: Sequence[float] | None
    color: str
    text: str
    strong: bool  # tinted and outlined more strongly
    dotted: bool = False  # outlined only


def to_hwc(image: Array) -> np.ndarray:
    """[3, h, w] uint8 or 0..1 float, or [h, w, 3], as [h, w, 3] for imshow."""
    pixels = np.asarray(image)
    return pixels.transpose(1, 2, 0) if pixels.shape[0] == 3 and pixels.shape[-1] != 3 else pixels


def draw_layers(image: Array, layers: Sequence[Layer], ax: Axes | None = None) -> Axes:
    """An image with objects on it, the last on top: tints, then contours, boxes and texts.

    A text stands in its object's box, or that of its mask, where it covers no other text.
    """
    ax = new_ax(ax, (5, 4))
    picture = to_hwc(image)
    shown = picture * (1.0 if picture.dtype == np.uint8 else 255.0)
    for layer in layers:
        if layer.mask is not None and not layer.dotted:
            tint = 0.5 if layer.strong else 0.2
            color = 255 * np.array(to_rgb(layer.color))
            shown[layer.mask] = (1 - tint) * shown[layer.mask] + tint * color
    ax.imshow(shown.round().clip(0, 255).astype(np.uint8))
    labels = []
    for layer in layers:
        if layer.mask is not None and layer.mask.any() and not layer.mask.all():
            width, style = 2 if layer.strong else 1, "dotted" if layer.dotted else "solid"
            ax.contour(layer.mask, [0.5], colors=layer.color, linewidths=width, linestyles=style)
        if layer.box is not None and (layer.text or not layer.dotted):
            x, y, w, h = layer.box
            style = {"linestyle": "--" if layer.dotted else "-", "edgecolor": layer.color}
            style |= {"linewidth": 1.4 if layer.strong else 0.7, "fill": False}
            ax.add_patch(Rectangle((x - 0.5, y - 0.5), w, h, **style))
        elif layer.mask is not None and layer.mask.any():
            (y, *_, y2), (x, *_, x2) = (2 * [*np.flatnonzero(layer.mask.any(k))] for k in (1, 0))
            w, h = x2 + 1 - x, y2 + 1 - y
        if layer.text:
            back = {"facecolor": layer.color, "edgecolor": "none", "pad": 1}
            back["alpha"] = 0.9 if layer.strong else 0.6
            style = {"fontsize": 6.5, "bbox": back, "clip_on": True}
            corners = (x - 0.5, y - 0.5), (x + w - 0.5, y + h - 0.5)
            labels.append((ax.text(x, y, short(layer.text), **style), corners))
    for label, corners in reversed(labels):  # of those on top first
        place_label(ax, label, corners)
    height, width = picture.shape[:2]
    ax.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xticks=[], yticks=[])
    show_as_written(ax)
    return ax


def picture_folder(images: str | Path) -> Path:
    """The folder of the pictures: a devkit's, or the one that is given."""
    folder = resolve_path(images)
    parts = ("JPEGImages", "VOCdevkit", "VOC2012")
    is_devkit = not folder.is_dir() or any((folder / part).is_dir() for part in parts)
    return find_devkit(folder) / "JPEGImages" if is_devkit else folder


def draw_instances(
    image: Array,
    masks: Array,
    boxes: Array | Sequence = (),
    labels: torch.Tensor | Sequence[int] = (),
    scores: torch.Tensor | Sequence[float] = (),
    class_names: Sequence[str] = CLASS_NAMES,
    ax: Axes | None = None,
) -> Axes:
    """An image with instances, one color each, the first on top.

    Masks [n, h, w], or none; boxes [n, 4] (xyxy pixels), or none; `labels` from 1.
    """
    masks, boxes = np.asarray(masks).astype(bool), np.array(boxes, dtype=float).reshape(-1, 4)
    boxes[:, 2:] -= boxes[:, :2]
    layers = []
    for i in range(max(len(masks), len(boxes))):
        text = class_names[int(labels[i]) - 1] if len(labels) else ""
        text += f" {float(scores[i]):.2f}" if len(scores) else ""
        mask, box = (values[i] if len(values) else None for values in (masks, boxes))
        layers.append(Layer(mask, box, COLORS[i % len(COLORS)], text, True))
    return draw_layers(image, layers[::-1], ax)


def draw_boxes(
    image: Array, boxes: Array, title: str, caption: str, ax: Axes | None = None
) -> Axes:
    """Many boxes (xyxy pixels) as thin outlines: proposals or priors."""
    x1, y1, x2, y2 = np.asarray(boxes).T
    boxes = np.stack([x1, y1, x2 - x1, y2 - y1], 1)
    ax = draw_layers(image, [Layer(None, box, COLORS[4], "", False) for box in boxes], ax)
    ax.legend(ax.patches[:1], [f"{len(boxes)} boxes"], fontsize=8, loc="lower right")
    return add_title(ax, title, caption, 56)


def draw_box(image: torch.Tensor, box: Array) -> np.ndarray:
    """A copy of an image, [h, w, 3], with one box (xyxy pixels) drawn into its pixels."""
    picture = to_hwc(image).copy()
    height, width = picture.shape[:2]
    limits = [width - 1, height - 1] * 2
    x1, y1, x2, y2 = np.asarray(torch.as_tensor(box).cpu()).clip(0, limits).round().astype(int)
    color = np.array(to_rgb(COLORS[4])) * (255 if picture.dtype == np.uint8 else 1)
    picture[[y1, y2], x1 : x2 + 1] = color
    picture[y1 : y2 + 1, [x1, x2]] = color
    return picture


def side_by_side(
    image: torch.Tensor,
    panels: dict[str, dict],
    title: str,
    caption: str,
    class_names: Sequence[str] = CLASS_NAMES,
) -> np.ndarray:
    """One image with several sets of instances: `panels` has `draw_instances` keywords by name."""
    height, width = to_hwc(image).shape[:2]
    axes = new_axes(len(panels), len(panels), (3, min(4, 2.9 * height / width) + 0.4))
    for ax, (name, keywords) in zip(axes, panels.items(), strict=True):
        draw_instances(image, class_names=class_names, ax=ax, **keywords)
        ax.set_title(short(name), fontsize=9)
    return add_suptitle(axes, title, caption)


def boxes_overlap(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether two boxes (xywh) overlap."""
    ends = [min(first[k] + first[k + 2], second[k] + second[k + 2]) for k in (0, 1)]
    return all(end > max(first[k], second[k]) for k, end in enumerate(ends))


def prototypes(maps: torch.Tensor) -> np.ndarray:
    """Prototypes [h, w, k] of one image, each scaled to its own range."""
    axes = new_axes(maps.shape[-1], 8, (1.1, 1.2))
    for k, ax in enumerate(axes):
        ax.imshow(maps[..., k].detach().cpu().numpy(), cmap="viridis")
        ax.set_title(str(k), fontsize=7)
        ax.axis("off")
    caption = "Masks of the whole image, not of one object; bright is the maximum of each map."
    return add_suptitle(axes, "YOLACT's prototypes", caption)


def coefficients(
    values: torch.Tensor | Sequence[torch.Tensor], names: Sequence[str], ax: Axes | None = None
) -> Axes:
    """Mask coefficients (-1..1) of a few detections, one group of bars per prototype."""
    ax = new_ax(ax, (9, 3))
    width = 0.8 / len(values)
    for i, (row, name) in enumerate(zip(values, names, strict=True)):
        x = np.arange(len(row)) + i * width
        ax.bar(x, row.detach().cpu().numpy(), width, label=as_label(name), color=COLORS[i])
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set(xlabel="prototype", ylabel="coefficient (no unit)")
    ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)
    caption = "Each detection adds (above 0) and subtracts (below 0) prototypes in its own way."
    return add_title(ax, "Coefficients", caption, 110)


def stages(
    pictures: Sequence[np.ndarray | torch.Tensor], titles: Sequence[str], title: str, caption: str
) -> np.ndarray:
    """Steps of one computation, left to right: maps with a color bar, RGB images as they are."""
    width = 9 / max(3, len(pictures))
    axes = new_axes(len(pictures), len(pictures), (width, 0.9 * width + 0.4))
    for ax, picture, name in zip(axes, pictures, titles, strict=True):
        pixels = np.asarray(picture)
        shown = ax.imshow(to_hwc(pixels), cmap="viridis")
        if pixels.ndim == 2:
            ax.figure.colorbar(shown, ax=ax, shrink=0.7)
        ax.set_title(short(name), fontsize=9)
        ax.axis("off")
    return add_suptitle(axes, title, caption)

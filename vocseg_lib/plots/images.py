"""Images with boxes and masks drawn on them."""

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from vocseg_lib.data.classes import CLASS_NAMES
from vocseg_lib.plots.style import COLORS, add_figure_title, add_title, new_ax, new_axes


def to_hwc(image: torch.Tensor | np.ndarray) -> np.ndarray:
    """[3, H, W] uint8 or 0..1 float, or [H, W, 3], as [H, W, 3] for imshow."""
    pixels = np.asarray(image)
    return pixels.transpose(1, 2, 0) if pixels.shape[0] == 3 and pixels.shape[-1] != 3 else pixels


def framed(ax: Axes, picture: np.ndarray) -> Axes:
    """Cut to the picture [h, w, 3], without ticks."""
    ax.set(
        xlim=(-0.5, picture.shape[1] - 0.5),
        ylim=(picture.shape[0] - 0.5, -0.5),
        xticks=[],
        yticks=[],
    )
    return ax


def draw_instances(
    image: torch.Tensor,
    masks: np.ndarray | torch.Tensor,
    boxes: torch.Tensor | np.ndarray | Sequence = (),
    labels: torch.Tensor | Sequence[int] = (),
    scores: torch.Tensor | Sequence[float] = (),
    notes: Sequence[str] = (),
    class_names: Sequence[str] = CLASS_NAMES,
    ax: Axes | None = None,
) -> Axes:
    """An image with masks as tinted areas with contours, boxes (xyxy pixels), class names, scores and notes."""
    ax = new_ax(ax, (5, 4))
    picture = to_hwc(image)
    if picture.dtype == np.uint8:
        picture = picture / 255
    shown = picture.astype(float).copy()
    masks = np.asarray(masks).astype(bool)
    colours = [plt.matplotlib.colors.to_rgb(COLORS[i % len(COLORS)]) for i in range(len(masks))]
    for mask, colour in zip(masks, colours, strict=True):
        shown[mask] = 0.55 * shown[mask] + 0.45 * np.array(colour)
    ax.imshow(np.clip(shown, 0, 1))
    for mask, colour in zip(masks, colours, strict=True):
        if mask.any() and not mask.all():
            ax.contour(mask, levels=[0.5], colors=[colour], linewidths=1.5)
    for i, box in enumerate(np.asarray(boxes).reshape(-1, 4)):
        x1, y1, x2, y2 = box
        colour = colours[i] if i < len(colours) else COLORS[i % len(COLORS)]
        ax.add_patch(
            Rectangle(
                (x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=1.2
            )
        )
        if len(labels):
            text = class_names[int(labels[i]) - 1] + (
                f" {float(scores[i]):.2f}" if len(scores) else ""
            )
            text += notes[i] if len(notes) else ""
            style = {"facecolor": colour, "edgecolor": "none", "pad": 1, "alpha": 0.85}
            ax.text(
                max(x1, 0),
                max(y1, 0),
                text,
                fontsize=7,
                color="white",
                va="top",
                bbox=style,
                clip_on=True,
            )
    return framed(ax, picture)


def draw_boxes(
    image: torch.Tensor,
    boxes: np.ndarray | torch.Tensor,
    title: str,
    reading: str,
    ax: Axes | None = None,
) -> Axes:
    """Many boxes (xyxy pixels) as thin outlines: proposals or priors."""
    ax = new_ax(ax, (5, 4))
    ax.imshow(to_hwc(image))
    for x1, y1, x2, y2 in np.asarray(boxes):
        ax.add_patch(
            Rectangle(
                (x1, y1),
                x2 - x1,
                y2 - y1,
                fill=False,
                edgecolor=COLORS[4],
                linewidth=0.8,
                alpha=0.7,
            )
        )
    ax.legend(
        handles=[Patch(fill=False, edgecolor=COLORS[4], label=f"{len(boxes)} boxes")],
        fontsize=8,
        loc="lower right",
    )
    ax.set_xlim(0, image.shape[2])
    ax.set_ylim(image.shape[1], 0)
    ax.axis("off")
    return add_title(ax, title, reading, 56)


def draw_box(image: torch.Tensor, box: torch.Tensor | np.ndarray) -> np.ndarray:
    """A copy of a picture [H, W, 3] with one box (xyxy pixels) drawn into its pixels."""
    picture = to_hwc(image).copy()
    height, width = picture.shape[:2]
    x1, y1, x2, y2 = (
        int(v)
        for v in torch.as_tensor(box).cpu().numpy().clip(0, [width - 1, height - 1] * 2).round()
    )
    colour = np.array(plt.matplotlib.colors.to_rgb(COLORS[4])) * (
        255 if picture.dtype == np.uint8 else 1
    )
    picture[[y1, y2], x1 : x2 + 1] = colour
    picture[y1 : y2 + 1, [x1, x2]] = colour
    return picture


def side_by_side(
    image: torch.Tensor,
    panels: dict[str, dict],
    title: str = "",
    reading: str = "",
    class_names: Sequence[str] = CLASS_NAMES,
    axes: np.ndarray | None = None,
) -> np.ndarray:
    """One image, several sets of instances: `panels` maps a name to the keywords of `instances`."""
    axes = new_axes(len(panels), len(panels), (4, 3.6), axes)
    for ax, (name, keywords) in zip(axes, panels.items(), strict=True):
        draw_instances(image, class_names=class_names, ax=ax, **keywords)
        ax.set_title(name, fontsize=9)
    if title:
        add_figure_title(axes[0].figure, title, reading)
    return axes


class Layer(NamedTuple):
    """What `draw_layers` draws of one object: mask [h, w], box (xywh pixels, or None), colour, text, strong or not, dotted or not."""

    mask: np.ndarray
    box: Sequence[float] | None
    colour: str
    text: str
    strong: bool
    dotted: bool = False


def draw_layers(picture: np.ndarray, layers: Sequence[Layer], ax: Axes | None = None) -> Axes:
    """A picture [h, w, 3] uint8 with objects on it: strong ones tinted, all with a contour, so that overlaps stay visible."""
    ax = new_ax(ax, (5, 4))
    shown = picture / 255
    for layer in layers:
        if not layer.dotted:
            tint = 0.5 if layer.strong else 0.2
            shown[layer.mask] = (1 - tint) * shown[layer.mask] + tint * np.array(
                plt.matplotlib.colors.to_rgb(layer.colour)
            )
    ax.imshow(shown)
    for layer in layers:
        if layer.mask.any() and not layer.mask.all():
            style = {
                "linewidths": 2.0 if layer.strong else 1.0,
                "linestyles": "dotted" if layer.dotted else "solid",
            }
            ax.contour(layer.mask, levels=[0.5], colors=[layer.colour], **style)
        if layer.box is None or (layer.dotted and not layer.text):
            continue
        x, y, w, h = layer.box
        dashes = {
            "linestyle": "--" if layer.dotted else "-",
            "linewidth": 1.4 if layer.strong else 0.7,
        }
        ax.add_patch(
            Rectangle((x - 0.5, y - 0.5), w, h, fill=False, edgecolor=layer.colour, **dashes)
        )
        if layer.text:
            back = {
                "facecolor": layer.colour,
                "edgecolor": "none",
                "pad": 1,
                "alpha": 0.9 if layer.strong else 0.6,
            }
            ax.text(
                max(x, 0),
                max(y, 0),
                layer.text,
                fontsize=6.5,
                color="black",
                va="top",
                bbox=back,
                clip_on=True,
            )
    return framed(ax, picture)

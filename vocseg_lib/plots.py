"""Figures of the study. Each takes `ax=None` (or `axes=None`), returns it, and says in its title how to read it."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from vocseg_lib.classes import CLASS_NAMES, palette

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#999999")
"""Okabe and Ito's colours, told apart by colour-blind readers too."""
MODEL_COLOURS = {"YOLACT": COLOURS[0], "Mask R-CNN": COLOURS[1]}


def colour_of(name: str, place: int) -> str:
    """A model's colour: its own, or one of those that are nobody's."""
    return MODEL_COLOURS.get(name, COLOURS[2 + place % (len(COLOURS) - 2)])


def describe(ax: Axes, title: str, reading: str, wrap: int = 70) -> Axes:
    """Title and, below it, the one line that says what the figure shows."""
    ax.set_title(title + "\n" + textwrap.fill(reading, wrap), loc="left", fontsize=10)
    return ax


def describe_figure(fig: Figure, title: str, reading: str) -> Figure:
    """The same for a figure of several panels."""
    fig.suptitle(title + "\n" + textwrap.fill(reading, int(11 * fig.get_figwidth())), x=0.01, ha="left", fontsize=10)
    return fig


def save(figure: Figure | Axes, results: str | Path, name: str) -> None:
    """Write a figure to `results`/figures/`name`.png."""
    path = Path(results) / "figures" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    (figure if isinstance(figure, Figure) else figure.figure).savefig(path, dpi=110, bbox_inches="tight")


def new_axes(count: int, columns: int, panel: tuple[float, float], axes: np.ndarray | None) -> np.ndarray:
    """A flat array of `count` axes in a grid, the spare ones hidden."""
    if axes is not None:
        return np.asarray(axes).ravel()
    rows = -(-count // columns)
    size = (panel[0] * min(columns, count), panel[1] * rows)
    _, grid = plt.subplots(rows, min(columns, count), figsize=size, squeeze=False, layout="constrained")
    for spare in grid.ravel()[count:]:
        spare.axis("off")
    return grid.ravel()[:count]


def new_ax(ax: Axes | None, size: tuple[float, float] = (7, 4)) -> Axes:
    return plt.subplots(figsize=size, layout="constrained")[1] if ax is None else ax


def as_picture(image: torch.Tensor | np.ndarray) -> np.ndarray:
    """[3, H, W] uint8 or 0..1 float, or [H, W, 3], as [H, W, 3] for imshow."""
    pixels = np.asarray(image)
    return pixels.transpose(1, 2, 0) if pixels.shape[0] == 3 and pixels.shape[-1] != 3 else pixels


def framed(ax: Axes, picture: np.ndarray) -> Axes:
    """Cut to the picture [h, w, 3], without ticks."""
    ax.set(xlim=(-0.5, picture.shape[1] - 0.5), ylim=(picture.shape[0] - 0.5, -0.5), xticks=[], yticks=[])
    return ax


def instances(
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
    picture = as_picture(image)
    if picture.dtype == np.uint8:
        picture = picture / 255
    shown = picture.astype(float).copy()
    masks = np.asarray(masks).astype(bool)
    colours = [plt.matplotlib.colors.to_rgb(COLOURS[i % len(COLOURS)]) for i in range(len(masks))]
    for mask, colour in zip(masks, colours, strict=True):
        shown[mask] = 0.55 * shown[mask] + 0.45 * np.array(colour)
    ax.imshow(np.clip(shown, 0, 1))
    for mask, colour in zip(masks, colours, strict=True):
        if mask.any() and not mask.all():
            ax.contour(mask, levels=[0.5], colors=[colour], linewidths=1.5)
    for i, box in enumerate(np.asarray(boxes).reshape(-1, 4)):
        x1, y1, x2, y2 = box
        colour = colours[i] if i < len(colours) else COLOURS[i % len(COLOURS)]
        ax.add_patch(Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=1.2))
        if len(labels):
            text = class_names[int(labels[i]) - 1] + (f" {float(scores[i]):.2f}" if len(scores) else "")
            text += notes[i] if len(notes) else ""
            style = {"facecolor": colour, "edgecolor": "none", "pad": 1, "alpha": 0.85}
            ax.text(max(x1, 0), max(y1, 0), text, fontsize=7, color="white", va="top", bbox=style, clip_on=True)
    return framed(ax, picture)


def sample_maps(
    image: torch.Tensor,
    class_map: np.ndarray,
    object_map: np.ndarray,
    class_names: Sequence[str] = CLASS_NAMES,
    axes: np.ndarray | None = None,
) -> np.ndarray:
    """An image beside its class map and its object map, in VOC's colours."""
    axes = new_axes(3, 3, (4, 3.6), axes)
    colours = palette()
    axes[0].imshow(as_picture(image))
    axes[0].set_title("JPEGImages", fontsize=9)
    for ax, values, name in zip(axes[1:], (class_map, object_map), ("SegmentationClass", "SegmentationObject"), strict=True):
        ax.imshow(colours[values])
        ax.set_title(f"{name}: values {', '.join(map(str, np.unique(values)))}", fontsize=9)
        names = {0: "background", 255: "void"} | {k: f"object {k}" for k in range(1, 255)}
        if ax is axes[1]:
            names |= dict(enumerate(class_names, 1))
        handles = [Patch(color=colours[v] / 255, label=f"{v} {names[int(v)]}") for v in np.unique(values)]
        ax.legend(handles=handles, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=4)
    for ax in axes:
        ax.axis("off")
    describe_figure(
        axes[0].figure, "One sample as VOC stores it", "A pixel's number is its class in one PNG and its object in the other."
    )
    return axes


def class_counts(counts: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Instances a class (index: class name) for each split (columns), as bars."""
    ax = counts.plot.bar(ax=new_ax(ax, (9, 3.8)), color=list(COLOURS), width=0.8)
    top, total = counts.sum(1).idxmax(), counts.to_numpy().sum()
    ax.set_ylabel("instances")
    ax.set_xlabel("class")
    ax.tick_params(axis="x", labelrotation=60)
    ax.margins(y=0.25)  # room for the legend
    reading = f"{top} is the most frequent: {100 * counts.loc[top].sum() / total:.0f} % of {total} instances."
    return describe(ax, "Instances a class", reading, 110)


def object_sizes(areas: Sequence[float], ax: Axes | None = None) -> Axes:
    """How large objects are: histogram of the square root of the mask area, pixels, with COCO's size limits."""
    ax = new_ax(ax)
    sides = np.sqrt(np.asarray(areas, dtype=float))
    ax.hist(sides, bins=np.geomspace(max(sides.min(), 1), sides.max() + 1, 30), color=COLOURS[0], label="objects")
    ax.set_xscale("log")
    for side, style, name in ((32, "--", "small | medium (32 px)"), (96, ":", "medium | large (96 px)")):
        ax.axvline(side, color="black", linestyle=style, label=name)
    ax.set_xlabel("square root of mask area (pixels)")
    ax.set_ylabel("objects")
    ax.legend(fontsize=8)
    return describe(
        ax, "Object size", f"{100 * (sides < 32).mean():.1f} % are small, {100 * (sides >= 96).mean():.1f} % large in COCO's terms."
    )


def objects_per_image(counts: Sequence[int], label: str = "images", ax: Axes | None = None) -> Axes:
    """How many objects share an image."""
    ax = new_ax(ax)
    values = np.asarray(counts)
    ax.hist(values, bins=np.arange(values.max() + 2) - 0.5, color=COLOURS[2], rwidth=0.9, label=label)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("objects in the image")
    ax.set_ylabel(label)
    ax.legend(fontsize=8)
    reading = f"{100 * (values > 1).mean():.0f} % of images have more than one object: instances to keep apart."
    return describe(ax, "Objects an image", reading)


def augmented(
    samples: Sequence[tuple[torch.Tensor, dict]], class_names: Sequence[str] = CLASS_NAMES, axes: np.ndarray | None = None
) -> np.ndarray:
    """Draws of one augmented sample, masks and boxes on top."""
    axes = new_axes(len(samples), 4, (3, 2.8), axes)
    for ax, (image, target) in zip(axes, samples, strict=True):
        instances(image, target["masks"], target["boxes"], target["labels"], class_names=class_names, ax=ax)
        ax.set_title(f"{image.shape[2]} x {image.shape[1]} px, {len(target['labels'])} objects", fontsize=8)
    describe_figure(
        axes[0].figure,
        "The same sample, drawn again and again",
        "Boxes follow what is left of the masks; an object that is cut away is gone.",
    )
    return axes


def boxes_on_image(image: torch.Tensor, boxes: np.ndarray | torch.Tensor, title: str, reading: str, ax: Axes | None = None) -> Axes:
    """Many boxes (xyxy pixels) as thin outlines: proposals or priors."""
    ax = new_ax(ax, (5, 4))
    ax.imshow(as_picture(image))
    for x1, y1, x2, y2 in np.asarray(boxes):
        ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=COLOURS[4], linewidth=0.8, alpha=0.7))
    ax.legend(handles=[Patch(fill=False, edgecolor=COLOURS[4], label=f"{len(boxes)} boxes")], fontsize=8, loc="lower right")
    ax.set_xlim(0, image.shape[2])
    ax.set_ylim(image.shape[1], 0)
    ax.axis("off")
    return describe(ax, title, reading, 56)


def outlined(image: torch.Tensor, box: torch.Tensor | np.ndarray) -> np.ndarray:
    """A copy of a picture [H, W, 3] with one box (xyxy pixels) drawn into its pixels."""
    picture = as_picture(image).copy()
    height, width = picture.shape[:2]
    x1, y1, x2, y2 = (int(v) for v in torch.as_tensor(box).cpu().numpy().clip(0, [width - 1, height - 1] * 2).round())
    colour = np.array(plt.matplotlib.colors.to_rgb(COLOURS[4])) * (255 if picture.dtype == np.uint8 else 1)
    picture[[y1, y2], x1 : x2 + 1] = colour
    picture[y1 : y2 + 1, [x1, x2]] = colour
    return picture


def prototypes(maps: torch.Tensor, axes: np.ndarray | None = None) -> np.ndarray:
    """Prototypes [h, w, k] of one image, each scaled to its own range."""
    axes = new_axes(maps.shape[-1], 8, (1.25, 1.35), axes)
    for k, ax in enumerate(axes):
        ax.imshow(maps[..., k].detach().cpu().numpy(), cmap="viridis")
        ax.set_title(str(k), fontsize=7)
        ax.axis("off")
    describe_figure(
        axes[0].figure,
        "YOLACT's prototypes",
        "Masks that belong to the whole image, not to an object; dark is zero, bright each map's own highest.",
    )
    return axes


def coefficients(values: torch.Tensor | Sequence[torch.Tensor], names: Sequence[str], ax: Axes | None = None) -> Axes:
    """Mask coefficients (-1..1) of a few detections, a group of bars a prototype."""
    ax = new_ax(ax, (10, 3))
    width = 0.8 / len(values)
    for i, (row, name) in enumerate(zip(values, names, strict=True)):
        ax.bar(np.arange(len(row)) + i * width, row.detach().cpu().numpy(), width, label=name, color=COLOURS[i])
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set_xlabel("prototype")
    ax.set_ylabel("coefficient (no unit)")
    ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)
    return describe(ax, "Coefficients", "Each detection adds (above 0) and subtracts (below 0) prototypes in its own way.", 110)


def stages(
    pictures: Sequence[np.ndarray | torch.Tensor], titles: Sequence[str], title: str, reading: str, axes: np.ndarray | None = None
) -> np.ndarray:
    """Steps of one computation, left to right: maps with a colour bar, RGB pictures as they are."""
    axes = new_axes(len(pictures), len(pictures), (3.1, 3.2), axes)
    for ax, picture, name in zip(axes, pictures, titles, strict=True):
        pixels = np.asarray(picture)
        shown = ax.imshow(as_picture(pixels), cmap="viridis")
        if pixels.ndim == 2:
            ax.figure.colorbar(shown, ax=ax, shrink=0.7)
        ax.set_title(name, fontsize=9)
        ax.axis("off")
    describe_figure(axes[0].figure, title, reading)
    return axes


def per_class_ap(tables: dict[str, pd.DataFrame], column: str = "mask_AP50", ax: Axes | None = None) -> Axes:
    """AP a class for each model, sorted by the gap between the first two."""
    ax = new_ax(ax, (9, 3.8))
    joined = pd.DataFrame({name: table.set_index("class")[column] for name, table in tables.items()})
    if joined.empty:
        return describe(ax, "AP a class", "There is no class to judge.")
    gap = joined.iloc[:, 0] - joined.iloc[:, -1]
    joined = joined.loc[gap.sort_values().index]
    joined.plot.bar(ax=ax, color=[colour_of(name, i) for i, name in enumerate(joined)], width=0.8)
    ax.set_xlabel("class, sorted by the gap between the models")
    ax.set_ylabel(f"{column.replace('_', ' ')} (percent)")
    ax.tick_params(axis="x", labelrotation=60)
    widest = gap.abs().idxmax()
    objects = next(iter(tables.values())).set_index("class").loc[widest, "instances"]
    reading = f"The widest gap is on {widest}, which has {objects} objects: {gap.abs().max():.0f} points."
    return describe(ax, "AP a class", reading if len(tables) > 1 else f"Highest on {joined.iloc[:, 0].idxmax()}.", 110)


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
        instances(image, class_names=class_names, ax=ax, **keywords)
        ax.set_title(name, fontsize=9)
    if title:
        describe_figure(axes[0].figure, title, reading)
    return axes


class Layer(NamedTuple):
    """What `layered` draws of one object: mask [h, w], box (xywh pixels, or None), colour, text, strong or not, dotted or not."""

    mask: np.ndarray
    box: Sequence[float] | None
    colour: str
    text: str
    strong: bool
    dotted: bool = False


def layered(picture: np.ndarray, layers: Sequence[Layer], ax: Axes | None = None) -> Axes:
    """A picture [h, w, 3] uint8 with objects on it: strong ones tinted, all with a contour, so that overlaps stay visible."""
    ax = new_ax(ax, (5, 4))
    shown = picture / 255
    for layer in layers:
        if not layer.dotted:
            tint = 0.5 if layer.strong else 0.2
            shown[layer.mask] = (1 - tint) * shown[layer.mask] + tint * np.array(plt.matplotlib.colors.to_rgb(layer.colour))
    ax.imshow(shown)
    for layer in layers:
        if layer.mask.any() and not layer.mask.all():
            style = {"linewidths": 2.0 if layer.strong else 1.0, "linestyles": "dotted" if layer.dotted else "solid"}
            ax.contour(layer.mask, levels=[0.5], colors=[layer.colour], **style)
        if layer.box is None or (layer.dotted and not layer.text):
            continue
        x, y, w, h = layer.box
        dashes = {"linestyle": "--" if layer.dotted else "-", "linewidth": 1.4 if layer.strong else 0.7}
        ax.add_patch(Rectangle((x - 0.5, y - 0.5), w, h, fill=False, edgecolor=layer.colour, **dashes))
        if layer.text:
            back = {"facecolor": layer.colour, "edgecolor": "none", "pad": 1, "alpha": 0.9 if layer.strong else 0.6}
            ax.text(max(x, 0), max(y, 0), layer.text, fontsize=6.5, color="black", va="top", bbox=back, clip_on=True)
    return framed(ax, picture)

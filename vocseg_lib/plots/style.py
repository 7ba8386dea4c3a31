"""Style of all figures: each returns its axes and has a caption; one axes can be given as `ax`."""

import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#999999")
"""Okabe and Ito's colors, which color-blind readers can tell apart."""
MODEL_COLORS = {"YOLACT": COLORS[0], "Mask R-CNN": COLORS[1]}


def model_color(name: str, index: int) -> str:
    """The color of one of the two models, or for another, the `index`-th of the rest."""
    return MODEL_COLORS.get(name, COLORS[2 + index % (len(COLORS) - 2)])


def add_title(ax: Axes, title: str, caption: str, wrap: int = 70) -> Axes:
    """Title and, below it, the line that says what the figure shows."""
    ax.set_title(title + "\n" + textwrap.fill(caption, wrap), loc="left", fontsize=10)
    return ax


def add_suptitle(axes: np.ndarray | Figure, title: str, caption: str) -> np.ndarray | Figure:
    """Title and caption of the figure of some axes, or of a figure; returns what was given."""
    figure = axes if isinstance(axes, Figure) else axes[0].figure
    text = title + "\n" + textwrap.fill(caption, int(11 * figure.get_figwidth()))
    figure.suptitle(text, x=0.01, ha="left", fontsize=10)
    return axes


def save_figure(figure: Figure | Axes, results: str | Path, name: str) -> None:
    """Write a figure to `results`/figures/`name`.png."""
    path = Path(results) / "figures" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure = figure if isinstance(figure, Figure) else figure.figure
    figure.savefig(path, dpi=110, bbox_inches="tight")


def new_axes(count: int, columns: int, panel: tuple[float, float]) -> np.ndarray:
    """A flat array of `count` axes in a grid of panels (inches), the spare ones hidden."""
    columns = min(columns, count)
    rows = -(-count // columns)
    size = (panel[0] * columns, panel[1] * rows)
    _, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for spare in grid.ravel()[count:]:
        spare.axis("off")
    return grid.ravel()[:count]


def new_ax(ax: Axes | None, size: tuple[float, float] = (7, 4)) -> Axes:
    """`ax`, or the axes of a new figure (inches)."""
    return plt.subplots(figsize=size, layout="constrained")[1] if ax is None else ax

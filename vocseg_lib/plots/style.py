"""Figures of the study. Each takes `ax=None` (or `axes=None`), returns it, and says in its title how to read it."""

import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#999999")
"""Okabe and Ito's colours, told apart by colour-blind readers too."""
MODEL_COLORS = {"YOLACT": COLORS[0], "Mask R-CNN": COLORS[1]}


def model_color(name: str, place: int) -> str:
    """A model's colour: its own, or one of those that are nobody's."""
    return MODEL_COLORS.get(name, COLORS[2 + place % (len(COLORS) - 2)])


def add_title(ax: Axes, title: str, reading: str, wrap: int = 70) -> Axes:
    """Title and, below it, the one line that says what the figure shows."""
    ax.set_title(title + "\n" + textwrap.fill(reading, wrap), loc="left", fontsize=10)
    return ax


def add_figure_title(fig: Figure, title: str, reading: str) -> Figure:
    """The same for a figure of several panels."""
    fig.suptitle(
        title + "\n" + textwrap.fill(reading, int(11 * fig.get_figwidth())),
        x=0.01,
        ha="left",
        fontsize=10,
    )
    return fig


def save_figure(figure: Figure | Axes, results: str | Path, name: str) -> None:
    """Write a figure to `results`/figures/`name`.png."""
    path = Path(results) / "figures" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    (figure if isinstance(figure, Figure) else figure.figure).savefig(
        path, dpi=110, bbox_inches="tight"
    )


def new_axes(
    count: int, columns: int, panel: tuple[float, float], axes: np.ndarray | None
) -> np.ndarray:
    """A flat array of `count` axes in a grid, the spare ones hidden."""
    if axes is not None:
        return np.asarray(axes).ravel()
    rows = -(-count // columns)
    size = (panel[0] * min(columns, count), panel[1] * rows)
    _, grid = plt.subplots(
        rows, min(columns, count), figsize=size, squeeze=False, layout="constrained"
    )
    for spare in grid.ravel()[count:]:
        spare.axis("off")
    return grid.ravel()[:count]


def new_ax(ax: Axes | None, size: tuple[float, float] = (7, 4)) -> Axes:
    return plt.subplots(figsize=size, layout="constrained")[1] if ax is None else ax

"""Interactive widgets from core ipywidgets (versions 7 and 8, so that they work in Colab)."""

import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import ipywidgets
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

REDRAW_SECONDS = 10.0
ALL = "all"


def _as_png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG; the figure is closed."""
    png = io.BytesIO()
    figure.savefig(png, dpi=100, bbox_inches="tight")
    plt.close(figure)
    return png.getvalue()


class LivePlot:
    """A figure that is updated in place while a cell runs: show `widget`, then call `update`."""

    def __init__(self, draw: Callable[[Path], Figure]):
        self.widget, self._draw, self._next = ipywidgets.Image(format="png"), draw, 0.0

    def update(self, path: Path) -> None:
        """Draw the content of a file, at most every `REDRAW_SECONDS`."""
        if time.monotonic() >= self._next:
            self.widget.value = _as_png(self._draw(path))
            self._next = time.monotonic() + REDRAW_SECONDS


def browse(
    table: pd.DataFrame, filters: Sequence[str], flag: str, draw: Callable[[pd.Series], Figure]
) -> ipywidgets.Widget:
    """Browse the rows of a table: one drop-down per column in `filters`, a checkbox for the bool
    column `flag`, and a slider over the remaining rows, each shown as `draw(row)`."""
    if table.empty:
        return ipywidgets.HTML("<i>Nothing to browse.</i>")
    menus = {
        name: ipywidgets.Dropdown(
            options=[ALL, *sorted({*map(str, table[name])})], description=name
        )
        for name in filters
    }
    only = ipywidgets.Checkbox(value=False, description=flag, indent=False)
    limits = {"min": 0, "max": len(table) - 1}
    position = ipywidgets.IntSlider(0, **limits, description="case", continuous_update=False)
    count = ipywidgets.Label()
    # An Image, not an Output: a headless front end can lose the answer to an Output, and hang.
    picture = ipywidgets.Image(format="png")
    rows, selecting = table, False

    def refresh(change: object = None) -> None:
        if not selecting:
            count.value = f"{len(rows)} of {len(table)} cases"
            picture.value = _as_png(draw(rows.iloc[position.value])) if len(rows) else b""

    def select(change: object = None) -> None:
        nonlocal rows, selecting
        kept = table[flag].astype(bool) | (not only.value)
        for name, menu in menus.items():
            # By index, as a name may be "all", too.
            kept &= (menu.index == 0) | (table[name].astype(str) == menu.value)
        rows = table[kept]
        selecting = True  # the slider's own changes draw nothing
        position.value, position.max = 0, max(0, len(rows) - 1)
        selecting = False
        refresh()

    for menu in menus.values():
        menu.observe(select, "index")
    only.observe(select, "value")
    position.observe(refresh, "value")
    refresh()
    lines = [ipywidgets.HBox(list(menus.values())[k : k + 3]) for k in range(0, len(menus), 3)]
    return ipywidgets.VBox([*lines, ipywidgets.HBox([only, position, count]), picture])

"""Explorers from core ipywidgets (7 and 8, so that they work in Colab too)."""

import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import ipywidgets
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

REDRAW_SECONDS = 10.0


def as_png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG; it is closed."""
    png = io.BytesIO()
    figure.savefig(png, dpi=100, bbox_inches="tight")
    plt.close(figure)
    return png.getvalue()


class LivePlot:
    """A picture that is drawn anew in its place while a cell runs: show `widget`, then call `update`."""

    def __init__(self, draw: Callable[[Path], Figure]):
        self.widget, self._draw, self._next = ipywidgets.Image(format="png"), draw, 0.0

    def update(self, path: Path) -> None:
        """Draw what a file holds now, unless that was done moments ago."""
        if time.monotonic() >= self._next:
            self.widget.value = as_png(self._draw(path))
            self._next = time.monotonic() + REDRAW_SECONDS


ALL = "all"


def browse(
    table: pd.DataFrame, filters: Sequence[str], flag: str, draw: Callable[[pd.Series], Figure]
) -> ipywidgets.Widget:
    """A drop-down for each of the columns `filters`, a box to tick for the column `flag` of truth values, and a slider through
    the rows that are left, in their order; `draw(row)` gives the figure shown.
    """
    if table.empty:
        return ipywidgets.HTML("<i>Nothing to browse.</i>")
    menus = {
        name: ipywidgets.Dropdown(
            options=[ALL, *sorted(map(str, table[name].unique()))], description=name
        )
        for name in filters
    }
    ticked = ipywidgets.Checkbox(value=False, description=flag, indent=False)
    position = ipywidgets.IntSlider(
        0, 0, len(table) - 1, description="case", continuous_update=False
    )
    count = ipywidgets.Label()
    # An Image, not an Output: an Output asks the front end to answer, and a headless one can lose that answer and hang.
    picture = ipywidgets.Image(format="png")
    state = {"rows": table, "busy": False}

    def refresh(change: object = None) -> None:
        if not state["busy"]:
            rows = state["rows"]
            count.value = f"{len(rows)} of {len(table)} cases"
            picture.value = as_png(draw(rows.iloc[position.value])) if len(rows) else b""

    def choose(change: object = None) -> None:
        kept = pd.Series(True, index=table.index)
        for name, menu in menus.items():
            kept &= (menu.value == ALL) | (table[name].astype(str) == menu.value)
        state["rows"] = table[kept & (table[flag].astype(bool) | (not ticked.value))]
        state["busy"] = True  # the slider's own changes draw nothing
        position.value, position.max = 0, max(0, len(state["rows"]) - 1)
        state["busy"] = False
        refresh()

    for control in (*menus.values(), ticked):
        control.observe(choose, "value")
    position.observe(refresh, "value")
    refresh()
    rows = [ipywidgets.HBox(list(menus.values())[k : k + 3]) for k in range(0, len(menus), 3)]
    return ipywidgets.VBox([*rows, ipywidgets.HBox([ticked, position, count]), picture])

"""Explorers from core ipywidgets (7 and 8, so that they work in Colab too)."""

import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import ipywidgets
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

REDRAW_SECONDS = 10.0


def as_png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG; it is closed."""
    png = io.BytesIO()
    figure.savefig(png, dpi=100, bbox_inches="tight")
    plt.close(figure)
    return png.getvalue()


class LivePicture:
    """A picture that is drawn anew in its place while a cell runs: show `widget`, then call `update`."""

    def __init__(self, draw: Callable[[Path], Figure]):
        self.widget, self._draw, self._next = ipywidgets.Image(format="png"), draw, 0.0

    def update(self, path: Path) -> None:
        """Draw what a file holds now, unless that was done moments ago."""
        if time.monotonic() >= self._next:
            self.widget.value = as_png(self._draw(path))
            self._next = time.monotonic() + REDRAW_SECONDS


def browse(choices: dict[str, Sequence], draw: Callable[[object], Figure]) -> ipywidgets.Widget:
    """A drop-down of `choices` (name to items) and a slider through the items; `draw(item)` gives the figure shown."""
    names = [name for name, items in choices.items() if len(items)]
    if not names:
        return ipywidgets.HTML("<i>Nothing to browse.</i>")
    kind = ipywidgets.Dropdown(options=[(f"{name} ({len(choices[name])})", name) for name in names], description="show")
    position = ipywidgets.IntSlider(0, 0, len(choices[names[0]]) - 1, description="case", continuous_update=False)
    # An Image, not an Output: an Output asks the front end to answer, and a headless one can lose that answer and hang.
    picture = ipywidgets.Image(format="png")

    def refresh(change: object = None) -> None:
        picture.value = as_png(draw(choices[kind.value][position.value]))

    def choose(change: dict) -> None:
        before, position.value = position.value, 0
        position.max = len(choices[kind.value]) - 1
        if before == 0:  # otherwise moving the slider has drawn it
            refresh()

    position.observe(refresh, "value")
    kind.observe(choose, "value")
    refresh()
    return ipywidgets.VBox([ipywidgets.HBox([kind, position]), picture])

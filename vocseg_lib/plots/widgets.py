"""Interactive widgets from core ipywidgets (versions 7 and 8, so that they work in Colab)."""

import io
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

import ipywidgets
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from vocseg_lib.plots.pictures import Visualizer, draw_predictions
from vocseg_lib.plots.style import short
from vocseg_lib.plots.videos import is_video

REDRAW_SECONDS = 30.0
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
        _show(self.widget, b"")

    def update(self, path: Path) -> None:
        """Draw the content of a file, at most every `REDRAW_SECONDS`."""
        if time.monotonic() >= self._next:
            _show(self.widget, _as_png(self._draw(path)))
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
            _show(picture, _as_png(draw(rows.iloc[position.value])) if len(rows) else b"")

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


def upload_in_colab() -> list[Path]:
    """The files that Colab's dialog uploads to the working folder; waits for it. Elsewhere none."""
    if "google.colab" not in sys.modules:
        print("UPLOAD is for Colab; elsewhere, use the upload button of the cell that has one")
        return []
    from google.colab import files  # comes with Colab alone

    return [Path(name).absolute() for name in files.upload()]


def upload_button(visualizer: Visualizer) -> ipywidgets.Widget:
    """A button for a picture of one's own; below it, the picture with the model's detections.

    What cannot be read is reported there. Of more than 10 MiB, nothing comes from Jupyter's server
    (tornado's `websocket_max_message_size`). In Colab, a hint at its own dialog.
    """
    if "google.colab" in sys.modules:
        return ipywidgets.HTML("<i>In Colab, tick UPLOAD in the setup cell instead.</i>")
    button = ipywidgets.FileUpload(accept="image/*", multiple=False, description="Your picture")
    limit = ipywidgets.HTML("<i>Below 10 MB; of larger ones, give the path in IMAGE.</i>")
    message = ipywidgets.HTML()
    picture = ipywidgets.Image(format="png", layout={"max_width": "640px", "display": "none"})

    def show(change: dict) -> None:
        if files := _uploaded(change["new"]):
            name, content = files[-1]
            message.value = f"{escape(short(name))}: reading …"
            drawn, text = _draw_upload(visualizer, name, content)
            _show(picture, drawn)
            message.value = f"{escape(short(name))}: {escape(text)}"

    button.observe(show, "value")
    return ipywidgets.VBox([ipywidgets.HBox([button, limit]), message, picture])


def _show(widget: ipywidgets.Image, png: bytes) -> None:
    """Put a picture into its widget; without one, hide it, as it would look broken."""
    widget.value, widget.layout.display = png, "block" if png else "none"


def _uploaded(value: dict | Sequence[dict]) -> list[tuple[str, bytes]]:
    """Names and contents of a FileUpload: a dict by name in ipywidgets 7, a tuple in 8."""
    if isinstance(value, dict):
        return [(name, bytes(file["content"])) for name, file in value.items()]
    return [(file["name"], bytes(file["content"])) for file in value]


def _draw_upload(visualizer: Visualizer, name: str, content: bytes) -> tuple[bytes, str]:
    """A picture with its detections as PNG, and what they are; or nothing, and why."""
    if is_video(Path(name)):
        return b"", "is a video: give its path in IMAGE"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"upload{re.sub(r'[^.a-zA-Z0-9]', '', Path(name).suffix)}"
        path.write_bytes(content)
        try:
            ((_, written, text),) = draw_predictions(visualizer, [path], Path(folder) / "drawn")
        except (MemoryError, RuntimeError) as error:
            return b"", f"is too large for this machine: make it smaller ({error})"
        text = re.sub(r" <_io\.[^>]*>", "", text.removeprefix(f"{path}: "))
        return written.read_bytes() if written else b"", text

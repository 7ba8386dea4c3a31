"""Explorers from core ipywidgets (7 and 8, so that they work in Colab too)."""

import io
from collections.abc import Callable, Sequence

import ipywidgets
import matplotlib.pyplot as plt
from matplotlib.figure import Figure


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
        figure = draw(choices[kind.value][position.value])
        png = io.BytesIO()
        figure.savefig(png, dpi=100, bbox_inches="tight")
        plt.close(figure)
        picture.value = png.getvalue()

    def choose(change: dict) -> None:
        before, position.value = position.value, 0
        position.max = len(choices[kind.value]) - 1
        if before == 0:  # otherwise moving the slider has drawn it
            refresh()

    position.observe(refresh, "value")
    kind.observe(choose, "value")
    refresh()
    return ipywidgets.VBox([ipywidgets.HBox([kind, position]), picture])

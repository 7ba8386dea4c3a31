"""Figure of the planner: which difference so many images and trainings can show."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import StrMethodFormatter

from vocseg_lib.metrics.power import POWER, TRAININGS, Spread
from vocseg_lib.plots.style import COLORS, add_title, new_ax


def detectable_differences(
    spread: Spread, images: int, trainings: int, metric: str, ax: Axes | None = None
) -> Axes:
    """The smallest difference that is shown with `POWER` against images, by number of trainings.

    `images` and `trainings`: those of the predictions at hand.
    """
    ax = new_ax(ax, (8, 4.4))
    counts = np.unique(np.geomspace(max(10, images / 10), images * 100, 60).astype(int))
    shown = sorted({*TRAININGS, trainings}) if spread.of_training or spread.of_pair else [1]
    for count, color in zip(shown, COLORS * 2, strict=False):
        values = [spread.detectable(int(n), count) for n in counts]
        label = f"{count} trainings of each" if count > 1 else "one training of each"
        ax.plot(counts, values, color=color, label=label)
    ax.axvline(images, color="black", linestyle=":", label=f"{images} images, as here")
    now = spread.detectable(images, trainings)
    ax.plot(images, now, "o", color="black")
    ax.set(xscale="log", yscale="log", xlabel="images", ylabel=f"difference in {metric} (points)")
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.yaxis.set_minor_formatter(StrMethodFormatter("{x:g}"))
    ax.tick_params(axis="y", which="both", labelsize=7)
    ax.grid(alpha=0.3, which="both")
    ax.legend(fontsize=8)
    times = f"{trainings} trainings" if trainings > 1 else "one training"
    caption = f"{images} images and {times} of each model show a difference of {now:.1f} points in "
    caption += f"{100 * POWER:.0f} % of studies. "
    if not spread.of_training:
        caption += "How much trainings differ is not known from one of each model, and left out."
    return add_title(ax, "What can so many images and trainings show?", caption, 100)

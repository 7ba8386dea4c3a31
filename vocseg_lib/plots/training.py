"""The course of a training, from its `log.jsonl`: losses, learning rate, AP, overfitting."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from vocseg_lib.plots.style import (
    COLORS,
    add_suptitle,
    add_title,
    as_label,
    model_color,
    new_ax,
    new_axes,
)
from vocseg_lib.utils.json_values import is_number

STUDY_HALF, STUDY_END = "6K", "12K"
"""Iterations at which the published comparison measured AP: halfway and last."""
RISE = 1.02
"""A validation loss this many times its minimum counts as risen."""
NO_EVALUATIONS = "There are no evaluations yet."
NOT_LOSSES = ("lr", "gradient_norm", "hours_left", "peak_memory_gb")
AP_COLORS = {"mask_AP50": COLORS[0], "mask_AP": COLORS[5], "box_AP50": COLORS[1]}
AP_COLORS |= {"box_AP": COLORS[4]}


def _by_iteration(log: list[dict], key: str, columns: list[str]) -> pd.DataFrame:
    """The numbers in the entries with a key, one row per iteration; NaN for what is no number."""
    entries = [{k: v for k, v in entry.items() if is_number(v)} for entry in log if key in entry]
    table = pd.DataFrame(entries)
    table = table.reindex(columns=dict.fromkeys(["iteration", key, *columns, *table.columns]))
    return table.drop_duplicates("iteration", keep="last").set_index("iteration").sort_index()


def logged_updates(log: list[dict]) -> pd.DataFrame:
    """The updates of a log by iteration: `lr`, `loss` and its terms, seconds."""
    return _by_iteration(log, "loss", ["lr"])


def logged_evaluations(log: list[dict]) -> pd.DataFrame:
    """The evaluations of a log by iteration: AP (percent), `val_loss` and its terms, `seconds`."""
    return _by_iteration(log, "mask_AP50", ["seconds"])


def overfitting(log: list[dict]) -> str:
    """Where overfitting starts, in words: val loss rises while train loss falls; and AP's peak.

    Not reported yet if the val loss has risen at the last evaluation only.
    """
    updates, evals = logged_updates(log), logged_evaluations(log)
    if "val_loss" in evals:
        evals = evals.dropna(subset=["mask_AP50", "val_loss"])
    if len(evals) < 3 or "val_loss" not in evals or not len(updates):
        return "Too few evaluations to detect overfitting."
    ap, loss = evals["mask_AP50"], evals["val_loss"]
    peak, lowest, last = int(ap.idxmax()), int(loss.idxmin()), int(evals.index[-1])
    window = max(1, len(updates) // len(evals))
    before, after = (updates["loss"].loc[:at].tail(window).mean() for at in (lowest, last))
    risen = loss > RISE * loss.min()
    rise = f"the loss on val rises from {loss.min():.2f} to {loss.iloc[-1]:.2f}"
    on_train = f"from {before:.2f} to {after:.2f}"
    if not risen.iloc[-1]:
        near = f"within {100 * (RISE - 1):.0f} % of its minimum ({loss.min():.2f})"
        text = f"No overfitting up to iteration {last}: the loss on val ends {near}."
    elif not risen.iloc[-2]:
        text = f"Too early to call it overfitting: {rise}, but only at the last evaluation."
    elif after < before:
        text = f"Overfitting starts near iteration {lowest}: from there {rise}, while the loss on "
        text += f"train falls {on_train}."
    else:
        text = f"From iteration {lowest} on {rise}, and on train {on_train}: it diverges, which is "
        text += "not overfitting."
    text += f" Mask AP50 is highest at iteration {peak} ({ap.max():.1f} %)"
    if peak < last:
        return f"{text} and ends at {ap.iloc[-1]:.1f} %."
    return f"{text}, the last: more training may still help."


def training_curves(log: list[dict], title: str, iterations: int | None = None) -> np.ndarray:
    """Loss terms on train and val, learning rate and AP against iteration.

    `iterations`: length of the whole training, at whose half and end AP was published.
    """
    axes = new_axes(4, 2, (4.5, 3.2))
    updates, evals = logged_updates(log), logged_evaluations(log)
    window = max(1, len(updates) // 50)
    terms = [c for c in updates if c not in NOT_LOSSES and not c.endswith("_seconds")]
    smooth = updates[terms].rolling(window, min_periods=1).mean()
    for i, name in enumerate(terms):
        color = "black" if name == "loss" else COLORS[i - 1]
        axes[0].plot(smooth.index, smooth[name], label=name, color=color)
        if f"val_{name}" in evals:
            axes[1].plot(evals.index, evals[f"val_{name}"], "o-", label=name, color=color)
    axes[2].plot(updates.index, updates["lr"], color=COLORS[0], label="learning rate")
    for name, color in AP_COLORS.items():
        if name in evals:
            label = name.replace("_", " ")
            axes[3].plot(evals.index, evals[name], "o-", label=label, color=color)
    labels = (f"loss on train (mean of {window})", "loss on val (batch norm in eval)")
    labels += ("learning rate", "AP on val (percent)")
    iterations = max(iterations or 1, int(updates.index[-1]) if len(updates) else 1)
    _mark_study(axes[3], iterations)
    for ax, label in zip(axes, labels, strict=True):
        ax.set(xlim=(0, 1.02 * iterations), xlabel="iteration", ylabel=label)
        ax.grid(alpha=0.3)
        values = [np.asarray(line.get_ydata(), dtype=float) for line in ax.lines]
        if label.startswith("loss") and any((v > 0).any() for v in values):
            ax.set_yscale("log")
        if ax.lines:
            ax.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)
    return add_suptitle(axes, title, overfitting(log))


def ap_against_iteration(
    logs: dict[str, list[dict]], iterations: int | None = None, ax: Axes | None = None
) -> Axes:
    """Mask AP50 on val against iteration, one line per model.

    `iterations`: length of the whole training; published marks are left out where lengths differ.
    """
    ax, peaks, last = _ap_lines(logs, None, ax)
    ax.set_xlabel("iteration")
    same = last <= (iterations or last)
    if same:
        _mark_study(ax, iterations or last)
    if peaks or same:
        ax.legend(fontsize=8)
    caption = "; ".join(f"{name} peaks at {at:.0f}" for name, at in peaks.items()) + " iterations."
    if not same:
        caption += " The trainings differ in length, and so do their halfway points."
    return add_title(ax, "AP against iteration", caption if peaks else NO_EVALUATIONS)


def ap_against_time(logs: dict[str, list[dict]], ax: Axes | None = None) -> Axes:
    """Mask AP50 on val against time (loading and updates), one line per model."""
    evals = [logged_evaluations(log) for log in logs.values()]
    longest = max((e["seconds"].max() for e in evals if len(e)), default=0)
    unit, seconds = ("hours", 3600) if longest >= 3600 else ("minutes", 60)
    ax, peaks, _ = _ap_lines(logs, seconds, ax)
    ax.set_xlabel(f"training ({unit}, without evaluation)")
    if peaks:
        ax.legend(fontsize=8)
    caption = "; ".join(f"{name} peaks after {at:.2g} {unit}" for name, at in peaks.items()) + "."
    return add_title(ax, "AP against time", caption if peaks else NO_EVALUATIONS)


def _ap_lines(
    logs: dict[str, list[dict]], unit_seconds: int | None, ax: Axes | None
) -> tuple[Axes, dict[str, float], float]:
    """The axes, each model's peak and the last x; x is the iteration or the time in a unit."""
    ax, peaks, last = new_ax(ax), {}, 1.0
    for i, (name, log) in enumerate(logs.items()):
        evals = logged_evaluations(log).reset_index().dropna(subset=["mask_AP50"])
        if not len(evals):
            continue
        x = evals["seconds"] / unit_seconds if unit_seconds else evals["iteration"]
        ax.plot(x, evals["mask_AP50"], "o-", color=model_color(name, i), label=as_label(name))
        peaks[name], last = float(x[evals["mask_AP50"].idxmax()]), max(last, float(x.iloc[-1]))
    ax.set_ylabel("mask AP50 on val (percent)")
    ax.set_ylim(bottom=0)
    ax.grid(alpha=0.3)
    return ax, peaks, last


def _mark_study(ax: Axes, iterations: float) -> None:
    """Lines halfway and at the end: published at 6K and 12K."""
    for at, name, style in ((iterations / 2, STUDY_HALF, ":"), (iterations, STUDY_END, "--")):
        ax.axvline(at, color="gray", linestyle=style, label=f"{at:g}: published {name}")


def batch_norm_statistics(statistics: dict[int, pd.DataFrame], outputs: pd.DataFrame) -> np.ndarray:
    """One channel before batch norm: statistics of batches; its output for one image.

    `statistics`: by batch size, a row per batch, with mean, variance, running_mean and
    running_variance after it. `outputs`: a row per partner of the image in its batch of two, with
    the mean output with batch norm frozen and unfrozen.
    """
    axes = new_axes(3, 3, (2.95, 3.4))
    smallest = min(statistics)
    for ax, name in zip(axes, ("mean", "variance"), strict=False):
        for color, (size, rows) in zip(COLORS, statistics.items(), strict=False):
            style = {"color": color, "markersize": 4, "label": f"batch of {size}"}
            ax.plot(size * np.arange(1, len(rows) + 1), rows[name], "o", **style)
        rows = statistics[smallest]
        # Of the batches and where running statistics end: they may come from far away.
        ends = *ax.get_ylim(), rows[f"running_{name}"].iloc[-1]
        ax.set_ylim(min(ends), max(ends))
        x, label = smallest * np.arange(1, len(rows) + 1), f"running, batches of {smallest}"
        ax.plot(x, rows[f"running_{name}"], color="black", label=label)
        ax.set(xlabel="images seen", ylabel=f"{name} of the channel")
    for name, color, marker in (("unfrozen", COLORS[0], "o"), ("frozen", COLORS[1], "s")):
        x = np.arange(1, len(outputs) + 1)
        axes[2].plot(x, outputs[name], marker, color=color, markersize=4, label=name)
    axes[2].set(xlabel="partner in the batch", ylabel="output for the same image")
    axes[2].xaxis.get_major_locator().set_params(integer=True)
    for ax in axes:
        ax.grid(alpha=0.3)
        ax.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.22))
    spread = outputs.std()
    reading = "Each dot: what a batch is normalized with. Right: the output for one image with "
    reading += f"{len(outputs)} partners, standard deviation {spread['unfrozen']:.2g} unfrozen, "
    return add_suptitle(axes, "Batch norm", f"{reading}{spread['frozen']:.2g} frozen.")

"""How a training went, from its `log.jsonl`: losses, learning rate and AP against iteration, and where overfitting starts."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from vocseg_lib.plots.style import (
    COLORS,
    MODEL_COLORS,
    add_figure_title,
    add_title,
    new_ax,
    new_axes,
)

STUDY_HALF, STUDY_END = "6K", "12K"
"""Where the study looked at AP: half way, and at its last iteration."""
RISE = 1.02
"""A validation loss this much above its lowest counts as risen."""
NO_SCORES = "There are no scores yet."
NOT_TERMS = ("lr", "gradient_norm", "data_seconds", "forward_seconds", "backward_seconds")


def logged_updates(log: list[dict]) -> pd.DataFrame:
    """The updates of a log by iteration: `lr`, `loss` and its terms, seconds."""
    rows = [
        {k: v for k, v in entry.items() if isinstance(v, int | float)}
        for entry in log
        if "loss" in entry
    ]
    return pd.DataFrame(rows, columns=None if rows else ["iteration", "lr", "loss"]).set_index(
        "iteration"
    )


def logged_evaluations(log: list[dict]) -> pd.DataFrame:
    """The scores of a log by iteration: AP (percent), `val_loss` and its terms, `seconds` of training before."""
    rows = [entry for entry in log if "mask_AP50" in entry]
    return pd.DataFrame(rows, columns=None if rows else ["iteration", "mask_AP50"]).set_index(
        "iteration"
    )


def overfitting(log: list[dict]) -> str:
    """Where overfitting starts, in words: from where on the loss rises on val while it falls on train, and what AP does.

    A single risen score, the last, is not called so yet.
    """
    steps, scores = logged_updates(log), logged_evaluations(log)
    if "val_loss" in scores:
        scores = scores.dropna(subset=["mask_AP50", "val_loss"])
    if len(scores) < 3 or "val_loss" not in scores or not len(steps):
        return "Too few scores to say whether there is overfitting."
    ap, loss = scores["mask_AP50"], scores["val_loss"]
    peak, lowest, last = int(ap.idxmax()), int(loss.idxmin()), int(scores.index[-1])
    window = max(1, len(steps) // len(scores))
    before, after = (steps["loss"].loc[:at].tail(window).mean() for at in (lowest, last))
    said_ap = f"Mask AP50 is highest at iteration {peak} ({ap.max():.1f} %)"
    said_ap += (
        f" and ends at {ap.iloc[-1]:.1f} %."
        if peak < last
        else ", the last: more training may still help."
    )
    risen = loss > RISE * loss.min()
    rise = f"the loss on val rises from {loss.min():.2f} to {loss.iloc[-1]:.2f}"
    on_train = f"from {before:.2f} to {after:.2f}"
    if not risen.iloc[-1]:
        near = f"within {100 * (RISE - 1):.0f} % of its lowest ({loss.min():.2f})"
        said = f"No overfitting up to iteration {last}: the loss on val ends {near}."
    elif not risen.iloc[-2]:
        said = f"Too early to speak of overfitting: {rise}, but only at the last score."
    elif after < before:
        said = f"Overfitting starts near iteration {lowest}: from there {rise}, while that on train falls {on_train}."
    else:
        said = f"From iteration {lowest} on {rise}, and that on train {on_train}: it diverges, which is not overfitting."
    return f"{said} {said_ap}"


def training_curves(
    log: list[dict], title: str, iterations: int | None = None, axes: np.ndarray | None = None
) -> np.ndarray:
    """Loss terms on train and on val, learning rate and AP against iteration.

    `iterations` of the whole training put the study's two marks where they belong: half way and at the end.
    """
    axes = new_axes(4, 2, (6, 3.4), axes)
    steps, scores = logged_updates(log), logged_evaluations(log)
    window = max(1, len(steps) // 50)
    terms = (
        steps.drop(columns=[c for c in NOT_TERMS if c in steps])
        .rolling(window, min_periods=1)
        .mean()
    )
    for i, name in enumerate(terms):
        colour = "black" if name == "loss" else COLORS[i - 1]
        axes[0].plot(terms.index, terms[name], label=name, color=colour)
        if f"val_{name}" in scores:
            axes[1].plot(scores.index, scores[f"val_{name}"], "o-", label=name, color=colour)
    axes[0].set_ylabel(f"loss on train (mean of {window})")
    axes[1].set_ylabel("loss on val (batch norm in eval)")
    axes[2].plot(steps.index, steps["lr"], color=COLORS[0], label="learning rate")
    axes[2].set_ylabel("learning rate")
    for name, colour in (
        ("mask_AP50", COLORS[0]),
        ("mask_AP", COLORS[5]),
        ("box_AP50", COLORS[1]),
        ("box_AP", COLORS[4]),
    ):
        if name in scores:
            axes[3].plot(
                scores.index, scores[name], "o-", label=name.replace("_", " "), color=colour
            )
    axes[3].set_ylabel("AP on val (percent)")
    iterations = max(iterations or 1, int(steps.index[-1]) if len(steps) else 1)
    _mark_the_study(axes[3], iterations)
    for ax in axes:
        ax.set_xlim(0, 1.02 * iterations)
        ax.set_xlabel("iteration")
        ax.grid(alpha=0.3)
        if ax in axes[:2] and any(
            (np.asarray(line.get_ydata(), dtype=float) > 0).any() for line in ax.lines
        ):
            ax.set_yscale("log")
        if ax.lines:
            ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=5)
    add_figure_title(axes[0].figure, title, overfitting(log))
    return axes


def ap_against_iteration(
    logs: dict[str, list[dict]], iterations: int | None = None, ax: Axes | None = None
) -> Axes:
    """Mask AP50 on val against iteration, a line a model, with the study's marks where both trainings are of one length.

    `iterations` of the whole training put the marks where they belong, also when it was stopped early.
    """
    ax, peaks, last = _ap_lines(logs, "iteration", ax)
    ax.set_xlabel("iteration")
    same = last <= (iterations or last)
    if same:
        _mark_the_study(ax, iterations or last)
    if peaks or same:
        ax.legend(fontsize=8)
    said = "; ".join(f"{name} peaks at {at:.0f}" for name, at in peaks.items()) + " iterations."
    said += (
        ""
        if same
        else " The trainings are of different length: half-way is not the same place for both."
    )
    return add_title(ax, "AP against iteration", said if peaks else NO_SCORES)


def ap_against_time(logs: dict[str, list[dict]], ax: Axes | None = None) -> Axes:
    """Mask AP50 on val against time of loading and updates, a line a model; in hours, or minutes where that is under an hour."""
    longest = max(
        (
            logged_evaluations(log)["seconds"].max()
            for log in logs.values()
            if len(logged_evaluations(log))
        ),
        default=0,
    )
    unit = "hours" if longest >= 3600 else "minutes"
    ax, peaks, _ = _ap_lines(logs, unit, ax)
    ax.set_xlabel(f"training ({unit}, without scoring)")
    if peaks:
        ax.legend(fontsize=8)
    said = "; ".join(f"{name} peaks after {at:.2g} {unit}" for name, at in peaks.items()) + "."
    return add_title(ax, "AP against time", said if peaks else NO_SCORES)


def _ap_lines(
    logs: dict[str, list[dict]], against: str, ax: Axes | None
) -> tuple[Axes, dict[str, float], float]:
    """The axes, where each model peaks, and where the last one ends."""
    ax, peaks, last = new_ax(ax), {}, 1.0
    for name, log in logs.items():
        scores = logged_evaluations(log).reset_index().dropna(subset=["mask_AP50"])
        if not len(scores):
            continue
        x = (
            scores["iteration"]
            if against == "iteration"
            else scores["seconds"] / {"hours": 3600, "minutes": 60}[against]
        )
        ax.plot(x, scores["mask_AP50"], "o-", color=MODEL_COLORS.get(name), label=name)
        peaks[name], last = float(x[scores["mask_AP50"].idxmax()]), max(last, float(x.iloc[-1]))
    ax.set_ylabel("mask AP50 on val (percent)")
    ax.set_ylim(bottom=0)
    ax.grid(alpha=0.3)
    return ax, peaks, last


def _mark_the_study(ax: Axes, iterations: float) -> None:
    """Lines half way and at the end: the study's 6K and 12K."""
    for at, name, style in ((iterations / 2, STUDY_HALF, ":"), (iterations, STUDY_END, "--")):
        ax.axvline(at, color="grey", linestyle=style, label=f"{at:g}: the study's {name}")

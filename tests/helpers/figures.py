"""Checks of figures."""


def is_labeled(ax):
    """Whether axes have labels, a legend, a title and a caption."""
    title = ax.get_title(loc="left")
    return bool(ax.get_xlabel() and ax.get_ylabel() and ax.get_legend() and "\n" in title)

"""Checks of figures."""

import numpy as np
from matplotlib.axis import Axis
from matplotlib.legend import Legend
from matplotlib.text import Text
from matplotlib.transforms import Bbox

MAX_INCHES, SLACK = 9.1, 1.0
"""Width of a figure with the margin of a saved file; pixels by which texts may touch."""


def is_labeled(ax):
    """Whether axes have labels, a legend, a title and a caption."""
    title, legend = ax.get_title(loc="left"), ax.get_legend() or ax.figure.legends
    return bool(ax.get_xlabel() and ax.get_ylabel() and legend and "\n" in title)


def layout_problems(figure):
    """Texts of a figure that cover each other or are cut off at their axes; too large a width."""
    figure.canvas.draw()
    page = figure.get_tightbbox()  # inches
    problems = [f"{page.width:.2f} inches wide"] if page.width > MAX_INCHES else []
    page = Bbox(page.get_points() * figure.dpi)
    boxes = [
        (text.get_text(), corners) for text in _visible_texts(figure) for corners in _box(text)
    ]
    for legend in figure.findobj(Legend):
        frame, own = legend.get_frame().get_window_extent(), legend.findobj(Text)
        others = [text for text in _visible_texts(figure) if text not in own]
        covered = [
            text.get_text() for text in others if frame.overlaps(Text.get_window_extent(text))
        ]
        problems += [f"{text!r} under the legend" for text in covered]
    for (first, a), (second, b) in _near(boxes):
        if _overlap(a, b):
            problems.append(f"{first!r} and {second!r}")
    for text in _visible_texts(figure):
        clip = (text.get_clip_on() and text.get_clip_box()) or page
        for corners in _box(text):
            low, high = corners.min(0), corners.max(0)
            seen = (low < clip.max).all() and (high > clip.min).all()
            if seen and ((low < clip.min - SLACK).any() or (high > clip.max + SLACK).any()):
                problems.append(f"{text.get_text()!r} is cut off")
    return problems


def _near(boxes):
    """The pairs of texts whose upright frames overlap."""
    low, high = (np.array([edge(corners, 0) for _, corners in boxes]) for edge in (np.min, np.max))
    near = (low[:, None] < high).all(2) & (high[:, None] > low).all(2)
    return [(boxes[i], boxes[j]) for i, j in np.argwhere(np.triu(near, 1))]


def _visible_texts(artist):
    """Texts that are drawn: of axes that are on, and of ticks within the limits."""
    if not artist.get_visible():
        return
    if isinstance(artist, Text) and artist.get_text().strip():
        yield artist
    children = artist.get_children()
    if isinstance(artist, Axis):
        children = [artist.label, artist.offsetText, *artist._update_ticks()]
    elif getattr(artist, "axison", True) is False:
        children = [child for child in children if not isinstance(child, Axis)]
    for child in children:
        yield from _visible_texts(child)


def _box(text):
    """[the corners [4, 2] of a text in pixels], none if it is outside of what is clipped."""
    extent, angle = Text.get_window_extent(text), text.get_rotation()
    if angle % 90:
        text.set_rotation(0)
        upright = Text.get_window_extent(text)
        text.set_rotation(angle)
        size = upright.width, upright.height
    else:
        size, angle = (extent.width, extent.height), 0
    radians, center = np.deg2rad(angle), (extent.min + extent.max) / 2
    turn = np.array([[np.cos(radians), np.sin(radians)], [-np.sin(radians), np.cos(radians)]])
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * size / 2 @ turn + center
    clip = text.get_clip_on() and text.get_clip_box()
    hidden = clip and ((corners.max(0) < clip.min) | (corners.min(0) > clip.max)).any()
    return [] if hidden else [corners]


def _overlap(first, second):
    """Whether two rectangles overlap by more than `SLACK`: no side of one divides them."""
    for corners in (first, second):
        for side in np.diff(corners[:3], axis=0):
            normal = np.array([-side[1], side[0]]) / max(np.hypot(*side), 1e-9)
            a, b = first @ normal, second @ normal
            if min(a.max(), b.max()) - max(a.min(), b.min()) <= SLACK:
                return False
    return True

"""Labels that cover no other text: of objects on pictures, and of points in charts."""

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from vocseg_lib.plots.style import short, show_as_written


class _LabelPlacer(Artist):
    """Moves labels of its axes, as these are drawn, to where they cover no other text or point.

    Each label has a box in data coordinates. Labels of pictures stand in a corner of it, else near
    it; those of points beside it, with a line to it. What fits nowhere is not drawn.
    """

    def __init__(self):
        super().__init__()
        self.set(zorder=2.5, in_layout=False)  # before the texts, when the layout is known
        self.labels = []  # text, its string, box in data coordinates, whether it is of a point

    def draw(self, renderer: RendererBase) -> None:
        view = self.axes.get_window_extent(renderer)
        managed, legend = [text for text, *_ in self.labels], self.axes.get_legend()
        others = [text for text in self.axes.texts if text not in managed and text.get_text()]
        taken = [a.get_window_extent(renderer) for a in [*others, *([legend] if legend else [])]]
        boxes = [Bbox(self.axes.transData.transform(box)) for *_, box, _ in self.labels]
        boxes = [Bbox.from_extents(box.min, box.max) for box in boxes]
        points = [box for (*_, of_point), box in zip(self.labels, boxes, strict=True) if of_point]
        taken += [point.padded(renderer.points_to_pixels(2)) for point in points]
        for (text, string, _, of_point), box in zip(self.labels, boxes, strict=True):
            text.set(text=string, visible=True)
            extent = Text.get_window_extent(text, renderer)
            if extent.width > 0.95 * view.width:
                most = max(4, int(0.9 * len(string) * view.width / extent.width))
                text.set_text(short(string, most))
                extent = Text.get_window_extent(text, renderer)
            margin = renderer.points_to_pixels(1.5)
            size, spot = extent.size + 2 * margin, None
            if (box.max >= view.min).all() and (box.min <= view.max).all():
                seen = Bbox([np.maximum(box.min, view.min), np.minimum(box.max, view.max)])
                candidates = _beside if of_point else _inside_or_near
                for corner in candidates(seen, size, margin):
                    corner = np.clip(corner, view.min, view.max - size)
                    spot = Bbox([corner, corner + size])
                    if not any(spot.overlaps(other) for other in taken):
                        break
                    spot = None
            text.set_visible(spot is not None)
            if spot is not None:
                taken.append(spot)
                corner = self.axes.transData.inverted().transform(spot.min + margin)
                text.set_position(corner)
        self.stale = False


def _inside_or_near(box: Bbox, size: np.ndarray, _: float) -> Iterator[tuple[float, float]]:
    """Lower left corners of a label: at the top of a box, at its bottom, outside, further down."""
    (x0, y0), (x1, y1), (width, height) = box.min, box.max, size
    below = np.arange(y1 - 2 * height, y0, -height)
    for y in (y1 - height, y0, y1, y0 - height, *below):
        for x in (x0, x1 - width, (x0 + x1 - width) / 2):
            yield x, y


def _beside(box: Bbox, size: np.ndarray, margin: float) -> Iterator[tuple[float, float]]:
    """Lower left corners of a label around a point, in growing distance."""
    center, (width, height) = (box.min + box.max) / 2, size
    for distance in margin * np.arange(1, 60, 3):
        (x0, y0), (x1, y1) = center - distance, center + distance
        middle = center - size / 2
        for y in (y1, y0 - height, middle[1]):
            for x in (x1, x0 - width, middle[0]):
                if (x, y) != tuple(middle):
                    yield x, y


def place_label(ax: Axes, text: Text, box: Sequence[Sequence[float]] | None = None) -> Text:
    """Let a text of axes stand where it covers no other: in a box ((x1, y1), (x2, y2)), or beside
    the point that it is at, if no box is given."""
    placers = [artist for artist in ax.artists if isinstance(artist, _LabelPlacer)]
    placer = placers[0] if placers else ax.add_artist(_LabelPlacer())
    text.set(ha="left", va="bottom", in_layout=False)
    show_as_written(text)
    of_point = box is None
    corners = [text.xy if isinstance(text, Annotation) else text.get_position()] * 2
    placer.labels.append((text, text.get_text(), corners if of_point else box, of_point))
    return text


def label_point(
    ax: Axes, point: Sequence[float] | np.ndarray, string: str, **style: object
) -> Text:
    """A text beside a point (data coordinates), with a thin line to it: see `place_label`."""
    arrow = {"arrowstyle": "-", "linewidth": 0.5, "color": style.get("color", "black")}
    return place_label(ax, ax.annotate(string, point, point, arrowprops=arrow, **style))

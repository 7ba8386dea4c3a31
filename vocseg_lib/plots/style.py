"""Style of all figures: each returns its axes and has a caption; one axes can be given as `ax`."""

import textwrap
import unicodedata
import warnings
from collections.abc import Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import font_manager
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, FuncFormatter

from vocseg_lib.utils.files import atomic_write

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#999999")
"""Okabe and Ito's colors, which color-blind readers can tell apart."""
MAX_SHOWN_NAME, MAX_LINE, MAX_LINES, MAX_CAPTION = 40, 180, 30, 6
"""Characters of a name and of a line, lines of a text and of a caption; longer ones are cut."""
MAX_UPRIGHT_BARS = 25
"""Classes of a bar chart whose names fit below it."""
HIDE = "\u200b"  # before an underscore, which would keep a label out of the legend
MAX_WIDTH = 9.0
"""Inches of a figure: a notebook's column at 100 %."""
NAMED = (FixedFormatter, FuncFormatter)  # of axes whose ticks have names
TURNING = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
MODEL_COLORS = {"YOLACT": COLORS[0], "Mask R-CNN": COLORS[1]}


def model_color(name: str, index: int) -> str:
    """The color of one of the two models, or for another, the `index`-th of the rest."""
    return MODEL_COLORS.get(name, COLORS[2 + index % (len(COLORS) - 2)])


_without_font = set()  # characters, reported


def use_fonts_for(texts: Iterable[str]) -> None:
    """Let figures fall back on installed fonts for characters that the present ones do not have.

    Prints once which package brings a font, if none has them.
    """
    shown = {c for text in texts for c in str(text) if ord(c) > 127 and c.isprintable()}
    families = list(plt.rcParams["font.family"])
    for family in families:
        if shown:
            font = font_manager.findfont(font_manager.FontProperties(family=[family]))
            shown -= _characters(font)
    missing = {c for c in shown - _without_font if not "\ufe00" <= c <= "\ufe0f"}
    if not missing:
        return
    coverage = _find_fonts(missing)
    while missing and coverage:
        best = max(coverage, key=lambda family: len(coverage[family] & missing))
        missing -= (found := coverage.pop(best) & missing)
        families += [best] if found else []
    plt.rcParams["font.family"] = families
    if missing:
        _without_font.update(missing)
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        packages = " ".join(sorted(set(map(_package, missing))))
        print(
            f"no installed font has {' '.join(sorted(missing)[:10])}: figures show boxes for such "
            f"characters; install one (Debian, Ubuntu, Colab: apt-get install {packages})"
        )


@cache
def _characters(font: str) -> frozenset[str]:
    return frozenset(map(chr, font_manager.get_font(font).get_charmap()))


def _find_fonts(characters: set[str]) -> dict[str, set[str]]:
    """Which of some characters each installed family has, sans-serif families first."""
    fonts = font_manager.fontManager
    known = {entry.fname for entry in fonts.ttflist}
    for path in {*font_manager.findSystemFonts()} - known:  # installed after Matplotlib's first use
        try:
            fonts.addfont(path)
        except (OSError, RuntimeError, ValueError):  # not usable, such as bitmaps
            continue
    upright = [entry for entry in fonts.ttflist if entry.style == "normal"]
    # Fonts of last resort have a box for each character.
    upright = [e for e in upright if "lastresort" not in e.name.lower().replace(" ", "")]
    upright.sort(key=lambda entry: ("sans" not in entry.name.lower(), entry.name))
    coverage = {}
    for entry in upright:
        if entry.name not in coverage:
            coverage[entry.name] = characters & _characters(entry.fname)
    return coverage


def _package(character: str) -> str:
    """Debian's package of a font with a character."""
    if unicodedata.category(character) == "So":
        return "fonts-symbola"
    name = unicodedata.name(character, "")
    is_cjk = name.startswith(("CJK", "HANGUL", "HIRAGANA", "KATAKANA"))
    return "fonts-noto-cjk" if is_cjk else "fonts-noto-core"


def short(name: object, most: int = MAX_SHOWN_NAME) -> str:
    """A name in one line, its middle left out if it is long."""
    text = " ".join(_printable(str(name)).split())
    return text if len(text) <= most else f"{text[: most // 2]}…{text[1 - most // 2 :]}"


def as_label(name: object) -> str:
    """A short name as an artist's label, from which a legend is made."""
    return HIDE * str(name).lstrip().startswith("_") + short(name)


def show_as_written(*artists: Artist) -> None:
    """Let the texts of artists be no math but what is written, legible, and in installed fonts.

    Names of files and classes may hold anything. Numbers of axes, such as powers of ten, stay math.
    """
    texts = [text for artist in artists for text in _texts(artist)]
    use_fonts_for(text.get_text() for text in texts)
    for text in texts:
        text.set(parse_math=False, usetex=False, fontfamily=plt.rcParams["font.family"])
        text.set_text(_legible(text.get_text()))


def _texts(artist: Artist) -> Iterator[Text]:
    if isinstance(artist, Text):
        yield artist
    numbers = isinstance(artist, Axis) and not isinstance(artist.get_major_formatter(), NAMED)
    for child in [artist.label] if numbers else artist.get_children():
        yield from _texts(child)


def _legible(text: str) -> str:
    """A text without control characters, of at most `MAX_LINES` lines."""
    lines = _printable(text.replace(HIDE, "")).split("\n")
    lines = lines if len(lines) <= MAX_LINES else [*lines[: MAX_LINES - 1], "…"]
    return "\n".join(x if len(x) <= MAX_LINE else short(x, MAX_LINE) for x in lines)


def _printable(text: str) -> str:
    """A text with a sign for control characters but line ends, and none that turn its direction."""
    control = {c for c in text if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")} - {*"\n\t"}
    signs = dict.fromkeys(map(ord, control), "\ufffd")
    return text.translate(signs | dict.fromkeys(map(ord, TURNING)) | {ord("\t"): " "})


def _with_caption(title: str, caption: str, width: int) -> str:
    caption = textwrap.fill(caption, width, max_lines=MAX_CAPTION, placeholder=" …")
    return f"{title}\n{caption}"


def add_title(ax: Axes, title: str, caption: str, wrap: int = 70) -> Axes:
    """Title and, below it, the line that says what the figure shows."""
    ax.set_title(_with_caption(title, caption, wrap), loc="left", fontsize=10)
    show_as_written(ax)
    return ax


def add_suptitle(axes: np.ndarray | Figure, title: str, caption: str) -> np.ndarray | Figure:
    """Title and caption of the figure of some axes, or of a figure; returns what was given."""
    figure = axes if isinstance(axes, Figure) else axes[0].figure
    text = _with_caption(title, caption, int(11 * figure.get_figwidth()))
    figure.suptitle(text, x=0.01, ha="left", fontsize=10)
    show_as_written(figure)
    return axes


def save_figure(figure: Figure | Axes, results: str | Path, name: str) -> None:
    """Write a figure to `results`/figures/`name`.png."""
    write_figure(figure, Path(results) / "figures" / f"{name}.png")


def write_figure(figure: Figure | Axes, path: Path, **options: Any) -> None:
    """Write a figure as PNG, at most 1,000 pixels wide; with options of `savefig`."""
    figure = figure if isinstance(figure, Figure) else figure.figure
    with atomic_write(path) as temporary:
        options |= {"dpi": 110, "bbox_inches": "tight", "pad_inches": 0.04}
        figure.savefig(temporary, format=path.suffix[1:], **options)


def new_axes(count: int, columns: int, panel: tuple[float, float]) -> np.ndarray:
    """A flat array of `count` axes in a grid of panels (inches), the spare ones hidden.

    There are fewer columns where the figure would be wider than `MAX_WIDTH`.
    """
    columns = max(1, min(columns, count, int(MAX_WIDTH / panel[0] + 1e-9)))
    rows = -(-count // columns)
    size = (panel[0] * columns, panel[1] * rows)
    _, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for spare in grid.ravel()[count:]:
        spare.axis("off")
    return grid.ravel()[:count]


def new_ax(ax: Axes | None, size: tuple[float, float] = (7, 4)) -> Axes:
    """`ax`, or the axes of a new figure (inches)."""
    return plt.subplots(figsize=size, layout="constrained")[1] if ax is None else ax


def class_bars(
    values: pd.DataFrame, class_label: str, value_label: str, colors: list[str], ax: Axes | None
) -> Axes:
    """Bars per class (index) and column; of many classes, horizontal ones."""
    shown = values.rename(index=partial(short, most=24), columns=as_label)
    upright = len(values) <= MAX_UPRIGHT_BARS
    ax = new_ax(ax, (9, 3.8 if upright else 1.2 + 0.17 * len(values)))
    shown.plot(kind="bar" if upright else "barh", ax=ax, color=colors, width=0.8)
    labels = {"xlabel": class_label, "ylabel": value_label}
    if upright:
        ax.tick_params(axis="x", labelrotation=60)
    else:
        labels = {"ylabel": class_label, "xlabel": value_label}
        ax.tick_params(axis="y", labelsize=8)
        ax.invert_yaxis()
        ax.margins(y=0.01)
    ax.set(**labels)
    return ax

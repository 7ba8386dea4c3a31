"""Ground truth, pictures and predictions whose names are scripts, markup, math or hard to draw."""

import json

from PIL import Image

from tests.helpers import shapes
from tests.helpers.coco import ground_truth_of
from tests.helpers.shapes import FAR, LEFT, RIGHT, shape

MARK = "ran"  # what a script of a name would set the page's title to
RUN = f"document.title='{MARK}'"
NAMES = (
    f"<script>{RUN}</script>",
    f'"><img src=x onerror="{RUN}"><svg onload="{RUN}">',
    f"</title></style></script></pre><script>{RUN}</script>",
    f"<a href=\"javascript:{RUN}\">x</a> [x](javascript:alert(1)) 'y'",
    "{{ 7 * 7 }} {% raw %} %d {0} 50 %",
    "$a$ and $b$",
    r"$\frac{1 $ \$ | `x` &amp;",
    "_x",
    "a - b one\ntwo\x07\x1b[31m \u202edlrow \u732b \U0001f431",
    "very long " * 90 + "name",
)
TITLES = (f"_$a$ - $b$ <img src=x onerror={RUN}>", f"y - _$\\frac$ <svg onload={RUN}>")
"""Names of prediction files."""


def write_files(folder):
    """Ground truth (JSON), a folder of its pictures, and two prediction files of its images."""
    folder.mkdir(parents=True, exist_ok=True)
    (pictures := folder / "pictures").mkdir()
    count, objects, first, second = len(NAMES), [], [], []
    for k in range(1, count + 1):
        other = k % count + 1
        objects += [shape(m, c, image=k) for m, c in ((LEFT, k), (RIGHT, k), (FAR, other))]
        first += [shape(LEFT | RIGHT, k, 0.9, image=k, uncropped=shapes.EVERYWHERE)]
        first += [shape(FAR, c, score, image=k) for c, score in ((k, 0.8), (k, 0.7))]
        second += [shape(LEFT, k, 0.9, image=k), shape(FAR, other, 0.6, image=k)]
    content = ground_truth_of(*objects, images=count)
    content["categories"] = [{"id": k, "name": name} for k, name in enumerate(NAMES, 1)]
    for image, name in zip(content["images"], NAMES, strict=True):
        size = {"height": shapes.SIDE, "width": shapes.SIDE}
        image |= size | {"file_name": f"{name.replace('/', ' ')[:200].strip()}.png"}
        Image.new("RGB", (shapes.SIDE, shapes.SIDE)).save(pictures / image["file_name"])
    (folder / "gt.json").write_text(json.dumps(content))
    files = [folder / f"{title}.json" for title in TITLES]
    for path, detections in zip(files, (first, second), strict=True):
        path.write_text(json.dumps(detections))
    return folder / "gt.json", pictures, files

"""Pictures with a colored box, their COCO annotations, and what an import made of them."""

import json

import numpy as np
from PIL import Image

from vocseg_lib.data.voc import read_sample

COLOR = (250, 20, 20)
TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180}
TURNS |= {4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE}
TURNS |= {6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE}
TURNS |= {8: Image.Transpose.ROTATE_90}


def read_maps(devkit, name):
    folders = ("SegmentationObject", "SegmentationClass")
    return [np.array(Image.open(devkit / folder / f"{name}.png")) for folder in folders]


def color_under_mask(devkit, name):
    sample = read_sample(devkit, name)
    return sample.image.float()[:, sample.masks[0] > 0].mean(1).round().tolist()


def write_coco(path, images, annotations=(), names=("cat",)):
    """Annotations at `path` of images (file name, (width, height)) and (image, xywh[, extra])."""
    path.parent.mkdir(parents=True, exist_ok=True)
    entries, listed = [], []
    for k, (name, (width, height)) in enumerate(images, 1):
        entries.append({"id": k, "file_name": name, "width": width, "height": height})
    for k, (image, (x, y, w, h), *extra) in enumerate(annotations, 1):
        polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
        a = {"id": k, "image_id": image, "category_id": 1, "iscrowd": 0, "bbox": [x, y, w, h]}
        listed.append(a | {"area": w * h, "segmentation": [polygon]} | dict(*extra))
    categories = [{"id": k, "name": name} for k, name in enumerate(names, 1)]
    content = {"images": entries, "annotations": listed, "categories": categories}
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def picture(path, size=(60, 40), box=(5, 6, 20, 10), orientation=1, color=COLOR):
    """A picture, stored so that it is shown with a colored box (xywh)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = Image.new("RGB", size, (90, 90, 90))
    shown.paste(color, (box[0], box[1], box[0] + box[2], box[1] + box[3]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    back = {6: TURNS[8], 8: TURNS[6]}.get(orientation, TURNS.get(orientation))
    stored = shown.transpose(back) if back is not None else shown
    stored.save(path, exif=exif, **({"quality": 100} if path.suffix == ".jpg" else {}))
    with Image.open(path) as image:
        assert image.getexif().get(0x0112, 1) == orientation  # BMP has none
    return stored.size


def plain_set(folder, count=10):
    for k in range(count):
        picture(folder / f"{k}.jpg")
    images = [(f"{k}.jpg", (60, 40)) for k in range(count)]
    return write_coco(folder / "a.json", images, [(k + 1, (5, 6, 20, 10)) for k in range(count)])

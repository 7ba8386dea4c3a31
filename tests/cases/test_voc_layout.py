"""VOC's layout as tools write it: endings, colors, class lists, turned pictures, splits."""

import numpy as np
import pytest
from PIL import Image

from tests.helpers.cli import vocseg
from tests.helpers.layout import CLASSES, OBJECTS, write_devkit
from tests.helpers.trainings import SHORT
from vocseg_lib.data.classes import palette
from vocseg_lib.data.coco_convert import voc_to_coco
from vocseg_lib.data.image_files import BadFile
from vocseg_lib.data.verify import verify
from vocseg_lib.data.voc import class_names, fingerprint, read_sample, split_ids

pytestmark = pytest.mark.filterwarnings("ignore:.*read by color")


def annotations_by_name(devkit, split):
    """Class names of the objects of each image, as evaluation sees them."""
    gt = voc_to_coco(devkit, split)
    names = {c["id"]: c["name"] for c in gt["categories"]}
    return {
        i["file_name"]: sorted(
            names[a["category_id"]] for a in gt["annotations"] if a["image_id"] == i["id"]
        )
        for i in gt["images"]
    }


def test_endings_in_jpegimages(case):
    for folder in sorted(p for p in case("endings_in_jpegimages").iterdir() if p.is_dir()):
        assert verify(folder) == []
        files = {path.name for path in (folder / "JPEGImages").iterdir()}
        assert {*annotations_by_name(folder, "train"), *annotations_by_name(folder, "val")} == files


def test_palette_repacked(case):
    devkit = case("palette_repacked") / "data"
    with pytest.warns(UserWarning, match="read by color"):
        kinds = {(p.kind, p.path.parent.name) for p in verify(devkit)}
    assert kinds == {("palette", "SegmentationClass")}
    named = annotations_by_name(devkit, "train")
    assert list(named.values()) == [["dog", "person"]] * 2
    for name in split_ids(devkit, "train"):
        rgb = np.array(Image.open(devkit / f"SegmentationClass/{name}.png").convert("RGB"))
        sample = read_sample(devkit, name)
        for mask, label in zip(sample.masks.numpy(), sample.labels.tolist(), strict=True):
            assert (rgb[mask > 0] == palette()[label]).all()


def test_cvat_segmentation_mask_export(case, tmp_path):
    devkit = case("cvat_segmentation_mask_export") / "data"
    assert class_names(devkit) == ("cat", "dog")
    missing = {("missing split list", f"{split}.txt") for split in ("train", "val")}
    assert {(p.kind, p.path.name) for p in verify(devkit)} == missing
    for name in split_ids(devkit, "default"):
        rgb = np.array(Image.open(devkit / f"SegmentationClass/{name}.png"))
        objects = np.array(Image.open(devkit / f"SegmentationObject/{name}.png"))
        sample = read_sample(devkit, name)
        for mask, label in zip(sample.masks.numpy(), sample.labels.tolist(), strict=True):
            assert (rgb[mask > 0] == {1: (128, 0, 0), 2: (0, 128, 0)}[label]).all()
            assert np.array_equal(mask > 0, (objects == objects[mask > 0][0]).all(2))
    done = vocseg("train", "--model", "yolact", "--data", devkit, "--results", tmp_path / "res")
    assert done.exit_code == 2
    assert all(word in done.stderr for word in ("default", "train.txt", "val.txt"))
    done = vocseg("verify", devkit, "--splits", "nosuch")
    assert (done.exit_code, "default" in done.stderr) == (2, True)


def test_verify_cries_truncated(case):
    devkit = case("verify_cries_truncated") / "data"
    assert verify(devkit) == []
    for path in sorted((devkit / "JPEGImages").iterdir()):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    found = {p.path.name for p in verify(devkit)}
    assert found >= {"i0.jpg", "i2.jpg", "i3.jpg"}  # i1 is a small JPEG before a long clip


def test_fingerprint_blind_to_train_val_boundary(case, tmp_path):
    devkit = case("fingerprint_blind_to_train_val_boundary") / "data"
    command = ("train", "--model", "yolact", "--data", devkit, "--results", tmp_path / "res")
    command += ("--set", *SHORT)
    assert vocseg(*command).exit_code == 0
    before, lists = fingerprint(devkit), devkit / "ImageSets/Segmentation"
    lists.joinpath("train.txt").write_text("i0\ni1\ni2\ni3\ni4\n")
    lists.joinpath("val.txt").write_text("i5\ni6\ni7\n")
    assert fingerprint(devkit) != before
    done = vocseg(*command)
    assert (done.exit_code, "fingerprint" in done.stderr) == (2, True)


def test_fingerprint_sees_the_file_of_a_picture(tmp_path):
    devkit = write_devkit(tmp_path / "d")
    before = fingerprint(devkit)
    (devkit / "JPEGImages/a0.png").rename(devkit / "JPEGImages/a0.PNG")
    assert fingerprint(devkit) != before
    (devkit / "JPEGImages/a0.PNG").rename(devkit / "JPEGImages/a0.png")
    assert fingerprint(devkit) == before
    (devkit / "labelmap.txt").write_text("person:192,128,128::\ndog:64,0,128::\n")
    assert fingerprint(devkit) != before


def repack(path, order):
    """The map with only the used colors in its palette, in another order."""
    values = np.array(Image.open(path))
    used = np.unique(values)[list(order)]
    new = np.zeros(256, np.uint8)
    new[used] = range(len(used))
    image = Image.fromarray(new[values])
    image.putpalette(palette()[used].ravel().tolist())
    image.save(path)


def to_rgb(path, mode="RGB"):
    Image.open(path).convert(mode).save(path)


def gray_palette(path):
    """A gray map whose tool wrote a palette of the used grays."""
    values = np.array(Image.open(path))
    used = np.unique(values)
    image = Image.fromarray(np.searchsorted(used, values).astype(np.uint8))
    image.putpalette(np.repeat(used, 3).tolist())
    image.save(path)


def to_gray(path, mode="L"):
    Image.fromarray(np.array(Image.open(path))).convert(mode).save(path)


def to_uint16(path):
    Image.fromarray(np.array(Image.open(path)).astype(np.uint16)).save(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda p: repack(p, (0, 1, 2, 3)),
        lambda p: repack(p, (3, 2, 0, 1)),
        to_rgb,
        lambda p: to_rgb(p, "RGBA"),
        gray_palette,
        to_gray,
        lambda p: to_gray(p, "RGB"),
        lambda p: to_gray(p, "LA"),
        to_uint16,
        lambda p: p.rename(p.with_suffix(".PNG")),
    ],
)
def test_maps_that_look_alike_are_read_alike(tmp_path, change):
    devkit = write_devkit(tmp_path / "d")
    for folder in ("SegmentationClass", "SegmentationObject"):
        change(devkit / folder / "a0.png")
    path = devkit / "SegmentationClass/a0.png"
    by_color = path.is_file() and Image.open(path).mode == "P"
    assert [p.kind for p in verify(devkit, ["train"])] == ["palette"] * by_color
    sample = read_sample(devkit, "a0")
    masks = dict(zip(sample.labels.tolist(), sample.masks.bool().tolist(), strict=True))
    assert masks == {k: (CLASSES == k).tolist() for k in (12, 15)}
    assert np.array_equal(sample.void, CLASSES == 255)


@pytest.mark.parametrize("color", [(255, 0, 0), (12, 200, 7)])
def test_unknown_colors_are_refused_by_name(tmp_path, color):
    devkit = write_devkit(tmp_path / "d")
    path = devkit / "SegmentationClass/a0.png"
    pixels = np.array(Image.open(path).convert("RGB"))
    pixels[CLASSES == 15] = color
    Image.fromarray(pixels).save(path)
    with pytest.raises(BadFile, match=r"labelmap\.txt") as caught:
        read_sample(devkit, "a0")
    assert (caught.value.path, caught.value.kind) == (path, "unknown colors")
    assert str(color[0]) in caught.value.reason
    (devkit / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ndog:64,0,128::\n"
        f"my cat:{','.join(map(str, color))}::\nignored:224,224,192::\n"
    )
    assert class_names(devkit) == ("dog", "my cat")
    assert read_sample(devkit, "a0").labels.tolist() == [2, 1]


def test_palettes_of_other_colors_keep_their_numbers(tmp_path):
    devkit = write_devkit(tmp_path / "d")
    for folder, values in (("SegmentationClass", CLASSES), ("SegmentationObject", OBJECTS)):
        image = Image.fromarray(values)
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
        image.save(devkit / folder / "a0.png")
    assert read_sample(devkit, "a0").labels.tolist() == [15, 12]


def test_a_map_has_at_most_254_objects(tmp_path):
    devkit = write_devkit(tmp_path / "d")
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[1:, :, 1] = (np.arange(570) % 255 + 1).reshape(19, 30)
    pixels[1:, :, 0] = 1
    Image.fromarray(pixels).save(devkit / "SegmentationObject/a0.png")
    with pytest.raises(BadFile) as caught:
        read_sample(devkit, "a0")
    assert caught.value.kind == "too many objects"


LISTS = [
    ("classes.txt", "cat\r\ndog\r\n", ("cat", "dog")),
    ("labels.txt", "__ignore__\n_background_\ncat\ndog\n", ("cat", "dog")),
    ("class_names.txt", "\ufeff_background_\ncat\n dog \n", ("cat", "dog")),
    (
        "labelmap.txt",
        "# x\nbackground:0,0,0::\na:b:1,2,3::\ncat\ndog:4,5,6\n",
        ("a:b", "cat", "dog"),
    ),
]


@pytest.mark.parametrize(("file", "text", "names"), LISTS)
def test_each_class_list_is_read_where_it_is_the_only_one(tmp_path, file, text, names):
    devkit = write_devkit(tmp_path / "d")
    (devkit / file).write_text(text, encoding="utf-8", newline="")
    assert class_names(devkit) == names
    (devkit / "classes.txt").write_text("cat\nbird\n")
    if file == "class_names.txt":
        assert class_names(devkit) == names
    elif file != "classes.txt":
        with pytest.raises(ValueError, match=r"classes\.txt") as caught:
            class_names(devkit)
        assert file in str(caught.value)


BAD_LISTS = "cat,void|0 cat,1 dog|0: background,1: cat|cat,Cat|a b,ab"
BAD_LABELMAPS = "x:1;2;3::,y:1;2;3::|x:1;2|x:1;2;300::|x:y::"


@pytest.mark.parametrize("text", f"{BAD_LISTS}|{BAD_LABELMAPS}".split("|"))
def test_class_lists_that_say_two_things_or_none_are_refused(tmp_path, text):
    devkit = write_devkit(tmp_path / "d")
    path = devkit / ("labelmap.txt" if text.startswith("x:") else "Classes.txt")
    path.write_text(text.replace(",", "\n").replace(";", ","))
    with pytest.raises(ValueError, match=str(path)):
        read_sample(devkit, "a0") if "x:" not in text else fingerprint(devkit)
    with pytest.raises(ValueError, match=str(path)):
        verify(devkit)


def test_files_in_the_wrong_place_are_named(tmp_path):
    devkit = write_devkit(tmp_path / "d")
    picture = devkit / "JPEGImages/a0.png"
    Image.open(picture).save(picture.with_suffix(".bmp"))
    picture.unlink()
    (problem,) = [p for p in verify(devkit) if p.kind == "missing"]
    assert "a0.bmp" in problem.reason
    (devkit / "SegmentationClass").rename(devkit / "Classes")
    with pytest.raises(FileNotFoundError, match="has no SegmentationClass;"):
        verify(tmp_path / "d")


def test_class_lists_with_comments_digits_and_another_case(tmp_path):
    devkit = write_devkit(tmp_path / "d")
    (devkit / "Class_Names.TXT").write_text("# our classes\n0\n1\n2\n")
    assert class_names(devkit) == ("0", "1", "2")
    assert "classes: 1 0, 2 1, 3 2" in vocseg("verify", devkit).stdout


def test_two_pictures_of_one_name_are_reported(tmp_path):
    devkit = write_devkit(tmp_path / "d")
    Image.new("RGB", (30, 20)).save(devkit / "JPEGImages/a0.JPG")
    (problem,) = [p for p in verify(devkit) if p.kind == "two pictures"]
    assert problem.path.name == "a0.JPG"
    assert "a0.png" in problem.reason


def test_names_with_dots_blanks_and_endings(tmp_path):
    devkit = write_devkit(tmp_path / "d", (1, 1, 1))
    for old, new in (("a0", "my photo 1"), ("a1", "scene.v2.1"), ("a2", "x")):
        for path in devkit.glob(f"*/{old}.png"):
            path.rename(path.with_name(f"{new}.WebP" if "JPEG" in str(path) else f"{new}.png"))
    lines = "my photo 1.webp\nscene.v2.1\nx.jpg\nx  -1\n"
    (devkit / "ImageSets/Segmentation/val.txt").write_text(lines)
    assert split_ids(devkit, "val") == ["my photo 1", "scene.v2.1", "x", "x"]
    assert all(len(read_sample(devkit, name).labels) == 2 for name in split_ids(devkit, "val"))

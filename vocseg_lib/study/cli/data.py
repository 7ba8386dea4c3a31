"""Commands on data: download, check, convert."""

from pathlib import Path
from typing import Annotated

import typer

from vocseg_lib.study.cli import options as cli
from vocseg_lib.study.cli.options import Devkit, Split, text, texts


@cli.command("fetch")
def fetch_command(
    folder: Annotated[str, typer.Argument(help="folder to write to")] = "data/voc2012",
) -> None:
    """Download VOC 2012 (2.0 GB), check and unpack it."""
    from vocseg_lib.data.download import fetch

    print(fetch(folder))


@cli.command("verify")
def verify_command(
    data: cli.AnyData,
    splits: texts("splits to read; default: train, val, trainval", "SPLIT") = (),
    images: cli.ImageFolder = "",
) -> None:
    """Report every problem of a devkit or COCO file; exit code 1 if there is one."""
    cli.require(data, images)
    from vocseg_lib.data.classes import class_names
    from vocseg_lib.data.coco_convert import verify_coco
    from vocseg_lib.data.verify import verify
    from vocseg_lib.data.voc import find_devkit

    is_json = Path(data).suffix.lower() == ".json"
    if splits if is_json else images:
        raise ValueError("--splits is for devkits, --images for COCO annotations (JSON)")
    if is_json:
        problems, notes = verify_coco(data, images=images)
    else:
        problems, names = verify(data, splits or None), class_names(find_devkit(data))
        notes = ["classes: " + ", ".join(f"{k} {name}" for k, name in enumerate(names, 1))]
    lines = [*notes, *(f"{bad.kind}: {bad}" for bad in problems)]
    print(*lines, f"{len(problems)} problems in {data}", sep="\n")
    raise typer.Exit(1 if problems else 0)


@cli.command("import-coco")
def import_coco(
    annotations: Annotated[
        str, typer.Argument(metavar="FILE", help="COCO annotations with masks (JSON) for train")
    ],
    out: text("devkit to write", "DIR"),
    val: text("those for val; default: see docs/own_data.md", "FILE") = "",
    images: cli.ImageFolder = "",
    crowds_as_objects: cli.CrowdsAsObjects = False,
) -> None:
    """Write images with COCO annotations as a devkit."""
    cli.require(annotations, val, images)
    from vocseg_lib.data.coco_convert import coco_to_voc

    print(coco_to_voc(annotations, out, val, images, crowds_as_objects))


@cli.command("export-coco")
def export_coco(
    devkit: Devkit, out: text("file to write (JSON)", "FILE"), split: Split = "val"
) -> None:
    """Write a devkit's instances as COCO ground truth (JSON)."""
    cli.check_output(out, b'{"info": {"devkit"')
    cli.require(devkit)
    from vocseg_lib.data.coco_convert import voc_to_coco
    from vocseg_lib.utils.files import write_json

    content = voc_to_coco(devkit, split)
    write_json(Path(out), content)
    print(f"{len(content['images'])} images, {len(content['annotations'])} objects: {out}")

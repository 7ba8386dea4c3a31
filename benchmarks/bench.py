"""`make bench`: speed and memory, each time as a ratio to torchvision's ResNet-50 body timed in alternation in the same run."""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models.detection.roi_heads import paste_masks_in_image
from tqdm import tqdm

from benchmarks.cases import (
    HEIGHT,
    WIDTH,
    log_uniform_boxes,
    make_yolact,
    plain_masks,
    plain_path,
    relative_error,
    synthetic_results,
    train_step,
    training_batch,
)
from vocseg_lib.data import synthetic
from vocseg_lib.data.coco import validate_ground_truth, validate_results
from vocseg_lib.data.loader import SeededSamples, load_batches
from vocseg_lib.data.transforms import SsdAugmentation
from vocseg_lib.data.voc import VocDataset, find_devkit
from vocseg_lib.failures.analysis import analyze
from vocseg_lib.failures.crowding import by_crowding
from vocseg_lib.failures.oracles import single_oracles
from vocseg_lib.metrics.coco_eval import IOU_TYPES, backends, evaluate, run_coco_eval
from vocseg_lib.utils.device import autocast, keep_freed_memory, peak_memory_gb
from vocseg_lib.utils.environment import git_commit
from vocseg_lib.utils.files import read_json, write_json
from vocseg_lib.utils.masks import paste_masks

TOLERANCE = 1e-4
TARGETS = {
    "yolact_forward": ("at most", 1.55),
    "yolact_infer": ("at most", 1.65),
    "yolact_postprocess": ("at most", 0.06),
    "yolact_infer_bf16": ("at most", 0.95),
    "yolact_train_step": ("at most", 10.0),
    "yolact_train_step_bf16": ("at most", 5.5),
    "yolact_train_peak_gb": ("at most", 2.5),
    "mask_rcnn_paste_speedup": ("at least", 10.0),
    "failures_seconds_per_1000_images": ("at most", 41.0),  # 60 s for VOC's 1,449 images of val
}
PARTS = ("memory", "inference", "training", "paste", "data", "evaluation", "failures")
BATCH = 8
"""Images in a batch of the data path's figures."""
OFFICIAL = {
    "yolact_forward": 1.85,
    "yolact_infer": 2.0,
    "yolact_postprocess": 0.14,
    "yolact_train_step": 12.0,
    "yolact_train_peak_gb": 2.75,
}
"""What dbolya/yolact took on a quiet machine with 2 cores, in the same unit."""


def time_alternating(first: Callable, second: Callable, repeats: int) -> tuple[float, float]:
    """Median seconds of both, run in turn `repeats` times after a warm-up of two turns."""
    seconds = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        first()
        middle = time.perf_counter()
        second()
        seconds.append((middle - start, time.perf_counter() - middle))
    firsts, seconds = zip(*seconds[2:], strict=True)
    return statistics.median(firsts), statistics.median(seconds)


def measure_inference(body: Callable, repeats: int) -> Iterator[tuple[str, dict]]:
    model, image = make_yolact(), torch.rand(3, HEIGHT, WIDTH)
    with torch.inference_mode():
        out = model.network([image])
        (found,) = model.postprocess(out)
        if len(found["scores"]) != 100:
            raise RuntimeError(f"expected 100 detections to be timed, got {len(found['scores'])}")
        plain = plain_path(model).network([image])
        names = ("class_logits", "box_offsets", "coefficients", "prototypes")
        error = max(relative_error(out[name], plain[name]) for name in names)
        pixels = (found["masks"] != plain_masks(out)).float().mean().item()

        def mixed() -> None:
            with autocast("cpu", True):
                model([image])

        forward = {"check": "outputs equal to convolution and batch norm apart", "error": error}
        masks = {"check": "pixels equal to masks interpolated over the image", "error": pixels}
        yield "yolact_forward", ratio(body, lambda: model.network([image]), repeats) | forward
        yield "yolact_postprocess", ratio(body, lambda: model.postprocess(out), repeats) | masks
        yield (
            "yolact_infer",
            ratio(body, lambda: model([image]), repeats) | {**forward, "error": max(error, pixels)},
        )
        yield "yolact_infer_bf16", ratio(body, mixed, repeats)


def measure_training(body: Callable, repeats: int) -> Iterator[tuple[str, dict]]:
    model, batch = make_yolact(train=True), training_batch()
    with torch.no_grad():
        losses, plain = (torch.stack(list(m(*batch).values())) for m in (model, plain_path(model)))
    check = {
        "check": "losses equal to convolution and batch norm apart",
        "error": relative_error(losses, plain),
    }
    with keep_freed_memory():  # as `train` does
        step = ratio(body, train_step(model, False), repeats)
        step_bf16 = ratio(body, train_step(model, True), repeats)
    yield "yolact_train_step", step | check
    yield "yolact_train_step_bf16", step_bf16


def measure_paste(repeats: int) -> dict:
    """100 masks pasted into an image and kept where over .5, by torchvision and by us."""
    boxes, masks = log_uniform_boxes(100), torch.rand(100, 1, 28, 28)

    def theirs() -> Tensor:
        return paste_masks_in_image(masks, boxes, (HEIGHT, WIDTH))[:, 0] > 0.5

    def ours() -> Tensor:
        return paste_masks(masks[:, 0], boxes, HEIGHT, WIDTH)

    with torch.inference_mode():
        error = (ours() != theirs()).float().mean().item()
        slow, fast = time_alternating(theirs, ours, 3 * repeats)
    return {
        "value": slow / fast,
        "seconds": fast,
        "base_seconds": slow,
        "check": "pixels equal to torchvision's",
        "error": error,
    }


def measure_peak() -> dict:
    """Peak memory of a process of its own that does two training steps."""
    command = [sys.executable, "-c", f"from {__name__} import peak_gb; print(peak_gb())"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {"value": float(done.stdout), "check": "whole process, two training steps"}


def peak_gb() -> float:
    """Two training steps, then the most memory that this process ever had, in GB."""
    step = train_step(make_yolact(train=True), False)
    with keep_freed_memory():  # as `train` does
        step()
        step()
    return peak_memory_gb()


def measure_data(devkit: str | Path, repeats: int) -> Iterator[tuple[str, dict]]:
    """Decoding, augmenting and collating batches on one core, as a worker process does."""
    dataset = SeededSamples(VocDataset(devkit, "train", SsdAugmentation()), 0)
    loader = load_batches(dataset, [range(i * BATCH, (i + 1) * BATCH) for i in range(repeats + 2)])
    batches, seconds = iter(loader), []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(repeats + 2):
        start = time.perf_counter()
        next(batches)
        seconds.append(time.perf_counter() - start)
    torch.set_num_threads(threads)
    median = statistics.median(seconds[2:])  # after a warm-up
    data = f"{devkit}, batches of {BATCH}, SSD augmentation"
    yield (
        "data_images_per_second_per_core",
        {"value": BATCH / median, "seconds": median, "check": data},
    )


def measure_evaluation(devkit: str | Path, repeats: int) -> dict:
    """Judging masks and boxes of a VOC-val-sized prediction file by the fastest evaluator, over pycocotools."""
    truth, found = synthetic_results(devkit)
    truth = validate_ground_truth(truth)
    found = validate_results(truth, found)
    fast, reference = backends()[0], "pycocotools"
    tables = [evaluate(truth, found, name).table for name in (fast, reference)]
    error = float((tables[0]["value"] - tables[1]["value"]).abs().max())

    def judge(name: str) -> Callable[[], list]:
        return lambda: [run_coco_eval(truth, found, kind, name) for kind in IOU_TYPES]

    slow, seconds = time_alternating(judge(reference), judge(fast), repeats)
    check = f"figures of {fast} equal to pycocotools', {len(truth['images'])} images, {len(found)} detections"
    return {
        "value": slow / seconds,
        "seconds": seconds,
        "base_seconds": slow,
        "check": check,
        "error": error,
    }


def measure_failures(devkit: str | Path, repeats: int) -> Iterator[tuple[str, dict]]:
    """All that `failures` says of a VOC-val-sized prediction file, against pycocotools' evaluation of the same file."""
    truth, found = synthetic_results(devkit)
    truth = validate_ground_truth(truth)
    found = validate_results(truth, found)

    def everything() -> None:
        analysis = analyze(evaluate(truth, found))
        tables = analysis.table, analysis.cases, single_oracles(analysis.dataset_eval)
        by_crowding({"drawn": analysis.dataset_eval}, analysis.thresholds.crowd_distance)
        if any(table.empty for table in tables):
            raise RuntimeError("nothing was found to fail")

    def judge() -> None:
        for kind in IOU_TYPES:
            run_coco_eval(truth, found, kind, "pycocotools")

    base, seconds = time_alternating(judge, everything, max(1, repeats // 3))
    what = f"{len(truth['images'])} images, {len(found)} detections: TIDE, pixels, cases, crowding, oracles"
    yield (
        "failures_seconds_per_1000_images",
        {"value": 1000 * seconds / len(truth["images"]), "seconds": seconds, "check": what},
    )
    facts = {
        "seconds": seconds,
        "base_seconds": base,
        "check": "over pycocotools' evaluation of masks and boxes of the same file",
    }
    yield "failures_over_evaluation", {"value": seconds / base, **facts}


def ratio(body: Callable, measured: Callable, repeats: int) -> dict:
    base, seconds = time_alternating(body, measured, repeats)
    return {"value": seconds / base, "seconds": seconds, "base_seconds": base}


def measure_masks(devkit: str | Path, repeats: int = 9, only: str = "") -> dict[str, dict]:
    """Every figure, or those of one of `PARTS`: `value`, and what it was timed under. Raises RuntimeError when a check fails."""
    torch.manual_seed(0)
    layers = nn.Sequential(*list(resnet50(weights=None).children())[:-2]).eval()
    image = torch.rand(1, 3, 550, 550)

    @torch.inference_mode()
    def body() -> None:
        layers(image)

    parts = {
        "memory": lambda: [("yolact_train_peak_gb", measure_peak())],
        "inference": lambda: measure_inference(body, 2 * repeats),
        "training": lambda: measure_training(body, repeats),
        "paste": lambda: [("mask_rcnn_paste_speedup", measure_paste(repeats))],
        "data": lambda: measure_data(devkit, 3 * repeats),
        "evaluation": lambda: [("eval_speedup", measure_evaluation(devkit, repeats))],
        "failures": lambda: measure_failures(devkit, repeats),
    }
    figures = {}
    with tqdm(desc="bench", unit="figure") as bar:
        for name, figure in chain.from_iterable(
            measured() for part, measured in parts.items() if only in ("", part)
        ):
            if figure.get("error", 0) > TOLERANCE:
                raise RuntimeError(
                    f"{name}: {figure['check']}? error {figure['error']:.1e}, allowed {TOLERANCE:.0e}"
                )
            figures[name] = {**figure, "commit": git_commit()}
            bar.update()
            bar.set_postfix({name: round(figure["value"], 2)})
    return figures


def table(figures: dict[str, dict]) -> pd.DataFrame:
    """A row a figure: value, what it should reach, what the official code takes, and what it was timed under."""
    rows = [
        {
            "figure": name,
            "target": " ".join(map(str, TARGETS.get(name, ()))),
            "official": OFFICIAL.get(name),
            **figure,
        }
        for name, figure in figures.items()
    ]
    return pd.DataFrame(
        rows, columns=["figure", "value", "target", "official", "seconds", "check", "error"]
    )


def report(figures: dict[str, dict]) -> dict:
    """What goes into bench.json: the value of each figure, `details` and the machine beside them."""
    machine = {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": git_commit(),
    }
    return {name: figure["value"] for name, figure in figures.items()} | {
        "details": figures,
        **machine,
        **versions,
    }


def markdown(written: dict) -> str:
    """The figures of a bench.json as the table of docs/speed.md."""
    if "details" not in written:
        raise ValueError("no figures of a bench: it has no `details`")
    head = "| | ours | to reach | official code |\n|---|---|---|---|\n"
    rows = [
        (name, figure["value"], *TARGETS.get(name, ("", "")), OFFICIAL.get(name, ""))
        for name, figure in written["details"].items()
    ]
    return head + "\n".join(
        f"| `{name}` | {value:.3g} | {how} {target} | {theirs} |"
        for name, value, how, target, theirs in rows
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", default="", metavar="DEVKIT", help="for the data path (default: synthetic images)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default="results/bench.json",
        metavar="FILE",
        help="JSON (default: %(default)s)",
    )
    parser.add_argument(
        "--table", type=Path, metavar="FILE", help="measure nothing; print FILE as a Markdown table"
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=9,
        help="timings of which the median is taken (default: %(default)s)",
    )
    parser.add_argument(
        "--only", choices=PARTS, default="", help="measure this part, and keep the rest of --out"
    )
    options = parser.parse_args()
    if options.table:
        print(markdown(read_json(options.table)))
        return 0
    devkit = (
        find_devkit(options.data) if options.data else synthetic.write(Path("data") / "mini_voc")
    )
    before = read_json(options.out)["details"] if options.only and options.out.is_file() else {}
    figures = before | measure_masks(devkit, options.repeats, options.only)
    print(table(figures).round(3).fillna("").to_string(index=False))
    write_json(options.out, report(figures))
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`make bench`: speed and memory, plain against sped up, in units of ResNet-50's body at 550 x 550.

Times are ratios to torchvision's body, timed in alternation in the same run.
"""

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from torchvision.models import resnet50
from tqdm import tqdm

from benchmarks.cases import (
    HEIGHT,
    WIDTH,
    Row,
    log_uniform_boxes,
    make_yolact,
    measure_large,
    relative_error,
    smooth_masks,
    synthetic_results,
    time_alternating,
    train_step,
    training_batch,
)
from benchmarks.peers import measure_codes, measure_mask_rcnn, measure_prediction
from vocseg_lib.data import synthetic
from vocseg_lib.data.loader import SeededSamples, load_batches
from vocseg_lib.data.transforms import SsdAugmentation
from vocseg_lib.data.voc import VocDataset, find_devkit
from vocseg_lib.failures.analysis import analyze
from vocseg_lib.failures.crowding import by_crowding
from vocseg_lib.failures.oracles import single_oracles
from vocseg_lib.metrics.coco_eval import IOU_TYPES, backends, evaluate, run_coco_eval
from vocseg_lib.models.box_resampling import PASTING
from vocseg_lib.models.mask_rcnn import paste_masks
from vocseg_lib.models.speedups import speed_up
from vocseg_lib.utils.device import autocast, keep_freed_memory, peak_memory_gb
from vocseg_lib.utils.environment import git_commit
from vocseg_lib.utils.files import read_json, write_json

TOLERANCE = 1e-4
TARGETS = {
    "yolact_forward": ("at most", 1.55),
    "yolact_infer": ("at most", 1.65),
    "yolact_postprocess": ("at most", 0.06),
    "yolact_infer_bf16": ("at most", 0.95),
    "yolact_train_step": ("at most", 10.0),
    "yolact_train_step_bf16": ("at most", 5.5),
    "yolact_train_peak_gb": ("at most", 2.5),
    "yolact_masks_to_rle_speedup": ("at least", 6.0),
    "mask_rcnn_masks_to_rle_speedup": ("at least", 8.0),
    "mask_rcnn_paste_speedup": ("at least", 10.0),
    "predict_efficiency_r50": ("at least", 0.9),
    "predict_efficiency_mobilenet": ("at least", 0.7),
    "mask_rcnn_infer_speedup": ("at least", 1.19),
    "mask_rcnn_train_step_speedup": ("at least", 1.2),
    "evaluate_large_peak_gb": ("at most", 4.0),
    "failures_seconds_per_1000_images": ("at most", 41.0),  # 60 s for VOC's 1,449 images of val
}
OFFICIAL = {
    "yolact_forward": 1.85,
    "yolact_infer": 2.0,
    "yolact_postprocess": 0.14,
    "yolact_train_step": 12.0,
    "yolact_train_peak_gb": 2.75,
}
"""dbolya/yolact on a quiet machine with 2 cores, in the same unit."""
PARTS = ("memory", "inference", "training", "codes", "paste", "prediction", "mask_rcnn", "data")
PARTS += ("evaluation", "failures", "large")
ASKED_FOR = ("large",)  # minutes long: with --only alone
DATA_BATCH = 8
"""Images per batch of the data path."""


def ratio(body: Callable, measured: Callable, repeats: int) -> Row:
    base, seconds = time_alternating(body, measured, repeats)
    return {"value": seconds / base, "seconds": seconds, "base_seconds": base}


def measure_inference(body: Callable, repeats: int) -> Iterator[tuple[str, Row]]:
    plain, model, image = make_yolact(), speed_up(make_yolact()), torch.rand(3, HEIGHT, WIDTH)

    def encode(detections: dict) -> dict:
        return model.encode(detections, (HEIGHT, WIDTH))

    def mixed() -> None:
        with autocast("cpu", True):
            model([image])

    with torch.inference_mode():
        out, plain_out = model.network([image]), plain.network([image])
        names = ("class_logits", "box_offsets", "coefficients", "prototypes")
        error = max(relative_error(out[name], plain_out[name]) for name in names)
        (detections,), (plain_detections,) = model.postprocess(out), plain.postprocess(out)
        if len(detections["scores"]) != 100:
            raise RuntimeError(f"expected 100 detections, got {len(detections['scores'])}")
        pixels = (detections["masks"] != plain_detections["masks"]).float().mean().item()
        forward = {"check": "outputs equal to the plain model's", "error": error}
        masks = {"check": "pixels equal to the plain model's", "error": pixels}
        both = {**forward, "error": max(error, pixels)}
        yield "yolact_forward", ratio(body, lambda: model.network([image]), repeats) | forward
        with_codes = ratio(body, lambda: [encode(d) for d in model.detect(out)], repeats)
        yield "yolact_postprocess", with_codes | masks
        yield "yolact_infer", ratio(body, lambda: model([image]), repeats) | both
        yield "yolact_infer_bf16", ratio(body, mixed, repeats)


def measure_training(body: Callable, repeats: int) -> Iterator[tuple[str, Row]]:
    plain, model = make_yolact(train=True), speed_up(make_yolact(train=True))
    batch = training_batch()
    with torch.no_grad():
        losses, plain_losses = (torch.stack(list(m(*batch).values())) for m in (model, plain))
    error = relative_error(losses, plain_losses)
    with keep_freed_memory():  # as `train` does
        step = ratio(body, train_step(model, False), repeats)
        step_bf16 = ratio(body, train_step(model, True), repeats)
    yield "yolact_train_step", step | {"check": "losses equal to the plain model's", "error": error}
    yield "yolact_train_step_bf16", step_bf16


def measure_paste(repeats: int) -> Row:
    """100 masks pasted into an image, by torchvision and in their boxes."""
    arguments = smooth_masks(100), log_uniform_boxes(100), HEIGHT, WIDTH
    functions = [lambda: paste_masks(*arguments), lambda: PASTING.resize(*arguments)]
    with torch.inference_mode():
        plain, in_boxes = (function() for function in functions)
        slow, fast = time_alternating(*functions, 3 * repeats)
    times = {"value": slow / fast, "seconds": fast, "base_seconds": slow}
    error = (plain != in_boxes).float().mean().item()
    return times | {"check": "pixels equal to torchvision's", "error": error}


def measure_peak() -> Row:
    """Peak memory of a process of its own that does two training steps."""
    command = [sys.executable, "-c", f"from {__spec__.name} import peak_gb; print(peak_gb())"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {"value": float(done.stdout), "check": "whole process, two training steps"}


def peak_gb() -> float:
    """Peak memory of this process after two training steps, GB."""
    step = train_step(speed_up(make_yolact(train=True)), False)
    with keep_freed_memory():  # as `train` does
        step()
        step()
    return peak_memory_gb()


def measure_data(devkit: str | Path, repeats: int) -> Row:
    """Decoding, augmenting and collating batches on one core, as a worker process does."""
    train_set = VocDataset(devkit, "train", SsdAugmentation())
    dataset = SeededSamples(train_set, 0)
    starts = range(0, DATA_BATCH * (repeats + 2), DATA_BATCH)
    batches = iter(load_batches(dataset, [range(i, i + DATA_BATCH) for i in starts]))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    _, seconds = time_alternating(lambda: None, lambda: next(batches), repeats)
    torch.set_num_threads(threads)
    data = f"{len(train_set)} images of {train_set.devkit.name}"
    check = f"{data}, batches of {DATA_BATCH}, SSD augmentation"
    return {"value": DATA_BATCH / seconds, "seconds": seconds, "check": check}


def measure_evaluation(devkit: str | Path, repeats: int) -> Row:
    """Masks and boxes of a VOC-val-sized prediction file: the fastest evaluator, pycocotools."""
    ground_truth, detections = synthetic_results(devkit)
    fast, reference = backends()[0], "pycocotools"
    tables = [evaluate(ground_truth, detections, name).table for name in (fast, reference)]
    error = float((tables[0]["value"] - tables[1]["value"]).abs().max())

    def run(name: str) -> Callable[[], list]:
        return lambda: [run_coco_eval(ground_truth, detections, kind, name) for kind in IOU_TYPES]

    slow, seconds = time_alternating(run(reference), run(fast), repeats)
    size = f"{len(ground_truth['images'])} images, {len(detections)} detections"
    times = {"value": slow / seconds, "seconds": seconds, "base_seconds": slow}
    return times | {"check": f"metrics of {fast} equal to pycocotools', {size}", "error": error}


def measure_failures(devkit: str | Path, repeats: int) -> Iterator[tuple[str, Row]]:
    """The failure analysis of a VOC-val-sized prediction file, against its evaluation."""
    ground_truth, detections = synthetic_results(devkit)

    def analyze_all() -> None:
        analysis = analyze(evaluate(ground_truth, detections))
        tables = analysis.table, analysis.cases, single_oracles(analysis.dataset_eval)
        by_crowding({"synthetic": analysis.dataset_eval}, analysis.thresholds.crowd_distance)
        if any(table.empty for table in tables):
            raise RuntimeError("the synthetic detections have no failures")

    def evaluate_all() -> None:
        for kind in IOU_TYPES:
            run_coco_eval(ground_truth, detections, kind, "pycocotools")

    base, seconds = time_alternating(evaluate_all, analyze_all, max(1, repeats // 3))
    images = len(ground_truth["images"])
    size = f"{images} images, {len(detections)} detections"
    times = {"seconds": seconds, "check": f"{size}: TIDE, pixels, cases, crowding, oracles"}
    yield "failures_seconds_per_1000_images", {"value": 1000 * seconds / images, **times}
    check = "over pycocotools' evaluation of masks and boxes of the same file"
    times |= {"base_seconds": base, "check": check}
    yield "failures_over_evaluation", {"value": seconds / base, **times}


def measure_rows(devkit: str | Path, repeats: int, part: str) -> dict[str, Row]:
    """The rows of one of `PARTS`. Raises RuntimeError when a check fails."""
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
        "codes": lambda: measure_codes(repeats),
        "paste": lambda: [("mask_rcnn_paste_speedup", measure_paste(repeats))],
        "prediction": lambda: measure_prediction(devkit, repeats),
        "mask_rcnn": lambda: measure_mask_rcnn(repeats),
        "data": lambda: [("data_images_per_second_per_core", measure_data(devkit, 3 * repeats))],
        "evaluation": lambda: [("eval_speedup", measure_evaluation(devkit, repeats))],
        "failures": lambda: measure_failures(devkit, repeats),
        "large": lambda: map(measure_large, ("evaluate", "failures")),
    }
    rows = {}
    with tqdm(desc=part, unit="row") as bar:
        for name, row in parts[part]():
            if row.get("error", 0) > TOLERANCE:
                problem = f"{name}: {row['check']}? error {row['error']:.1e}"
                raise RuntimeError(f"{problem}, at most {TOLERANCE:.0e} expected")
            rows[name] = {**row, "commit": git_commit()}
            bar.update()
            bar.set_postfix({name: round(row["value"], 2)})
    return rows


def report(rows: dict[str, Row]) -> dict:
    """The content of bench.json: the value of each row, the rows as `details`, the machine."""
    return {name: row["value"] for name, row in rows.items()} | {
        "details": rows,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": git_commit(),
    }


def markdown(content: dict) -> str:
    """The rows of a bench.json as the table of docs/speed.md."""
    lines = ["| | value | target | official code |", "|---|---|---|---|"]
    for name, row in content["details"].items():
        target = " ".join(map(str, TARGETS.get(name, ())))
        lines.append(f"| `{name}` | {row['value']:.3g} | {target} | {OFFICIAL.get(name, '')} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="", metavar="DEVKIT", help="default: synthetic images")
    parser.add_argument("--out", type=Path, default="results/bench.json", metavar="FILE")
    parser.add_argument("--repeats", type=int, default=9, help="timings per median")
    text = "measure this part alone, and keep the other rows of --out"
    parser.add_argument("--only", choices=PARTS, default="", help=text)
    text = "measure nothing: print a bench.json as the Markdown table of docs/speed.md"
    parser.add_argument("--table", type=Path, metavar="FILE", help=text)
    options = parser.parse_args()
    if options.table:
        print(markdown(read_json(options.table)))
        return 0
    if not options.only:  # in processes of their own: none finds the memory of another one
        for part in (part for part in PARTS if part not in ASKED_FOR):
            command = [sys.executable, "-m", __spec__.name, *sys.argv[1:], "--only", part]
            subprocess.run(command, check=True)
        return 0
    devkit = find_devkit(options.data) if options.data else synthetic.write("data/mini_voc")
    before = read_json(options.out)["details"] if options.out.is_file() else {}
    rows = measure_rows(devkit, options.repeats, options.only)
    write_json(options.out, report(before | rows))
    print(pd.DataFrame(rows).T.drop(columns="commit").to_string(na_rep=""))
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Number by number against the official YOLACT: each case in $VOCSEG_FIXTURES's files."""

import hashlib
import json
import math
import os
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vocseg_lib.losses import YolactOutputs, match_priors, mine_hard_negatives, yolact_loss
from vocseg_lib.models.box_resampling import UPSAMPLING
from vocseg_lib.models.config import YolactConfig
from vocseg_lib.models.postprocess import detect, fast_nms, mask_logits, scale_boxes, upsample_masks
from vocseg_lib.models.priors import prior_boxes
from vocseg_lib.utils.boxes import box_iou, cxcywh_to_xyxy, decode_boxes, encode_boxes
from vocseg_lib.utils.masks import box_mask, box_rows_and_columns

SHARED = Path(os.environ.get("VOCSEG_SHARED", Path(__file__).parents[3] / "shared"))
FOLDER = Path(os.environ.get("VOCSEG_FIXTURES", SHARED / "fixtures"))
FIELDS = {"conf": "class_logits", "loc": "box_offsets", "mask": "coefficients"}
FIELDS |= {"proto": "prototypes", "priors": "priors", "segm": "semantic_logits"}
NAMES = {"B": "box", "C": "class", "M": "mask", "S": "semantic"}
RELATIVE = 1e-4
INPUTS = ("loc*", "conf*", "mask*|coef*", "priors*")
"""Of the detection step."""


def contents(pattern: str) -> dict[str, dict]:
    """What the files hold whose names match, by file."""
    read = {".json": lambda path: json.loads(path.read_text())}.get(Path(pattern).suffix)
    read = read or (lambda path: torch.load(path, weights_only=True))
    return {path.stem: read(path) for path in sorted(FOLDER.glob(pattern))}


def value(case: dict, names: str, default: object = None) -> object:
    """The value under the first key that is one of these names ("a*|b"); * means a tensor."""
    for pattern in names.split("|"):
        for key, item in case.items():
            matches = isinstance(item, Tensor) and "*" in pattern and fnmatch(str(key), pattern)
            if key == pattern or matches:
                return item
    return default


def dicts_with(part: object, *keys: str, name: str = "") -> dict[str, dict]:
    """Dicts in `part`, at any depth, that have these keys ("a*|b": either), by path."""
    if isinstance(part, list | tuple):
        part = dict(enumerate(part))
    if not isinstance(part, dict):
        return {}
    here = {name: part} if all(value(part, key) is not None for key in keys) else {}
    return here | {
        k: v
        for key, below in part.items()
        for k, v in dicts_with(below, *keys, name=f"{name}/{key}").items()
    }


def each(pattern: str, *keys: str):
    """Run a test on each case that has these keys; skip it if there is none."""
    cases = dicts_with(contents(pattern), *keys)
    reason = f"nothing in {FOLDER} has {', '.join(keys)}; set VOCSEG_FIXTURES"
    none = pytest.param(None, marks=pytest.mark.skip(reason=reason))
    ids = [path.strip("/") for path in cases] or ["none"]
    return pytest.mark.parametrize("case", cases.values() or [none], ids=ids)


def close(values: Tensor, expected: Tensor) -> bool:
    """Relative to the norm of `expected`."""
    return (values - expected).norm() <= RELATIVE * expected.norm() + 1e-12


def targets_of(case: dict) -> list[dict[str, Tensor]]:
    """Targets as `yolact_loss` takes them; the crowds come last in an image's targets."""
    crowds = case.get("num_crowds") or [0] * len(case["targets"])
    targets = []
    for rows, masks, crowd in zip(case["targets"], case["masks"], crowds, strict=True):
        end = len(rows) - int(crowd)
        boxes, labels = rows[:end, :4], rows[:end, 4].long() + 1
        one = {"boxes": boxes, "labels": labels, "masks": masks[:end]}
        targets.append({**one, "crowd_boxes": rows[end:, :4]})
    return targets


def padded(targets: list[dict[str, Tensor]], name: str) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence([t[name] for t in targets], batch_first=True)


@each("*.pt", "predictions", "targets", "losses")
def test_loss_terms_and_gradients(case):
    p = {k: v.clone().requires_grad_(k != "priors") for k, v in case["predictions"].items()}
    torch.manual_seed(case.get("randperm_seed") or 0)
    outputs = YolactOutputs(**{FIELDS[key]: value for key, value in p.items()})
    masks_to_train = case.get("masks_to_train", 100)
    losses = yolact_loss(outputs, targets_of(case), masks_to_train=masks_to_train)
    expected = {NAMES[key]: float(value) for key, value in case["losses"].items()}
    values = {key: loss.item() for key, loss in losses.items()}
    assert values == pytest.approx(expected, rel=RELATIVE)
    sum(losses.values()).backward()
    for key, gradient in case.get("grads_total_loss", {}).items():
        assert close(p[key].grad, gradient), key
    for key, norm in case.get("grad_norm_total_loss", {}).items():
        assert p[key].grad.norm().item() == pytest.approx(norm, rel=RELATIVE), key


@each("*.pt", "predictions", "targets", "match")
def test_matching_and_mined_negatives(case):
    targets, priors = targets_of(case), case["predictions"]["priors"]
    boxes, labels, crowds = (padded(targets, name) for name in ("boxes", "labels", "crowd_boxes"))
    crowds = crowds if crowds.shape[1] else None
    classes, objects = match_priors(priors, boxes, labels, crowds)
    assert torch.equal(classes, case["match"]["conf_t"].long())
    positive = classes > 0
    if "idx_t" in case["match"]:
        assert torch.equal(objects[positive], case["match"]["idx_t"].long()[positive])
    for i, expected in enumerate(case["match"].get("loc_t_positive", [])):
        matched = boxes[i][objects[i, positive[i]]]
        assert close(encode_boxes(matched, priors[positive[i]]), expected)
    if "ohem_selected" in case:
        selected = positive | mine_hard_negatives(case["predictions"]["conf"], classes)
        assert torch.equal(selected, case["ohem_selected"])


@each("*.pt", "boxes", "scores", "fast_nms")
def test_fast_nms(case):
    defaults = {"iou_threshold": 0.5, "top_k": 200, "max_num_detections": 100}
    options = [case.get(name, default) for name, default in defaults.items()]
    results = fast_nms(case["boxes"], case["scores"], *options)
    for key in (key for key in case if key.startswith("fast_nms")):
        threshold = re.search(r"second_threshold_([\d.]+)", key)
        above = results[2] > (float(threshold[1]) if threshold else -math.inf)
        kept, classes, scores = (values[above] for values in results)
        assert torch.equal(kept, case[key]["kept_input_index"])
        assert torch.equal(classes, case[key]["classes"])
        assert torch.equal(scores, case[key]["scores"])
        assert torch.equal(case["boxes"][kept], case[key]["boxes"])


@each("*.pt", "encode", "decode", "jaccard_gt_vs_priors")
def test_boxes(case):
    priors = case["priors_cxcywh"]
    assert close(encode_boxes(case["gt_xyxy"], priors), case["encode"])
    assert close(decode_boxes(case["loc"], priors), case["decode"])
    iou = box_iou(case["gt_xyxy"], cxcywh_to_xyxy(priors))
    assert torch.allclose(iou, case["jaccard_gt_vs_priors"], atol=1e-6)


@each("*.pt", "masks_hwn", "boxes_rel_xyxy")
@pytest.mark.parametrize("padding", [0, 1])
def test_crop(case, padding):
    masks, boxes = case["masks_hwn"], case["boxes_rel_xyxy"]
    height, width = masks.shape[:2]
    cropped = masks * box_mask(boxes, height, width, padding).permute(1, 2, 0)
    assert torch.equal(cropped, case[f"out_padding{padding}"])
    if padding == 1 and "sanitize_x_cast_false_pad1" in case:
        low, high = case["sanitize_x_cast_false_pad1"][:, :, None]
        inside = (torch.arange(width) >= low) & (torch.arange(width) < high)
        assert torch.equal(box_rows_and_columns(boxes, height, width, 1)[1], inside)


@each("*.pt", "proto_hwk", "coeffs_nk")
@pytest.mark.parametrize("upsample", [upsample_masks, UPSAMPLING.resize])
def test_assembled_masks(case, upsample):
    prototypes, boxes = case["proto_hwk"], case["boxes_rel_xyxy"]
    height, width = prototypes.shape[:2]
    logits = mask_logits(prototypes, case["coeffs_nk"])
    assembled, cropped = logits.sigmoid(), case["cropped_hwn"].permute(2, 0, 1)
    assert torch.allclose(assembled, case["sigmoid_hwn"].permute(2, 0, 1), atol=1e-5)
    assert torch.allclose(assembled * box_mask(boxes, height, width), cropped, atol=1e-5)
    # At the prototypes' own size nothing is resampled.
    same_pixels(upsample(logits, boxes, height, width), cropped > 0.5)
    # The official `postprocess` of an image: whole pixels of boxes and masks.
    if "postprocess" in case:
        expected = case["postprocess"]["masks_bool"].bool()
        if len(expected) != len(boxes) and expected.shape[-1] == len(boxes):
            expected = expected.permute(2, 0, 1)
        height, width = expected.shape[1:]
        same_pixels(upsample(logits, boxes, height, width), expected)
        # The official code lets a box that lies wholly outside point out of the image.
        limit = torch.tensor([width, height, width, height])
        clipped = case["postprocess"]["boxes_long"].long().clamp(min=0).minimum(limit)
        assert torch.equal(scale_boxes(boxes, height, width).long(), clipped)


def same_pixels(masks: Tensor, expected: Tensor) -> None:
    """Equal, up to one pixel in a hundred thousand that rounding carries over the threshold."""
    assert masks.shape == expected.shape
    assert (masks != expected).sum() <= 1e-5 * expected.numel()


@each("*.pt", "detect")
def test_the_whole_detection_step(case):
    inputs, parts = dicts_with(case["detect"], *INPUTS), dicts_with(case["detect"])
    assert inputs, list(case["detect"])
    for path, given in inputs.items():
        # Detections, one dict per image, are beside the inputs or around them.
        around = {
            p: list(dicts_with(parts[p], "box*", "score*", "class*").values())
            for p in parts
            if path.startswith(p)
        }
        holder = max((p for p in around if around[p]), key=len)
        compare_detections(given, around[holder], parts[holder])


def compare_detections(given: dict, expected: list[dict], options: dict) -> None:
    *batch, priors = (value(given, names) for names in INPUTS)
    batch = [x if x.dim() == 3 else x[None] for x in batch]
    config = YolactConfig(
        score_threshold=value(options, "conf_thresh|nms_conf_thresh|score_threshold", 0.05),
        nms_iou=value(options, "iou_threshold|nms_thresh", 0.5),
        max_detections=value(options, "max_num_detections", 100),
    )
    for loc, conf, coefficients, official in zip(*batch, expected, strict=True):
        sums = conf.sum(-1)
        probabilities = conf.min() >= 0 and torch.allclose(sums, torch.ones_like(sums), atol=1e-3)
        scores = conf if probabilities else conf.softmax(-1)
        boxes, classes, kept_scores, kept = detect(
            scores[:, 1:].T, loc, coefficients, priors, config
        )
        assert torch.equal(classes, value(official, "class*").long())
        assert torch.allclose(kept_scores, value(official, "score*"), atol=1e-6)
        assert torch.allclose(boxes, value(official, "box*"), atol=1e-5)
        official_kept = value(official, "coef*|mask*")
        if official_kept is not None and official_kept.shape == kept.shape:
            assert torch.equal(kept, official_kept)


@each("*.json", "sha256_float32")
def test_priors(case):
    sizes = [(n, n) for n in case["feature_sizes"]]
    priors = prior_boxes(sizes, case["scales"], case["aspect_ratios"], case["use_square_anchors"])
    assert len(priors) == case["count"]
    assert hashlib.sha256(priors.numpy().tobytes()).hexdigest() == case["sha256_float32"]

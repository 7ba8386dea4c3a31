"""What each step from classical ML to Mask R-CNN and YOLACT bought: every row a model, all judged alike.

Needs the extra `lineage`. What was judged once is kept in `results`/lineage and taken from there.
"""

import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import Subset
from tqdm import tqdm

from vocseg_lib.data.loader import evenly_spaced
from vocseg_lib.data.transforms import model_input
from vocseg_lib.engine.checkpoint import checksum, load_checkpoint
from vocseg_lib.engine.predict import (
    detections_to_coco,
    predict,
    read_predictions,
    save_predictions,
)
from vocseg_lib.engine.profile import measure_speed
from vocseg_lib.engine.run_folder import BEST
from vocseg_lib.metrics.bootstrap import (
    bootstrap,
    bootstrap_weights,
    interval,
    prepend_point_estimate,
)
from vocseg_lib.metrics.coco_eval import Evaluation, evaluate
from vocseg_lib.metrics.semantic import SEMANTIC_SCORE, mean_iou
from vocseg_lib.models.lineage.box_masks import MASKS, MasksFromBoxes
from vocseg_lib.models.lineage.features import HandCraftedFeatures, RCNNFeatures
from vocseg_lib.models.lineage.proposals import (
    SelectiveSearch,
    average_recall,
    cache_disabled,
    proposal_recall,
    rpn_proposals,
    scored_priors,
    to_uint8_hwc,
)
from vocseg_lib.models.lineage.regions import CLASSIFIERS, RegionDetector
from vocseg_lib.models.lineage.semantic import dense_crf
from vocseg_lib.models.speedups import speed_up
from vocseg_lib.study.recipes import MODEL_TITLES
from vocseg_lib.study.run import default_device, load_run
from vocseg_lib.study.study import Study
from vocseg_lib.utils.environment import environment_info
from vocseg_lib.utils.files import read_json, to_jsonable, write_json

SHORT = "Mask R-CNN, short"
POOLED, ROUNDED = "Mask R-CNN with RoI pooling, short", "Mask R-CNN with rounded RoIAlign, short"
PAINTED = {"semantic": 0.0}
"""From which score on detections are painted into a class map, to take mean IoU of it; a class map's components all are."""
CRF_MASKS = "components after a CRF"
MASKED = 30
"""Boxes an image, the best ones, that get masks from them: GrabCut takes its time."""
TIMED = 5
"""Images that an image's seconds are the median of, without anything from a cache."""

COLUMNS = (
    "model kind proposals mask_from iterations box_AP50 mask_AP50 mask_AP50_low mask_AP50_high mean_iou seconds_per_image "
    "train_minutes parameters"
).split()
STEPS = {
    "R-CNN": "learned features",
    "Fast R-CNN": "one pass an image, one loss",
    "Faster R-CNN": "learned proposals",
    POOLED: "a mask branch",
    ROUNDED: "RoIAlign of rounded regions",
    SHORT: "no rounding of regions",
    "Mask R-CNN": "the recipe's training",
    "YOLACT": "one stage",
}
"""Rows that are each a step on from the one before, the first from the best of classical ML; and what the step is."""


@dataclass(frozen=True)
class Lineage:
    """The rows, each made when it is asked for: a dict of `COLUMNS`, kept in `rows`.

    Rows that look at proposals one by one learn from `images` images of train, evenly spread; every search gives at most
    `proposals` boxes; what is trained by gradient is trained for `iterations`.
    """

    study: Study
    images: int = 400
    proposals: int = 200
    iterations: int = 1_000
    rows: dict[str, dict] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if least := [
            name for name in ("images", "proposals", "iterations") if getattr(self, name) < 1
        ]:
            raise ValueError(f"{' and '.join(least)} of a lineage must be at least 1")

    @cached_property
    def folder(self) -> Path:
        """Where it is kept."""
        return self.study.results / "lineage"

    @cached_property
    def search(self) -> SelectiveSearch:
        """Selective search, remembered."""
        return SelectiveSearch(
            self.proposals, seed=self.study.recipe.seed, cache=self.folder / "cache"
        )

    @cached_property
    def few(self) -> Subset:
        """The images of train that are looked at region by region."""
        train_set = self.study.dataset("train", skip_bad=True)
        return Subset(train_set, evenly_spaced(len(train_set), self.images))

    @cached_property
    def short(self) -> Study:
        """The study with shorter trainings, without augmentation: proposals from outside are found once an image."""
        recipe, n = self.study.recipe, self.iterations
        # A recipe's proposals are those in training; in prediction it is half of them.
        changes = {
            "iterations": n,
            "augmentation": "none",
            "proposals": 2 * self.proposals,
            "eval_every": n,
            "patience": None,
        }
        changes["warmup_iterations"] = min(recipe.warmup_iterations, n // 5)
        return replace(self.study, recipe=replace(recipe, **changes), results=self.folder)

    def prepare(self) -> None:
        """Search every image that is looked at region by region, and describe its proposals; what is there already is kept."""
        features = HandCraftedFeatures(cache=self.folder / "cache")

        def look(i: int, images: Subset) -> None:
            image, target = images[i]
            image = model_input(image)
            objects = (
                target["boxes"].as_subclass(Tensor).float()
                if images is self.few
                else torch.zeros(0, 4)
            )
            features.of(to_uint8_hwc(image), torch.cat([objects, self.search(image)]).numpy())

        for images, split in ((self.few, "train"), (self.study.val, "val")):
            with ThreadPoolExecutor() as pool:
                found = pool.map(partial(look, images=images), range(len(images)))
                for _ in tqdm(found, f"proposals of {split}", len(images), unit="image"):
                    pass

    def proposal_recall(self, counts: Sequence[int]) -> dict[str, dict[str, list[float]]]:
        """Percent of val's objects that the first so many proposals cover, by measure and source: selective search, the RPN of the
        study's Mask R-CNN and its YOLACT's priors, moved and sorted by score (the last two after NMS at IoU 0.7)."""
        models = {
            name: load_run(self.study.run_folder(name))[0] for name in ("mask_rcnn", "yolact")
        }
        sources = {
            "selective search": self.search,
            "Mask R-CNN's RPN": partial(rpn_proposals, models["mask_rcnn"]),
            "YOLACT's priors, scored": partial(scored_priors, models["yolact"]),
        }
        found, objects = {source: [] for source in sources}, []
        for image, target in tqdm(self.study.val, "proposals of val", unit="image"):
            objects.append(target["boxes"].as_subclass(Tensor).float())
            for source, propose in sources.items():
                found[source].append(propose(model_input(image, default_device())).cpu())
        measures = {
            f"recall at IoU {iou}": partial(proposal_recall, iou=iou) for iou in (0.5, 0.7)
        } | {"average recall": average_recall}
        return {
            name: {
                source: measure(boxes, objects, list(counts)).tolist()
                for source, boxes in found.items()
            }
            for name, measure in measures.items()
        }

    def classical(self, classifier: str) -> dict:
        """Selective search, features made by hand, one of `CLASSIFIERS`, the box as mask."""
        features = HandCraftedFeatures(cache=self.folder / "cache")
        return self._regions(
            f"HOG, colour, texture + {classifier}",
            "classical ML",
            classifier,
            features,
            fine_tune=0,
        )

    def rcnn(self) -> dict:
        """R-CNN: each proposal warped through the backbone, which learns to name regions first; linear SVMs, box regression."""
        recipe = self.study.recipe
        torch.manual_seed(recipe.seed)
        features = RCNNFeatures(
            recipe.backbone, recipe.weights, recipe.image_size // 3, cache=self.folder / "cache"
        )
        return self._regions(
            "R-CNN",
            "two stages",
            "linear SVM",
            speed_up(features).to(default_device()),
            fine_tune=self.iterations,
        )

    def _regions(
        self,
        title: str,
        kind: str,
        classifier: str,
        features: HandCraftedFeatures | RCNNFeatures,
        fine_tune: int,
    ) -> dict:
        if classifier not in CLASSIFIERS:
            raise ValueError(
                f"no classifier {classifier!r}; choose one of {', '.join(CLASSIFIERS)}"
            )
        recipe, classes = self.study.recipe, len(self.study.class_names) + 1

        def make() -> tuple[nn.Module, dict]:
            model = RegionDetector(
                self.search,
                features,
                CLASSIFIERS[classifier](recipe.seed),
                classes,
                regress=bool(fine_tune),
            )
            if fine_tune:
                rate = recipe.learning_rate * recipe.backbone_lr_mult
                features.fine_tune(self.few, self.search, classes, fine_tune, rate, recipe.seed)
            counts = model.fit(self.few, seed=recipe.seed)
            lacking = (
                ", ".join(self.study.class_names[k - 1] for k in counts["classes_without_objects"])
                or "none"
            )
            print(
                f"{title}: {counts['positives']} regions on objects, {counts['negatives']} and {counts['mined']} hard ones of "
                f"background; images without proposals: {counts['images_without_proposals']}, that cannot be read (the next one is "
                f"taken): {counts['images_passed_over']}; classes without objects: {lacking}"
            )
            return MasksFromBoxes(model), {"iterations": fine_tune, **counts}

        return self._row(title, kind, "selective search", "box", make, {"fine_tune": fine_tune})

    def trained(
        self, name: str, title: str, kind: str, proposals: str, mask_from: str = "box", **changes
    ) -> dict:
        """A model trained as all of them are here: `iterations`, no augmentation; with `changes` of the recipe."""
        recipe = replace(self.short.recipe, **changes)
        folder = self.folder / "_".join(
            map(str, (self.iterations, self.proposals, *changes.values()))
        )
        study = replace(self.short, recipe=recipe, results=folder)
        study.train(name)
        return self._of_run(study.run_folder(name), title, kind, proposals, mask_from)

    def ours(self, name: str, mask_from: str = "") -> dict:
        """The study's YOLACT or Mask R-CNN; with other masks in its boxes where `mask_from` says so."""
        title = MODEL_TITLES[name] + (f", {mask_from} in its boxes" if mask_from else "")
        kind, proposals = {"yolact": ("one stage", "priors"), "mask_rcnn": ("two stages", "RPN")}[
            name
        ]
        own = {"yolact": "prototypes", "mask_rcnn": "mask branch"}[name]
        return self._of_run(self.study.run_folder(name), title, kind, proposals, mask_from or own)

    def _of_run(self, run: Path, title: str, kind: str, proposals: str, mask_from: str) -> dict:
        def make() -> tuple[nn.Module, dict]:
            model, settings, _ = load_run(run)
            if mask_from in MASKS and not isinstance(model, MasksFromBoxes):
                model = MasksFromBoxes(model, mask_from, MASKED)
            if mask_from == CRF_MASKS:
                model.crf = dense_crf()
            minutes = read_json(run / "metrics.json")["train_minutes"]
            return model, {"iterations": settings["iterations"], "train_minutes": minutes}

        best = checksum(load_checkpoint(run / BEST)["model"])
        return self._row(title, kind, proposals, mask_from, make, {"best": best})

    def true_boxes(self, mask_from: str) -> dict:
        """Masks made from the ground truth's boxes: what a detector without a fault would have of them."""
        title = f"ground truth's boxes, {mask_from}"

        def judge() -> tuple[dict, dict]:
            detections = []
            for image, target in self.study.val:
                found = {
                    "boxes": target["boxes"].as_subclass(Tensor).float(),
                    "labels": target["labels"],
                }
                masks = MASKS[mask_from](to_uint8_hwc(model_input(image)), found["boxes"])
                detections += detections_to_coco(
                    target["image_id"], {**found, "scores": torch.ones(len(masks)), "masks": masks}
                )
            row = {
                "model": title,
                "kind": "oracle",
                "proposals": "ground truth",
                "mask_from": mask_from,
            }
            return {"header": {"model": title}, "detections": detections}, row

        return self._kept(self._path(title), {}, judge)

    def _row(
        self,
        title: str,
        kind: str,
        proposals: str,
        mask_from: str,
        make: Callable[[], tuple[nn.Module, dict]],
        settings: dict,
    ) -> dict:
        """The row of what `make` gives: a model, and what there is to say of its training."""
        recipe, device = self.study.recipe, default_device()

        def judge() -> tuple[dict, dict]:
            start = time.monotonic()
            model, facts = make()
            minutes = facts.pop("train_minutes", (time.monotonic() - start) / 60)
            header = {
                "model": title,
                "data": {"devkit": self.study.devkit.name, "split": "val"},
                "training": facts,
            }
            found = predict(model, self.study.val, header, device, recipe.mixed_precision)
            images = [
                model_input(self.study.val[i][0]) for i in range(min(TIMED, len(self.study.val)))
            ]
            with cache_disabled():
                speed = measure_speed(model, images, device, 1, TIMED, recipe.mixed_precision)
            row = {
                "model": title,
                "kind": kind,
                "proposals": proposals,
                "mask_from": mask_from,
                "iterations": facts["iterations"],
            }
            row |= {"seconds_per_image": speed["seconds_per_image"], "train_minutes": minutes}
            return found, row | {"parameters": sum(p.numel() for p in model.parameters())}

        return self._kept(self._path(title), settings, judge)

    def _path(self, title: str) -> Path:
        return (
            self.folder
            / "predictions"
            / f"{re.sub('[^a-z0-9]+', '_', title.lower()).strip('_')}.json"
        )

    def _kept(self, path: Path, settings: dict, judge: Callable[[], tuple[dict, dict]]) -> dict:
        """The row in a prediction file, or a new one if there is none for these settings."""
        settings = {
            **settings,
            "images": self.images,
            "proposals": self.proposals,
            **self.study.settings(path.stem),
        }
        if (
            path.is_file()
            and (header := read_predictions(path)["header"]).get("settings") == settings
        ):
            row = header["row"]
        else:
            found, row = judge()
            judged = evaluate(self.study.ground_truth, found["detections"])
            ap50 = bootstrap(judged, bootstrap_weights(len(self.study.val)), headline=True)[
                "mask", "AP50", "all"
            ]
            painted = mean_iou(
                self.study.ground_truth,
                found["detections"],
                PAINTED.get(row["kind"], SEMANTIC_SCORE),
            )
            row |= {
                "box_AP50": judged.summary["box_AP50"],
                "mask_AP50": judged.summary["mask_AP50"],
            }
            row |= dict(
                zip(("mask_AP50_low", "mask_AP50_high"), interval(ap50.to_numpy()), strict=True)
            )
            row |= {"mean_iou": float(painted.set_index("class")["value"]["all"])}
            found["header"] |= {"settings": settings, "row": row}
            path.parent.mkdir(parents=True, exist_ok=True)
            save_predictions(path, found)
        self.rows[row["model"]] = row
        return row

    def steps(self) -> pd.DataFrame:
        """What each of `STEPS` changed, where its row and the one before are there: step, before, after, the difference of box and
        mask AP50 with 95 % intervals over the same resampled images (`_low`, `_high`), and `seconds`, after's over before's."""
        classical = [row for row in self.rows.values() if row["kind"] == "classical ML"]
        best = [row["model"] for row in sorted(classical, key=lambda row: row["mask_AP50"])[-1:]]
        pairs = [pair for pair in pairwise([*best, *STEPS]) if self.rows.keys() >= set(pair)]
        images, rows = len(self.study.val), []
        drawn = prepend_point_estimate(bootstrap_weights(images), images)
        ap = {
            title: bootstrap(self.judged(title), drawn, headline=True)
            for title in dict.fromkeys(sum(pairs, ()))
        }
        for before, after in pairs:
            row = {"step": STEPS[after], "before": before, "after": after}
            for kind in ("box", "mask"):
                change = (ap[after] - ap[before])[kind, "AP50", "all"].to_numpy()
                row |= {f"{kind}_AP50": change[0]}
                row |= dict(
                    zip(
                        (f"{kind}_AP50_low", f"{kind}_AP50_high"), interval(change[1:]), strict=True
                    )
                )
            seconds = [self.rows[title]["seconds_per_image"] for title in (before, after)]
            rows.append({**row, "seconds": seconds[1] / seconds[0]})
        return pd.DataFrame(rows)

    def table(self, **more: object) -> pd.DataFrame:
        """All rows so far, in the order in which they were made; also written to `lineage.csv` and, with what they come from and
        `more`, to `lineage.json`."""
        table = pd.DataFrame(list(self.rows.values()), columns=COLUMNS)
        table.to_csv(self.study.results / "lineage.csv", index=False)
        device, train_set = default_device(), self.study.dataset("train")
        about = {
            "about": self.study.about,
            "data": self.study.kind_of_data,
            "images_of_train": len(train_set),
            "seed": self.study.recipe.seed,
        }
        about |= {name: getattr(self, name) for name in ("images", "proposals", "iterations")}
        about |= {
            "train_hours": float(table["train_minutes"].drop_duplicates().sum() / 60),
            **environment_info(device),
        }
        write_json(
            self.study.results / "lineage.json",
            to_jsonable({**about, "rows": table.to_dict("records"), **more}),
        )
        return table

    def telling_image(self) -> int:
        """The image of val whose smallest object is the largest, of those with two to four objects, where there are some."""
        smallest = {}
        for image in self.study.ground_truth["images"]:
            areas = [a["area"] for a in self.objects(image["id"])]
            smallest[image["id"]] = (2 <= len(areas) <= 4, min(areas, default=0))
        return max(smallest, key=smallest.get)

    def objects(self, image_id: int) -> list[dict]:
        """The annotations of an image of val."""
        return [a for a in self.study.ground_truth["annotations"] if a["image_id"] == image_id]

    def detections(self, title: str) -> list[dict]:
        """A row's detections on val."""
        return read_predictions(self._path(title), self.study.ground_truth)["detections"]

    def judged(self, title: str) -> Evaluation:
        """A row's detections on val, judged."""
        return evaluate(self.study.ground_truth, self.detections(title))

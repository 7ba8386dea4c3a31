"""From a recipe to plain arguments: the one place where notebooks and the command line meet the library."""

import os
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import pandas as pd
from torch import nn
from torch.utils.data import Subset

from vocseg_lib.data import synthetic
from vocseg_lib.data.classes import CLASS_NAMES
from vocseg_lib.data.coco import subset
from vocseg_lib.data.coco_convert import coco_ground_truth
from vocseg_lib.data.loader import SeededSamples, evenly_spaced
from vocseg_lib.data.transforms import AUGMENTATIONS, model_input
from vocseg_lib.data.voc import VocDataset, class_names, fingerprint
from vocseg_lib.engine.checkpoint import checksum, load_checkpoint
from vocseg_lib.engine.mirror import LAST, mirrored
from vocseg_lib.engine.predict import load_predictions, predict, save_predictions, validation_loss
from vocseg_lib.engine.profile import estimate, in_words
from vocseg_lib.engine.resume import BEST, LOG, config_changes, read_config
from vocseg_lib.engine.run_folder import append_log, read_log, truncate_log
from vocseg_lib.engine.train import TooManyBadSamples, train
from vocseg_lib.metrics.coco_eval import Evaluation, evaluate
from vocseg_lib.models import MODELS
from vocseg_lib.study import table1
from vocseg_lib.study.launch import launch_torchrun
from vocseg_lib.study.recipes import PROSE_FIELDS, Recipe
from vocseg_lib.study.results import PREDICTIONS, checkpoint_ap, measure_costs
from vocseg_lib.study.run import (
    batch_norm_mode,
    build_model,
    cached_metrics,
    default_device,
    mask_explainer,
    prediction_header,
    training_options,
)
from vocseg_lib.study.table1 import SPEED_IMAGES
from vocseg_lib.study.train import COUNTED_BATCHES, COUNTED_IMAGES, OVERFIT_LEARNING_RATE
from vocseg_lib.utils import distributed
from vocseg_lib.utils.environment import environment_info
from vocseg_lib.utils.files import write_json

MODEL_TITLES = {"yolact": "YOLACT", "mask_rcnn": "Mask R-CNN"}
VOC_IMAGES = {"train": 1_464, "val": 1_449}
"""Of VOC 2012's splits for segmentation."""


@dataclass(frozen=True)
class Study:
    """A recipe, a devkit and a results folder; what the notebooks do with them, a method each."""

    recipe: Recipe
    devkit: Path
    results: Path

    def dataset(self, split: str, augmentation: str = "none", skip_bad: bool = False) -> VocDataset:
        """A split of the devkit; `augmentation` is one of `transforms.AUGMENTATIONS`, "none" leaves it as it is."""
        if augmentation not in AUGMENTATIONS:
            raise ValueError(
                f"no augmentation {augmentation!r}; choose one of {', '.join(AUGMENTATIONS)}"
            )
        transform = None if augmentation == "none" else AUGMENTATIONS[augmentation]()
        return VocDataset(self.devkit, split, transform, skip_bad)

    @cached_property
    def ground_truth(self) -> dict:
        """COCO ground truth of val, without images that cannot be read, up to the recipe's share.

        Raises TooManyBadSamples past it, and ValueError when val has no object to judge by.
        """
        truth = coco_ground_truth(self.devkit, "val", skip_bad=True)
        if bad := truth["info"].get("skipped", []):
            listed = f"{len(bad)} of {len(bad) + len(truth['images'])} images of val cannot be read"
            if len(bad) > self.recipe.max_bad_fraction * (len(bad) + len(truth["images"])):
                raise TooManyBadSamples(
                    f"{listed}; allowed is a share of {self.recipe.max_bad_fraction:.0%} (max_bad_fraction). "
                    + "; ".join(bad)
                )
            warnings.warn(f"{listed} and are left out: {'; '.join(bad)}", stacklevel=3)
        if not truth["annotations"]:
            raise ValueError(
                f"no image of val in {self.devkit} has an object, so nothing can be judged"
            )
        return truth

    @cached_property
    def val(self) -> Subset:
        """The images of val that the ground truth has."""
        return Subset(
            self.dataset("val"), [image["id"] - 1 for image in self.ground_truth["images"]]
        )

    @cached_property
    def fingerprint(self) -> str:
        """Of the devkit: see `fingerprint`."""
        return fingerprint(self.devkit)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the devkit: see `class_names`."""
        return class_names(self.devkit)

    @property
    def kind_of_data(self) -> str:
        """ "drawn", "VOC 2012", "pilot" (VOC's classes on other images than its splits) or "own" (other classes)."""
        if (self.devkit / synthetic.STAMP).is_file():
            return "drawn"
        if self.class_names != CLASS_NAMES:
            return "own"
        return (
            "VOC 2012"
            if all(len(self.dataset(s)) == count for s, count in VOC_IMAGES.items())
            else "pilot"
        )

    @property
    def about(self) -> str:
        """What figures were taken with and on, to be said beside them."""
        said = f"recipe {self.recipe.name} on {len(self.val)} images of val"
        return said + {
            "drawn": ", drawn ones and not VOC's",
            "pilot": ", a pilot and not VOC 2012's val",
        }.get(self.kind_of_data, "")

    @property
    def halfway(self) -> int:
        """The iteration nearest to half of the training at which there is a score: the study's 6K."""
        every, end = self.recipe.eval_every, self.recipe.iterations
        return min(end, max(1, round(end / 2 / every)) * every)

    def build(self, model_name: str, **changes) -> nn.Module:
        """A model for the devkit's classes as the recipe says, some of its fields changed."""
        return build_model(replace(self.recipe, **changes), model_name, len(self.class_names))

    def run_folder(self, model_name: str) -> Path:
        """Where a model's training lives."""
        return self.results / "runs" / model_name

    def train(
        self,
        model_name: str,
        skip_bad: bool = True,
        device: str | None = None,
        processes: int = 1,
        max_hours: float | None = None,
        mirror: str | Path = "",
        accept_changes: bool = False,
        watch: Callable[[Path], None] | None = None,
    ) -> dict:
        """Train a model, or continue, or do nothing when it is done; then write its predictions and metrics on val.

        `processes` of this machine share each batch, with a GPU each where there are GPUs. `mirror` is a second results
        folder, kept up to date; when this one is gone, training goes on from there. For the rest, and for what is returned,
        see `training.train`. A finished training that differs in `iterations` alone is taken as it is, unless changes are accepted.
        """
        if not accept_changes and (finished := self._finished_otherwise(model_name)):
            return finished.train(model_name, skip_bad, device, mirror=mirror, watch=watch)
        if processes > 1 and not distributed.under_torchrun():
            flags = {
                "--device": device or default_device(),
                "--max-hours": max_hours,
                "--mirror": mirror,
            }
            flags |= {"--accept-changes": accept_changes, "--stop-on-bad": not skip_bad}
            where = (self.devkit, self.results, self.run_folder(model_name))
            return launch_torchrun(self.recipe, model_name, *where, processes, flags, watch)
        device = device or default_device()
        recipe, folder, settings = (
            self.recipe,
            self.run_folder(model_name),
            self.settings(model_name),
        )
        mirror = Path(mirror) / "runs" / model_name if mirror else None
        train_set, chosen = (
            self.dataset("train", recipe.augmentation, skip_bad),
            evenly_spaced(len(self.val), recipe.eval_images),
        )
        some, images = Subset(self.val, chosen), self.ground_truth["images"]
        judged = {images[i]["id"] for i in chosen}
        truth = subset(self.ground_truth, judged)
        model = self._new_model(model_name, train_set, mirror, device)

        def score(model: nn.Module, iteration: int) -> dict[str, float]:
            checkpoint = {self.halfway: "half", recipe.iterations: "last"}.get(iteration)
            facts = prediction_header(settings, {"iteration": iteration}, self.dataset("val"))
            found = predict(
                model,
                self.val if checkpoint else some,
                facts,
                device,
                recipe.mixed_precision,
                progress=False,
            )
            if checkpoint and distributed.rank() == 0:
                save_predictions(folder / PREDICTIONS[checkpoint], found)
            detections = [d for d in found["detections"] if d["image_id"] in judged]
            losses = validation_loss(
                model, some, recipe.batch_size, recipe.workers, device, recipe.mixed_precision
            )
            return {**evaluate(truth, detections).summary, **losses, "val_images": len(some)}

        state = train(
            model,
            train_set,
            folder,
            **training_options(recipe),
            score=score,
            max_hours=max_hours,
            mirror=mirror,
            accept_changes=accept_changes,
            watch=watch,
            settings=settings,
            notes={"devkit": str(self.devkit.resolve())},
            device=device,
        )
        if state["best"]:
            with mirrored(
                folder, mirror if distributed.rank() == 0 else None, suffixes=(".json", ".jsonl")
            ):
                self._judge(model_name, model, state, device)
        return state

    def _finished_otherwise(self, model_name: str) -> "Study | None":
        """The study with another number of iterations that a finished training in this folder had."""
        folder = self.run_folder(model_name)
        if not all((folder / name).is_file() for name in ("recipe.json", LOG, LAST)):
            return None
        settings, last = (
            read_config(folder) or {},
            max(e["iteration"] for e in [{"iteration": 0}, *read_log(folder / LOG)]),
        )
        if (
            config_changes(settings, self.settings(model_name)).keys() != {"iterations"}
            or last < settings["iterations"]
        ):
            return None
        said = f"a finished training of {settings['iterations']} iterations, which is taken"
        print(f"{folder} holds {said}; accept changes for one of {self.recipe.iterations}")
        return replace(self, recipe=replace(self.recipe, iterations=settings["iterations"]))

    def _new_model(
        self, model_name: str, train_set: VocDataset, mirror: Path | None, device: str
    ) -> nn.Module:
        """The model to train; for a training that starts, with a printed estimate of what it will take."""
        if any(
            os.path.isfile(folder / LAST)
            for folder in (self.run_folder(model_name), mirror)
            if folder
        ):
            return self.build(model_name, weights=None)  # a checkpoint brings all weights
        model = self.build(model_name)
        if distributed.rank() == 0:
            found = self._estimate(model, train_set, device)
            print(f"{MODEL_TITLES.get(model_name, model_name)}: {in_words(found)}")
        return model

    def _estimate(
        self, model: nn.Module, train_set: VocDataset, device: str, gpu: str | None = None
    ) -> dict:
        recipe, draws = self.recipe, SeededSamples(train_set, self.recipe.seed)
        size = min(recipe.batch_size, COUNTED_IMAGES)
        return estimate(
            model,
            [[draws[k * size + i] for i in range(size)] for k in range(COUNTED_BATCHES)],
            iterations=recipe.iterations,
            batch_size=recipe.batch_size,
            optimizer=recipe.optimizer,
            batch_norm=batch_norm_mode(recipe),
            mixed_precision=recipe.mixed_precision,
            scores=recipe.iterations // recipe.eval_every,
            eval_images=recipe.eval_images,
            processes=distributed.world_size(),
            device=device,
            gpu=gpu,
        )

    def estimate(self, model_name: str, device: str | None = None, gpu: str | None = None) -> dict:
        """What training a model will take on a device, or on a card of `estimate.GPUS`: see `estimate.estimate`."""
        train_set = self.dataset("train", self.recipe.augmentation, skip_bad=True)
        model = self.build(model_name, weights=None)
        return self._estimate(model, train_set, device or default_device(), gpu)

    def overfit(
        self,
        model_name: str,
        names: str | list[str],
        split: str = "val",
        steps: int = 120,
        device: str | None = None,
    ) -> nn.Module:
        """A model fitted to a few images alone, to look inside it or to see that it can learn; in eval mode.

        Adam, without augmentation, into `results`/overfit; done once.
        """
        device = device or default_device()
        dataset = self.dataset(split)
        dataset.names = [names] if isinstance(names, str) else list(names)
        folder = self.results / "overfit" / f"{model_name}_{'_'.join(dataset.names)}"
        model = self.build(model_name)
        train(
            model,
            dataset,
            folder,
            iterations=steps,
            batch_size=max(2, min(4, len(dataset))),
            optimizer="adamw",
            learning_rate=OVERFIT_LEARNING_RATE,
            weight_decay=0.0,
            schedule="cosine",
            warmup_iterations=10,
            max_grad_norm=20.0,
            seed=self.recipe.seed,
            settings={**self.settings(model_name), "names": dataset.names, "steps": steps},
            device=device,
        )
        return model.eval()

    def _judge(self, model_name: str, model: nn.Module, state: dict, device: str) -> None:
        """Write a run's `predictions.json` and `metrics.json` from its best weights, on all of val, where they are not there."""
        folder, settings, first = (
            self.run_folder(model_name),
            self.settings(model_name),
            distributed.rank() == 0,
        )
        best = distributed.broadcast_object(load_checkpoint(folder / BEST) if first else None)
        judged = checksum({"model": best["model"], "settings": settings})
        before = distributed.broadcast_object(cached_metrics(folder, judged) if first else None)
        training = {"iterations": best["iteration"], "train_minutes": state["seconds"] / 60}
        training |= {name: state[name] for name in ("skipped", "overflows", "left_out")}
        metrics = {**before, **training}
        if not before:
            model.load_state_dict(best["model"])
            facts = prediction_header(settings, best, self.dataset("val"))
            predictions = predict(
                model, self.val, facts, device, self.recipe.mixed_precision, uncropped=True
            )
            summary = evaluate(self.ground_truth, predictions["detections"]).summary
            metrics = {**summary, **training, "judged": judged, **environment_info(device)}
            if first:
                save_predictions(folder / "predictions.json", predictions)
                truncate_log(
                    folder / LOG, state["iteration"]
                )  # and what a kill may have left of this line
                append_log(
                    folder / LOG,
                    {
                        "iteration": state["iteration"],
                        "best": best["iteration"],
                        "all_of_val": summary,
                    },
                )
        if first and metrics != before:
            write_json(folder / "metrics.json", metrics)

    def settings(self, model_name: str) -> dict:
        """What a training of a model depends on: goes into its folder, and has to be the same when it goes on."""
        fields = asdict(self.recipe).items()
        recipe = {
            k: list(v) if isinstance(v, tuple) else v for k, v in fields if k not in PROSE_FIELDS
        }  # as JSON gives it back
        return {
            "model": model_name,
            **recipe,
            "class_names": list(self.class_names),
            "data_fingerprint": self.fingerprint,
        }

    def predictions(self, model_name: str, checkpoint: str = "best") -> dict:
        """A model's prediction file on val, of its "best" weights, those "half" way or the "last".

        Raises FileNotFoundError when it is not trained yet, or was stopped before.
        """
        path = self.run_folder(model_name) / PREDICTIONS[checkpoint]
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing: run 03_train with MODEL={model_name!r} first"
            )
        return load_predictions(path)

    def evaluations(self) -> dict[str, Evaluation]:
        """Both models' best weights judged on val, by title."""
        found = {
            title: self.predictions(name)["detections"] for name, title in MODEL_TITLES.items()
        }
        return {
            title: evaluate(self.ground_truth, detections) for title, detections in found.items()
        }

    def mask_explainers(self) -> dict[str, Callable]:
        """How both trained models get to a detection on val, by title, for the gallery: see `trained.inside_of`."""
        return {
            title: mask_explainer(self.run_folder(name), self.dataset("val"))
            for name, title in MODEL_TITLES.items()
        }

    def logs(self) -> dict[str, list[dict]]:
        """Both trainings' logs, by title."""
        return {
            title: read_log(self.run_folder(name) / LOG) for name, title in MODEL_TITLES.items()
        }

    def table1(self) -> pd.DataFrame:
        """Table 1, tidy (see `table1.COLUMNS`), ours and the paper's; also written to `table1.csv` and `table1.md`."""
        trained = [name for name in MODELS if (self.run_folder(name) / "metrics.json").is_file()]
        images = [model_input(self.val[i][0]) for i in range(min(len(self.val), SPEED_IMAGES))]
        parts = [table1.paper_rows()]
        for name in reversed(trained):
            costs = measure_costs(
                self.run_folder(name), images, default_device(), self.recipe.mixed_precision
            )
            ap = checkpoint_ap(self.run_folder(name), self.ground_truth)
            parts.insert(0, table1.rows_of(MODEL_TITLES[name], costs, ap, self.about))
        table = pd.concat(parts, ignore_index=True)
        table1.save(table, self.results)
        return table

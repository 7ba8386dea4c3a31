"""Options of a training, each with its source."""

from dataclasses import dataclass
from typing import Literal

from vocseg_lib.utils.config import ABOVE_ZERO, Config, bounded


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """Options of a training, the same for every model. Defaults: the published comparison's."""

    batch_size: int = bounded(2, least=1, below=1e4)  # images, over all processes (published)
    accumulate: int = bounded(1, least=1, below=1e4)  # micro-batches of a batch, to save memory
    iterations: int = bounded(12_000, least=0, below=1e8)  # parameter updates (published)
    optimizer: Literal["sgd", "adamw"] = "sgd"  # published: SGD
    learning_rate: float = bounded(1e-3, least=ABOVE_ZERO, below=1e6)  # after warm-up (published)
    backbone_lr_mult: float = bounded(1.0, least=ABOVE_ZERO, below=1e6)  # / learning_rate
    momentum: float = bounded(0.9, least=0, below=1)  # of SGD (published)
    weight_decay: float = bounded(5e-4, least=0, below=1e6)  # not published; the official YOLACT's
    schedule: Literal["step", "cosine"] = "step"  # "step": / 10 at each of lr_milestones; or to 0
    lr_milestones: tuple[int, ...] = bounded((8_000,), least=1)  # iterations; not published
    warmup_iterations: int = bounded(0, least=0)  # linear, from a tenth; not published
    max_grad_norm: float | None = bounded(None, least=ABOVE_ZERO)  # clipped to it; not published
    batch_norm: Literal["unfrozen", "frozen", "official"] = "unfrozen"  # "official": frozen below 6
    mixed_precision: bool = False  # fp16 or bf16 where the device has it; not published
    augmentation: Literal["ssd", "light", "none"] = "ssd"  # published: all of SSD's
    eval_every: int = bounded(1_000, least=1)  # iterations between evaluations on val
    selection_share: float = bounded(0.0, least=0, below=1)  # of train, set aside; 0: val selects
    eval_images: int = bounded(300, least=1)  # val images in between; at the end, all
    patience: int | None = bounded(None, least=1)  # evaluations without a better one before it ends
    checkpoint_every: int = bounded(250, least=1)  # iterations between checkpoints
    max_bad_fraction: float = bounded(0.05, least=0, below=1)  # of unreadable training samples
    max_skipped_updates: int = bounded(10, least=1)  # consecutive non-finite losses or gradients
    workers: int = bounded(2, least=0, below=257)  # processes that load images
    seed: int = bounded(0, least=0, below=2**63)  # of weights, order and augmentation

    @property
    def freeze_batch_norm(self) -> bool:
        """True if batch norm is frozen; "official": below 6 images per batch (official YOLACT)."""
        small = self.batch_norm == "official" and self.batch_size < 6
        return small or self.batch_norm == "frozen"

    @property
    def halfway(self) -> int:
        """The evaluated iteration nearest to half of a training (published: 6K)."""
        evaluations = max(1, round(self.iterations / 2 / self.eval_every))
        return min(self.iterations, evaluations * self.eval_every)

    def check_processes(self, processes: int) -> None:
        """Raises ValueError if so many processes, and `accumulate`, cannot share a batch evenly."""
        if self.batch_size % (processes * self.accumulate):
            expected = f"the number of processes ({processes}) times accumulate ({self.accumulate})"
            raise ValueError(f"batch_size ({self.batch_size}) must be divisible by {expected}")

# SPDX-License-Identifier: Apache-2.0
"""Makes a method a LightningModule, with optimizer and schedule, and with the state that a resumed run needs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from sslkernels.arguments import check_callable, check_kind, check_module, check_number
from sslkernels.data import Pictures
from sslkernels.evaluation import encode, feature_spread
from sslkernels.methods import Method
from sslkernels.modules import Remembering
from sslkernels.training.batches import given_of, images_of, views_of
from sslkernels.training.checkpoint import random_state, saved_figures, saved_spread, set_random_state
from sslkernels.training.optimizer import WEIGHT_DECAY, optimizer_and_schedule, rising_cosine

# Images whose features are watched: enough for an effective rank of a few dozen, and little work beside an epoch.
WATCHED = 256
# There are fewer ranks than this.
RANKS = 1_000_003


class LitMethod(LightningModule):
    """Trains a `Method` under Lightning: AdamW, five percent of warm-up, then a cosine to zero.

    Args:
        method: the method to train. `Method.after_step` runs once per optimizer step, not once per micro-batch of an
            accumulation.
        views: makes views of a batch of images, as `sslkernels.data.TwoViews` does; the loader then yields images or
            (images, labels). Pass None if the loader yields as many views as the method takes: (view, view) or
            ((view, view), labels). Labels, and all that follows them, are ignored, but for a dictionary of what
            `Method.needs` names: (images, {"index": ...}).
        lr, weight_decay: settings of AdamW; biases and BatchNorm are not decayed.
        final_weight_decay: where the weight decay ends, to which it goes in half a cosine; None leaves it as it is.

    To clip gradients, pass ``gradient_clip_val`` to the trainer. What `Method.before_step` takes away does not count.

    If the trainer cannot know how many steps there will be (an IterableDataset with ``max_epochs``, or
    ``max_epochs=-1``), a warning says so: the rate stays up after 500 steps of warm-up, and teachers keep their first
    momentum. ``Trainer(max_steps=...)`` or ``limit_train_batches`` tell it.

    ``losses`` holds the loss of every optimizer step (the mean over its micro-batches and ranks) once an epoch is over.
    After an epoch with a loss that is not finite, the training stops. ``feature_std`` and ``effective_rank`` say how
    far the features spread at the end of every epoch: they are `sslkernels.evaluation.feature_spread` of the backbone
    in evaluation mode, on up to 256 first views of the last batch, and the mean over ranks. They are None for epochs
    whose checkpoint did not have them yet. All three are logged, the first as ``loss``, and so are figures that the
    method gives besides, such as a teacher's entropy; ``figures`` has the mean of each over every epoch.
    A checkpoint taken after an epoch resumes to the same losses, since it holds the random state of every rank, and
    what its views remember.

    >>> import torch
    >>> from sslkernels.methods import SimCLR
    >>> from sslkernels.models import resnet_small
    >>> from sslkernels.training import LitMethod
    >>> module = LitMethod(SimCLR(resnet_small(), feature_dim=128), lr=1e-3)
    >>> module.losses
    []
    """

    def __init__(
        self,
        method: Method,
        *,
        views: Callable[[Tensor], Tensor | Sequence[Tensor]] | None = None,
        lr: float = 1e-3,
        weight_decay: float = WEIGHT_DECAY,
        final_weight_decay: float | None = None,
    ) -> None:
        super().__init__()
        self.method = check_kind("LitMethod", "method", method, Method, "a Method such as SimCLR(backbone, ...)")
        if isinstance(views, type):
            check_module("LitMethod", "views", views)
        self.views = None if views is None else check_callable("LitMethod", "views", views)
        self.lr = check_number("LitMethod", "lr", lr, least=0)
        self.weight_decay = check_number("LitMethod", "weight_decay", weight_decay, least=0)
        if final_weight_decay is not None:
            final_weight_decay = check_number("LitMethod", "final_weight_decay", final_weight_decay, least=0)
        self.final_weight_decay = final_weight_decay
        self.losses: list[float] = []
        self.feature_std: list[float | None] = []
        self.effective_rank: list[float | None] = []
        self.figures: list[dict[str, float]] = []
        self._watched: Tensor | None = None
        self._figures: list[dict[str, Tensor]] = []
        self._step_losses: list[Tensor] = []
        self._micro_losses: list[Tensor] = []
        self._random_states: list[dict[str, Any]] = []

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        views = views_of(batch if self.views is None else self.views(images_of(batch)))
        if len(views[0]) == 1 and any(isinstance(part, nn.BatchNorm1d) for part in self.method.modules()):
            raise ValueError(
                "LitMethod: a batch has one image, and BatchNorm no variance of one; "
                "pass drop_last=True to the loader, or a batch size that leaves none alone."
            )
        out = self.method(views, **given_of(batch, self.method.needs))
        loss = out["loss"]
        self._watched = views[0][:WATCHED]  # kept from every batch: max_steps may end an epoch at any
        self._micro_losses.append(loss.detach())
        self.log("loss", loss, prog_bar=True, batch_size=len(views[0]))
        besides = {name: value for name, value in out.items() if name not in ("loss", "embeddings")}
        for name, value in besides.items():  # what the method watches
            self.log(name, value, batch_size=len(views[0]))
        self._figures.append({name: value.detach() for name, value in besides.items()})
        return loss

    def configure_optimizers(self) -> Any:
        total = self._total_steps()
        if total == math.inf and self.global_rank == 0:
            warnings.warn(
                "LitMethod: nobody knows how many steps this training has: the rate stays up after its warm-up, and "
                "teachers keep their first momentum; pass max_steps= or limit_train_batches= to the Trainer.",
                stacklevel=2,
            )
        fused = not (self.trainer.gradient_clip_val and "mixed" in str(self.trainer.precision))
        optimizer, schedule = optimizer_and_schedule(self.method, self.lr, self.weight_decay, total, fused)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _total_steps(self) -> float:
        """The number of steps, or infinity if the trainer does not know it; it says -1 or infinity then."""
        total = self.trainer.estimated_stepping_batches
        return int(total) if 0 <= total < math.inf else math.inf

    def optimizer_step(self, *arguments: Any, **keywords: Any) -> None:
        step = self.trainer.global_step
        super().optimizer_step(*arguments, **keywords)
        self._step_losses.append(torch.stack(self._micro_losses).mean())
        self._micro_losses.clear()
        self.method.after_step(step, self._total_steps())

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self.final_weight_decay is not None:
            share = self.trainer.global_step, self._total_steps()
            decayed = optimizer.param_groups[0]  # the other group has the weights that are never decayed
            decayed["weight_decay"] = rising_cosine(*share, self.weight_decay, self.final_weight_decay)
        self.method.before_step(self.trainer.global_step, self._total_steps())

    def on_train_epoch_start(self) -> None:
        if type(self.method).before_epoch is Method.before_epoch:
            return
        # As at the first batch: what prepares an epoch of a resumed run must not depend on what was drawn since.
        if len(self._random_states) > self.global_rank:
            set_random_state(self._random_states[self.global_rank])
        epochs = self.trainer.max_epochs
        self.method.before_epoch(self._embed_all, self.current_epoch, epochs if epochs and epochs > 0 else None)

    def _embed_all(self) -> Tensor:
        """Features of all training samples in order: each rank computes its share, and gets those of the others."""
        inputs = getattr(getattr(self.trainer, "datamodule", None), "inputs", None)
        if inputs is None:
            raise ValueError(
                f"LitMethod: {type(self.method).__name__} prepares an epoch by the features of all training samples, "
                "and a loader does not say which these are; pass Trainer.fit a datamodule whose `inputs` are the "
                "samples in order."
            )
        ranks, rank = self.trainer.world_size, self.global_rank
        share = -(-len(inputs) // ranks)
        # The last share may be shorter; its last sample is repeated, and cut off at the end.
        rows = torch.arange(rank * share, (rank + 1) * share).clamp(max=len(inputs) - 1)
        part = inputs.only(rows) if isinstance(inputs, Pictures) else inputs[rows]
        features = encode(self.method.backbone, part).to(self.device)
        if ranks > 1:
            features = self.all_gather(features).flatten(0, 1)
        return features[: len(inputs)]

    def on_train_start(self) -> None:
        # Ranks draw different views. A rank that the checkpoint does not know draws none that another one drew before.
        if self.global_rank >= max(1, len(self._random_states)):
            torch.manual_seed(torch.initial_seed() + self.global_rank + RANKS * self.current_epoch)
        elif self._random_states:  # what the views of this rank had met of its own samples
            for path, state in self._random_states[self.global_rank].get("views", {}).items():
                self.get_submodule(path).load_state_dict(state)

    def _remembered(self) -> dict[str, dict[str, Tensor]]:
        """Collect what this rank's views remember; the weights in a checkpoint are those of the first rank alone."""
        return {
            path: {name: each.cpu() for name, each in part.state_dict().items()}
            for path, part in self.named_modules()
            if path.startswith("views.") and isinstance(part, Remembering)
        }

    def on_train_batch_start(self, batch: Any, batch_index: int) -> None:
        # Forget what the loop and its loader drew since the last epoch: those of a resumed run draw something else.
        if batch_index == 0 and len(self._random_states) > self.global_rank:
            set_random_state(self._random_states[self.global_rank])

    def on_train_epoch_end(self) -> None:
        if self._watched is None:
            raise ValueError(
                f"LitMethod: epoch {self.current_epoch + 1} had no batch; pass a loader that begins anew every epoch."
            )
        if not self._step_losses:  # the training stopped within an accumulation
            return
        losses = self.trainer.strategy.reduce(torch.stack(self._step_losses), reduce_op="mean")
        self.losses += losses.tolist()
        if not losses.isfinite().all():
            self.trainer.should_stop = True
        self._step_losses.clear()
        self._keep_figures()
        self._random_states = [random_state()]
        if self.trainer.world_size > 1:
            self._random_states = [{} for _ in range(self.trainer.world_size)]
            remembered = self._remembered()
            mine = {**random_state(), "views": remembered} if remembered else random_state()
            dist.all_gather_object(self._random_states, mine)
        self._watch_features()  # after the random state is kept: the next epoch does not see what this draws

    def _keep_figures(self) -> None:
        """Keep the means over the epoch's batches and the ranks of what the method watches."""
        values = {name: [each[name] for each in self._figures if name in each] for name in self._figures[-1]}
        means = {name: torch.stack(each).float().mean() for name, each in values.items()}
        reduce = self.trainer.strategy.reduce
        self.figures.append({name: float(reduce(mean, reduce_op="mean")) for name, mean in means.items()})
        self._figures.clear()

    def _watch_features(self) -> None:
        assert self._watched is not None
        spread = feature_spread(encode(self.method.backbone, self._watched))
        self._watched = None
        means = self.trainer.strategy.reduce(torch.tensor(spread, device=self.device), reduce_op="mean").tolist()
        for name, mean in zip(spread._fields, means, strict=True):
            getattr(self, name).append(mean)
            self.log(name, mean, sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["loss"] = list(self.losses)
        checkpoint["feature_std"] = list(self.feature_std)
        checkpoint["effective_rank"] = list(self.effective_rank)
        checkpoint["figures"] = list(self.figures)
        checkpoint["random_states"] = self._random_states

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.losses = list(checkpoint["loss"])
        self.feature_std, self.effective_rank = saved_spread(checkpoint).values()
        self.figures = saved_figures(checkpoint)
        self._random_states = checkpoint["random_states"]

# SPDX-License-Identifier: Apache-2.0
"""Every method and recipe learns a batch by heart, alike on all backends, resumes, and says what it needs."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from small_methods import small_data, small_numbers

from sslkernels.evaluation import encode
from sslkernels.methods import Method
from sslkernels.recipes import available, find, images
from sslkernels.recipes.recipe import FILLED
from sslkernels.settings import settings_of
from sslkernels.training.config import TrainConfig
from sslkernels.training.loader import Samples
from sslkernels.training.measure import on_backend
from sslkernels.training.optimizer import optimizer_and_schedule
from sslkernels.training.run import check_needs

pytest.importorskip("lightning")

# One recipe of each objective with its term and its views.
DIFFERENT = {(find(name).method, find(name).term, find(name).views): name for name in reversed(available())}.values()
# A batch at a time is all that these see.
STEPS = 30
# Eight sides are hard to tell apart: its loss falls by a twentieth in this many.
MORE_STEPS = {"context": 120}
# The loss of these need not fall on one batch: the teacher, the queue or the mask makes it harder meanwhile.
RISES = {
    "dense_cl", "halp", "moco_v2", "moco_v3", "moby", "sce", "ressl", "nnclr", "i_jepa", "vg_moco_v2", "rq_moco_v3",
    "geo_moco", "genview", "dino", "ibot", "dinov2", "dinov3", "dinov2_crop_only", "alice", "speaker_dino", "ca_dino",
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    """Tensors this small wait for a second thread longer than it saves."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Run:
    """A training on one batch, from seed 0, with all that a checkpoint holds."""

    def __init__(self, name: str, backend: str | None = None) -> None:
        torch.manual_seed(0)
        self.recipe = find(name)
        data = small_data(self.recipe.modality.name)
        settings = {**self.recipe.fitted(data), **small_numbers(self.recipe)}
        self.method = self.recipe.build(data, settings, backend=backend)
        self.views = self.recipe.build_views(data, settings)
        self.inputs, self.given = Samples(data, self.method.needs).first(16, torch.device("cpu"))
        if type(self.method).before_epoch is not Method.before_epoch:
            self.method.before_epoch(lambda: encode(self.method.backbone, data.inputs), 0, None)
        self.optimizer, _ = optimizer_and_schedule(self.method, 3e-3, 0.05, 10 * STEPS)
        self.done = 0

    def step(self, views: tuple | None = None) -> float:
        loss = self.method(self.views(self.inputs) if views is None else views, **self.given)["loss"]
        self.optimizer.zero_grad()
        loss.backward()
        self.method.before_step(self.done, 10 * STEPS)
        self.optimizer.step()
        self.method.after_step(self.done, 10 * STEPS)
        self.done += 1
        return loss.item()

    def state(self) -> dict:
        parts = {"method": self.method, "views": self.views, "optimizer": self.optimizer}
        return {"random": torch.get_rng_state(), "done": self.done} | {
            name: copy.deepcopy(part.state_dict()) for name, part in parts.items()
        }

    def load(self, state: dict) -> None:
        for name in ("method", "views", "optimizer"):
            getattr(self, name).load_state_dict(state[name])
        self.done = state["done"]
        torch.set_rng_state(state["random"])


@pytest.mark.parametrize("name", available())
def test_no_setting_has_two_owners(name: str) -> None:
    recipe = find(name)
    kinds = [recipe.method, recipe.backbone.build, recipe.views or recipe.modality.views, *filter(None, [recipe.term])]
    owned = [setting for kind in kinds for setting in settings_of(kind, leave=(*FILLED, *recipe.parts))]
    assert len(owned) == len(set(owned)) and "weight" not in owned and set(owned) <= set(recipe.settings)


def test_components_are_made_of_no_more_pictures_than_they_need(monkeypatch) -> None:
    asked: list[slice] = []

    class Read(torch.Tensor):
        def __getitem__(self, rows):
            asked.append(rows)
            return self.as_subclass(torch.Tensor)[rows]

    monkeypatch.setattr(images, "MOST", 4)
    data = small_data("images")
    find("fine_grained").build_views(replace(data, inputs=data.inputs.as_subclass(Read)))
    assert asked == [slice(None, None, 4)]


@pytest.mark.parametrize("name", [name for name in DIFFERENT if name not in RISES])
def test_the_loss_of_one_batch_falls(name: str) -> None:
    run = Run(name)
    views = run.views(run.inputs)
    losses = [run.step(views) for _ in range(MORE_STEPS.get(name, STEPS))]
    print(f"{name}: {losses[0]:.3f} to {losses[-1]:.3f}")
    assert sum(losses[-5:]) < sum(losses[:5])


@pytest.mark.parametrize("name", DIFFERENT)
def test_backends_agree_on_the_first_steps(name: str) -> None:
    run = Run(name)
    state = torch.get_rng_state()
    found = {}
    for backend in ("reference", "cpu"):
        torch.set_rng_state(state)
        method = on_backend(run.method, backend)
        out = method(copy.deepcopy(run.views)(run.inputs), **run.given)  # they may remember samples
        torch.testing.assert_close(method.loss(*out["embeddings"]), out["loss"], rtol=1e-6, atol=1e-7)
        out["loss"].backward()
        gradient = torch.cat([w.grad.flatten() for w in method.parameters() if w.grad is not None])
        found[backend] = out["loss"].detach(), gradient
    torch.testing.assert_close(found["cpu"][0], found["reference"][0], rtol=1e-5, atol=1e-6)
    difference = (found["cpu"][1] - found["reference"][1]).norm() / found["reference"][1].norm()
    assert difference < 1e-4 and found["reference"][1].isfinite().all()


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_run_that_was_saved_goes_on_as_if_nothing_had_been(name: str) -> None:
    whole = Run(name)
    for _ in range(2):
        whole.step()
    state = whole.state()
    expected = [whole.step() for _ in range(2)]
    again = Run(name)
    again.load(state)
    assert [again.step() for _ in range(2)] == expected


@pytest.mark.parametrize("name", [name for name in DIFFERENT if find(name).needs or find(name).options])
def test_a_need_that_the_data_lacks_is_one_sentence(name: str) -> None:
    recipe = find(name)
    data = small_data(recipe.modality.name)
    needs = recipe.build(data, {**recipe.fitted(data), **small_numbers(recipe)}).needs
    if not needs:
        pytest.skip("it needs nothing but samples")
    for lacking in set(needs) - {"index"}:  # no data lacks it
        bare = small_data(recipe.modality.name, bare=True)
        with pytest.raises(ValueError, match=f"^train: {name} needs {lacking} of each sample, and .* has index; pass"):
            check_needs(TrainConfig.from_options(name, {}), bare, [lacking])
    run = Run(name)
    with pytest.raises(ValueError, match=f"{needs[0]} of each sample is missing; call method"):
        run.method(run.views(run.inputs))

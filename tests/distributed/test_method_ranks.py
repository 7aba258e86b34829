# SPDX-License-Identifier: Apache-2.0
"""On two gloo processes with different numbers of rows, losses of methods are those of all rows at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from worlds import WorldsOf, caught

from sslkernels.methods import (
    CADINO,
    CAPI,
    DINO,
    DLGLC,
    FASSL,
    IBOT,
    MLS,
    MOKD,
    MSN,
    PAL,
    PMSN,
    SCFS,
    ColloSSL,
    CrIBo,
    DINOv2,
    GenView,
    Mugs,
    ProtoCLR,
    SliceCluster,
    SSTerrain,
    SwAV,
    Transitive,
)
from sslkernels.methods.pal import BASES
from sslkernels.models import ResNet, ViT
from sslkernels.models.volume import VolumeNet

SIZES = 4, 3  # shares of a seventh are no binary fractions


def rows(*width: int) -> torch.Tensor:
    return torch.randn(sum(SIZES), *width, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(width)))


def mokd(group: str | None, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """Two large views and one small one."""
    torch.manual_seed(0)
    weight = torch.eye(6, dtype=torch.float64, requires_grad=True)
    vit = ViT((8, 8), 2, width=8, depth=1, class_token=True)
    sizes = {"prototypes": 9, "hidden_dim": 4, "projection_dim": 6, "search_depth": 1}
    method = MOKD(vit, feature_dim=8, **sizes, group=group).double()
    z = [rows(width)[part] for width in (8, 9, 10)]
    all_views, large = torch.cat([each[:, :8] for each in z]), torch.cat([each[:, :8] for each in z[:2]])
    side = [all_views[:, :6] @ weight, all_views, large[:, 2:], large + 1, z[2][:, :8]]
    loss = method.loss(*side, *(each.flip(1) for each in side))
    loss.backward()
    return loss.detach(), torch.cat([weight.grad, method.other.projector.last_layer.weight_v.grad])


def mugs(group: str | None, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    weight = torch.eye(6, dtype=torch.float64, requires_grad=True)
    vit = ViT((8, 8), 2, width=8, depth=1, class_token=True)
    sizes = {"prototypes": 9, "hidden_dim": 4, "projection_dim": 6, "queue_size": 12}
    method = Mugs(vit, feature_dim=8, **sizes, group=group).double()
    views = [[rows(width + 3 * level)[part, :6] for width in (6, 7, 8)] for level in range(3)]
    student = [torch.cat(each) @ weight for each in views]
    loss = method.loss(*student, *(torch.cat(each[:2]) + 1 for each in views))
    loss.backward()
    return loss.detach(), torch.cat([weight.grad, method.projector.last_layer.weight_v.grad])


def proto_clr(group: str | None, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
    weight = torch.eye(6, dtype=torch.float64, requires_grad=True)
    method = ProtoCLR(nn.Flatten(), feature_dim=6, group=group)
    support, *queries = (rows(width)[part, :6] @ weight for width in (6, 7, 8, 9))
    loss = method.loss(support, torch.cat(queries))
    loss.backward()
    return loss.detach(), weight.grad


def pal(base: str) -> Callable[[str | None, slice], tuple[torch.Tensor, torch.Tensor]]:
    def case(group: str | None, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        weight = torch.eye(6, dtype=torch.float64, requires_grad=True)
        method = PAL(nn.Flatten(), feature_dim=6, samples=8, base=base, projection_dim=6, group=group)
        labels = torch.tensor([-1, 1, 0, 1, -1, 1, 2])[part]  # nobody knows that of the first on either rank
        loss = method.loss(*(rows(width)[part, :6] @ weight for width in (6, 7)), labels)
        loss.backward()
        return loss.detach(), weight.grad

    return case


def genview(group: str | None, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
    weight = torch.eye(6, dtype=torch.float64, requires_grad=True)
    method = GenView(nn.Flatten(), feature_dim=64, hidden_dim=4, projection_dim=6, gamma=9.0, group=group)
    q0, q1, k0, k1 = (rows(width)[part, :6] @ weight for width in (6, 7, 8, 9))
    quality = method.quality([rows(1, 8, 8)[part], rows(1, 8, 8).flip(0)[part].abs()])
    loss = method.loss(q0, q1, k0.detach(), k1.detach(), quality)
    loss.backward()
    return loss.detach(), weight.grad


def collossl(group: str | None, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
    weight = torch.eye(5, dtype=torch.float64, requires_grad=True)
    method = ColloSSL(nn.Flatten(), feature_dim=20, sensors=4, group=group)
    loss = method.loss(rows(20)[part] @ torch.block_diag(*[weight] * 4), method.lengths(rows(4, 5)[part]))
    loss.backward()
    return loss.detach(), weight.grad


def dino(group: str | None, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    weight = torch.eye(6, dtype=torch.float64, requires_grad=True)
    method = DINO(nn.Flatten(), feature_dim=6, prototypes=9, hidden_dim=4, projection_dim=6, group=group).double()
    z = [rows(width)[part, :6] for width in (6, 7, 8, 9, 10)]
    loss = method.loss(*(each @ weight for each in z[:3]), *z[3:])
    loss.backward()
    return loss.detach(), weight.grad


def ibot(group: str | None, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """One patch of each image is hidden."""
    torch.manual_seed(0)
    weight = torch.eye(6, dtype=torch.float64, requires_grad=True)
    vit = ViT((8, 8), 2, width=8, depth=1, class_token=True, mask_token=True)
    sizes = {"prototypes": 9, "hidden_dim": 4, "projection_dim": 6}
    masks = {"mask_ratio": (1e-6, 1e-6), "mask_probability": 1.0, "centering": "sinkhorn"}
    method = IBOT(vit, feature_dim=8, **sizes, **masks, group=group).double()
    z = [rows(width)[part, :6] for width in (6, 7, 8, 9, 10, 11)]
    share = method.hide(len(z[0]), z[0].device)[2]
    loss = method.loss(z[0] @ weight, z[1] @ weight, z[2], z[3], z[4] @ weight, z[5], share)
    loss.backward()
    return loss.detach(), torch.cat([weight.grad, method.projector.last_layer.weight_v.grad])


def ca_dino(group: str | None, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    weight = torch.eye(6, dtype=torch.float64, requires_grad=True)
    sizes = {"samples": 9, "prototypes": 9, "hidden_dim": 4, "projection_dim": 6}
    method = CADINO(nn.Flatten(), feature_dim=6, **sizes, group=group).double()
    z = [rows(width)[part, :6] for width in range(6, 13)]
    loss = method.loss(z[0] @ weight, z[1] @ weight, z[2], z[3], z[4] @ weight, z[5] @ weight, z[6], z[0])
    loss.backward()
    return loss.detach(), weight.grad


def dlg_lc(group: str | None, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """Some samples pass the gate, and some do not."""
    torch.manual_seed(0)
    weight = torch.eye(6, dtype=torch.float64, requires_grad=True)
    sizes = {"samples": 7, "clusters": 3, "scale": 6.0, "confidence": 0.4}
    method = DLGLC(nn.Flatten(), feature_dim=6, **sizes, group=group).double()
    method.pseudo.label.copy_(torch.arange(7) % 3)
    method.pseudo.gate.fill_(2.5)
    z0, z1 = (rows(width)[part, :6] for width in (6, 7))
    index = torch.arange(7)[part]
    loss, own, _ = method.compared(z0 @ weight, z1 @ weight, index)
    loss.backward()
    method._newest.append((index, own))
    method.after_step(0, 10)
    method.pseudo.move_gate(group)
    return loss.detach() + method.pseudo.losses.sum() + method.pseudo.gate.sum(), torch.cat(
        [weight.grad, method.centers.grad]
    )


def slice_cluster(group: str | None, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    weight = torch.eye(8, dtype=torch.float64, requires_grad=True)
    sizes = {"samples": 7, "prototypes": 3, "projection_dim": 8, "hidden_dim": 4}
    encoders: dict[str, nn.Module] = {"volume": VolumeNet(1, (4,))}
    method = SliceCluster(nn.Flatten(), feature_dim=6, encoders=encoders, **sizes, group=group).double()
    method.clusters.prototypes.normal_()
    method.clusters.targets.copy_(torch.arange(7) % 3)
    z0, z1, solid = (rows(width)[part, :8] @ weight for width in (8, 9, 10))
    loss = method.loss(z0, z1, torch.arange(7)[part], solid, rows(2, 8)[part] @ weight, rows(3, 8)[part, :2])
    loss.backward()
    return loss.detach(), weight.grad


def ss_terrain(group: str | None, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    weight = torch.eye(6, dtype=torch.float64, requires_grad=True)
    solid = VolumeNet(1, (4,))  # any network with a feature_dim
    sizes = {"samples": 7, "clusters": 3, "projection_dim": 6, "margin": 3.0}
    method = SSTerrain(nn.Flatten(), feature_dim=6, encoders={"speech": solid}, **sizes, group=group).double()
    method.clusters.targets.copy_(torch.arange(7) % 3)
    sound, positive, negative, looks = (rows(width)[part, :6] @ weight for width in (6, 7, 8, 9))
    loss = method.loss(sound, positive, negative, looks, torch.arange(7)[part])
    loss.backward()
    return loss.detach(), torch.cat([weight.grad, method.classifier.weight.grad])


def capi(group: str | None, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    weight = torch.eye(8, dtype=torch.float64, requires_grad=True)
    vit = ViT((4, 4), 2, width=8, depth=1)
    method = CAPI(vit, prototypes=9, predictor_depth=1, mask_ratio=0.5, predicted=1.0, group=group).double()
    asked = rows(4).argsort(1)[part, :2]
    loss = method.loss(rows(2, 8)[part] @ weight, asked, rows(4, 8)[part])
    loss.backward()
    return loss.detach(), torch.cat([weight.grad, method.clusterer.weight.grad])


def dinov2(group: str | None, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """What it adds to iBOT's loss: class tokens are spread, and patches held, over all ranks."""
    torch.manual_seed(0)
    weight = torch.eye(6, dtype=torch.float64, requires_grad=True)
    vit = ViT((8, 8), 2, width=8, depth=1, class_token=True, mask_token=True)
    sizes = {"prototypes": 9, "hidden_dim": 4, "projection_dim": 6}
    masks = {"mask_ratio": (1e-6, 1e-6), "mask_probability": 1.0}
    method = DINOv2(vit, feature_dim=8, **sizes, **masks, gram=2.0, group=group).double()
    z = [rows(width)[part, :6] for width in range(6, 14)]
    x, y = (rows(4, width)[part, :, :6] for width in (6, 7))
    share = method.hide(len(x), x.device)[2]
    classes = torch.cat(z[:2]) @ weight
    loss = method.loss(classes, x @ weight, y, z[2] @ weight, z[3], *z[4:6], z[6] @ weight, z[7], share)
    loss.backward()
    return loss.detach(), weight.grad


def cribo(group: str | None, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """Some objects are not in both views, and some neighbours lead back."""
    torch.manual_seed(0)
    weight = torch.eye(6, dtype=torch.float64, requires_grad=True)
    vit = ViT((8, 8), 2, width=8, depth=1, class_token=True)
    sizes = {"prototypes": 9, "hidden_dim": 4, "projection_dim": 6, "clusters": 2, "queue_size": 12}
    method = CrIBo(vit, feature_dim=8, **sizes, group=group).double()
    objects = torch.stack([rows(width)[:, :8] for width in (8, 9)])
    method.queue.keys[:4] = torch.cat([objects[0], objects[1] + objects[1].flip(0) / 2], 1)[2:6]
    objects, valid = objects[:, part], torch.tensor([1, 1, 0, 1, 1, 0, 1]).bool()[part]
    near, back = method.neighbours(objects, valid)
    counted, *led = method.weights(objects, valid, *back)
    z = [rows(width)[part, :6] for width in (6, 7, 8, 9)]
    both = objects.flatten(0, 1)[:, :6]
    loss = method.loss(
        *(each @ weight for each in z[:2]), *z[2:], both @ weight, both.flip(1), counted.repeat(2), near[:, :6],
        torch.cat(led),
    )  # fmt: skip
    loss.backward()
    return loss.detach(), torch.cat([weight.grad, method.object_layer.weight_v.grad])


def masked(kind: type[MSN]) -> Callable[[str | None, slice], tuple[torch.Tensor, torch.Tensor]]:
    def case(group: str | None, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(0)
        weight = torch.eye(6, dtype=torch.float64, requires_grad=True)
        vit = ViT((8, 8), 2, width=8, depth=1)
        sizes = {"prototypes": 9, "hidden_dim": 4, "projection_dim": 6}
        method = kind(vit, feature_dim=8, **sizes, group=group).double()
        first, second, target = (rows(width)[part, :6] for width in (6, 7, 8))
        loss = method.loss(first @ weight, second @ weight, target)
        loss.backward()
        return loss.detach(), torch.cat([weight.grad, method.prototypes.weight.grad])

    return case


def scfs(group: str | None, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    weight = torch.eye(6, dtype=torch.float64, requires_grad=True)
    sizes = {"prototypes": 9, "hidden_dim": 4, "projection_dim": 6, "stages": 1}
    method = SCFS(ResNet(1, (6,), (1,)), feature_dim=6, **sizes, group=group).double()
    views = [rows(width)[part, :6] for width in (6, 7, 8, 9, 10)]
    large, taught, small, searched = (torch.cat([view + shift for view in views[:2]]) for shift in (0, 1, 2, 3))
    loss = method.loss(*(view @ weight for view in views[:3]), *views[3:], large @ weight, taught, small, searched)
    loss.backward()
    return loss.detach(), weight.grad


def fassl(group: str | None, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    weight = torch.eye(6, dtype=torch.float64, requires_grad=True)
    sizes = {"prototypes": 9, "hidden_dim": 4, "projection_dim": 6}
    method = FASSL(nn.Flatten(), feature_dim=6, **sizes, group=group).double()
    method.frequencies.shares.copy_(torch.arange(9) / 36)
    z = [rows(width)[part, :6] for width in (6, 7, 8)]
    method.frequencies.collect(method.nearest(z[0]))
    method.frequencies.update(group)
    loss = method.loss(*(each @ weight for each in z))
    loss.backward()
    return loss.detach(), torch.cat([weight.grad, method.prototypes.weight.grad])


def swav(queue: int) -> Callable[[str | None, slice], tuple[torch.Tensor, torch.Tensor]]:
    def case(group: str | None, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(0)
        weight = torch.eye(6, dtype=torch.float64, requires_grad=True)
        sizes = {"prototypes": 9, "hidden_dim": 4, "projection_dim": 6, "queue_size": queue}
        method = SwAV(nn.Flatten(), feature_dim=6, **sizes, group=group).double()
        method.queued += queue
        loss = method.loss(*(rows(width)[part, :6] @ weight for width in (6, 7, 8)))
        loss.backward()
        return loss.detach(), weight.grad

    return case


def mls(group: str | None, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
    weight = torch.eye(6, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(0)
    method = MLS(nn.Flatten(), feature_dim=6, hidden_dim=4, projection_dim=6, queue_size=7, positives=3, group=group)
    method = method.double()
    looks, query, key_looks, key = (rows(width)[part, :6] for width in (6, 7, 8, 9))
    loss = method.loss(looks, query @ weight, key_looks, key)
    loss.backward()
    return loss.detach(), weight.grad


def transitive(group: str | None, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
    weight = torch.eye(6, dtype=torch.float64, requires_grad=True)
    method = Transitive(nn.Flatten(), feature_dim=6, projection_dim=6, neighbours=2, negatives=3, group=group)
    features, z0, z1 = (rows(width)[part, :6] for width in (6, 7, 8))
    loss = method.loss(features, z0 @ weight, z1 @ weight)
    loss.backward()
    return loss.detach(), weight.grad


CASES = {
    "ca_dino": ca_dino,
    "capi": capi,
    "collossl": collossl,
    "cribo": cribo,
    "dino": dino,
    "dinov2": dinov2,
    "dlg_lc": dlg_lc,
    "fassl": fassl,
    "genview": genview,
    "ibot": ibot,
    "mls": mls,
    "mokd": mokd,
    "msn": masked(MSN),
    "mugs": mugs,
    "pmsn": masked(PMSN),
    "proto_clr": proto_clr,
    "scfs": scfs,
    "slice_cluster": slice_cluster,
    "ss_terrain": ss_terrain,
    "swav": swav(0),
    "swav_queue": swav(5),
    "transitive": transitive,
    **{f"pal_{base}": pal(base) for base in BASES},
}


CLOSE = {"rtol": 1e-11, "atol": 1e-12}  # a weight of a row that is rounded to float32 is farther off


def job(rank: int, world: int) -> dict[str, Any]:
    begin = sum(SIZES[:rank])
    return {name: caught(case, "world", slice(begin, begin + SIZES[rank])) for name, case in CASES.items()}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return WorldsOf(job, tmp_path_factory)(2)


@pytest.mark.parametrize("name", CASES)
def test_the_mean_over_ranks_is_that_of_all_rows(ranks, name):
    results = [rank[name] for rank in ranks]
    assert all(isinstance(each, tuple) for each in results), results
    loss, gradient = CASES[name](None, slice(None))
    torch.testing.assert_close(torch.stack([each[0] for each in results]).mean(), loss, **CLOSE)
    torch.testing.assert_close(torch.stack([each[1] for each in results]).mean(0), gradient, **CLOSE)

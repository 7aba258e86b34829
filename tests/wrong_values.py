# SPDX-License-Identifier: Apache-2.0
"""Wrong values by the kind of argument that they are wrong for, and the good tensors that they differ from."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from sslkernels.models import resnet_small

ROWS = torch.linspace(-1, 1, 12).view(4, 3)
TOKENS = torch.linspace(-1, 1, 24).view(2, 4, 3)
LABELS = torch.tensor([0, 0, 1, 1])
INDEX = torch.tensor([[0, 2], [1, 3]])
IMAGES = torch.rand(4, 1, 8, 8)
NAN, INF = float("nan"), float("inf")
HUGE = 10**15
NO_TENSOR = {
    "none": None,
    "list": [[1.0]],
    "text": "x",
    "number": 1.0,
    "array": np.ones((4, 3)),
    "module": nn.Linear(3, 3),
}
NO_NUMBER = {"none": None, "text": "0.1", "bool": True, "list": [1.0], "complex": 1j, "array": np.ones(2)}
NOT_FINITE = {"nan": NAN, "inf": INF, "-inf": -INF, "huge": 10**400, "numpy nan": np.float32("nan")}


def tensors(good: torch.Tensor) -> dict[str, Any]:
    """Values that are no dense floating-point tensor like ``good``."""
    return {
        **{name: value for name, value in NO_TENSOR.items() if not (name == "array" and good.dim() == 2)},
        "fewer dimensions": good[0, 0] if good.dim() > 2 else good[0],
        "more dimensions": good[None, None],
        "no features": good[..., :0],
        "integers": good.long(),
        "booleans": good > 0,
        "complex": good.cfloat(),
        "float8": good.to(torch.float8_e4m3fn),
        "quantized": torch.quantize_per_tensor(good, 0.1, 0, torch.qint8),
        "sparse": good.to_sparse(),
        "meta": good.to("meta"),
        "nested": torch.nested.nested_tensor([good[0], good[0][:1]]),
    }


def without(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


WHOLE = {
    "none": None, "text": "3", "float": 2.5, "bool": True, "negative": -1, "list": [3], "nan": NAN,
        "tensor": torch.ones(2),
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "rows": tensors(ROWS),
    "rows or none": without(tensors(ROWS), "none"),
    "tokens": tensors(TOKENS),
    "images": tensors(IMAGES),
    "index": {
        **NO_TENSOR, "floats": INDEX.float(), "mask": INDEX > 0, "flat": INDEX[0], "cube": INDEX[None],
            "batch": INDEX[:1],
        "sparse": INDEX.to_sparse(), "meta": INDEX.to("meta"), "negative": INDEX - 5, "beyond": INDEX + 100,
    },
    "scalar": {**NO_NUMBER, **NOT_FINITE, "integer tensor": torch.tensor(1), "two numbers": torch.ones(2),
               "sparse": torch.ones(1).to_sparse(), "meta": torch.ones((), device="meta"),
                   "complex tensor": torch.tensor(1j)},
    "number": {**NO_NUMBER, **NOT_FINITE, "tensor": torch.ones(2)},
    "size": {**WHOLE, "zero": 0},
    "whole": WHOLE,
    "flag": {"none": None, "text": "yes", "number": 1, "tensor": torch.ones(2), "list": []},
    "choice": {"none": None, "text": "nonsense", "number": 1, "list": ["mean"], "empty": "", "tensor": torch.ones(2)},
    "group": {"text": "everyone", "number": 3, "list": [0], "bool": True, "empty": "", "tensor": torch.ones(2)},
    "backend": {"text": "abacus", "number": 3, "list": ["cpu"], "empty": "", "bool": False, "tensor": torch.ones(2)},
    "generator": {"number": 3, "text": "x", "bool": True, "numpy": np.random.default_rng(0)},
    "device": {"text": "nowhere", "float": 1.5, "list": ["cpu"], "absent": "cuda:99", "meta": "meta", "empty": ""},
    "module": {"none": None, "text": "x", "class": nn.Linear, "tensor": ROWS, "number": 1, "function": len},
    "list of rows": {"none": None, "tensor": ROWS, "one": [ROWS], "text": "x", "number": 1, "empty": [],
                     "of lists": [[1.0], [1.0]], "of unlike": [ROWS, ROWS[:2]], "of none": [ROWS, None]},
    "masks": {"none": None, "tensor": INDEX, "empty": [], "text": "x", "of floats": [INDEX.float()], "of none": [None],
              "of unlike": [INDEX, INDEX[:, :1]], "beyond": [INDEX + 100]},
    "tensors": {"none": None, "tensor": ROWS, "number": 3, "text": "x", "of numbers": [1.0], "more": [ROWS, ROWS],
                "of none": [None], "shape": [ROWS[:2]], "sparse": [ROWS.to_sparse()], "meta": [ROWS.to("meta")]},
    "views": {"none": None, "number": 3, "one": [IMAGES], "three": [IMAGES] * 3, "text": "xy", "of none": [None, None],
              "of lists": [[1.0], [1.0]], "of unlike": [IMAGES, IMAGES[:2]],
              "empty": [], "meta": [IMAGES.to("meta")] * 2},
    "range": {"none": None, "number": 0.5, "text": "ab", "three": (0.1, 0.2, 0.3), "reversed": (0.5, 0.2),
        "nan": (NAN, 1.0),
              "texts": ("a", "b"), "negative": (-0.1, 0.5), "none inside": (None, 1.0)},
}  # fmt: skip
KINDS |= {
    "temperature": {**KINDS["scalar"], "zero": 0.0, "tiny": 1e-300},
    "weight": {**KINDS["number"], "negative": -1.0, "numpy negative": np.float16(-1)},
    "size or zero": without(KINDS["size"], "zero"),
    "some sizes": {"none": None, "number": 3, "text": "8", "zero": (0,), "float": (2.5,), "more": (4, 4, 4, 4)},
    "share": {**KINDS["number"], "negative": -0.1, "above one": 1.1},
    "positive": {**KINDS["number"], "negative": -1.0, "zero": 0.0},
    "group size or none": {**without(KINDS["size"], "none"), "one": 1, "no divisor": 3},
    "size or none": without(KINDS["size"], "none"),
    "counted": {**KINDS["size"], "beyond memory": HUGE},
    "generator or none": KINDS["generator"],
    "matrix or none": {**without(tensors(ROWS), "none"), "shape": ROWS},
    "module or none": without(KINDS["module"], "none"),
    "choice or none": without(KINDS["choice"], "none"),
    "view": {**without(KINDS["views"], "one", "of unlike"), "two": [IMAGES] * 2, "of none": [None]},
    "momentum": {**without(KINDS["scalar"], "two numbers"), "negative": -0.1, "above one": 1.1},
}
KINDS["row"] = {
    **NO_TENSOR,
    "shape": torch.zeros(4),
    "integers": torch.zeros(3, dtype=torch.int64),
    "complex": torch.zeros(3, dtype=torch.cfloat),
    "meta": torch.zeros(3, device="meta"),
    "sparse": torch.zeros(3).to_sparse(),
}
KINDS |= {
    "samples": without(KINDS["rows"], "more dimensions"),
    "scalar or none": without(KINDS["scalar"], "none"),
    "exclude": {**without(NO_TENSOR, "none"), "floats": torch.zeros(4), "int32": torch.zeros(4, dtype=torch.int32),
                "rows": torch.zeros(5, dtype=torch.int64), "beyond": torch.tensor([0, 0, 9, 0]),
                "below": torch.tensor([0, 0, -2, 0]), "sparse": torch.eye(4).long().to_sparse(),
                "nested": torch.nested.nested_tensor([torch.zeros(2).long(), torch.zeros(1).long()])},
    "per column": {**NO_TENSOR, "matrix": ROWS, "fewer": torch.ones(2), "integers": torch.ones(4, dtype=torch.int64),
                   "complex": torch.ones(4, dtype=torch.cfloat), "meta": torch.ones(4, device="meta"),
                   "sparse": torch.ones(4).to_sparse()},
    "classes": {**NO_TENSOR, "floats": torch.zeros(4), "int32": torch.zeros(4, dtype=torch.int32),
                "fewer": torch.zeros(3, dtype=torch.int64), "matrix": torch.zeros(4, 1, dtype=torch.int64),
                "sparse": torch.eye(4).long()[0].to_sparse()},
    "any tokens": without(KINDS["tokens"], "integers", "booleans"),
    "positions": {**without(tensors(TOKENS[0]), "none", "fewer dimensions"), "shape": torch.zeros(9, 3)},
    "length": {**WHOLE, "beyond memory": HUGE},
    "fill": {**without(KINDS["row"], "number"), **NO_NUMBER, **NOT_FINITE},
    "ranks": without(KINDS["index"], "negative", "beyond"),
    "prefix": {**WHOLE, "beyond": 5},
    "mask": {**NO_TENSOR, "flat": torch.ones(4), "complex": torch.ones(2, 4, dtype=torch.cfloat),
             "sparse": torch.ones(2, 4).to_sparse(), "meta": torch.ones(2, 4, device="meta"),
             "with gradient": torch.ones(2, 4, requires_grad=True)},
    "target": {**KINDS["tokens"], "with gradient": TOKENS.clone().requires_grad_(), "fewer rows": TOKENS[:, :2]},
    "masters": {"tensor": ROWS, "number": 3, "text": "x", "more": [ROWS, ROWS], "of numbers": [1.0],
                "of float32 targets": [ROWS.clone()]},
    "position": {**WHOLE, "floating tensor": torch.ones(()), "boolean tensor": torch.tensor(True),
                 "negative tensor": torch.tensor(-3), "beyond tensor": torch.tensor(99), "beyond": 99,
                 "sparse tensor": torch.ones(1).long().to_sparse()},
}  # fmt: skip
PLACES = torch.tensor([[0, 2], [1, 3], [2, -1], [3, 0]])
KINDS["places"] = {**NO_TENSOR, "floats": PLACES.float(),
                   "mask": PLACES > 0, "flat": PLACES[0], "cube": PLACES[None], "rows": PLACES[:3],
                   "below": PLACES - 1, "beyond": PLACES + 1, "sparse": PLACES.to_sparse(),
                   "meta": PLACES.to("meta")}  # fmt: skip
KINDS["weights of pairs"] = {
    **without(NO_TENSOR, "none"),
    "integers": PLACES,
    "shape": torch.ones(4, 3),
    "meta": torch.ones(4, 2, device="meta"),
    "sparse": torch.ones(4, 2).to_sparse(),
}
KINDS |= {
    "crops": without(KINDS["list of rows"], "one"),
    "few crops": without(KINDS["list of rows"], "one", "empty"),
    "crops or none": without(KINDS["list of rows"], "none", "of unlike"),
    "crop index or none": without(KINDS["index"], "none"),
    "whole or none": without(WHOLE, "none"),
    "bool mask": {
        **NO_TENSOR,
        "floats": torch.ones(2, 2, 1),
        "flat": torch.ones(4) > 0,
        "fewer": torch.zeros(2, 2, 1) > 0,
        "no image": torch.ones(0, 2, 2) > 0,
        "sparse": (torch.ones(2, 2, 1) > 0).to_sparse(),
        "meta": torch.ones(2, 2, 1, device="meta") > 0,
    },
}
KINDS["mask or none"] = without(KINDS["mask"], "none")
KINDS |= {
    "bank": {"none": None, "text": "8", "negative": -1, "one": (8,), "three": (8, 4, 2), "no features": (8, 0),
             "float": 2.5,
             "floats": (8, 2.5), "bool": True, "beyond memory": (HUGE, 128)},
    "dimension": {"none": None, "text": "1", "float": 1.0, "bool": True, "list": [1]},
    "any rows": without(KINDS["rows"], "fewer dimensions", "more dimensions"),
    "positions of rows": without(KINDS["rows"], "more dimensions"),
}  # fmt: skip
KINDS["batched rows"] = without(KINDS["rows"], "more dimensions")  # a batch is welcome, and fits the other side or not
KINDS["batched rows or none"] = without(KINDS["rows"], "none")
KINDS["vit"] = {**KINDS["module"], "resnet": resnet_small()}
KINDS |= {
    "backend name": {**KINDS["backend"], "none": None},
    "sizes": {"none": None, "number": 4, "empty": (), "texts": ("a", "b"), "zeros": (0, 0), "floats": (1.5, 2.0),
        "beyond memory": (HUGE, HUGE),
        "unlike": (4, 8, 8)},
    "image size": {"none": None, "number": 8, "one": (8,), "three": (8, 8, 8), "texts": ("8", "8"), "zeros": (0, 0),
        "floats": (8.0, 8.0)},
    "channels": KINDS["size"],
    "whole images": without(KINDS["images"], "integers", "booleans"),
    "patches": without(tensors(torch.rand(2, 16, 4)), "integers", "booleans", "complex", "float8", "quantized"),
}  # fmt: skip

KINDS["labels"] = {**NO_TENSOR, "floats": LABELS.float(), "booleans": LABELS > 0, "fewer": LABELS[:2],
                   "matrix": LABELS[None],
                   "none of them": LABELS[:0], "negative": LABELS - 1, "meta": LABELS.to("meta"),
                   "sparse": LABELS.to_sparse()}  # fmt: skip
KINDS["encoded"] = {**NO_TENSOR, "no image": IMAGES[:0], "number tensor": IMAGES[0, 0, 0, 0], "meta": IMAGES.to("meta"),
                    "sparse": IMAGES.to_sparse()}  # fmt: skip
KINDS["layers"] = without(KINDS["sizes"], "unlike")
KINDS |= {
    "some views": without(KINDS["views"], "three"),
    "four views": {**without(KINDS["views"]), "two": [IMAGES] * 2},
    "three views": {**without(KINDS["views"], "three"), "two": [IMAGES] * 2},
    "positive or none": without(KINDS["positive"], "none"),
    "positive share": {**KINDS["share"], "zero": 0.0},
    "encoders": {"none": None, "text": "bert", "list": [nn.Linear(3, 3)], "empty": {}, "module": nn.Linear(3, 3),
                 "numbers": {"text": 3}, "class": {"text": nn.Linear}, "no width": {"text": nn.Linear(3, 3)}},
    "names": {"none": None, "text": "rotation", "number": 3, "empty": (), "nonsense": ("spin",), "numbers": (1,)},
    "weights or none": {"text": "1", "number": 1.0, "empty": (), "texts": ("a",), "negative": (-1.0,), "nan": (NAN,)},
    "per row": {**NO_TENSOR, "matrix": ROWS, "fewer": torch.ones(2), "integers": torch.ones(4, dtype=torch.int64),
                "complex": torch.ones(4, dtype=torch.cfloat), "meta": torch.ones(4, device="meta"),
                "sparse": torch.ones(4).to_sparse()},
}  # fmt: skip
KINDS["any whole"] = without(KINDS["whole"], "negative")
KINDS["captions"] = {
    **NO_TENSOR,
    "rows": ROWS,
    "integers": torch.ones(4, 2, 5, dtype=torch.int64),
    "fewer": torch.zeros(3, 2, 5),
    "shorter": torch.zeros(4, 1, 5),
    "meta": torch.zeros(4, 2, 5).to("meta"),
}
KINDS["words"] = {
    **NO_TENSOR,
    "vector": LABELS,
    "floats": torch.ones(4, 2),
    "beyond": torch.full((4, 2), 5),
    "fewer": torch.ones(3, 2, dtype=torch.int64),
}
KINDS["places or none"] = without(KINDS["places"], "none")
KINDS["levels"] = {
    **KINDS["classes"], "negative": torch.tensor([0, 0, -1, 0]), "empty": [], "of lists": [[0, 1]],
    "of unlike": [LABELS, LABELS[:2]], "of none": [None], "in two": [LABELS, torch.arange(4)],
    "meta": LABELS.to("meta"),
}  # fmt: skip
KINDS["levels"].pop("fewer")
KINDS["sampled"] = {**WHOLE, "beyond": 5}
KINDS["shrinking sizes"] = {"none": None, "number": 4, "empty": (), "texts": ("a",), "zeros": (2, 0), "floats": (1.5,),
                            "growing": (2, 3), "beyond memory": (HUGE,)}  # fmt: skip
KINDS["starts"] = {
    "none": None,
    "text": "faiss",
    "number": 3,
    "list": [[1.0]],
    "array": np.ones((2, 3)),
    "shape": ROWS,
    "integers": ROWS[:2].long(),
    "nan": ROWS[:2] * NAN,
    "meta": ROWS[:2].to("meta"),
    "sparse": ROWS[:2].to_sparse(),
}
KINDS["per row or none"] = without(KINDS["per row"], "none")
KINDS["below one"] = {**KINDS["share"], "one": 1.0}
KINDS["per column or none"] = without(KINDS["per column"], "none")
KINDS["targets"] = {**KINDS["classes"], "beyond": torch.tensor([0, 9, 0, 0]), "below": torch.tensor([0, -2, 0, 0])}
KINDS |= {
    "projected": {"none": None, "tensor": ROWS, "one": (ROWS,), "text": "xy", "of none": (None, None),
                  "of unlike": (ROWS, ROWS[:2]), "of integers": (ROWS.long(), ROWS), "meta": (ROWS, ROWS.to("meta"))},
    "function": {"text": "x", "number": 1, "tensor": ROWS, "list": [len], "none": None},
    "function or none": {"text": "x", "number": 1, "tensor": ROWS, "list": [len]},
    "maps": without(KINDS["rows"], "more dimensions"),
    "absent": {"text": "mean", "module": nn.Linear(1, 1), "number": 2, "class": nn.Linear},
    "whole labels": {**without(KINDS["classes"], "int32"), "meta": torch.zeros(4, device="meta").long()},
    "pairs or none": {**without(NO_TENSOR, "none"), "tensor": INDEX, "two": (INDEX[0], INDEX[0]),
                      "of none": (None,) * 3, "of floats": (ROWS[0],) * 4, "matrices": (INDEX,) * 4,
                      "unlike": (INDEX[0], INDEX[0, :1], INDEX[0]), "none last": (INDEX[0], INDEX[0], None),
                      "beyond": (INDEX[0] + 9,) * 3,
                      "negative": (INDEX[0] - 9,) * 4, "meta": (INDEX[0].to("meta"),) * 3},
    "mask of rows or none": {**without(NO_TENSOR, "none"), "floats": torch.ones(4), "fewer": torch.ones(2) > 0,
                             "matrix": torch.ones(4, 1) > 0, "meta": torch.ones(4, device="meta") > 0},
}  # fmt: skip
KINDS |= {
    "folds or none": {**without(KINDS["size"], "none"), "one": 1, "more than rows": 3},
    "list of modules": {"none": None, "text": "x", "empty": [], "number": 1, "module": nn.Linear(3, 3),
                        "of numbers": [1], "of classes": [nn.Linear]},
    "function": {"none": None, "text": "x", "number": 1, "tensor": ROWS, "list": [len]},
    "squares": {**without(KINDS["images"], "integers", "booleans"), "oblong": IMAGES[..., :4], "no image": IMAGES[:0]},
    "settings": {"none": None, "text": "x", "number": 1, "list": [1], "empty": {}, "no values": {"x": ()},
                 "one value": {"x": 1}},
    "layers or none": {"text": "0", "number": 1, "empty": [], "absent": ["x"], "tensor": ROWS},
}  # fmt: skip
KINDS["whole labels or none"] = without(KINDS["whole labels"], "none")

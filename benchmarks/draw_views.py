# SPDX-License-Identifier: Apache-2.0
"""Draw every random view of a sample, and write docs/views.md, which says what each is for.

    python benchmarks/draw_views.py            # all pictures and the page
    python benchmarks/draw_views.py --write    # only the page

The line of Python that the page shows is the one that drew the picture, with seed 3, on samples of `emoji`, `digits`,
`watch`, `words` and `segment`. tests/bench/test_draw_views.py fails where somebody forgot to write the page.
"""

from __future__ import annotations

import argparse
import io
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

import sslkernels.data.views
from sslkernels.data import Dataset, load
from sslkernels.drawing import ACCENT, INK, MUTED, draw_image, draw_lines, draw_spectrogram, figure_of, png
from sslkernels.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROOT = Path(__file__).resolve().parents[1]
PAGE, PICTURES = ROOT / "docs" / "views.md", ROOT / "docs" / "views"
BATCH = 64
FRAME = "#cbd2d9"


@dataclass(frozen=True)
class Kind:
    """A kind of samples: the ``name`` of a batch in the lines of Python, its data, and which ``row`` is drawn."""

    title: str
    name: str
    data: str
    row: int
    draw: Callable[[Axes, Tensor, Tensor], None]
    height: float = 1.15
    colours: int = 200  # of the picture; spectrograms would be large files


@dataclass(frozen=True)
class Shown:
    """A view on the page: its line of Python, the paragraph, and a title where the name of the class does not do."""

    code: str
    text: str
    title: str = ""

    @property
    def name(self) -> str:
        """The transform, or the views, that the line is about."""
        return self.code.removeprefix("Views(").split("(")[0]


def draw_one_image(axes: Axes, image: Tensor, sample: Tensor) -> None:
    draw_image(axes, image)
    height, width = sample.shape[1:]
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))  # a smaller view is seen to be smaller
    axes.spines[:].set(visible=image.shape == sample.shape, color=FRAME, linewidth=0.5)


def draw_one_sound(axes: Axes, sound: Tensor, sample: Tensor) -> None:
    draw_spectrogram(axes, sound)
    axes.images[0].set_clim(float(sample.min()), float(sample.max()))
    axes.set(xlim=(-0.5, sample.shape[-1] - 0.5))  # a part is seen to be shorter


def draw_one_series(axes: Axes, series: Tensor, sample: Tensor) -> None:
    """Draw the turning about three axes, and not the acceleration."""
    series, sample = series[3:], sample[3:]  # six lines would hide each other
    draw_lines(axes, series)
    room = 0.35 * float(sample.max() - sample.min())
    axes.set(ylim=(float(sample.min()) - room, float(sample.max()) + room))


def draw_one_row(axes: Axes, row: Tensor, sample: Tensor) -> None:
    """Draw bars from below; what differs from the sample has another colour."""
    low = float(sample.min()) - 0.5
    colours = [MUTED if value == old else ACCENT for value, old in zip(row, sample, strict=True)]
    axes.bar(range(len(row)), (row - low).numpy(), bottom=low, color=colours)
    axes.set(ylim=(low, float(sample.max()) + 0.5))


PHOTOGRAPHS = Kind("Images", "images", "emoji", 56, draw_one_image)
WRITING = Kind("Writing", "digits", "digits", 22, draw_one_image)
SERIES = Kind("Series", "series", "watch", 1712, draw_one_series, 0.8)
SOUNDS = Kind("Sounds", "sounds", "words", 40, draw_one_sound, 0.75, 40)
TABLES = Kind("Tables", "rows", "segment", 2, draw_one_row, 0.8)

VIEWS: dict[Kind, list[Shown]] = {
    PHOTOGRAPHS: [
        Shown(
            "ImageViews(channels=3, image_size=(32, 32), count=5)",
            "A crop of a fifth to all of the image, mirrored or not, with other colours or none: what an image "
            "shows is the same in all of them, where and in which light is not. These are the views of SimCLR "
            "([Chen et al. 2020](https://arxiv.org/abs/2002.05709)); from 64 pixels on some are blurred. "
            "`TwoViews` draws two of them. `OneView` crops and mirrors alone, for methods that hide a part of the "
            "image themselves (MAE, [He et al. 2022](https://arxiv.org/abs/2111.06377)).",
        ),
        Shown(
            "MultiCrop(channels=3, image_size=(32, 32), large=2, small=3)",
            "Two large crops that show much of the image, and small ones of a smaller size that show little and "
            "cost little: a method learns to tell the whole from a part. From SwAV ([Caron et al. "
            "2020](https://arxiv.org/abs/2006.09882)), with DINO's scales.",
        ),
        Shown(
            "Views(FourierStyle(strength=1.0, band=0.2), count=5)",
            "The amplitudes of low frequencies come in part from another image of the batch, the phases stay: "
            "shapes are where they were, brightness and large patches of colour are another image's. From Fourier "
            "domain adaptation ([Yang and Soatto 2020](https://arxiv.org/abs/2004.05498)) and amplitude mix ([Xu "
            "et al. 2021](https://arxiv.org/abs/2105.11120)).",
        ),
        Shown(
            "Views(BatchStyle(areas=(0.01, 0.1)), count=5)",
            "All images of a batch get the low amplitudes of one of them, each view's batch of another: neither can "
            "style tell images apart, nor do views of an image agree by it. After [Scalbert et al. "
            "2023](https://arxiv.org/abs/2303.06088).",
        ),
        Shown(
            "Views(LowVariancePerturb(images, share=0.5, strength=3.0), count=5)",
            "Noise along the half of the principal components in which the images differ least, so that a method "
            "learns what tells similar classes apart. After the abstract of [Wang et al. "
            "2024](https://arxiv.org/abs/2407.14676), whose encoder and decoder are networks.",
        ),
        Shown(
            "Views(RandomizedQuantization(regions=8), count=5)",
            "The range of each channel is cut at random into bins, and all numbers of a bin become one random "
            "number of it. That hides differences within a bin and keeps those between bins, in data of any kind "
            "([Wu et al. 2022](https://arxiv.org/abs/2212.08663)).",
        ),
    ],
    WRITING: [
        Shown(
            "ImageViews(channels=1, image_size=(8, 8), count=5)",
            "One channel is taken for writing: crops, small turns, shifts and shears, and erased patches. Nothing "
            "is mirrored, since a mirrored digit is another digit or none. Photographs in grey are no writing: with "
            "`writing=False` they are cropped, mirrored, and lit more or less, with more or less contrast. A run "
            "takes it as `sslkernels train swav --data fashion --set writing=false`. On clothes this is what teaches: "
            "see [what measuring taught](design/recipes.md#what-measuring-taught).",
        ),
    ],
    SERIES: [
        Shown(
            "SeriesViews(count=5)",
            "A part stretched to the whole, each channel scaled and shifted, noise, and now and then a silent "
            "channel: the default for series, after [Um et al. 2017](https://arxiv.org/abs/1706.00527), as are "
            "the next ones.",
        ),
        Shown(
            "Views(Jitter(deviation=0.1), count=5)",
            "Noise on every number, as sensors have it.",
        ),
        Shown(
            "Views(Scaled(deviation=0.3), count=5)",
            "Each channel has a random factor, as if its sensor were more or less sensitive.",
        ),
        Shown(
            "Views(Permuted(segments=4), count=5)",
            "Equal segments in another order: what happens within a segment stays, when it happens does not. "
            "`Permuted(segments=4).applied(series, where)` changes the rows that `where` marks, for tasks that "
            "ask which.",
        ),
        Shown(
            "Views(Reversed(p=0.5), count=5)",
            "Half of the series run backwards. `applied` works here too, and lets a method ask for the arrow of "
            "time ([Saeed et al. 2019](https://arxiv.org/abs/1907.11879)).",
        ),
        Shown(
            "Views(Warped(deviation=0.5, knots=4), count=5)",
            "Time runs faster here and slower there, smoothly and never backwards; both ends stay in place.",
        ),
        Shown(
            "Views(nn.Sequential(Warped(), Scaled(), Jitter()), count=5)",
            "Transforms follow one another by `nn.Sequential`, and are views of their own then.",
            "Warped, Scaled and Jitter",
        ),
    ],
    SOUNDS: [
        Shown(
            "AudioViews(count=4)",
            "Mixed with up to 0.4 of another sound of the batch, a part of time and frequencies stretched to the "
            "whole, and louder or quieter: the default for sounds, after BYOL-A ([Niizumi et al. "
            "2021](https://arxiv.org/abs/2103.06695)).",
        ),
        Shown(
            "Views(LogMixupExp(ratio=0.4, memory=2048), count=4)",
            "Powers are mixed with those of a past sound out of a memory of 2,048, as in BYOL-A: a sound is told "
            "in front of any background. The memory is saved and resumed with the run.",
        ),
        Shown(
            "Views(RandomResizeCrop(scale=(0.6, 1.5)), count=4)",
            "A random part of an area half as long again as the sound is stretched or squeezed to the whole, as "
            "in BYOL-A: pitch, speed and place change.",
        ),
        Shown(
            "Views(Noise(ratio=(0.0, 20.0)), count=4)",
            "White noise, 0 to 20 decibels below the sound. This one and the next two are for voices that are to "
            "be told whatever they say and however it was recorded ([Klapsas et al. "
            "2022](https://arxiv.org/abs/2204.03421)).",
        ),
        Shown(
            "Views(Speed(factors=(0.6, 1.6)), count=4)",
            "Faster or slower about the middle; what is missing is as quiet as the sound's quietest value.",
        ),
        Shown(
            "Views(Pitch(bands=10), count=4)",
            "Up to ten bands higher or lower. Steps of the mel scale are steps of pitch as it is heard.",
        ),
        Shown(
            "Segments(nn.Identity(), long=2, short=2)",
            "Long and short parts of what is said, for methods that learn the voice, which is in all of them.",
        ),
        Shown(
            "Views(nn.Sequential(LogMixupExp(), RandomResizeCrop()), count=4)",
            "One after the other, these are the views of BYOL-A.",
            "LogMixupExp and RandomResizeCrop",
        ),
    ],
    TABLES: [
        Shown(
            "TableViews(count=5)",
            "Some numbers (blue) come from other rows, so that each column keeps its distribution (SCARF, [Bahri "
            "et al. 2022](https://arxiv.org/abs/2106.15147)).",
        ),
        Shown(
            "Views(RandomizedQuantization(regions=8), count=5)",
            "All columns of a row share one set of bins, since they were standardised to one scale.",
            "RandomizedQuantization of rows",
        ),
    ],
}
INTRODUCTION = """\
# Views

A view is a random change of a sample that leaves what matters; a method learns by comparing views. Each picture shows a
sample and then draws of a view, made by the line of Python above it. A transform maps a batch to a batch on its device,
each sample by numbers of its own, which all come from torch's random state. Transforms follow one another by
`nn.Sequential`, and `Views` draws several views by one:

```python
import torch
from torch import nn
from sslkernels.data import (
{names}
)

images, digits = torch.rand(8, 3, 32, 32), torch.rand(8, 1, 8, 8)  # in [0, 1]
series, sounds, rows = torch.randn(8, 6, 100), torch.randn(8, 1, 64, 96), torch.randn(8, 18)
first, second = Views(nn.Sequential(Warped(), Jitter()), count=2)(series)
```

Graphs and texts have views too: `GraphViews` drops features and edges, `TokenViews` drops words and keeps a part.
`Shots` draws each view from another shot of the same thing. This page is written by `benchmarks/draw_views.py`."""


def page() -> str:
    """The text of docs/views.md."""
    every = {shown.name for each in VIEWS.values() for shown in each} | {"Jitter", "Scaled", "Views", "Warped"}
    names = sorted(every & set(sslkernels.data.views.__all__))
    parts = [INTRODUCTION.format(names="\n".join(f"    {name}," for name in names))]
    for kind, every_shown in VIEWS.items():
        parts += ["", f"## {kind.title}"]
        for shown in every_shown:
            parts += [
                "",
                f"### {shown.title or shown.name}",
                "",
                textwrap.fill(shown.text, 120, break_long_words=False, break_on_hyphens=False),
                "",
                f"```python\nviews = {shown.code}({kind.name})\n```",
                "",
                f"![A sample, then draws of {shown.title or shown.name}](views/{file_name(kind, shown)})",
            ]
    return "\n".join(parts) + "\n"


def file_name(kind: Kind, shown: Shown) -> str:
    words = f"{kind.name} {shown.title or shown.name}".replace(",", "").split()
    return "-".join(words).lower() + ".png"


def picture(kind: Kind, shown: Shown, dataset: Dataset) -> bytes:
    """Draw the sample and the views of it that the line of Python gives."""
    others = torch.arange(BATCH - 1) * (len(dataset.inputs) // BATCH)
    batch = dataset.inputs[torch.cat([torch.tensor([kind.row]), others])]
    names = {**vars(sslkernels.data.views), "nn": nn, kind.name: batch}
    if "LowVariancePerturb" in shown.code:  # is made of all images, and changes those of the batch
        names[kind.name] = dataset.inputs
    torch.manual_seed(3)
    views = eval(shown.code, names)  # the lines above, and nothing else
    views(batch)  # fills a memory of past sounds
    drawn = [view[0] for view in views(batch)]
    figure, axes = figure_of(7.2, kind.height, ncols=1 + len(drawn))
    for place, (each, sample) in enumerate(zip(axes, [batch[0], *drawn], strict=True)):
        each.set(xticks=[], yticks=[])
        each.spines[:].set_visible(False)
        kind.draw(each, sample, batch[0])
        if place < 2:
            each.set_title(("sample", "views")[place], fontsize=8, color=INK, loc="left", pad=3)
    figure.subplots_adjust(left=0, right=1, bottom=0, top=0.85, wspace=0.08)
    return small(png(figure), kind.colours)


def small(picture: bytes, colours: int) -> bytes:
    """The same picture in fewer colours."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.open(io.BytesIO(picture)).convert("RGB").quantize(colours, dither=Image.Dither.NONE).save(
        buffer, "png", optimize=True
    )
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the page, and draw nothing")
    arguments = parser.parse_args()
    PICTURES.mkdir(exist_ok=True)
    for kind, every_shown in {} if arguments.write else VIEWS.items():
        try:
            dataset = load(kind.data)
        except FileNotFoundError as error:  # the data is not installed
            print(f"{kind.data} is left out: {error}")
            continue
        for shown in every_shown:
            (PICTURES / file_name(kind, shown)).write_bytes(picture(kind, shown, dataset))
    write_atomically(PAGE, page())


if __name__ == "__main__":
    main()

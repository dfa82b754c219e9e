"""Reports whose numbers are known, for the tests of what is made of reports."""

from collections.abc import Mapping, Sequence

import torch

from onestep.core.picture import Picture
from onestep.evaluate.candidates import Shown
from onestep.evaluate.protocols import protocol
from onestep.evaluate.report import Entrant, Report, Row, Score


def entrant(
    name: str, values: Mapping[str, Sequence[float]], size: tuple[int, int] = (512, 512), **about
) -> Entrant:
    """An entrant with these scores, picture by picture; the pictures are p0, p1 ..."""
    count = len(next(iter(values.values())))
    rows = [
        Row(
            f"p{i}",
            {metric: scores[i] for metric, scores in values.items()},
            width=size[0],
            height=size[1],
            hr_sha256=str(i),
        )
        for i in range(count)
    ]
    scores = {metric: Score.of(metric, list(taken)) for metric, taken in values.items()}
    return Entrant(name, rows, scores, **about)


def report(*entrants: Entrant, name: str = "full") -> Report:
    """A report of these under a protocol by name."""
    return Report(protocol(name), list(entrants))


def sweep(count: int = 5) -> Report:
    """Bicubic, and one model at three values of realism, given in disorder."""
    wobble = [0.1 * i for i in range(count)]

    def scored(psnr: float, niqe: float) -> dict[str, list[float]]:
        return {"psnr-y": [psnr + w for w in wobble], "niqe": [niqe - w for w in wobble]}

    def model(realism: float, psnr: float, niqe: float) -> Entrant:
        options = {"realism": realism, "steps": 1}
        return entrant(f"net realism={realism:g}", scored(psnr, niqe), model="net", options=options, seed=0)

    return report(
        entrant("bicubic", scored(29.0, 10.0), model="bicubic"),
        model(1.0, 27.0, 5.0),
        model(0.0, 29.5, 8.0),
        model(0.5, 28.0, 6.0),
    )


class Views:
    """Pictures behind a report: the truth is noise, each entrant adds an error in the lower right corner."""

    def __init__(self, side: int = 64) -> None:
        self.side, self.asked = side, list[tuple[str, str]]()

    def __call__(self, who: str, name: str) -> Shown:
        self.asked.append((who, name))
        generator = torch.Generator().manual_seed(int(name[1:]))
        hr = torch.rand(1, 3, self.side // 8, self.side // 8, generator=generator)
        hr = torch.nn.functional.interpolate(hr, scale_factor=8, mode="bilinear")
        sr = hr.clone()
        sr[..., -self.side // 4 :, -self.side // 4 :] = len(who) / 40
        lr = torch.nn.functional.avg_pool2d(hr, 4)
        return Shown(Picture(sr), Picture(hr), Picture(lr))

"""The degradation estimator as a method: its training, and its scores as what a whole image decides.

    strength:       s = 1 - (1 - s_1) (1 - s_2) ...        of the kinds that count
    margin ranking: max(0, s_b - s_a - (f(b) - f(a)))      where b is degraded more than a
    anchor:         -s log f - (1 - s) log(1 - f)

Paper: Mou et al., MM-RealSR (arXiv 2205.04910), section 3.2, where it is trained beside a restorer, on pairs
of copies of one picture. Here it is trained alone, on strengths that are known, and all pictures of a batch
are compared. So scores of different pictures can be compared too. Deviations: docs/methods/degradation.md.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onestep.core.contract import Condition, Loss, NoOptions, Objective, OneStepModel, Pair, Traits
from onestep.degrade.strengths import BLUR, KINDS, NOISE, Kind, degrade, draw, together
from onestep.networks.degradation_estimator import DegradationEstimator, EstimatorConfig

_APART = 0.02
"""Strengths nearer than this are not compared."""


@dataclass(frozen=True)
class EstimatorModelConfig:
    """The estimator (method "degradation-estimator")."""

    network: EstimatorConfig = field(default_factory=EstimatorConfig)

    def build(self) -> "EstimatorModel":
        """With fresh weights."""
        return EstimatorModel(self)


class EstimatorModel(OneStepModel):
    """It restores nothing: the picture comes out as it went in; what it finds is its condition."""

    Options = NoOptions

    def __init__(self, config: EstimatorModelConfig) -> None:
        super().__init__()
        self.config, self.traits = config, Traits(scale=1, tile=512, overlap=0)
        self.net = DegradationEstimator(config.network)

    def noise_shape(self, lr: torch.Size) -> torch.Size:
        """No noise is used."""
        return torch.Size((lr[0], 0, lr[2], lr[3]))

    def condition(self, lr: Tensor, options: NoOptions) -> Condition:
        """{"degradation": (B, 2) in (0, 1)}: blur and noise of the whole image."""
        return {"degradation": self.net(lr)}

    def forward(self, lr: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """(B, 3, H, W) to the same."""
        return lr


@dataclass(frozen=True)
class RankingConfig:
    """Training of the estimator."""

    model: EstimatorModelConfig = field(default_factory=EstimatorModelConfig)
    margin: float = 1.0
    """Scores shall differ by this times the difference of the strengths; at 1 they are the strengths."""
    anchor: float = 0.5
    """Weight of the cross-entropy beside the ranking: how far the scores are from the strengths."""
    anchors: int = 2
    """Crops of a batch whose two copies are the clean and the worst one."""

    def build(self) -> "Ranking":
        """With fresh weights."""
        return Ranking(self)


class Ranking(Objective):
    """Two copies of every LR crop, the second a weaker version of the first; all scores are ranked."""

    def __init__(self, config: RankingConfig) -> None:
        super().__init__()
        self.config = config
        self.model: EstimatorModel = config.model.build()  # pyright: ignore[reportIncompatibleVariableOverride]

    def groups(self) -> Mapping[str, list[nn.Parameter]]:
        """One group."""
        return {"model": list(self.model.parameters())}

    def losses(self, pair: Pair, step: int) -> Iterator[Loss]:
        """One move, on LR alone."""
        images, strengths = self.copies(pair.lr)
        logits = self.model.net.logits(images)
        scores = torch.sigmoid(logits)
        wanted = scores.new_tensor([[together(one, BLUR), together(one, NOISE)] for one in strengths])
        terms = {
            "blur": ranked(scores[:, 0], wanted[:, 0], self.config.margin),
            "noise": ranked(scores[:, 1], wanted[:, 1], self.config.margin),
            "anchor": self.config.anchor * F.binary_cross_entropy_with_logits(logits, wanted),
        }
        yield Loss("model", terms)

    def copies(self, lr: Tensor) -> tuple[Tensor, list[dict[Kind, float]]]:
        """2 B degraded images in [-1, 1], 8 bit, and their strengths: B, then a weaker copy of each.

        The first ``anchors`` are clean, and their second copies are the worst of all.
        """
        generator = torch.Generator().manual_seed(int(torch.randint(1 << 62, ())))
        images: list[Tensor] = []
        strengths: list[dict[Kind, float]] = []
        for copy in range(2):
            for index in range(len(lr)):
                if index < self.config.anchors:
                    chosen: dict[Kind, float] = dict.fromkeys(KINDS, float(copy))
                elif copy == 0:
                    chosen = draw(BLUR, generator) | draw(NOISE, generator)
                else:
                    shares = torch.rand(len(KINDS), generator=generator).tolist()
                    chosen = {
                        k: s * share for (k, s), share in zip(strengths[index].items(), shares, strict=True)
                    }
                image = degrade((lr[index].cpu() / 2 + 0.5).clamp(0, 1), chosen, generator)
                images.append((image * 255).round().clamp(0, 255) / 127.5 - 1)
                strengths.append(chosen)
        return torch.stack(images).to(lr.device), strengths


def ranked(scores: Tensor, strengths: Tensor, margin: float) -> Tensor:
    """Mean margin ranking loss of scores (N,) over all pairs that strengths (N,) order; a scalar.

    Pairs that differ by less than 0.02 do not count.
    """
    gap = strengths[None] - strengths[:, None]  # [a, b]: how much stronger b is
    counts = gap >= _APART
    missing = torch.relu(margin * gap - (scores[None] - scores[:, None]))
    return (missing * counts).sum() / counts.sum().clamp_min(1)

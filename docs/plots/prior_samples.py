"""Draw docs/assets/prior-samples.webp: free samples of the mini prior, by caption and guidance.

    python docs/plots/prior_samples.py weights/mini-prior.safetensors

Columns start from the same noise. Rows: the caption of clean photographs; that of degraded ones; no caption;
the first, guided away from the second by 3. Nothing is chosen: seeds 0 to 7.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from onestep import catalog
from onestep.methods.prior import CLEAN, DEGRADED, PriorModel, PriorOptions

FILE = Path(__file__).parents[2] / "docs" / "assets" / "prior-samples.webp"
ROWS = ((CLEAN, "", 1.0), (DEGRADED, "", 1.0), ("", "", 1.0), (CLEAN, DEGRADED, 3.0))
COUNT = 8
EVALUATIONS = 50


@torch.inference_mode()
def samples(model: PriorModel, prompt: str, negative: str, guidance: float) -> torch.Tensor:
    """(8, 3, H, W) in [-1, 1]."""
    side = model.traits.minimum
    lr = torch.zeros(COUNT, 3, side, side)  # not seen at strength 1
    shape = model.noise_shape(lr.shape)[1:]
    noise = torch.stack(
        [torch.randn(shape, generator=torch.Generator().manual_seed(k)) for k in range(COUNT)]
    )
    options = PriorOptions(prompt, negative, guidance, strength=1, evaluations=EVALUATIONS)
    return model(lr, noise, model.condition(lr, options))


def main() -> None:
    """Draw and write."""
    model = catalog.load(catalog.find(sys.argv[1]))
    assert isinstance(model, PriorModel)
    rows = [samples(model, *row).clamp(-1, 1).permute(0, 2, 3, 1).numpy() for row in ROWS]
    shown = np.concatenate([np.concatenate(list(row), 1) for row in rows])
    pixels = ((shown + 1) * 127.5).round().astype(np.uint8)
    target = Path(sys.argv[2]) if len(sys.argv) > 2 else FILE
    Image.fromarray(pixels).save(target, quality=92)
    print(target)


if __name__ == "__main__":
    main()

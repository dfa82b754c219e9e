"""How visible tile borders are: the seam statistic of a tiled result over that of the same made whole.

Run: ``python benchmarks/seams.py [MODEL]`` (needs scikit-image). 1.0 is invisible, at most 1.02 is wanted.
"""

import sys
from itertools import pairwise

from skimage import data

import onestep
from onestep.metrics.seam import seam

TILES = (128, 256)
REALISM = (0.0, 0.5, 1.0)


def main() -> None:
    """Print one line per realism and tile size."""
    upscaler = onestep.Upscaler.load(sys.argv[1] if len(sys.argv) > 1 else None)
    photo, scale = data.astronaut(), upscaler.model.traits.scale
    side = photo.shape[0]
    for realism in REALISM:
        whole = upscaler(photo, tile="off", realism=realism).rgb
        for tile in TILES:
            overlap = min(upscaler.model.traits.overlap, tile // 2)
            steps = range(0, side - tile + tile - overlap, tile - overlap)
            starts = sorted({min(start, side - tile) for start in steps})
            borders = [(a + tile + b) // 2 * scale for a, b in pairwise(starts)]
            tiled = upscaler(photo, tile=tile, overlap=overlap, realism=realism).rgb
            ratio = float(seam(tiled, borders, borders) / seam(whole, borders, borders))
            worst = float((tiled - whole).abs().max()) * 255
            print(f"realism {realism}, tile {tile}: ratio {ratio:.4f}, largest change {worst:.2f} of 255")


if __name__ == "__main__":
    main()

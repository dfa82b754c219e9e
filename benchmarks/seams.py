"""What tiles change: a tiled result against the same made whole, and how visible tile borders are.

Run: ``python benchmarks/seams.py [MODEL] [--picture FILE] [--dtype NAME] [--overlap N] [--save FOLDER]``
(without a picture: needs scikit-image). The seam statistic is the mean difference of the two lines of pixels
that meet at a border over that of all other neighbouring lines: 1 is invisible, and the same place in the
result made whole is the yardstick, because pictures are not the same everywhere.
"""

import argparse
from itertools import pairwise
from pathlib import Path

import onestep
from onestep.core.picture import as_picture
from onestep.core.tiling import grid
from onestep.metrics.seam import seam
from onestep.plan import Settings

TILES = (64, 128, "auto")
REALISM = (0.0, 0.5, 1.0)


def main() -> None:
    """Print a table: one line per realism and tile size."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", nargs="?")
    parser.add_argument("--picture")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--overlap", type=int)
    parser.add_argument("--save", type=Path)
    words = parser.parse_args()
    upscaler = onestep.Upscaler.load(words.model, dtype=words.dtype)
    picture, traits = as_picture(words.picture or _astronaut()), upscaler.model.traits
    print(f"{upscaler.name}, {words.dtype}, LR {picture.width}x{picture.height}\n")
    print("| realism | tile | overlap | tiles | largest change | mean change | seam, tiled | seam, whole |")
    print("|---|---|---|---|---|---|---|---|")
    for realism in REALISM:
        whole = upscaler(picture, tile="off", realism=realism)
        for tile in TILES:
            overlap = words.overlap
            if overlap is None and tile != "auto":
                overlap = min(traits.overlap, tile // 2)
            settings = Settings(tile=tile, overlap=overlap)
            (tiled,), plan = upscaler.run(picture, settings, [{"realism": realism}])
            cells = grid(picture.height, picture.width, tile=plan.tile, overlap=plan.overlap, ratio=1)
            rows, columns = (
                [(end + start) // 2 * traits.scale for (_, end), (start, _) in pairwise(spans)]
                for spans in (cells.rows, cells.columns)
            )
            change = (tiled.rgb - whole.rgb).abs() * 255
            values = [float(seam(result.rgb, rows, columns)) for result in (tiled, whole)]
            line = f"| {realism} | {plan.tile} | {plan.overlap} | {plan.tiles} | {float(change.max()):.4f} "
            line += f"| {float(change.mean()):.6f} | {values[0]:.4f} | {values[1]:.4f} |"
            print(line, flush=True)
            if words.save is not None:
                words.save.mkdir(parents=True, exist_ok=True)
                tiled.save(words.save / f"realism-{realism}-tile-{plan.tile}.png")


def _astronaut() -> object:
    from skimage import data

    return data.astronaut()


if __name__ == "__main__":
    main()

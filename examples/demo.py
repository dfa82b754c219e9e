"""Upscale a real photograph at three values of realism and lay the results side by side.

Everything is done with the ``onestep`` command; each call is shown as you would type it. The photograph
(Chelsea the cat, by Stéfan van der Walt, CC0) comes with scikit-image. It is upscaled as it is, and once
more after it was shrunk to a quarter, so that the truth can be seen beside the results.

Usage: ``python examples/demo.py [--out FOLDER] [--comparison FILE]``
"""

import argparse
import subprocess
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from skimage import data

REALISM = ("0", "0.5", "1")
SCALE = 4
DETAIL = (536, 292)
"""Left and top of the detail that the comparison shows, in pixels of the upscaled photograph."""
BAR, GAP = 30, 6
"""Height of a label and distance between panels, in pixels."""

console = Console(highlight=False, soft_wrap=True)


def onestep(*arguments: str | Path) -> None:
    """Show one ``onestep`` command and run it."""
    words = [str(argument) for argument in arguments]
    console.print(f"$ onestep {' '.join(words)}", style="bold")
    subprocess.run([sys.executable, "-m", "onestep", *words], check=True)


def inputs(folder: Path) -> tuple[Path, Path]:
    """Write the photograph, and a copy shrunk to a quarter of its sides; returns both paths."""
    photo, small = folder / "photo.png", folder / "small.png"
    whole = Image.fromarray(data.chelsea())
    whole.crop((0, 0, whole.width // SCALE * SCALE, whole.height // SCALE * SCALE)).save(photo)
    onestep("degrade", photo, "-o", small, "--preset", "bicubic", "--seed", "0")
    return photo, small


def row(
    first: tuple[str, Image.Image], small: Path, folder: Path, box: tuple[int, int, int, int]
) -> list[tuple[str, Image.Image]]:
    """One row of the comparison: ``first``, then the same box (pixels) of bicubic and of every result."""
    with Image.open(small) as lr:
        bicubic = lr.resize((lr.width * SCALE, lr.height * SCALE), Image.Resampling.BICUBIC)
    panels = [first, ("bicubic", bicubic.crop(box))]
    for value in REALISM:
        with Image.open(folder / f"realism-{value}" / f"{small.stem}_x{SCALE}.png") as result:
            panels.append((f"realism {value}", result.crop(box)))
    return panels


def sheet(rows: list[list[tuple[str, Image.Image]]]) -> Image.Image:
    """Labelled panels of one size, row by row, on white."""
    width, height = rows[0][0][1].size
    across, down = len(rows[0]), len(rows)
    page = Image.new("RGB", (across * (width + GAP) - GAP, down * (height + BAR + GAP) - GAP), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(size=18)
    for i, panels in enumerate(rows):
        for j, (label, panel) in enumerate(panels):
            left, top = j * (width + GAP), i * (height + BAR + GAP)
            draw.text((left + 2, top + 4), label, fill="black", font=font)
            page.paste(panel, (left, top + BAR))
    return page


def comparison(photo: Path, small: Path, folder: Path) -> Image.Image:
    """Above: a detail of the photograph, upscaled. Below: the shrunk photograph, upscaled, and the truth."""
    with Image.open(photo) as whole:
        truth = whole.convert("RGB")
    left, top = DETAIL
    box = (left, top, left + truth.width, top + truth.height)
    marked = truth.copy()
    ImageDraw.Draw(marked).rectangle([side // SCALE for side in box], outline="red", width=2)
    return sheet(
        [
            row(("the photograph (detail marked)", marked), photo, folder, box),
            row(
                ("the truth (this row: shrunk x4 first)", truth),
                small,
                folder,
                (0, 0, truth.width, truth.height),
            ),
        ]
    )


def main() -> None:
    """Run the demonstration."""
    parser = argparse.ArgumentParser(description="Upscale a real photograph at three values of realism.")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for the pictures")
    parser.add_argument("--comparison", type=Path, help="side-by-side picture (default: OUT/comparison.png)")
    arguments = parser.parse_args()
    folder: Path = arguments.out
    target: Path = arguments.comparison or folder / "comparison.png"
    folder.mkdir(parents=True, exist_ok=True)
    photo, small = inputs(folder)
    for value in REALISM:
        onestep(
            "upscale",
            photo,
            small,
            "-o",
            folder / f"realism-{value}",
            "-r",
            value,
            "-g",
            "cpu",
            "--overwrite",
        )
    comparison(photo, small, folder).save(target, quality=90)
    console.print(f"\nDone. Look at [bold]{target}[/bold] first: from faithful (0) to realistic (1).")
    console.print(f"The full-size pictures are in {folder}/realism-0, realism-0.5 and realism-1.")
    command = Path(sys.executable).with_name("onestep")
    console.print(f"Now one of your own: {command} upscale YOUR.jpg -o large.png -r 0.7")


if __name__ == "__main__":
    main()

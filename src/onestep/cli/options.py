"""The options that several commands share, declared once."""

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="One JSON object per line on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

Inputs = Annotated[list[str], typer.Argument(metavar="INPUT...", help="Files, folders or globs.")]
Output = Annotated[
    str, typer.Option("--output", "-o", metavar="OUT", help="A file for one input, else a folder.")
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model", "-n", metavar="NAME|FILE", help="A name from `onestep models`, or a release file."
    ),
]
Realism = Annotated[
    float | None, typer.Option("--realism", "-r", metavar="R", help="0 faithful … 1 realistic.")
]
ModelOptions = Annotated[
    list[str] | None,
    typer.Option("--option", "-O", metavar="NAME=VALUE", help="An option of the model's own; repeatable."),
]
Device = Annotated[
    str, typer.Option("--device", "-g", metavar="NAME", help="auto, cpu, cuda:0, mps …", show_default=True)
]
Dtype = Annotated[
    str,
    typer.Option("--dtype", metavar="NAME", help="auto, float32, bfloat16 or float16.", show_default=True),
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Same seed, same result.", show_default=True)]
Tile = Annotated[
    str, typer.Option("--tile", "-t", metavar="N|auto|off", help="Tile side in pixels of the input.")
]
Overlap = Annotated[
    int | None, typer.Option("--overlap", metavar="N", help="Pixels that neighbouring tiles share.")
]
Extension = Annotated[
    str | None, typer.Option("--ext", metavar="png|jpg|webp|tif", help="Format of the results.")
]
MaxPixels = Annotated[
    int,
    typer.Option(
        "--max-pixels", metavar="N", min=1, help="Refuse inputs larger than this.", show_default=True
    ),
]

Scale = Annotated[
    float | None,
    typer.Option(
        "--scale", "-s", metavar="S", help="Any factor from 1 to 16, 2.5 too; default: the model's."
    ),
]
Width = Annotated[int | None, typer.Option("--width", metavar="W", help="Exact width instead of a factor.")]
Height = Annotated[
    int | None, typer.Option("--height", metavar="H", help="Exact height instead of a factor.")
]
Color = Annotated[
    str | None,
    typer.Option("--color", metavar="none|wavelet|adain", help="Colour fix; default: the model's."),
]
Consistent = Annotated[
    bool, typer.Option("--consistent", help="Move the result so that downscaling it gives the input back.")
]
Downscale = Annotated[
    str,
    typer.Option(
        "--downscale", metavar="KERNEL", help="For --consistent: bicubic, bilinear, lanczos or area."
    ),
]
RealismMap = Annotated[
    str | None,
    typer.Option("--realism-map", metavar="FILE", help="Grey picture: black faithful … white realistic."),
]
Suffix = Annotated[
    str | None, typer.Option("--suffix", metavar="TEXT", help="After the name, in a folder; default: _x4.")
]
Quality = Annotated[
    int, typer.Option("--quality", metavar="Q", min=1, max=100, help="Of JPEG and WebP.", show_default=True)
]
Strip = Annotated[bool, typer.Option("--strip-metadata", help="Drop EXIF, XMP and colour profile.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Leave what the same command has finished (the default).")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Do everything anew.")]
SkipExisting = Annotated[bool, typer.Option("--skip-existing", help="Leave every file that is there.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")]
Stream = Annotated[
    bool | None,
    typer.Option(
        "--stream/--no-stream", help="Strip by strip, in bounded memory; default: for large pictures."
    ),
]
Engine = Annotated[
    str, typer.Option("--engine", metavar="local|ray", help="Where a batch runs.", show_default=True)
]
Address = Annotated[
    str | None, typer.Option("--address", metavar="A", help="Of a Ray cluster; default: this machine.")
]
Cores = Annotated[
    int | None, typer.Option("--cores", metavar="N", min=1, help="Of a CPU, for each Ray worker; default: 4.")
]

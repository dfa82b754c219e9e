"""Finish a release file for shipping: measured scores and attributions on its card, weights as they are.

Run: ``python benchmarks/release.py RUN/release-N.safetensors OUT.safetensors --reports REPORTS``, where
REPORTS is the folder that ``benchmarks/dev_scores.sh`` filled. Rows of the model become scores, by set and
option. For the degradation estimator REPORTS is the file that ``docs/plots/estimator.py --report`` wrote.
"""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

from onestep import checkpoint
from onestep.methods import build
from onestep.recipe import without_folders

ATTRIBUTIONS = (
    "Trained on 542 photographs with reuse licences (CC0, CC BY, CC BY-SA, LGPL, GPL, Unsplash, free use) "
    "from imazen/codec-corpus, drewnoakes/metadata-extractor-images, hoojaoh/data-stunning and the wallpaper "
    "collections of Budgie, deepin, KDE, MATE, Nextcloud, Pop!_OS, Ubuntu MATE, Xubuntu, oceanic-awesomewm; "
    "authors and sources: docs/attributions.md of the project.",
)
PERCEPTUAL = ("LPIPS v0.1 (SqueezeNet) was a training loss: scores in lpips-squeeze flatter this model.",)

LICENSE = "CC BY-SA 4.0"
LIMITS = {
    "oftsr": (
        "Small text stays unreadable: letters are sharpened, not recognised.",
        "Small faces come out coarse: features are sharpened, not understood.",
        "Heavy JPEG blocks and strong sensor noise are softened, not fully removed; at high realism their "
        "edges may be kept as texture.",
        "At realism 1, skin and leaves look painted, and a faint grid, one or two grey levels high, can be "
        "found in flat areas when they are enlarged.",
    ),
    "ctmsr": (
        "Trained for 2,200 steps: it shows the method, it is no tool. oftsr-compact-x4 restores better.",
        "Adds grain and a fine weave to flat areas, and keeps much of the noise of its input.",
    ),
    "degradation-estimator": (
        "It ranks, it does not measure: a score is no sigma and no quality.",
        "It knows blur, reduction, white and shot noise and JPEG; haze, motion and wrong colours it does "
        "not.",
        "Gaussian blur of a third of a pixel and less goes unnoticed.",
        "JPEG is told less surely than noise, above all between the qualities of 80 and 50.",
        "Resize is antialiased in its scores; without antialiasing, in a mode at random, it reaches 0.85.",
    ),
    "prior": (
        "A small prior for experiments: it knows the texture of photographs, not their subjects.",
        "Its autoencoder alone costs detail: 26.4 dB on held-out photographs.",
        "It knows two captions and the empty one; other prompts mean nothing to it.",
    ),
}
ROWS = {"oftsr": "03 *.json", "ctmsr": "05 *.json"}
"""Which reports are of the model: method -> pattern."""


def scores(reports: Path, pattern: str) -> dict[str, dict[str, dict[str, float]]]:
    """Set -> row of the model -> metric -> mean, from JSON reports."""
    if reports.is_file():
        return {"Spearman": json.loads(reports.read_text("utf-8"))}
    found: dict[str, dict[str, dict[str, float]]] = {}
    for path in sorted(reports.glob(f"*/{pattern}")):
        report = json.loads(path.read_text("utf-8"))
        means = {name: round(metric["mean"], 4) for name, metric in report["metrics"].items()}
        found.setdefault(path.parent.name, {})[
            path.stem.rpartition(", ")[2] if "realism" in path.stem else "default"
        ] = means
    return found


def main() -> None:
    """Write the finished file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--reports", type=Path)
    arguments = parser.parse_args()
    tensors, card = checkpoint.read(arguments.source)
    measured = scores(arguments.reports, ROWS.get(card.method, "")) if arguments.reports else {}
    model = build(card.method, card.config)
    card = replace(
        card,
        scores=measured,
        attributions=[*ATTRIBUTIONS, *(PERCEPTUAL if card.method in (*ROWS, "prior") else ())],
        license=LICENSE,
        limits=list(LIMITS[card.method]),
        traits=asdict(model.traits),
        recipe=without_folders(card.recipe or {}),
    )
    checkpoint.write(arguments.target, tensors, card, half=True)


if __name__ == "__main__":
    main()

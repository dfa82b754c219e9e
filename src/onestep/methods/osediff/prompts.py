"""Where the text that conditions a restoration comes from.

A text of the user's, a callable that looks at the picture, or a tagger. Tags and the user's text are put
together as in the official code: ``"{tags}, {text},"``.
"""

import logging
from collections.abc import Callable, Sequence
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from onestep.core.errors import InputError
from onestep.core.picture import Picture
from onestep.core.resize import resize

_log = logging.getLogger("onestep")

NEGATIVE = (
    "painting, oil painting, illustration, drawing, art, sketch, cartoon, CG Style, 3D render, "
    "unreal engine, blurring, dirty, messy, worst quality, low quality, frames, watermark, signature, "
    "jpeg artifacts, deformed, lowres, over-smooth"
)
"""What guidance moves away from in training (section 2.2)."""

_THINGS = (
    "a person|a man|a woman|a child|a face|a crowd|a hand|hair|clothing|a dog|a cat|a bird|a horse|a cow|"
    "a sheep|a fish|an insect|a butterfly|a flower|a tree|leaves|grass|a forest|a field|a garden|"
    "a mountain|rocks|sand|a beach|the sea|a lake|a river|a waterfall|snow|the sky|clouds|a sunset|night|"
    "a street|a road|a bridge|a building|a house|a tower|a church|a castle|a window|a door|a wall|bricks|"
    "a roof|stairs|a fence|a sign|text|a poster|a painting|a statue|a fountain|a car|a bus|a truck|"
    "a train|a bicycle|a motorcycle|a boat|an airplane|a room|a kitchen|a table|a chair|a bed|a lamp|"
    "a book|a computer|a phone|a clock|a bottle|a cup|a plate|food|fruit|vegetables|bread|a cake|a toy|"
    "a ball|a musical instrument|machinery|metal|wood|stone|glass|fabric|paper|a map|a drawing"
)
THINGS = tuple(_THINGS.split("|"))
"""What the tagger chooses from."""

PromptSource = Callable[[Picture], str]
"""Looks at a picture and says what is on it."""


class Tagger(Protocol):
    """Names what is on a picture. RAM and DAPE of the official code would be others."""

    def tags(self, picture: Picture) -> list[str]:
        """Names of things, most certain first."""
        ...


def prompt(tags: Sequence[str], text: str) -> str:
    """The prompt of tags and a user's text; without tags, the text as it is."""
    return f"{', '.join(tags)}, {text}," if tags else text


def shortened(tags: Sequence[str], text: str, fits: Callable[[str], bool]) -> str:
    """The prompt with as many tags as fit; the user's text is never cut."""
    kept = list(tags)
    while kept and not fits(prompt(kept, text)):
        kept.pop()
    return prompt(kept, text)


def picture_of(image: Tensor) -> Picture:
    """A picture of one image (3, H, W) in [-1, 1], for those who look at pictures."""
    return Picture(((image.detach().float().cpu() + 1) / 2).clamp(0, 1)[None])


class ZeroShotTagger:
    """Tags by CLIP: of a list of things, those whose names are nearest to the picture."""

    def __init__(self, things: Sequence[str] = (), *, most: int = 6, least: float = 0.04) -> None:
        """Load CLIP and encode the names.

        Args:
            things: Names to choose from; a list of common ones by default.
            most: Tags per picture.
            least: Smallest probability among all names.

        Raises:
            InputError: The weights of CLIP are not on this machine.
        """
        from onestep.networks.backbones import Clip

        self.things, self.most, self.least = list(things) or list(THINGS), most, least
        self.clip = Clip.load("clip-vit-base-patch16", "openai/clip-vit-base-patch16")
        with torch.no_grad():
            self.names = self.clip.texts([f"a photo of {thing}" for thing in self.things])

    @torch.no_grad()
    def tags(self, picture: Picture) -> list[str]:
        """The likeliest things."""
        side = self.clip.side
        seen = self.clip.images(resize(picture.rgb, (side, side)).clamp(0, 1) * 2 - 1)
        likely = (self.clip.sharpness * seen @ self.names.T).softmax(-1)[0]
        order = likely.argsort(descending=True)[: self.most].tolist()
        return [self.things[i] for i in order if float(likely[i]) >= self.least]


@cache
def installed_tagger() -> Tagger | None:
    """The tagger whose weights are on this machine; None where there are none, which is said once."""
    try:
        return ZeroShotTagger()
    except InputError as error:
        _log.info("no tagger, so prompts are empty unless given: %s", error)
        return None

"""Inception v3 as the Fréchet distance uses it: 2048 features of an image (Szegedy et al., arXiv:1512.00567).

This is the network that FID was defined with, TensorFlow's of 2015-12-05, in the layout of its PyTorch port
(``pt_inception-2015-12-05-6726825d.pth``, pytorch-fid). It differs from torchvision's Inception v3: averages
do not count the padding, the last block takes a maximum where others average, and there are 1008 classes.
Names of the parts are those of the file.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onestep.networks.state_files import fill, read_state

FEATURES = 2048
SIDE = 299
"""Side of the images that it was trained on, in pixels."""


class Convolution(nn.Module):
    """Convolution without bias, batch normalisation, rectifier."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        padding: int | tuple[int, int] = 0,
        stride: int = 1,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H', W')."""
        return torch.relu(self.bn(self.conv(x)))


def _average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class MixedA(nn.Module):
    """35x35 pixels: 1x1, 5x5, double 3x3 and pooled, side by side."""

    def __init__(self, inputs: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = Convolution(inputs, 64, 1)
        self.branch5x5_1 = Convolution(inputs, 48, 1)
        self.branch5x5_2 = Convolution(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = Convolution(inputs, 64, 1)
        self.branch3x3dbl_2 = Convolution(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Convolution(96, 96, 3, padding=1)
        self.branch_pool = Convolution(inputs, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, 224 + pooled, H, W)."""
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(_average(x))], dim=1)


class MixedB(nn.Module):
    """From 35x35 to 17x17 pixels."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = Convolution(inputs, 384, 3, stride=2)
        self.branch3x3dbl_1 = Convolution(inputs, 64, 1)
        self.branch3x3dbl_2 = Convolution(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Convolution(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, 480 + inputs, H', W')."""
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), three, F.max_pool2d(x, 3, stride=2)], dim=1)


class MixedC(nn.Module):
    """17x17 pixels: 7x7 convolutions, split into rows and columns."""

    def __init__(self, width: int) -> None:
        super().__init__()
        across, down = ((1, 7), (0, 3)), ((7, 1), (3, 0))
        self.branch1x1 = Convolution(768, 192, 1)
        self.branch7x7_1 = Convolution(768, width, 1)
        self.branch7x7_2 = Convolution(width, width, *across)
        self.branch7x7_3 = Convolution(width, 192, *down)
        self.branch7x7dbl_1 = Convolution(768, width, 1)
        self.branch7x7dbl_2 = Convolution(width, width, *down)
        self.branch7x7dbl_3 = Convolution(width, width, *across)
        self.branch7x7dbl_4 = Convolution(width, width, *down)
        self.branch7x7dbl_5 = Convolution(width, 192, *across)
        self.branch_pool = Convolution(768, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 768, H, W) to the same."""
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(_average(x))], dim=1)


class MixedD(nn.Module):
    """From 17x17 to 8x8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1 = Convolution(768, 192, 1)
        self.branch3x3_2 = Convolution(192, 320, 3, stride=2)
        self.branch7x7x3_1 = Convolution(768, 192, 1)
        self.branch7x7x3_2 = Convolution(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = Convolution(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = Convolution(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 768, H, W) to (B, 1280, H', W')."""
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([three, seven, F.max_pool2d(x, 3, stride=2)], dim=1)


class MixedE(nn.Module):
    """8x8 pixels: 3x3 convolutions that fan out into a row and a column."""

    def __init__(self, inputs: int, maximum: bool) -> None:
        super().__init__()
        across, down = ((1, 3), (0, 1)), ((3, 1), (1, 0))
        self.maximum = maximum
        self.branch1x1 = Convolution(inputs, 320, 1)
        self.branch3x3_1 = Convolution(inputs, 384, 1)
        self.branch3x3_2a = Convolution(384, 384, *across)
        self.branch3x3_2b = Convolution(384, 384, *down)
        self.branch3x3dbl_1 = Convolution(inputs, 448, 1)
        self.branch3x3dbl_2 = Convolution(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = Convolution(384, 384, *across)
        self.branch3x3dbl_3b = Convolution(384, 384, *down)
        self.branch_pool = Convolution(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, 2048, H, W)."""
        one = self.branch3x3_1(x)
        two = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, stride=1, padding=1) if self.maximum else _average(x)
        return torch.cat(
            [
                self.branch1x1(x),
                self.branch3x3_2a(one),
                self.branch3x3_2b(one),
                self.branch3x3dbl_3a(two),
                self.branch3x3dbl_3b(two),
                self.branch_pool(pooled),
            ],
            dim=1,
        )


class Inception(nn.Module):
    """Images to features, with frozen weights; always in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Convolution(32, 32, 3)
        self.Conv2d_2b_3x3 = Convolution(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = Convolution(80, 192, 3)
        self.Mixed_5b = MixedA(192, 32)
        self.Mixed_5c = MixedA(256, 64)
        self.Mixed_5d = MixedA(288, 64)
        self.Mixed_6a = MixedB(288)
        self.Mixed_6b = MixedC(128)
        self.Mixed_6c = MixedC(160)
        self.Mixed_6d = MixedC(160)
        self.Mixed_6e = MixedC(192)
        self.Mixed_7a = MixedD()
        self.Mixed_7b = MixedE(1280, maximum=False)
        self.Mixed_7c = MixedE(2048, maximum=True)
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def from_file(cls, path: Path) -> "Inception":
        """From the file of pytorch-fid; its classifier (``fc``) and batch counters are not needed.

        Raises:
            InputError: the file is no plain state dictionary, or its names or shapes do not fit.
        """
        network = cls()
        state = {
            key: value
            for key, value in read_state(path).items()
            if not key.startswith("fc.") and not key.endswith(".num_batches_tracked")
        }
        counters = {
            key: value for key, value in network.state_dict().items() if key.endswith(".num_batches_tracked")
        }
        fill(network, state | counters, path, "FID's Inception")
        return network

    def train(self, mode: bool = True) -> "Inception":
        """Stays in evaluation mode: it is a ruler."""
        del mode
        return super().train(False)

    def forward(self, image: Tensor) -> Tensor:
        """Features (B, 2048) of images (B, 3, 299, 299) in [-1, 1]; other sides from 75 pixels work."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(image)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, stride=2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, stride=2))))
        x = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))
        x = self.Mixed_7a(self.Mixed_6e(self.Mixed_6d(x)))
        return self.Mixed_7c(self.Mixed_7b(x)).mean(dim=(2, 3))

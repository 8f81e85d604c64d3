"""The float face detector of the series: ``Blaze``, built from ``BlazeBlock``.

The network is the one of https://github.com/zineos/blazeface (a BlazeFace-like detector with the
heads of RetinaFace), which the article quantizes. Module names, the spelling ``actvation``
included, and so the keys of ``state_dict()`` are the same as there: its weights load strictly.

Two seams serve a quantizable subclass, after torchvision's convention: ``Blaze(block=...)`` says
which block class to build from, and the body of the forward pass is ``Blaze.maps``.
"""

import torch
from torch import Tensor, nn

from blaze_utils.detector.anchors import LEVELS

MEAN_BGR = (104.0, 117.0, 123.0)
"""Subtracted from the BGR pixels 0..255 of an image; the network's input has no other scaling."""

SIZE_MULTIPLE = 16
"""Height and width of the input must be multiples of this."""

PRIORS_PER_CELL = tuple(len(sides) for _, sides in LEVELS)
"""Prior boxes a cell at stride 8 and at stride 16."""

HeadMaps = tuple[list[Tensor], list[Tensor], list[Tensor]]


def _conv_bn_pair(channels: int, out_channels: int, stride: int, groups: int) -> nn.Sequential:
    """A 5x5 convolution, then a 1x1 convolution to ``out_channels``, each with batch norm."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 5, stride, padding=2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
    )


def _head(channels: int, out_channels: int) -> nn.Sequential:
    """A depthwise 3x3 convolution and a 1x1 convolution that predicts ``out_channels`` values."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, out_channels, 1),
    )


def _heads(values: int) -> nn.Sequential:
    """One head for each of the two strides; ``values`` is the number of values a prior box."""
    return nn.Sequential(*(_head(96, priors * values) for priors in PRIORS_PER_CELL))


class BlazeBlock(nn.Module):
    """A residual block: ``relu(conv(x) + x)``, or ``relu(conv(x) + shortcut(x))`` at stride 2.

    Input ``[N, in_channels, H, W]``, output ``[N, out_channels, H / stride, W / stride]``, float32.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output; at stride 1 the same as ``in_channels``.
        stride: 1, or 2 to halve height and width (which must then be even).
        bottleneck: None for a single block (one depthwise 5x5 and 1x1 pair); a number of channels
            for a double block: the first pair narrows to it, a second pair, whose 5x5 convolution
            is a full one, widens to ``out_channels``.

    Raises:
        ValueError: ``stride`` is neither 1 nor 2, or 1 with different channels in and out.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, bottleneck: int | None = None
    ) -> None:
        super().__init__()
        if stride not in (1, 2):
            raise ValueError(f"stride must be 1 or 2, got {stride}")
        if stride == 1 and in_channels != out_channels:
            raise ValueError(
                f"a block of stride 1 adds its input to its output: in_channels {in_channels} "
                f"and out_channels {out_channels} must be equal"
            )
        self.stride = stride
        self.actvation = nn.ReLU(inplace=True)
        if bottleneck is None:
            self.conv = nn.Sequential(_conv_bn_pair(in_channels, out_channels, stride, in_channels))
        else:
            self.conv = nn.Sequential(
                _conv_bn_pair(in_channels, bottleneck, stride, in_channels),
                nn.ReLU(inplace=True),
                _conv_bn_pair(bottleneck, out_channels, 1, groups=1),
                nn.ReLU(inplace=True),
            )
        if stride == 2:
            self.shortcut = nn.Sequential(
                nn.MaxPool2d(2, 2),
                nn.Conv2d(in_channels, out_channels, 1),
                nn.BatchNorm2d(out_channels),
                nn.ReLU(inplace=True),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Add the block's input, reduced if need be, to its convolutions; then ReLU."""
        h = self.conv(x)
        if self.stride == 2:
            x = self.shortcut(x)
        return self.actvation(h + x)


def join_heads(maps: HeadMaps) -> tuple[Tensor, Tensor, Tensor]:
    """Put the feature maps of the heads into lists of predictions, one row a prior box.

    Args:
        maps: for loc, conf and landm one tensor ``[N, priors * values, H / stride, W / stride]`` a
            stride, as ``Blaze.maps`` gives them.

    Returns:
        loc ``[N, P, 4]``, conf ``[N, P, 2]``, landm ``[N, P, 10]``, in the order of
        ``prior_boxes``: stride 8 first, then rows, columns, sizes.
    """

    def join(levels: list[Tensor], values: int) -> Tensor:
        rows = [m.permute(0, 2, 3, 1).reshape(m.shape[0], -1, values) for m in levels]
        return torch.cat(rows, dim=1)

    loc, conf, landm = maps
    return join(loc, 4), join(conf, 2), join(landm, 10)


class Blaze(nn.Module):
    """The detector: 175,280 parameters, heads on the features at strides 8 and 16.

    Input: float32 ``[N, 3, H, W]``, BGR pixels 0..255 minus ``MEAN_BGR``; H and W multiples of 16,
    as ``preprocess`` makes them (other sizes stop at the first addition that does not fit).

    Returns:
        ``loc [N, P, 4]``, ``conf [N, P, 2]`` and ``landm [N, P, 10]``, float32, where
        P = 2 * (H / 8) * (W / 8) + 6 * (H / 16) * (W / 16). ``loc`` and ``landm`` are offsets
        from the prior boxes (``anchors.decode_boxes``, ``anchors.decode_landmarks``); ``conf`` are
        logits (background, face), without a softmax, in training and evaluation mode alike.

    Args:
        block: the class of the residual blocks, ``BlazeBlock`` or a subclass.
    """

    def __init__(self, block: type[BlazeBlock] = BlazeBlock) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.Conv2d(3, 24, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(24),
            nn.ReLU(inplace=True),
        )
        self.conv2 = block(24, 24)
        self.conv3 = block(24, 24)
        self.conv4 = block(24, 48, stride=2)
        self.conv5 = block(48, 48)
        self.conv6 = block(48, 48)
        self.conv7 = block(48, 96, stride=2, bottleneck=24)
        self.conv8 = block(96, 96, bottleneck=24)
        self.conv9 = block(96, 96, bottleneck=24)
        self.conv10 = block(96, 96, stride=2, bottleneck=24)
        self.conv11 = block(96, 96, bottleneck=24)
        self.conv12 = block(96, 96, bottleneck=24)
        self.loc = _heads(4)
        self.conf = _heads(2)
        self.landm = _heads(10)

    def maps(self, x: Tensor) -> HeadMaps:
        """The layers alone, all that a quantized model computes in int8; see ``join_heads``."""
        x = self.conv4(self.conv3(self.conv2(self.conv1(x))))
        stride8 = self.conv9(self.conv8(self.conv7(self.conv6(self.conv5(x)))))
        stride16 = self.conv12(self.conv11(self.conv10(stride8)))
        features = (stride8, stride16)

        def predict(heads: nn.Sequential) -> list[Tensor]:
            return [head(feature) for head, feature in zip(heads, features, strict=True)]

        return predict(self.loc), predict(self.conf), predict(self.landm)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The predictions of both strides in one list; see the class."""
        return join_heads(self.maps(x))

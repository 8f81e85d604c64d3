"""The quantizable twin of the float detector, after torchvision's convention.

``QuantizableBlazeBlock`` and ``QuantizableBlaze`` inherit from the float classes and override
``forward`` only: what is different is what quantization asks for. The keys of ``state_dict()`` are
the same, so float weights load strictly. From here to int8 it is ``eval()``, ``fuse_model()``, a
``qconfig``, ``prepare``, calibration, ``convert``; ``int8.quantize_static`` does it in one call.
"""

from torch import Tensor, nn
from torch.ao.nn.quantized import FloatFunctional
from torch.ao.quantization import DeQuantStub, QuantStub, fuse_modules, fuse_modules_qat

from blaze_utils.detector.model import Blaze, BlazeBlock, join_heads


def _fuse(module: nn.Module, groups: list[list[str]], is_qat: bool | None) -> None:
    """Fuse groups of dotted names in place; ``is_qat`` None goes by the module's mode."""
    is_qat = module.training if is_qat is None else is_qat
    fuse = fuse_modules_qat if is_qat else fuse_modules
    fuse(module, groups, inplace=True)


class QuantizableBlazeBlock(BlazeBlock):
    """A ``BlazeBlock`` whose addition and last ReLU are one operator with a scale of its own.

    Takes and gives what ``BlazeBlock`` does, float or quantized; ``actvation`` is gone, since
    ``skip_add_relu`` does its work.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, bottleneck: int | None = None
    ) -> None:
        super().__init__(in_channels, out_channels, stride, bottleneck)
        del self.actvation
        self.skip_add_relu = FloatFunctional()

    def forward(self, x: Tensor) -> Tensor:
        """As ``BlazeBlock``, with one operator for the addition and the ReLU."""
        h = self.conv(x)
        if self.stride == 2:
            x = self.shortcut(x)
        return self.skip_add_relu.add_relu(h, x)

    def fuse_model(self, is_qat: bool | None = None) -> None:
        """Fuse every convolution with its batch norm and ReLU; see ``QuantizableBlaze``.

        In a double block the ReLU after each pair stands outside the Sequential of its convolution
        (``conv.1`` after ``conv.0.4``): dotted names reach across.
        """
        groups = [["conv.0.0", "conv.0.1", "conv.0.2"]]
        if len(self.conv) == 1:
            groups += [["conv.0.3", "conv.0.4"]]
        else:
            groups += [["conv.0.3", "conv.0.4", "conv.1"]]
            groups += [["conv.2.0", "conv.2.1", "conv.2.2"], ["conv.2.3", "conv.2.4", "conv.3"]]
        if self.stride == 2:
            groups += [["shortcut.1", "shortcut.2", "shortcut.3"]]
        _fuse(self, groups, is_qat)


class QuantizableBlaze(Blaze):
    """A ``Blaze`` that eager-mode quantization can convert; in float it computes the same.

    Between ``quant`` and ``dequant`` lies all that has weights. The heads' maps are dequantized one
    by one, before they are joined: each has a scale of its own, and ``torch.cat`` of quantized
    tensors would give all of them the first one's.
    """

    def __init__(self, block: type[QuantizableBlazeBlock] = QuantizableBlazeBlock) -> None:
        super().__init__(block)
        self.quant = QuantStub()
        self.dequant = DeQuantStub()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As ``Blaze``, between the stubs."""
        maps = self.maps(self.quant(x))
        loc, conf, landm = ([self.dequant(level) for level in head] for head in maps)
        return join_heads((loc, conf, landm))

    def fuse_model(self, is_qat: bool | None = None) -> None:
        """Fuse every Conv+BN, Conv+BN+ReLU and Conv+ReLU, in place: no batch norm or ReLU is left.

        Args:
            is_qat: False folds the batch norms into the weights, for post-training quantization,
                and needs evaluation mode; True keeps them trainable inside the fused modules, for
                quantization-aware training, and needs training mode. None: as the mode is.

        Raises:
            RuntimeError: the model has been fused already.
            AssertionError: ``is_qat=False`` in training mode (from PyTorch).
        """
        if not isinstance(self.conv1[0], nn.Conv2d) or isinstance(self.conv1[1], nn.Identity):
            raise RuntimeError("fuse_model: this model has been fused already")
        _fuse(self, [["conv1.0", "conv1.1", "conv1.2"]], is_qat)
        for module in self.modules():
            if isinstance(module, QuantizableBlazeBlock):
                module.fuse_model(is_qat)
        for head in (*self.loc, *self.conf, *self.landm):
            _fuse(head, [["0", "1"]], is_qat)

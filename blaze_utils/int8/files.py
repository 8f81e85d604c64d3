"""Int8 models on disk: six flat arrays in one safetensors file, and what its bytes are for.

``torch.save`` stores every tensor of a converted model as an entry of a zip archive, and with each
scale of a weight a zero point that is always 0. Here all weights lie in one array, all biases in
another, and so on, in the model's order; the class knows the layers, and a digest of them is enough
to notice another class. One tensor a layer would make the header a tenth of the file.
"""

import json
import warnings
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.ao import quantization as aoq
from torch.ao.nn import quantized as nnq
from torch.ao.nn.intrinsic import quantized as nniq

from blaze_utils.data import what_is
from blaze_utils.detector import CheckpointError, QuantizableBlaze
from blaze_utils.int8.eager import default_engine, fuse_add, quantizable_copy, using_engine
from blaze_utils.measure import stored_bytes

WITH_WEIGHTS = (nnq.Conv2d, nniq.ConvReLU2d, nniq.ConvAddReLU2d, nnq.Linear, nniq.LinearReLU)
STORED = (*WITH_WEIGHTS, nnq.QFunctional, nnq.Quantize)  # each has an output scale and zero point
WITHOUT_NUMBERS = (nnq.DeQuantize, nnq.Dropout, nnq.ReLU6)
GEOMETRY = ("stride", "padding", "dilation", "groups", "padding_mode")
BatchNorm = nn.modules.batchnorm._BatchNorm
# The one key of the file's metadata, with the format's version. With more keys than one,
# safetensors would write them in any order.
NOTES = "blaze_utils int8 1"

WEIGHTS, BIASES, BATCH_NORM, SCALES = "weights", "biases", "batch norm", "scales and zero points"
CATEGORIES = (WEIGHTS, BIASES, BATCH_NORM, SCALES, "wrapping")


def save_int8(model: nn.Module, path: str | Path) -> None:
    """Store a converted int8 model on ``path``, whole or not at all; same model, same bytes.

    The engine noted in the file is the one that is set now. Scales are stored as float32 where that
    loses nothing, as with all that PyTorch's observers give, else as float64.

    Args:
        model: after ``convert``: a ``QuantizableBlaze``, or another model of convolutions, linear
            layers, ``FloatFunctional`` and stubs. Weights symmetric, activations quint8.

    Raises:
        ValueError: a layer is not converted, or the file cannot hold it (which is named).
        OSError: the folder does not exist or cannot be written; an older file stays as it is.
    """
    layers = _int8_layers(model)
    arrays = _to_arrays(layers)
    notes = {
        "engine": torch.backends.quantized.engine,
        "model": type(model).__name__,
        "layers": _fingerprint(layers),
        "add_fused": any(type(layer) is nniq.ConvAddReLU2d for layer in layers.values()),
    }
    notes["sha256"] = _digest(arrays, notes)
    part = Path(f"{path}.part")
    try:
        part.write_bytes(save(arrays, {NOTES: json.dumps(notes)}))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read_int8(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    """The arrays and the notes of a file of ``save_int8``, as they are stored.

    Arrays, each in the model's order: ``weights`` int8; ``biases`` float32; ``weight_scales`` and
    ``output_scales`` float32 or float64; ``output_zero_points`` uint8; ``per_channel`` uint8, 1 for
    a layer with a scale for each output channel. Notes: ``engine``, ``model`` (its class),
    ``layers`` (a digest of kinds and shapes), ``add_fused``, ``sha256`` of all this.

    Raises:
        CheckpointError: the file is missing, damaged or of another kind, which is named.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: " + ("a folder" if path.is_dir() else "no such file"))
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}
        if NOTES not in metadata:
            raise ValueError(f"of {len(arrays)} arrays, without the notes of save_int8")
        notes = json.loads(metadata[NOTES])
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{path}: {what_is(path)}, but no sound int8 file of save_int8: {error} "
            "(float checkpoints are read by load_float)"
        ) from error
    if notes.get("sha256") != _digest(arrays, notes):
        raise CheckpointError(f"{path}: damaged: its numbers do not match their checksum")
    return arrays, notes


def load_int8(
    path: str | Path, model_factory: Callable[[], nn.Module] = QuantizableBlaze
) -> nn.Module:
    """Build the int8 model that ``save_int8`` stored; its outputs are bit-identical.

    ``torch.backends.quantized.engine`` is set to the file's and stays so. Where this PyTorch has
    not got it, a warning says so and ``default_engine()`` is set, which may round otherwise.

    Args:
        model_factory: gives the float model that was quantized, as ``quantizable_copy`` takes it;
            its weights do not matter.

    Returns:
        The model on the CPU, in evaluation mode.

    Raises:
        CheckpointError: as for ``read_int8``, or the file holds other layers than those of
            ``model_factory``'s model. The engine then stays as it was.
        TypeError: ``model_factory`` gives a model that cannot be quantized.
    """
    arrays, notes = read_int8(path)
    engine = notes["engine"]
    if engine not in torch.backends.quantized.supported_engines:
        engine = default_engine()
        message = f"{path}: saved for the engine {notes['engine']!r}, which is not in this PyTorch"
        warnings.warn(f"{message}; {engine!r} is used, and may round otherwise", stacklevel=2)
    with using_engine(engine):  # the weights are packed for it
        model = _unfilled(model_factory(), notes["add_fused"])
        layers = _int8_layers(model)
        if _fingerprint(layers) != notes["layers"]:
            raise CheckpointError(
                f"{path}: holds an int8 {notes['model']}, whose layers are not those of this "
                f"{type(model).__name__}: give the model_factory that it was made with"
            )
        _fill(list(layers.values()), arrays)
    torch.backends.quantized.engine = engine
    return model


def byte_ledger(stored: nn.Module | str | Path) -> dict[str, int]:
    """How many bytes of a stored model hold what.

    Args:
        stored: a model, float or int8, for the file that ``torch.save(model.state_dict(), file)``
            would write; or the path of a file of ``save_int8`` (CheckpointError as there).

    Returns:
        Bytes for each of ``CATEGORIES``, in that order; their sum is the size of the file.
        ``wrapping`` is all but the numbers of layers: names, shapes, the archive's lists and gaps.
        So is, with ``torch.save``, the scale of a weight that has one for the whole tensor: it
        stands amid the names, in the pickle.
    """
    ledger = dict.fromkeys(CATEGORIES, 0)
    if isinstance(stored, nn.Module):
        total, owners = stored_bytes(stored), dict(stored.named_modules())
        for name, value in stored.state_dict().items():
            owner, _, key = name.rpartition(".")
            _count(ledger, owners[owner], key, value)
    else:
        total = Path(stored).stat().st_size
        for name, array in read_int8(stored)[0].items():
            ledger[name if name in (WEIGHTS, BIASES) else SCALES] += array.nbytes
    ledger["wrapping"] = total - sum(ledger.values())
    return ledger


def _count(ledger: dict[str, int], owner: nn.Module, key: str, value: object) -> None:
    """Add one entry of a ``state_dict`` to the ledger."""
    kinds = {"weight": WEIGHTS, "bias": BIASES}
    if isinstance(owner, BatchNorm):
        kinds = dict.fromkeys(nn.BatchNorm2d(1).state_dict(), BATCH_NORM)
    kinds |= {"scale": SCALES, "zero_point": SCALES}
    if isinstance(value, tuple):  # an int8 linear layer has its weight and bias in one entry
        _count(ledger, owner, "weight", value[0])
        _count(ledger, owner, "bias", value[1])
    elif isinstance(value, Tensor) and key in kinds:
        ledger[kinds[key]] += value.numel() * value.element_size()
        if value.is_quantized and value.qscheme() == torch.per_channel_affine:
            ledger[SCALES] += value.q_per_channel_scales().nbytes
            ledger[SCALES] += value.q_per_channel_zero_points().nbytes


def _int8_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that hold numbers, by dotted name; ValueError for what the file cannot hold."""
    layers: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if type(module) in STORED:
            layers[name] = module
        elif not any(name.startswith(f"{outer}.") for outer in layers):
            if problem := _problem(module):
                raise ValueError(f"{name or 'the model'}: {problem}")
    if not any(type(layer) in WITH_WEIGHTS for layer in layers.values()):
        raise ValueError(f"{type(model).__name__}: no int8 layer in it; convert the model first")
    return layers


def _problem(module: nn.Module) -> str | None:
    """Why the file cannot hold this module, its children aside; None if it can."""
    kind = f"{type(module).__module__}.{type(module).__name__}"
    own = [
        key for key, _ in (*module.named_parameters("", False), *module.named_buffers("", False))
    ]
    if isinstance(module, BatchNorm):
        return "a batch norm is left; call fuse_model() before prepare()"
    if kind.startswith("torch.ao.nn.quantized") and type(module) not in WITHOUT_NUMBERS:
        return f"{kind} is an int8 layer of a kind that the file cannot hold; use torch.save"
    if kind.startswith("torch.") and (own or kind.startswith("torch.ao.nn.intrinsic")):
        return f"{kind} is no int8 layer; expected a model after fuse_model, prepare and convert"
    if own:
        return (
            f"{type(module).__name__} has parameters or buffers of your own: {', '.join(own)}; the "
            "file holds int8 layers only: use torch.save(model.state_dict(), path)"
        )
    return None


def _fingerprint(layers: dict[str, nn.Module]) -> str:
    """A digest of what the class brings: names, kinds, shapes, strides and the like."""
    facts = [
        (name, type(layer).__name__, *(str(getattr(layer, key, None)) for key in GEOMETRY))
        for name, layer in layers.items()
    ]
    shapes = [layer.weight().shape for layer in layers.values() if type(layer) in WITH_WEIGHTS]
    return sha256(json.dumps([facts, shapes]).encode()).hexdigest()


def _digest(arrays: dict[str, Tensor], notes: dict) -> str:
    """Of all that the file holds, the digest aside."""
    facts: dict[str, object] = {key: value for key, value in notes.items() if key != "sha256"}
    for name, array in arrays.items():
        content = sha256(array.numpy().tobytes()).hexdigest()
        facts[name] = [str(array.dtype), list(array.shape), content]
    return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _to_arrays(layers: dict[str, nn.Module]) -> dict[str, Tensor]:
    """The numbers without loss, one array a kind; see ``read_int8``."""
    rows = [_numbers(name, layer) for name, layer in layers.items()]
    arrays = {}
    for key in dict.fromkeys(key for row in rows for key in row):
        array = torch.cat([row[key] for row in rows if key in row])
        short = array.float() if array.dtype == torch.float64 else array
        arrays[key] = short if torch.equal(short.to(array.dtype), array) else array
    return arrays


def _numbers(name: str, layer: nn.Module) -> dict[str, Tensor]:
    """What the file keeps of one layer, by the array that it goes into."""
    zero_point = int(layer.zero_point)
    if not 0 <= zero_point <= 255 or getattr(layer, "dtype", torch.quint8) != torch.quint8:
        raise ValueError(f"{name}: expected quint8 activations, zero point {zero_point}")
    numbers = {
        "output_scales": torch.tensor([float(layer.scale)], dtype=torch.float64),
        "output_zero_points": torch.tensor([zero_point], dtype=torch.uint8),
    }
    if type(layer) not in WITH_WEIGHTS:
        return numbers
    weight, bias = layer.weight(), layer.bias()
    per_channel = weight.qscheme() == torch.per_channel_affine
    if per_channel:
        scales, zeros = weight.q_per_channel_scales(), weight.q_per_channel_zero_points()
    else:
        scales = torch.tensor([weight.q_scale()], dtype=torch.float64)
        zeros = torch.tensor([weight.q_zero_point()])
    if zeros.any() or weight.dtype != torch.qint8:
        raise ValueError(f"{name}: expected symmetric qint8 weights, whose zero points are all 0")
    return numbers | {
        "weights": weight.int_repr().flatten(),
        # Zeros where there is none, as qnnpack does in packing.
        "biases": torch.zeros(len(weight)) if bias is None else bias.detach(),
        "weight_scales": scales,
        "per_channel": torch.tensor([per_channel], dtype=torch.uint8),
    }


def _unfilled(float_model: nn.Module, add_fused: bool) -> nn.Module:
    """A float model's int8 twin, packed for the engine that is set; its numbers mean nothing."""
    model = quantizable_copy(float_model)
    model.fuse_model(is_qat=False)
    if add_fused:
        fuse_add(model)
    model.qconfig = aoq.QConfig(aoq.MinMaxObserver, aoq.default_weight_observer)
    with warnings.catch_warnings():
        # That the observers have seen nothing is the point; the API is known to be deprecated.
        warnings.simplefilter("ignore")
        return aoq.convert(aoq.prepare(model, inplace=True), inplace=True)


def _fill(layers: list[nn.Module], arrays: dict[str, Tensor]) -> None:
    """Put the numbers of ``_to_arrays`` into layers of the same fingerprint, in place."""
    weighted = [layer for layer in layers if type(layer) in WITH_WEIGHTS]
    flags, sizes = arrays["per_channel"].tolist(), [len(layer.weight()) for layer in weighted]
    weights = arrays["weights"].split([layer.weight().numel() for layer in weighted])
    parts = [size if flag else 1 for size, flag in zip(sizes, flags, strict=True)]
    # Each has memory of its own, as convert makes it: torch.save keeps a shared one whole.
    scales = [scale.double().clone() for scale in arrays["weight_scales"].split(parts)]
    columns = zip(weighted, weights, arrays["biases"].split(sizes), scales, flags, strict=True)
    for layer, integers, bias, scale, per_channel in columns:
        # From the integers themselves: quantizing float numbers would round.
        integers, zeros = integers.view(layer.weight().shape), torch.zeros(len(scale)).long()
        if per_channel:
            weight = torch._make_per_channel_quantized_tensor(integers, scale, zeros, 0)
        else:
            weight = torch._make_per_tensor_quantized_tensor(integers, scale.item(), 0)
        absent = layer.bias() is None and not bias.any()
        parameter = nn.Parameter(bias.clone(), requires_grad=False)
        layer.set_weight_bias(weight, None if absent else parameter)
    outputs = zip(layers, arrays["output_scales"], arrays["output_zero_points"], strict=True)
    for layer, scale, zero in outputs:
        if type(layer) is nnq.Quantize:
            layer.scale.fill_(scale.item())
            layer.zero_point.fill_(zero.item())
        else:
            layer.scale, layer.zero_point = scale.item(), zero.item()

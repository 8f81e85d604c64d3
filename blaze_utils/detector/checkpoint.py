"""Store and load float models: weights alone, whose file cannot run anything.

``save_float`` writes what ``torch.save(model.state_dict(), path)`` does. ``load_float`` also takes
what others write: safetensors, weights one level down (``{"model_state_dict": ...}``), and names
with whatever a wrapper put before them (``module.``, ``_orig_mod.``). Int8 models have a file of
their own kind, see ``blaze_utils.int8``.
"""

import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from blaze_utils.data import some, what_is
from blaze_utils.detector.model import Blaze

CHECKPOINT = "a PyTorch checkpoint"
OUR_INT8 = "blaze_utils int8"  # how the metadata of ``save_int8`` begin


class CheckpointError(ValueError):
    """A stored model that cannot be used; the message names the file and says why."""


def save_float(model: nn.Module, path: str | Path) -> None:
    """Store a model's weights on ``path``, whole or not at all, as a plain ``state_dict``.

    Tensors are stored from the CPU and contiguous, whatever device and memory format the model has:
    the same weights make the same file. Raises OSError where the folder cannot be written.
    """
    weights = {
        key: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, value in model.state_dict().items()
    }
    part = Path(f"{path}.part")
    try:
        with part.open("wb") as file:  # given a path, torch would write its name into the file
            torch.save(weights, file)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def load_float(path: str | Path, model_factory: Callable[[], nn.Module] = Blaze) -> nn.Module:
    """Build a float model and fill it with stored weights.

    A prefix that all names share is taken off; if the file holds no weights at its top, they are
    looked for one level down. Missing ``num_batches_tracked`` are 0, as in PyTorch. If several sets
    of weights in the file fit, a warning says which one was taken.

    Args:
        path: a checkpoint: ours, the one published at https://github.com/zineos/blazeface, or any
            other ``.pth`` or ``.safetensors`` file of this network.
        model_factory: gives the model to fill, for instance ``Blaze`` or a subclass.

    Returns:
        The model on the CPU, in evaluation mode. Every weight comes from the file.

    Raises:
        CheckpointError: the file is missing, damaged, of another kind (which is named), a pickle
            that could run code (it is refused), without weights, of a network with other names or
            shapes (the first are shown), or holds NaN or infinite weights.
    """
    model = model_factory()
    weights = _fitting(_read(Path(path)), model, path)
    for name, value in weights.items():
        if not torch.isfinite(value).all():
            raise CheckpointError(f"{path}: {name} holds NaN or infinite values")
    model.load_state_dict(weights)
    return model.eval()


def stored_kind(path: Path) -> str:
    """Say in words what a file of weights is; of a zip archive, what lies in it tells.

    Raises:
        CheckpointError: there is no such file, or it is a folder.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: " + ("a folder" if path.is_dir() else "no such file"))
    kind = what_is(path)
    if kind != "a zip archive":
        return kind
    if not zipfile.is_zipfile(path):
        return "a zip archive, as torch.save writes it, that is damaged or cut short"
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    insides = {
        r"/code/|constants\.pkl$": "a TorchScript program, which holds code",
        r"archive_format$": "a program of torch.export",
        r"data\.pkl$": CHECKPOINT,
        r"\.npy$": "NumPy arrays (.npz)",
    }
    found = (kind for inside, kind in insides.items() if re.search(inside, "\n".join(names), re.M))
    return next(found, f"a zip archive without weights (in it: {some(names)})")


def _read(path: Path) -> object:
    """What a file holds, read without running any of it."""
    kind = stored_kind(path)
    try:
        if kind in (CHECKPOINT, "a Python pickle"):
            return torch.load(path, map_location="cpu", weights_only=True)
        if kind == "a safetensors file":
            with safe_open(path, "pt") as file:
                if not any(key.startswith(OUR_INT8) for key in file.metadata() or {}):
                    return {name: file.get_tensor(name) for name in file.keys()}
            kind = "an int8 model, which load_int8 reads"
    # Given damaged bytes, the readers raise errors of nearly any class.
    except Exception as error:
        message = str(error).partition("WeightsUnpickler error:")[2] or str(error)
        asked = re.search(r"GLOBAL (\S+)", message)
        if isinstance(error, pickle.UnpicklingError) and asked:
            raise CheckpointError(
                f"{path}: refused: it holds Python objects ({asked[1]}), as a whole pickled model "
                "does, and loading them could run code. Where it was made, store "
                "model.state_dict() alone"
            ) from error
        reason = f"{type(error).__name__}: {message.strip().partition(chr(10))[0]}"
        raise CheckpointError(
            f"{path}: {kind}, but damaged, cut short or not of named tensors ({reason})"
        ) from error
    raise CheckpointError(f"{path}: {kind}; expected a PyTorch checkpoint or a safetensors file")


def _weight_sets(stored: object, path: str | Path) -> dict[str, dict[str, Tensor]]:
    """Every dict of tensors in a file, at its top ("") or one level down, by its place."""
    if not isinstance(stored, Mapping):
        raise CheckpointError(f"{path}: holds a {type(stored).__name__}, expected named tensors")
    places = {"": stored, **{k: v for k, v in stored.items() if isinstance(v, Mapping)}}
    sets = {
        place: {
            # torch.compile puts this in the middle too, where only a part was compiled.
            str(name).replace("_orig_mod.", ""): value
            for name, value in content.items()
            if isinstance(value, Tensor)
        }
        for place, content in places.items()
    }
    sets = {place: tensors for place, tensors in sets.items() if tensors}
    if not sets:
        raise CheckpointError(f"{path}: holds no weights (in it: {some(stored) or 'nothing'})")
    return sets


def _fitting(stored: object, model: nn.Module, path: str | Path) -> dict[str, Tensor]:
    """The weights among what a file holds that fit a model, under the model's own names."""
    wanted = model.state_dict()
    first = next(iter(wanted))
    options = {}
    for place, found in _weight_sets(stored, path).items():
        # What a wrapper put before the network's first name, and so before all.
        starts = [name.removesuffix(first) for name in found if name.endswith(f".{first}")]
        for start in ("", *starts):
            inside = {k[len(start) :]: v for k, v in found.items() if k.startswith(start)}
            options[f"{place or 'top'}: {start}*"] = inside, found
    fits = [key for key, (inside, _) in options.items() if not _wrong(wanted, inside)]
    if not fits:
        closest = min(options.values(), key=lambda option: len(_wrong(wanted, option[0])))
        reason = _explain(wanted, *closest)
        raise CheckpointError(f"{path}: not the weights of {type(model).__name__}: {reason}")
    if len(fits) > 1:
        message = f"{path}: of several sets of weights that fit, the first is taken: {fits}"
        warnings.warn(message, stacklevel=3)
    return {**wanted, **options[fits[0]][0]}


def _wrong(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """The names that are missing, unknown, or of another shape or kind of number."""

    def fits(name: str) -> bool:
        if name not in wanted or name not in found:
            return name in wanted and name.endswith("num_batches_tracked")
        ours, theirs = wanted[name], found[name]
        return ours.shape == theirs.shape and ours.is_floating_point() <= theirs.is_floating_point()

    return [name for name in dict.fromkeys([*wanted, *found]) if not fits(name)]


def _explain(
    wanted: Mapping[str, Tensor], inside: Mapping[str, Tensor], found: Mapping[str, Tensor]
) -> str:
    """Say how weights differ from the network's; ``inside`` is ``found`` without its prefix."""
    wrong = _wrong(wanted, inside)
    missing = [name for name in wrong if name not in inside]
    unknown = [name for name in wrong if name not in wanted]
    if any(value.is_quantized for value in found.values()):
        return "they are int8, of a converted model"
    if missing:
        return (
            f"{len(missing)} of its {len(wanted)} names are missing ({some(missing)}); "
            f"the file has {len(found)} ({some(unknown or found)})"
        )
    if unknown:
        return f"the file has names that the network has not ({some(unknown)})"
    forms = [
        f"{name}: the network has {_form(wanted[name])}, the file {_form(inside[name])}"
        for name in wrong
    ]
    return some(forms, "; ")


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"

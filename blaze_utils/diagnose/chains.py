"""Convolutions, batch norms and ReLUs that could be one module and are not, from the flow of data.

What fuses is asked of PyTorch (``get_fuser_method``). A chain is proposed only if nothing else uses
what its members compute: each is called as often as the one before it, with that one's output.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from torch import nn
from torch.ao.quantization.fuser_method_mappings import get_fuser_method

from .anatomy import Anatomy, engine_in_use, float_type
from .calls import Call
from .finding import Finding, counted, finding
from .running import Recording

WEIGHTED = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear,
    nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
RECTIFIERS = (nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU)
"""Activations with an int8 form that do not fuse, and in whose place ReLU often does as well."""
CLAMPS = frozenset("relu6 hardtanh clamp clip".split())
"""Operators that scramble the output of an int8 convolution on the engine qnnpack."""


class Links:
    """Which module hands its output to which other one, and to nobody else."""

    def __init__(self, anatomy: Anatomy, recording: Recording) -> None:
        self.anatomy = anatomy
        self.calls: dict[str, list[Call]] = defaultdict(list)
        self._users: dict[int, list[Call]] = defaultdict(list)
        self._results = recording.results
        for call in recording.calls:
            self.calls[call.module].append(call)
            for value in call.inputs:
                self._users[value].append(call)

    def only_user(self, call: Call) -> Call | None:
        """The one call that uses what this call has computed, if there is exactly one."""
        if len(call.outputs) != 1 or call.outputs[0] in self._results:
            return None
        users = self._users[call.outputs[0]]
        return users[0] if len(users) == 1 else None

    def next(self, name: str) -> str | None:
        """The module that works on this one's output alone, as often as this one is called."""
        users = [self.only_user(call) for call in self.calls[name]]
        if not users or None in users or len({user.module for user in users}) != 1:
            return None
        name = users[0].module
        return name if len(self.calls[name]) == len(users) else None


def fusable_chains(links: Links) -> list[list[str]]:
    """Lists of dotted names for ``fuse_modules``, in the order in which they are called."""
    chains, used = [], set()
    for name in list(links.calls):
        chain = _longest(name, links)
        if chain and used.isdisjoint(chain):
            chains.append(chain)
            used.update(chain)
    return chains


def _longest(name: str, links: Links) -> list[str]:
    """The longest chain from a module on that fuses; empty if there is none."""
    chain, best = [name], []
    while len(chain) < 3 and (following := links.next(chain[-1])) is not None:
        chain.append(following)
        if _fuses(chain, links.anatomy):
            best = list(chain)
    return best


def _fuses(chain: list[str], anatomy: Anatomy) -> bool:
    modules = [anatomy.modules[name] for name in chain]
    if anatomy.stays_float.intersection(chain) or anatomy.aliases.intersection(chain):
        return False
    norms = [module for module in modules[1:] if float_type(module) in NORMS]
    if any(getattr(norm, "running_mean", 0) is None for norm in norms):
        return False  # without running statistics there is nothing to fold
    return has_fuser(tuple(float_type(module) for module in modules))


def has_fuser(types: tuple[type | None, ...]) -> bool:
    """Whether ``fuse_modules`` takes modules of these types."""
    try:
        get_fuser_method(types)
    except AssertionError:
        return False
    return True


def sequential_chains(anatomy: Anatomy) -> list[list[str]]:
    """What can be said without a run: neighbours in an ``nn.Sequential``."""
    chains = []
    for name, module in anatomy.modules.items():
        if type(module) is not nn.Sequential:
            continue
        names = [f"{name}.{child}".lstrip(".") for child in module._modules]
        while names:
            fits = [n for n in (3, 2) if len(names) >= n and _fuses(names[:n], anatomy)]
            if fits:
                chains.append(names[: fits[0]])
            names = names[fits[0] if fits else 1:]
    return chains


def check_chains(anatomy: Anatomy, recording: Recording) -> Iterator[Finding]:
    """Findings about what is not fused, and about activations that cannot be."""
    if not recording.complete:
        yield from _not_fused(sequential_chains(anatomy), anatomy)
        return
    links = Links(anatomy, recording)
    chains = fusable_chains(links)
    yield from _not_fused(chains, anatomy)
    fused = {name for chain in chains for name in chain}
    mentioned = set()
    for call in recording.calls:
        module = anatomy.modules[call.module]
        user = links.only_user(call)
        if user is not None and float_type(module) in WEIGHTED + NORMS:
            for found in _activation(user, links, fused):
                mentioned.add(found.module)
                yield found
    if engine_in_use() == "qnnpack":
        for call in recording.calls:
            replaced = call.builtin and call.module in mentioned
            if call.inside and call.op in CLAMPS and not replaced:
                yield _clamp(call)


def _not_fused(chains: list[list[str]], anatomy: Anatomy) -> Iterator[Finding]:
    if not chains:
        return
    norms = [n for chain in chains for n in chain[1:] if float_type(anatomy.modules[n]) in NORMS]
    listed = "\n".join("    " + str(chain).replace("'", '"') + "," for chain in chains)
    fix = f"fuse_modules(model, [\n{listed}\n], inplace=True)"
    if anatomy.stage == "float":
        yield finding(
            "NOT_FUSED", "",
            f"{counted(len(chains), 'chain')} of convolution or linear layer, batch norm and "
            "ReLU could be one int8 operator each, if fused: faster, smaller, and rounded once "
            "instead of at each step.",
            f"model.eval()  # for training to come: model.train() and fuse_modules_qat\n{fix}",
        )
        return
    again = f"# again from the float model, before prepare:\n{fix}"
    if norms:
        yield finding(
            "BATCH_NORM_LEFT", "",
            f"{counted(len(norms), 'batch norm')} not folded into the convolution before: each "
            "stays an operator of its own, which reads and writes every activation.",
            again,
        )
    if len(norms) < len(chains):
        yield finding(
            "NOT_FUSED", "",
            f"The model was prepared unfused: {counted(len(chains), 'chain')} of convolution or "
            "linear layer, batch norm and ReLU could be one int8 operator each.",
            again,
        )


def _activation(call: Call, links: Links, fused: set[str]) -> Iterator[Finding]:
    """What follows a layer and is not fused with it."""
    module = links.anatomy.modules[call.module]
    kind = float_type(module)
    if kind in RECTIFIERS:
        wrong = ""
        if kind is nn.ReLU6:
            wrong = ", and on the engine qnnpack (Arm) its values come out in the wrong places"
        yield finding(
            "ACTIVATION_NOT_FUSABLE", call.module,
            f"fuse_modules knows no chain that ends with {kind.__name__}: it runs in int8, as an "
            f"operator of its own that reads and writes every activation{wrong}. ReLU would be "
            "part of the convolution.",
            "for name, module in list(model.named_modules()):\n"
            f"    if type(module) is nn.{kind.__name__}:\n"
            "        model.set_submodule(name, nn.ReLU())  # then train on",
        )
    elif kind is nn.ReLU and call.module not in fused and len(links.calls[call.module]) > 1:
        yield finding(
            "SHARED_MODULE", call.module,
            f"This ReLU is called at {len(links.calls[call.module])} places. It works, but "
            "cannot be fused with the layer before it: fusing leaves an Identity, at the other "
            "places too.",
            "self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()  # in __init__: one for each place",
        )
    elif call.op == "relu" and not call.builtin:
        yield finding(
            "FUNCTIONAL_RELU", call.module,
            f"The ReLU at {call.place} is a function: it runs in int8, but only a module nn.ReLU "
            "can be fused with the layer before it.",
            "self.relu = nn.ReLU()  # in __init__: one for each place\n"
            "x = self.relu(x)  # then fuse it",
        )


def _clamp(call: Call) -> Finding:
    """A clamp on qnnpack, which takes channels last and labels its result channels first."""
    return finding(
        "CLAMP_ON_QNNPACK", call.module,
        f"{call.op} at {call.place}: on the engine qnnpack its values come out in the wrong places "
        "if its input is the output of an int8 convolution. There is no error.",
        "x = self.relu(x)  # nn.ReLU, fused with the layer before it\n"
        "x = self.quant_2(torch.clamp(self.dequant(x), low, high))  # or clamp in float",
    )

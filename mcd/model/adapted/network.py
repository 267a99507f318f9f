"""`Adapted`: a masked language model of `transformers` as a backbone."""

import contextlib
import re
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from mcd.model.adapted.config import AdaptedConfig
from mcd.model.backbone import Backbone
from mcd.model.linear import in_groups, use_linear

NEVER = -3e4
"""What the bias of a forbidden id is lowered by: its probability is then 0 in every dtype, the logarithm finite in
float16 too. (MDLM's code has -1e6.)"""
_NOT_SETTINGS = (
    "architectures",
    "auto_map",
    "transformers_version",
    "torch_dtype",
    "dtype",
    "model_type",
    "mcd",
    "_name_or_path",
    "gradient_checkpointing",
    "is_decoder",
    "quantization_config",
)


class Adapted(Backbone):
    """The body of a masked language model, its head's transform, and the parameters of the head's projection.

    All ids have a column of the head, the mask too; the biases of forbidden ids, the mask's among them, are lowered by
    `NEVER`.
    A tied projection is the embedding itself, one tensor. Attention is full and no position is padding; there is no
    input of time, so sigma changes nothing. For `rows` only the head's transform is spared, not the last block.
    Where the configuration has a start of text, the network reads it in front of every row of L tokens, at L + 1
    positions, and the first L outputs predict the tokens.
    Raises ValueError for settings that the library refuses.
    """

    weight: Tensor | None
    bias: Tensor | None
    penalty: Tensor

    def __init__(self, config: AdaptedConfig):
        super().__init__()
        self.config = config
        family = config.family
        network = _network(config)
        decoder = network.get_output_embeddings()
        self.body: Any = network.get_submodule(family.body)
        self.transform = nn.Sequential(*(network.get_submodule(p) if p else nn.GELU() for p in family.transform))
        tied = decoder.weight is self.body.get_input_embeddings().weight
        self.register_parameter("weight", None if tied else decoder.weight)
        self.register_parameter("bias", decoder.bias)
        penalty = torch.zeros(config.rows)
        penalty[list(config.forbidden)] = NEVER
        self.register_buffer("penalty", penalty, persistent=False)
        self._recomputes = False
        use_linear(self)

    def table(self) -> Tensor:
        return self.body.get_input_embeddings().weight

    def projection(self) -> tuple[Tensor, Tensor]:
        weight = self.table() if self.weight is None else self.weight
        return weight, self.penalty if self.bias is None else self.bias + self.penalty

    def shardable_layers(self) -> list[nn.Module]:
        layers = self.body.get_submodule(self.config.family.layers)
        assert isinstance(layers, nn.ModuleList)
        return list(layers)

    def forward(self, x: Tensor, sigma: Tensor, rows: Tensor | None = None, group: int | None = None) -> Tensor:
        if self.checkpointing != self._recomputes:
            self._recompute(self.checkpointing)
        L = x.shape[1]
        start, shifted = self.config.start, self.config.family.shifted
        features = self.body(inputs_embeds=self._started(x))[0]
        if rows is None:
            if start is not None:
                features = features[:, :-1]
            elif shifted:
                features = torch.cat((features[:, :1], features[:, :-1]), dim=1)
            return self.transform(features)
        if start is not None:
            rows = rows + rows // L
        elif shifted:
            rows = torch.where(rows % L > 0, rows - 1, rows)
        return in_groups(group, self.transform, features.flatten(0, 1)[rows])

    def states(self, x: Tensor, sigma: Tensor, layer: int) -> Tensor:
        with self._cut(layer), self.recorded() as states:
            self.body(inputs_embeds=self._started(x))
        return states[-1] if self.config.start is None else states[-1][:, 1:]

    def _started(self, x: Tensor) -> Tensor:
        """x (B, L, width) behind the start of text, where the configuration has one."""
        start = self.config.start
        return x if start is None else torch.cat((self.table()[start].expand(len(x), 1, -1).to(x.dtype), x), dim=1)

    @contextlib.contextmanager
    def _cut(self, layer: int) -> Iterator[None]:
        """Within it, the body has its first blocks only: an exception that left it early would pass what it tidies."""
        path, _, name = self.config.family.layers.rpartition(".")
        owner, blocks = self.body.get_submodule(path), self.shardable_layers()
        whole = getattr(owner, name)
        try:
            setattr(owner, name, nn.ModuleList(blocks[:layer]))
            yield
        finally:
            setattr(owner, name, whole)

    @contextlib.contextmanager
    def causally(self) -> Iterator[None]:
        """Within it, a position attends to itself and to those before it, as in the network that was published."""
        modules = [module for module in self.body.modules() if hasattr(module, "is_causal")]
        try:
            for owner in (self.body.config, *modules):
                owner.is_causal = True
            yield
        finally:
            for owner in (self.body.config, *modules):
                owner.is_causal = False

    @contextlib.contextmanager
    def recorded(self) -> Iterator[list[Tensor]]:
        """Within it, each call of the network appends to the list what its blocks give, in order, (B, L, width) each,
        or (B, L + 1, width) with a start of text."""
        states: list[Tensor] = []

        def keep(module: nn.Module, args: Any, output: Any) -> None:
            states.append(output[0] if isinstance(output, tuple) else output)  # a tuple in transformers 4

        hooks = [layer.register_forward_hook(keep) for layer in self.shardable_layers()]
        try:
            yield states
        finally:
            for hook in hooks:
                hook.remove()

    def _recompute(self, on: bool) -> None:
        kind = "activation" if hasattr(self.body, "activation_checkpointing_enable") else "gradient"  # transformers 4
        if on:
            getattr(self.body, f"{kind}_checkpointing_enable")({"use_reentrant": False})
        else:
            getattr(self.body, f"{kind}_checkpointing_disable")()
        self._recomputes = on

    def stored_name(self, name: str) -> str:
        """As the family has it; the bias of an untied projection is the projection's own (see `tidied`)."""
        family = self.config.family
        return f"{family.decoder}.bias" if name == "bias" and self.weight is not None else family.stored_name(name)

    def tidied(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Without other heads, buffers, and second copies of what is tied; old names of norms made new; of a causal
        network without its head, the names as they are with it.

        A head of BERT or RoBERTa has two names for its bias. Where it is tied they are one tensor, and must agree. If
        not, transformers 5 stores two tensors and computes with the projection's; transformers 4 had one there too, and
        stored it under the other name.
        """
        family, found = self.config.family, {}
        if family.causal and not any(name.startswith(f"{family.body}.") for name in tensors):  # GPT-2's own file
            tensors = {f"{family.body}.{name}": value for name, value in tensors.items()}
        for name, value in tensors.items():
            name = re.sub(r"(LayerNorm)\.(gamma|beta)$", _of_old_norm, name)
            if not re.fullmatch(family.unread, name) and not name.endswith((".position_ids", ".rotary_emb.inv_freq")):
                found[name] = value
        copies, own_bias = [], self.stored_name("bias")
        if self.weight is not None and family.bias is not None and family.bias in found:
            unread = found.pop(family.bias)
            found.setdefault(own_bias, unread)
        if self.bias is not None:
            copies.append((f"{family.decoder}.bias", own_bias))
        if self.weight is None:
            table = next(name for name, p in self.named_parameters() if p is self.table())
            copies.append((f"{family.decoder}.weight", self.stored_name(table)))
        for copy, name in copies:
            if copy != name and copy in found:
                value = found.pop(copy)
                if not torch.equal(found.setdefault(name, value), value):
                    raise ValueError(f"{copy} differs from {name}, to which it is tied")
        return found


def _of_old_norm(match: re.Match[str]) -> str:
    return f"{match[1]}.{'weight' if match[2] == 'gamma' else 'bias'}"


def _network(config: AdaptedConfig) -> Any:
    """The whole network of `transformers`, with random weights, in the default dtype."""
    transformers = _library()
    family = config.family
    settings = {key: value for key, value in family.settings(config.settings).items() if key not in _NOT_SETTINGS}
    try:
        made = getattr(transformers, family.config)(**settings)
        network = getattr(transformers, family.network)(made)
        network.tie_weights()  # what `unfilled` leaves out
    except Exception as error:  # the library raises many kinds; all mean that the settings are not its own
        raise ValueError(f"transformers refuses the settings: {error}") from None
    for module in network.modules():
        if hasattr(module, "is_causal"):  # Llama and its relatives are made for text from left to right
            module.is_causal = False
    return network


def _library() -> Any:
    """`transformers`, without the warning of a notebook that has no ipywidgets."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")
        import transformers

        return transformers


@contextlib.contextmanager
def unfilled() -> Iterator[None]:
    """Networks made inside have weights of any value, since what is loaded overwrites them."""
    _library()
    try:
        from transformers.initialization import no_init_weights
    except ImportError:  # transformers 4
        from transformers.modeling_utils import no_init_weights  # type: ignore[no-redef]
    with no_init_weights():
        yield

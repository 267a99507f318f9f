"""What a model of masked diffusion predicts where it sees nothing: its law of a token, whatever the text."""

import math
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from mcd.model.backbone import Backbone
from mcd.model.denoiser import Denoiser

_FOUND: WeakKeyDictionary[Backbone, tuple[tuple[object, ...], Tensor]] = WeakKeyDictionary()


@torch.no_grad()
def prior(denoiser: Denoiser) -> Tensor:
    """log p_theta(x | a row of masks), on average over the positions of a row as long as the model's: (V,) float64.

    It costs one network call of one row, and is kept for as long as the weights are the same. With rotary positions
    alone, all positions have the same prediction, up to rounding. A model that is shown locked noise carries the one
    that it began with.
    """
    if denoiser.locked is not None:
        return denoiser.locked.prior.double()
    network = denoiser.backbone
    weights = [*network.parameters(), *network.buffers()]
    state = denoiser.dtype, *((w.data_ptr(), None if w.is_inference() else w._version) for w in weights)
    found = _FOUND.get(network)
    if found is None or found[0] != state:
        L, training = denoiser.config.backbone.length, denoiser.training
        z, t = torch.full((1, L), denoiser.mask_id, device=denoiser.device), torch.ones(1, device=denoiser.device)
        denoiser.eval()
        hidden = Denoiser.hidden(denoiser, z, t)  # not that of a server's row, whose calls are padded
        denoiser.train(training)
        log_p = Denoiser.log_x_theta(denoiser, hidden).double()
        found = _FOUND[network] = state, log_p.logsumexp(0) - math.log(L)
    return found[1]

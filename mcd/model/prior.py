"""What a model of masked diffusion predicts where it sees nothing: its law of a token, whatever the text."""

import math
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from mcd.model.backbone import Backbone
from mcd.model.denoiser import Denoiser

_FOUND: WeakKeyDictionary[Backbone, tuple[tuple[object, ...], Tensor]] = WeakKeyDictionary()


@torch.no_grad()
def prior(denoiser: Denoiser, length: int | None = None) -> Tensor:
    """log p_theta(x | a row of masks), on average over the positions of a row of `length` masks: (V,) float64.

    length: by default that of the model's rows. It costs one network call of one row, and is kept for as long as the
    weights are the same. With rotary positions alone, all positions have the same prediction, up to rounding. A model
    that is shown locked noise carries the one that it began with.
    """
    if denoiser.locked is not None:
        log_p = denoiser.locked.prior.to(torch.float64, copy=True)
        log_p[list(denoiser.forbidden)] = 0.0  # it has -1e6, from which their predictions, -3e4, would seem a gain
        return log_p
    network = denoiser.backbone
    weights = [*network.parameters(), *network.buffers()]
    L = length or denoiser.config.backbone.length
    state = L, denoiser.dtype, *((w.data_ptr(), None if w.is_inference() else w._version) for w in weights)
    found = _FOUND.get(network)
    if found is None or found[0] != state:
        training = denoiser.training
        z, t = torch.full((1, L), denoiser.mask_id, device=denoiser.device), torch.ones(1, device=denoiser.device)
        denoiser.eval()
        hidden = Denoiser.hidden(denoiser, z, t)  # not that of a server's row, whose calls are padded
        denoiser.train(training)
        parts = hidden.split(denoiser.shapes.chunk_rows)  # of a long row, a whole vocabulary for each token is much
        sums = [Denoiser.log_x_theta(denoiser, part).double().logsumexp(0) for part in parts]
        found = _FOUND[network] = state, torch.stack(sums).logsumexp(0) - math.log(L)
    return found[1]

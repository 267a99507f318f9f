"""What is learnt: one file is one method, and `OBJECTIVES` lists them all."""

from mcd.objective.adapt import Adapt
from mcd.objective.ar import AR
from mcd.objective.base import Clock, Loss, Objective
from mcd.objective.cd4lm import CD4LM
from mcd.objective.duo import Duo
from mcd.objective.duo_dcd import DuoDCD
from mcd.objective.idlm import IDLM
from mcd.objective.ltd import LTD
from mcd.objective.mcd import MCD
from mcd.objective.mmd import MMD
from mcd.objective.nelbo import NELBO
from mcd.objective.sdtt import SDTT

__all__ = ["OBJECTIVES", "Clock", "Loss", "Objective"]

OBJECTIVES: dict[str, type[Objective]] = {
    kind.name: kind for kind in (NELBO, Adapt, Duo, AR, MCD, SDTT, CD4LM, IDLM, LTD, MMD, DuoDCD)
}

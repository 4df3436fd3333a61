"""Control: no adaptation, but training on images perturbed as they will be tested (Hendrycks & Dietterich 2019).

A network that was shown the perturbations needs no adaptation to bear them: what adaptation gains is gained over this.
"""

from __future__ import annotations

import torch

from perturbations.core import Perturbation, Unstretched, get
from perturbations.draws import Draws
from perturbations.errors import InputError
from robustastro.adapt.contracts import stretched
from robustastro.adapt.transfer import Setting, Transfer


class Augment(Transfer):
    """In each epoch a share of the source galaxies has one of the perturbations, at one rung of its ladder.

    Which galaxies, which perturbation and which rung is drawn for each galaxy and epoch, with equal odds, and so is
    the perturbation itself; the seed is that of the training and the purpose "train", so that no test repeats them.

    Parameters
    ----------
    share : of the galaxies that are perturbed in an epoch, 0 to 1.
    with : names of corruptions, separated by commas. The default are those of the suite `quick`.

    Raises
    ------
    InputError : an unknown name, an attack, or a perturbation of flux for images without an Exposure.
    """

    def __init__(self, setting: Setting, share: float, **named: str) -> None:
        super().__init__()
        self.setting, self.share = setting, share
        self.entries = [get(name.strip()) for name in named["with"].split(",") if name.strip()]
        self._check()
        self.clean = stretched(setting.source, setting.contract)
        self.epoch, self.now = -1, self.clean.clone()

    def images(self, rows: torch.Tensor, epoch: int) -> torch.Tensor:
        """Input images (n, C, H, W) of the source galaxies `rows`, those of this epoch."""
        if epoch != self.epoch:  # all galaxies at once: a few calls for each perturbation, whatever the batches
            self.epoch = epoch
            self._perturb_all()
        return self.now[rows]

    def _check(self) -> None:
        if not self.entries:
            raise InputError("-p with= names nothing", "perturbations separated by commas", "-p with=depth,seeing")
        for entry in self.entries:
            if entry.kind != "corruption":
                raise InputError(f"-p with={entry.name}: an attack", "corruptions", "--method at trains on attacks")
            if entry.space == "flux" and self.setting.source.exposure is None:
                raise InputError(
                    f"augment with '{entry.name}', which acts on electrons, on images without an Exposure",
                    "perturbations of input or stretch space, see robustastro list perturbations",
                    "choose them, for instance -p with=jpeg,miscentring, or declare units with --exposure FILE.toml",
                )

    def _perturb_all(self) -> None:
        source = self.setting.source
        draws = Draws(source.ids, self.setting.seed, "train", f"augment/{self.epoch}")
        perturbed = draws.uniform("perturbed") < self.share
        chosen = draws.integers("perturbation", len(self.entries))
        height = draws.uniform("rung")
        self.now.copy_(self.clean)
        for k, entry in enumerate(self.entries):
            rung = (height * len(entry.ladder)).long()
            for r, strength in enumerate(entry.ladder):
                rows = torch.nonzero(perturbed & (chosen == k) & (rung == r)).flatten()
                if len(rows):
                    self.now[rows] = self._perturbed(entry, strength, rows, draws.take(rows))

    def _perturbed(self, entry: Perturbation, strength: float, rows: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Input images of the galaxies `rows` with a perturbation, as they are made where models are tested."""
        source, contract, options = self.setting.source, self.setting.contract, entry.resolve({})
        if entry.space == "flux":
            sky = entry(source.observation(rows.numpy()), strength, draws, **options)
            return contract.to_input(sky.flux, source.bands)
        if entry.space == "stretch":

            def stretch(values: torch.Tensor) -> torch.Tensor:
                return entry(Unstretched(values, contract.stretch), strength, draws, **options)

            return contract.to_input(source.batch(rows.numpy()), source.bands, stretch)
        return entry(self.clean[rows], strength, draws, **options)

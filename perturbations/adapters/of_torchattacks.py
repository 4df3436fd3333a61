"""The attacks of torchattacks (3.5), and how to call them.

Left out: VANILA (does nothing), GN (noise: a corruption), MultiAttack (needs other attacks), LGV (needs training data
and weights), PGDRS and PGDRSL2 (attack a smoothed classifier: they show the network values far outside [0, 1]),
EADEN and EADL1 (version 3.5.1 makes its first step in place on the clean images that it measures from, so its results
leave [0, 1]; foolbox:EADAttack is the same attack).
"""

from __future__ import annotations

import importlib
from typing import Any

import torch

from perturbations.adapters.foreign import Foreign, Task
from perturbations.errors import InputError

STEPS = {"alpha": 2 / 255, "steps": 10}
APGD = {"steps": 10, "n_restarts": 1, "eot_iter": 1, "rho": 0.75}
FAB = {"steps": 10, "n_restarts": 1, "alpha_max": 0.1, "eta": 1.05, "beta": 0.9, "multi_targeted": False}
SQUARE = {"n_queries": 5000, "n_restarts": 1, "p_init": 0.8, "loss": ("margin", "ce"), "resc_schedule": True}
DIVERSE = {**STEPS, "decay": 0.0, "resize_rate": 0.9, "diversity_prob": 0.5, "random_start": False}
PATCHWISE = {"num_iter_set": 10, "momentum": 1.0, "amplification": 10.0, "prob": 0.7}
EPS, SEEDED, ENSEMBLE = ("eps",), ("eps", "seed"), ("eps", "seed", "n_classes")
TARGETS = 9  # classes that APGD-T, FAB-T and AutoAttack aim at, at most: the library's default
DLR, TARGETED_DLR = 3, 4  # classes that the difference of logits ratio and its targeted form need
PAIRS = 4096  # values of an image that JSMA can pair: its matrices then take about a gigabyte

# fmt: off
TABLE = (
    Foreign("FGSM", "Linf", "gradient", "one step along the sign of the gradient", passes=EPS),
    Foreign("BIM", "Linf", "gradient", "many small sign steps", STEPS, passes=EPS),
    Foreign("RFGSM", "Linf", "gradient", "a random step, then sign steps", STEPS, passes=EPS),
    Foreign("PGD", "Linf", "gradient", "sign steps from a random start, projected",
            {**STEPS, "random_start": True}, passes=EPS),
    Foreign("EOTPGD", "Linf", "gradient", "PGD with gradients averaged over repeats",
            {**STEPS, "eot_iter": 2, "random_start": True}, passes=EPS),
    Foreign("FFGSM", "Linf", "gradient", "one sign step from a random start", {"alpha": 10 / 255}, passes=EPS),
    Foreign("TPGD", "Linf", "gradient", "PGD away from the clean output", STEPS, targeted=False, passes=EPS),
    Foreign("MIFGSM", "Linf", "gradient", "sign steps with momentum", {**STEPS, "decay": 1.0}, passes=EPS),
    Foreign("NIFGSM", "Linf", "gradient", "sign steps with Nesterov momentum", {**STEPS, "decay": 1.0}, passes=EPS),
    Foreign("SINIFGSM", "Linf", "gradient", "NIFGSM over scaled copies", {**STEPS, "decay": 1.0, "m": 5}, passes=EPS),
    Foreign("VMIFGSM", "Linf", "gradient", "MIFGSM with gradients of neighbours",
            {**STEPS, "decay": 1.0, "N": 5, "beta": 1.5}, passes=EPS),
    Foreign("VNIFGSM", "Linf", "gradient", "NIFGSM with gradients of neighbours",
            {**STEPS, "decay": 1.0, "N": 5, "beta": 1.5}, passes=EPS),
    Foreign("DIFGSM", "Linf", "gradient", "MIFGSM over resized and padded copies", DIVERSE, passes=EPS),
    Foreign("TIFGSM", "Linf", "gradient", "DIFGSM with smoothed gradients",
            {**DIVERSE, "kernel_name": ("gaussian", "uniform", "linear"), "len_kernel": 15, "nsig": 3},
            passes=EPS, bands=3),
    Foreign("PIFGSM", "Linf", "gradient", "sign steps that spill onto neighbouring pixels", PATCHWISE,
            targeted=False, passes=("max_epsilon",), bands=3),
    Foreign("PIFGSMPP", "Linf", "gradient", "PIFGSM with smoothed gradients", {**PATCHWISE, "project_factor": 0.8},
            passes=("max_epsilon",), bands=3),
    Foreign("Jitter", "Linf", "gradient", "PGD on a loss of scaled, noisy logits",
            {**STEPS, "scale": 10.0, "std": 0.1, "random_start": True}, targeted=False, passes=EPS),
    Foreign("UPGD", "Linf", "gradient", "PGD with a choice of losses and momentum",
            {**STEPS, "random_start": False, "loss": ("ce", "dlr", "margin"), "decay": 1.0, "eot_iter": 1}, passes=EPS),
    Foreign("APGD", "Linf", "gradient", "PGD with a step size that adapts", {**APGD, "loss": ("ce", "dlr")},
            targeted=False, fixed={"norm": "Linf"}, passes=SEEDED),
    Foreign("APGDT", "Linf", "gradient", "APGD towards each wrong class", APGD,
            targeted=False, fixed={"norm": "Linf"}, passes=ENSEMBLE),
    Foreign("FAB", "Linf", "gradient", "small changes across the linearised boundary", FAB,
            targeted=False, fixed={"norm": "Linf"}, passes=ENSEMBLE),
    Foreign("AutoAttack", "Linf", "gradient", "APGD, APGDT, FAB and Square, one after the other",
            {"version": ("standard", "plus", "rand")}, targeted=False, fixed={"norm": "Linf"}, passes=ENSEMBLE),
    Foreign("Square", "Linf", "logits", "random search over squares", SQUARE, fixed={"norm": "Linf"}, passes=SEEDED),
    Foreign("SPSA", "Linf", "logits", "gradients estimated from random differences",
            {"delta": 0.01, "lr": 0.01, "nb_iter": 1, "nb_sample": 128, "max_batch_size": 64}, passes=EPS),
    Foreign("PGDL2", "L2", "gradient", "gradient steps from a random start, projected",
            {"alpha": 0.2, "steps": 10, "random_start": True, "eps_for_division": 1e-10}, passes=EPS),
    Foreign("APGD_L2", "L2", "gradient", "PGD with a step size that adapts", {**APGD, "loss": ("ce", "dlr")},
            targeted=False, of="APGD", fixed={"norm": "L2"}, passes=SEEDED),
    Foreign("APGDT_L2", "L2", "gradient", "APGD towards each wrong class", APGD,
            targeted=False, of="APGDT", fixed={"norm": "L2"}, passes=ENSEMBLE),
    Foreign("FAB_L2", "L2", "gradient", "small changes across the linearised boundary", FAB,
            targeted=False, of="FAB", fixed={"norm": "L2"}, passes=ENSEMBLE),
    Foreign("AutoAttack_L2", "L2", "gradient", "APGD, APGDT, FAB and Square, one after the other",
            {"version": ("standard", "plus", "rand")},
            targeted=False, of="AutoAttack", fixed={"norm": "L2"}, passes=ENSEMBLE),
    Foreign("Square_L2", "L2", "logits", "random search over squares", SQUARE,
            of="Square", fixed={"norm": "L2"}, passes=SEEDED),
    Foreign("CW", "L2", "gradient", "a small change that wins a margin of logits",
            {"c": 1.0, "kappa": 0.0, "steps": 50, "lr": 0.01}, bounded=False),
    Foreign("DeepFool", "L2", "gradient", "steps to the nearest linearised boundary",
            {"steps": 50, "overshoot": 0.02}, bounded=False, targeted=False, alone=True),
    Foreign("SparseFool", "L0", "gradient", "few values, to the boundary that DeepFool finds",
            {"steps": 10, "lam": 3.0, "overshoot": 0.02}, bounded=False, targeted=False, alone=True),
    Foreign("JSMA", "L0", "gradient", "two values at a time, those of largest saliency",
            {"theta": 1.0, "gamma": 0.1}, bounded=False, alone=True, values=PAIRS),
    Foreign("OnePixel", "L0", "logits", "differential evolution of a few pixels",
            {"steps": 10, "popsize": 10, "inf_batch": 128}, alone=True, passes=("pixels",)),
    Foreign("Pixle", "L0", "logits", "pixels copied to other places",
            {"pixel_mapping": ("random", "similarity", "similarity_random", "distance", "distance_random"),
             "restarts": 20, "max_iterations": 10, "update_each_iteration": False}, bounded=False, alone=True),
)
# fmt: on


def run(row: Foreign, task: Task) -> torch.Tensor:
    """The images that an attack of torchattacks returns."""
    library = importlib.import_module("torchattacks")
    classes = task.model.classes
    told: dict[str, Any] = {
        "eps": task.strength,
        "max_epsilon": task.strength,
        "pixels": int(task.strength),
        "seed": task.seed,
        "n_classes": min(classes, TARGETS + 1),
    }
    settings = {**row.fixed, **task.options, **{name: told[name] for name in row.passes}}
    _refuse_loss(row, task)
    attack = getattr(library, row.of or row.name)(task.model, **settings)
    parts = attack._autoattack.attacks if row.name.startswith("AutoAttack") else [attack]
    for part in parts:
        _few_classes(part, classes)
    labels = task.labels
    if row.name == "JSMA" and task.target is None:  # its own default, the next class, counts to ten
        labels = (labels + 1) % classes
    elif task.target is not None:
        labels = torch.full_like(labels, task.target)
    if labels is not task.labels:
        attack.set_mode_targeted_by_label(quiet=True)
    return attack(task.images, labels)


def _few_classes(attack: Any, classes: int) -> None:
    """Losses that are not defined for so few classes, without their denominator: the difference of the two logits.

    The ratio divides by the spread between the largest logit and the third or fourth one.
    """
    if classes < TARGETED_DLR and hasattr(attack, "dlr_loss_targeted"):
        attack.dlr_loss_targeted = lambda logits, true, target: _margin(logits, true, target)
    if classes < DLR and hasattr(attack, "dlr_loss"):
        attack.dlr_loss = lambda logits, true: _margin(logits, true, 1 - true)


def _margin(logits: torch.Tensor, true: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return (logits.gather(1, other[:, None]) - logits.gather(1, true[:, None]))[:, 0]


def _refuse_loss(row: Foreign, task: Task) -> None:
    needed = DLR if task.target is None else TARGETED_DLR
    if row.name == "UPGD" and task.options.get("loss") == "dlr" and task.model.classes < needed:
        raise InputError(
            f"torchattacks:UPGD: loss 'dlr' with {task.model.classes} classes",
            f"at least {needed} classes",
            "take loss=margin",
        )

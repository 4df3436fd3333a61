"""The attacks of foolbox (3.3), and how to call them.

Left out: additive noise without repeats, contrast reduction, blur and inversion (corruptions: they look for nothing),
SpatialAttack (rotates and shifts: no norm bounds it), DatasetAttack (needs other images), BinarizationRefinementAttack
(needs an attack before it and a model that binarises), LinfRepeatedAdditiveUniformNoiseAttack (scales its noise by the
largest value, not the largest absolute value, so it leaves its own limit).
"""

from __future__ import annotations

import importlib
from typing import Any

import torch

from perturbations.adapters.foreign import Foreign, Task

REAL, WHOLE = float, int  # a number that may be left to the library
PGD = {"rel_stepsize": 0.025, "abs_stepsize": REAL, "steps": 50, "random_start": True}
PGD_LINF = {**PGD, "rel_stepsize": 0.01 / 0.3, "steps": 40}
BASIC = {"rel_stepsize": 0.2, "abs_stepsize": REAL, "steps": 10, "random_start": False}
ADAM = {"adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8}
START = {"random_start": False}
REPEATED = {"repeats": 100, "check_trivial": True}
DEEPFOOL = {"steps": 50, "candidates": 10, "overshoot": 0.02, "loss": ("logits", "crossentropy")}
MINIMUM_NORM = {"steps": 100, "max_stepsize": 1.0, "min_stepsize": REAL, "gamma": 0.05}
HOP = {
    "steps": 64, "initial_gradient_eval_steps": 100, "max_gradient_eval_steps": 10000,
    "stepsize_search": ("geometric_progression", "grid_search"), "gamma": 1.0,
}  # fmt: skip
BRENDEL_BETHGE = {
    "overshoot": 1.1, "steps": 1000, "lr": 0.001, "lr_decay": 0.5, "lr_num_decay": 20, "momentum": 0.8,
    "binary_search_steps": 10,
}  # fmt: skip
BLENDED, SPECKLED = "LinearSearchBlendedUniformNoiseAttack", "SaltAndPepperNoiseAttack"
STARTS = {BLENDED: {"steps": 50}, SPECKLED: {}}  # as the attacks that need a start call them

# fmt: off
TABLE = (
    Foreign("LinfFastGradientAttack", "Linf", "gradient", "one step along the sign of the gradient", START,
            targeted=False),
    Foreign("L2FastGradientAttack", "L2", "gradient", "one step along the gradient", START, targeted=False),
    Foreign("L1FastGradientAttack", "L1", "gradient", "one step along the gradient", START, targeted=False),
    Foreign("LinfPGD", "Linf", "gradient", "sign steps from a random start, projected", PGD_LINF),
    Foreign("L2PGD", "L2", "gradient", "gradient steps from a random start, projected", PGD),
    Foreign("L1PGD", "L1", "gradient", "gradient steps from a random start, projected", PGD),
    Foreign("LinfAdamPGD", "Linf", "gradient", "PGD with Adam steps", {**PGD, **ADAM}),
    Foreign("L2AdamPGD", "L2", "gradient", "PGD with Adam steps", {**PGD, **ADAM}),
    Foreign("L1AdamPGD", "L1", "gradient", "PGD with Adam steps", {**PGD, **ADAM}),
    Foreign("LinfBasicIterativeAttack", "Linf", "gradient", "many small sign steps", BASIC),
    Foreign("L2BasicIterativeAttack", "L2", "gradient", "many small gradient steps", BASIC),
    Foreign("L1BasicIterativeAttack", "L1", "gradient", "many small gradient steps", BASIC),
    Foreign("LinfAdamBasicIterativeAttack", "Linf", "gradient", "many small Adam steps", {**BASIC, **ADAM}),
    Foreign("L2AdamBasicIterativeAttack", "L2", "gradient", "many small Adam steps", {**BASIC, **ADAM}),
    Foreign("L1AdamBasicIterativeAttack", "L1", "gradient", "many small Adam steps", {**BASIC, **ADAM}),
    Foreign("LinfMomentumIterativeFastGradientMethod", "Linf", "gradient", "sign steps with momentum",
            {"momentum": 1.0, **BASIC}),
    Foreign("L2MomentumIterativeFastGradientMethod", "L2", "gradient", "gradient steps with momentum",
            {"momentum": 1.0, **BASIC}),
    Foreign("L1MomentumIterativeFastGradientMethod", "L1", "gradient", "gradient steps with momentum",
            {"momentum": 1.0, **BASIC}),
    Foreign("SparseL1DescentAttack", "L1", "gradient", "steps along the largest gradients only",
            {"quantile": 0.99, **BASIC}),
    Foreign("VirtualAdversarialAttack", "L2", "gradient", "the direction in which the output bends most",
            {"steps": 1, "xi": 1e-6}, targeted=False),  # foolbox gives no default; one power iteration
    Foreign("GenAttack", "Linf", "logits", "a genetic algorithm, towards one class",
            {"steps": 1000, "population": 10, "mutation_probability": 0.1, "mutation_range": 0.15,
             "sampling_temperature": 0.3}),
    Foreign("L2RepeatedAdditiveGaussianNoiseAttack", "L2", "logits", "the first of many noises that flips", REPEATED),
    Foreign("L2RepeatedAdditiveUniformNoiseAttack", "L2", "logits", "the first of many noises that flips", REPEATED),
    Foreign("L2ClippingAwareRepeatedAdditiveGaussianNoiseAttack", "L2", "logits",
            "the first of many noises that flips, the clipping made up for", REPEATED),
    Foreign("L2ClippingAwareRepeatedAdditiveUniformNoiseAttack", "L2", "logits",
            "the first of many noises that flips, the clipping made up for", REPEATED),
    Foreign("L2CarliniWagnerAttack", "L2", "gradient", "a small change that wins a margin of logits",
            {"binary_search_steps": 9, "steps": 10000, "stepsize": 0.01, "confidence": 0.0, "initial_const": 0.001,
             "abort_early": True}, bounded=False),
    Foreign("EADAttack", "L1", "gradient", "CW with an L1 term",
            {"binary_search_steps": 9, "steps": 10000, "initial_stepsize": 0.01, "confidence": 0.0,
             "initial_const": 0.001, "regularization": 0.01, "decision_rule": ("EN", "L1"), "abort_early": True},
            bounded=False),
    Foreign("DDNAttack", "L2", "gradient", "steps on a sphere that shrinks while the class is wrong",
            {"init_epsilon": 1.0, "steps": 100, "gamma": 0.05}, bounded=False),
    Foreign("NewtonFoolAttack", "L2", "gradient", "steps that take the class's probability down",
            {"steps": 100, "stepsize": 0.01}, bounded=False, targeted=False),
    Foreign("L2DeepFoolAttack", "L2", "gradient", "steps to the nearest linearised boundary", DEEPFOOL,
            bounded=False, targeted=False),
    Foreign("LinfDeepFoolAttack", "Linf", "gradient", "steps to the nearest linearised boundary", DEEPFOOL,
            bounded=False, targeted=False),
    Foreign("LInfFMNAttack", "Linf", "gradient", "steps in a ball that follows the boundary", MINIMUM_NORM,
            bounded=False),
    Foreign("L2FMNAttack", "L2", "gradient", "steps in a ball that follows the boundary", MINIMUM_NORM, bounded=False),
    Foreign("L1FMNAttack", "L1", "gradient", "steps in a ball that follows the boundary", MINIMUM_NORM, bounded=False),
    Foreign("L0FMNAttack", "L0", "gradient", "steps in a ball that follows the boundary", MINIMUM_NORM, bounded=False),
    Foreign("LinfinityBrendelBethgeAttack", "Linf", "gradient", "along the boundary, from noise", BRENDEL_BETHGE,
            bounded=False, start=BLENDED),
    Foreign("L2BrendelBethgeAttack", "L2", "gradient", "along the boundary, from noise", BRENDEL_BETHGE,
            bounded=False, start=BLENDED),
    Foreign("L1BrendelBethgeAttack", "L1", "gradient", "along the boundary, from noise", BRENDEL_BETHGE,
            bounded=False, start=BLENDED),
    Foreign("L0BrendelBethgeAttack", "L0", "gradient", "along the boundary, from noise", BRENDEL_BETHGE,
            bounded=False, start=BLENDED),
    Foreign(BLENDED, "L2", "logits", "the least blend with noise that flips", {"directions": 1000, "steps": 1000},
            bounded=False),
    Foreign(SPECKLED, "L2", "logits", "the least salt and pepper that flips", {"steps": 1000, "across_channels": True},
            bounded=False),
    Foreign("BoundaryAttack", "L2", "logits", "a random walk along the boundary, from noise",
            {"steps": 25000, "spherical_step": 0.01, "source_step": 0.01, "source_step_convergance": 1e-7,
             "step_adaptation": 1.5, "update_stats_every_k": 10}, bounded=False, start=BLENDED),
    Foreign("HopSkipJumpAttack", "L2", "logits", "along the boundary, its normal estimated", HOP,
            bounded=False, fixed={"constraint": "l2"}, start=BLENDED),
    Foreign("HopSkipJumpAttack_Linf", "Linf", "logits", "along the boundary, its normal estimated", HOP,
            bounded=False, of="HopSkipJumpAttack", fixed={"constraint": "linf"}, start=BLENDED),
    Foreign("PointwiseAttack", "L0", "logits", "salt and pepper, taken back value by value",
            bounded=False, fixed={"l2_binary_search": False}, start=SPECKLED),
)
# fmt: on


def run(row: Foreign, task: Task) -> torch.Tensor:
    """The images that an attack of foolbox returns. Where it needs a start and finds none, an image stays clean."""
    attacks = importlib.import_module("foolbox.attacks")
    models = importlib.import_module("foolbox.models")
    device = task.images.device
    attack = getattr(attacks, row.of or row.name)(**row.fixed, **task.options)
    model = models.PyTorchModel(task.model, bounds=(0, 1), device=device)
    if not row.start:
        budget = {"epsilon": task.strength} if row.bounded else {}
        return attack.run(model, task.images, _goal(row, task, task.images, task.labels), **budget)

    goal = _goal(row, task, task.images, task.labels)
    start = getattr(attacks, row.start)(**STARTS[row.start]).run(model, task.images, goal)
    found = goal(start, model(start)).nonzero()[:, 0]
    images = task.images.clone()
    if len(found):
        task.model.only(found)
        clean = task.images[found]
        images[found] = attack.run(
            model, clean, _goal(row, task, clean, task.labels[found]), starting_points=start[found]
        )
    return images


def _goal(row: Foreign, task: Task, images: torch.Tensor, labels: torch.Tensor) -> Any:
    criteria = importlib.import_module("foolbox.criteria")
    target = None if task.target is None else torch.full_like(labels, task.target)
    if target is None and row.name == "GenAttack":  # it aims at one class: take the likeliest wrong one
        target = task.model(images).scatter(1, labels[:, None], -torch.inf).argmax(dim=1)
    return criteria.Misclassification(labels) if target is None else criteria.TargetedMisclassification(target)

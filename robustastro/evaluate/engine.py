"""The one loop that runs models: clean pass, then each perturbation, strength and shard. It trusts nobody."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from perturbations.core import Observation, Perturbation, Unstretched, distance, get, refusal
from perturbations.draws import Draws
from perturbations.errors import BrokenPromise, InputError
from robustastro.data.galaxies import Galaxies
from robustastro.data.splits import id_hashes, select
from robustastro.evaluate import bisect
from robustastro.evaluate.describe import galaxies_table, head_of, run_document
from robustastro.evaluate.plan import Plan, Step
from robustastro.evaluate.plan import step as planned
from robustastro.models.bundles import Model
from robustastro.models.doubts import TOLERANCE, doubts
from robustastro.models.subject import Outputs, Subject, SubjectVictim
from robustastro.record import Flag, Record, jsonable, refuse_place

BATCH = 64
QUERIES = 20_000  # of a search on a CPU between two lines of progress, about
REPLAY = 50  # galaxies at a time for what repeats only in the same batch; another number gives other results
FITTED = 200  # galaxies, at most, that a perturbation of a whole set is fitted to
LOOK = 64  # galaxies on which doubts are measured

Progress = Callable[[str, int, int], None]


def choose(galaxies: Galaxies, limit: int | None) -> Galaxies:
    """At most `limit` galaxies, chosen by a hash of their id, in their own order."""
    if limit is None or limit >= len(galaxies):
        return galaxies
    if limit < 1:
        raise InputError(f"--limit {limit}", "at least 1", "leave it out to use all galaxies")
    return galaxies.take(np.sort(_by_key(galaxies.ids)[:limit]))


def balanced(galaxies: Galaxies, each: int) -> Galaxies:
    """At most so many galaxies of each class, chosen by key, in their own order."""
    assert galaxies.labels is not None
    names: set[str] = set()
    for k in np.unique(galaxies.labels[galaxies.labels >= 0]):
        names |= set(choose(galaxies.take(np.flatnonzero(galaxies.labels == k)), each).ids)
    return galaxies.take([k for k, name in enumerate(galaxies.ids) if name in names])


def evaluate(
    plan: Plan,
    model: Model,
    galaxies: Galaxies,
    out: str | Path,
    *,
    device: str = "cpu",
    batch: int = BATCH,
    validation: Galaxies | None = None,
    fitting: Galaxies | None = None,
    progress: Progress | None = None,
) -> Record:
    """Run a plan and return its record. Units that are already there are not run again.

    Parameters
    ----------
    plan : made for exactly this model and these galaxies (after `limit`).
    model : as read from its file.
    galaxies : with labels, or without (then accuracies are null).
    out : run directory; a run with the same plan is resumed.
    device : "cpu", "cuda", ...
    batch : galaxies perturbed at a time; changes memory and speed, never the numbers.
    validation : the model's own validation galaxies, labelled; their clean logits are kept for calibration.
    fitting : galaxies that perturbations of a whole set are fitted to, as `fitting_set` chooses them and the plan names
        them; None where there is no such perturbation.
    progress : called with (what, done, total).

    Raises
    ------
    InputError : the directory holds another run; a perturbation refuses these images.
    BrokenPromise : a perturbation left its contract, or changed the network.
    """
    started = time.monotonic()
    if batch < 1:
        raise InputError(f"--batch-size {batch}", "at least 1", "leave it out for the default")
    subject = Subject(model.network, model.contract, model.latent, device, plan.chunk, plan.pixels)
    run = _Run(
        plan, model, subject, galaxies.with_classes(model.contract.classes), Record(out), batch, validation, fitting,
        progress,
    )  # fmt: skip
    run.check_units()
    run.start()
    for step in plan.steps:
        run.step(step)
        if plan.bisect is not None:
            run.bisect(step, plan.bisect)
    run.finish(time.monotonic() - started)
    return run.record


def attack(
    model: Model,
    galaxies: Galaxies,
    name: str,
    out: str | Path,
    *,
    severity: int | None = None,
    strength: float | None = None,
    options: Mapping[str, Any] | None = None,
    limit: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    fit_on: Galaxies | None = None,
    bisect: float | None = None,
    progress: Progress | None = None,
) -> Record:
    """One perturbation, by default over its whole ladder: what `robustastro attack` does, from Python.

    `fit_on` are labelled galaxies for a perturbation of a whole set, such as `universal`; see `fitting_set`. `bisect`
    is how closely the critical strength of each galaxy is to be found, in the perturbation's unit.
    """
    wanted = planned(name, severity=severity, strength=strength, options=options or {})
    chosen = choose(unseen(model, galaxies).with_classes(model.contract.classes), limit)
    fitting = fitting_set([wanted], model, chosen, fit_on)
    plan = Plan.of(model, chosen, [wanted], seed=seed, limit=limit, fitting=fitting, bisect=bisect)
    return evaluate(plan, model, chosen, out, device=device, fitting=fitting, progress=progress)


def fitting_set(
    steps: Sequence[Step], model: Model, attacked: Galaxies, candidates: Galaxies | None
) -> Galaxies | None:
    """At most 200 galaxies to fit perturbations of a whole set to, chosen by key; None where no step wants any.

    Those that are attacked are left out: what was fitted to a galaxy says nothing of another one.

    Raises
    ------
    InputError : no labelled galaxies are left.
    """
    if not any(get(step.name).fit for step in steps):
        return None
    if candidates is None:
        raise needs_fitting(steps)
    if candidates.labels is None:
        raise unlabelled(candidates)
    taken = set(attacked.ids)
    free = [k for k, name in enumerate(candidates.ids) if name not in taken]
    if not free:
        raise InputError(
            f"all {len(candidates)} galaxies to fit to are attacked as well",
            "galaxies that are not attacked",
            "name others with --fit-data, or attack fewer with --limit",
        )
    return choose(candidates.take(free).with_classes(model.contract.classes), FITTED)


def unlabelled(galaxies: Galaxies) -> InputError:
    """Why nothing can be fitted to galaxies without labels."""
    return InputError(
        f"{galaxies.domain}: galaxies to fit to without labels", "labelled ones", "name others with --fit-data"
    )


def needs_fitting(steps: Sequence[Step]) -> InputError:
    """Why a perturbation of a whole set cannot be run without galaxies to fit it to."""
    name = next(step.name for step in steps if get(step.name).fit)
    return InputError(
        f"'{name}' is one perturbation for a whole set, and there are no galaxies to fit it to",
        "labelled galaxies other than those attacked",
        "name them with --fit-data FILE",
    )


def unseen(model: Model, galaxies: Galaxies) -> Galaxies:
    """All of these galaxies; or, if the model was trained or validated on some of them, those of the test split."""
    if model.trained_on is None or not bool(torch.isin(id_hashes(galaxies.ids), model.trained_on).any()):
        return galaxies
    return select(galaxies, "test")


@dataclass
class _Run:
    plan: Plan
    model: Model
    subject: Subject
    galaxies: Galaxies
    record: Record
    batch: int
    validation: Galaxies | None
    fitting: Galaxies | None
    progress: Progress | None
    begun: bool = False
    halved: int = 0  # intervals of a bisection so far

    def check_units(self) -> None:
        """Refuse, before anything is written, what these images or this place cannot bear."""
        refuse_place(self.record.path, folder=True)
        self._check_fitting()
        if self.plan.bisect is not None and self.galaxies.labels is None:
            raise InputError(
                f"--bisect {self.plan.bisect:g} of galaxies without labels",
                "labels, which say where a galaxy becomes wrong",
                "leave --bisect out, or name labelled data",
            )
        for step in self.plan.steps:
            entry = get(step.name)
            if entry.space == "flux" and self.galaxies.exposure is None:
                raise refusal(entry)
            if entry.kind == "corruption":  # a full well that is not declared, a band that is not there
                for strength in step.strengths:
                    self._perturb(entry, step, strength, self._extremes)
                self._check_bisect(entry, step)
            if step.options.get("space") == "flux":  # the same, of an attack
                images = self.model.contract.to_input(self.galaxies.batch(self._extremes), self.galaxies.bands)
                self._victim(self._extremes, images).reachable(step.options["sigmas"])
        if not (self.record.path / "run.json").exists():
            if (self.record.path / "units").exists():
                raise InputError(
                    f"{self.record.path} holds results without their run.json",
                    "an empty directory",
                    "name another --out",
                )
        else:
            there = Record.open(self.record.path).run.get("plan_sha256")
            if there != self.plan.digest():
                raise InputError(
                    f"{self.record.path} holds another run (plan {str(there)[:8]}, this one {self.plan.digest()[:8]})",
                    "an empty directory, or a run of the same plan to resume",
                    "name another --out",
                )

    def _check_fitting(self) -> None:
        """Refuse what a perturbation of the whole set cannot be fitted to, or may not."""
        if self.plan.fitted_on is None:
            if any(get(step.name).fit for step in self.plan.steps):
                raise needs_fitting(self.plan.steps)
            return
        if self.fitting is None or self.fitting.digest() != self.plan.fitted_on.data:
            raise InputError(
                "the galaxies to fit to are not those of the plan",
                "the same ones",
                "pass them as fitting, or plan again",
            )
        if self.fitting.labels is None:
            raise unlabelled(self.fitting)
        both = set(self.fitting.ids) & set(self.galaxies.ids)
        if both:
            raise InputError(
                f"{len(both)} of {len(self.fitting)} galaxies to fit to are attacked as well, such as '{min(both)}'",
                "different galaxies",
                "choose them with fitting_set, which leaves these out",
            )

    def _check_bisect(self, entry: Perturbation, step: Step) -> None:
        """Refuse a corruption that does not take the strengths between its rungs."""
        if self.plan.bisect is None:
            return
        for strength in bisect.finest(bisect.edges(entry, step.strengths), self.plan.bisect):
            try:
                self._perturb(entry, step, strength, self._extremes)
            except InputError as problem:
                raise InputError(
                    f"--bisect {self.plan.bisect:g}: {problem.wrong}",
                    problem.allowed,
                    "leave --bisect out, or choose a tolerance that asks for no other strengths",
                ) from None

    @cached_property
    def _extremes(self) -> np.ndarray:
        """The first galaxy, and those with the smallest and largest numbers of an exposure per galaxy."""
        exposure = self.galaxies.exposure
        rows = {0}
        for number in [] if exposure is None else exposure.numbers():
            if number.ndim == 2 and len(number) > 1:
                rows |= {int(at) for ends in (number.argmin(dim=0), number.argmax(dim=0)) for at in ends}
        return np.array(sorted(rows))

    def start(self) -> None:
        """The clean pass and the doubts. Nothing is written before a first shard is done."""
        self.fingerprint = self.subject.fingerprint()
        self.clean = self._clean_outputs(self.galaxies)
        if self.subject.fingerprint() != self.fingerprint:
            raise InputError(
                "the network changes itself when it is run (weights, buffers, mode or hooks)",
                "one that is only read in eval mode",
                "move counters and hooks out of forward()",
            )
        self.flags = self._flags()
        self.kept = set(_by_key(self.galaxies.ids)[: self.plan.kept_images].tolist())

    def _clean_outputs(self, galaxies: Galaxies) -> Outputs:
        parts = []
        for start in range(0, len(galaxies), self.plan.shard):
            x = self.model.contract.to_input(galaxies.batch(slice(start, start + self.plan.shard)), galaxies.bands)
            parts.append(self.subject.outputs(x))
            self._tell("clean", start + len(x), len(galaxies))
        return Outputs(torch.cat([p.logits for p in parts]), torch.cat([p.latent for p in parts]))

    def step(self, step: Step) -> None:
        entry = get(step.name)
        if entry.version != step.version:
            raise InputError(
                f"{step.name} version {step.version} in the plan",
                f"version {entry.version} is installed",
                "start a new run",
            )
        total = len(self.galaxies) * len(step.strengths)
        done = 0
        for strength in step.strengths:
            for number, start in enumerate(range(0, len(self.galaxies), self.plan.shard)):
                rows = np.arange(start, min(start + self.plan.shard, len(self.galaxies)))
                if not self.record.has_shard(step.name, strength, number):
                    table, images, maps = self._shard(entry, step, strength, rows, done, total)
                    self._begin()
                    self.record.write_images(step.name, strength, images, number)
                    if maps:
                        self.record.write_maps(step.name, strength, maps, number)
                    self.record.write_shard(step.name, strength, number, table)
                done += len(rows)
                self._tell(step.name, done, total)

    def bisect(self, step: Step, tolerance: float) -> None:
        """Narrow the interval in which each galaxy flips, after the ladder; shards that are there are left alone."""
        entry, labels = get(step.name), self._targets(np.arange(len(self.galaxies)))
        ends = bisect.edges(entry, step.strengths)
        wrong = []
        for rung in ends[1:]:
            logits = np.stack(self.record.unit(step.name, float(rung))["logits"].to_list())
            wrong.append((_predicted(torch.from_numpy(logits)) != labels).numpy())
        first = np.argmax(wrong, axis=0)
        flips = (_predicted(self.clean.logits) == labels).numpy() & np.any(wrong, axis=0) & ~np.isnan(ends[first])
        times = np.where(flips, bisect.halvings(ends, tolerance)[first], 0)
        self.halved, total = 0, int(times.sum())
        for number, start in enumerate(range(0, len(self.galaxies), self.plan.shard)):
            rows = np.arange(start, min(start + self.plan.shard, len(self.galaxies)))
            which = rows[flips[rows]]
            if self.record.has_bisected(step.name, number):
                self.halved += int(times[which].sum())
                continue

            def flipped(some: np.ndarray, strengths: np.ndarray, which: np.ndarray = which) -> np.ndarray:
                return self._wrong(entry, step, which[some], strengths, total)

            low, high = bisect.narrow(ends[first[which]], ends[first[which] + 1], times[which], flipped)
            if self.subject.fingerprint() != self.fingerprint:
                raise BrokenPromise(f"{entry.name} changed the network (weights, gradients, mode or hooks)")
            table = {"id": np.array(self.galaxies.ids, dtype=object)[which], "low": low, "high": high}
            table |= {"evaluations": times[which], "tolerance": np.full(len(which), tolerance)}
            self.record.write_bisected(step.name, number, pd.DataFrame(table))

    def _wrong(
        self, entry: Perturbation, step: Step, which: np.ndarray, strengths: np.ndarray, total: int
    ) -> np.ndarray:
        """Whether galaxies (M,) are wrong, each perturbed at a strength of its own (M,); bool (M,)."""
        size, order, images = self._at_a_time(entry, step), np.argsort(strengths, kind="stable"), []
        for strength in np.unique(strengths):
            those = which[order[strengths[order] == strength]]
            for start in range(0, len(those), size):
                _, changed, _ = self._perturb(entry, step, float(strength), those[start : start + size])
                images.append(changed.cpu())
                self.halved += len(changed)
                self._tell(f"bisect {entry.name}", self.halved, total)
        after = _predicted(self.subject.outputs(torch.cat(images)).logits)
        wrong = np.empty(len(which), dtype=bool)
        wrong[order] = (after != self._targets(which[order])).numpy()
        return wrong

    def _begin(self) -> None:
        """Write what describes the run, before its first shard."""
        if not self.begun:
            self._write_run(None)
            self.record.write_galaxies(galaxies_table(self.galaxies, self.clean))
            self.record.write_head(head_of(self.subject, self.model, self.galaxies, self.clean))
            if self.validation is not None and self.validation.labels is not None:
                logits = self._clean_outputs(self.validation).logits.numpy()
                table = {"id": self.validation.ids, "label": self.validation.labels, "logits": list(logits)}
                self.record.write_validation(pd.DataFrame(table))
            self.begun = True

    def finish(self, seconds: float) -> None:
        """run.json again, with the time it took (of this call; a resumed run adds up)."""
        self._begin()
        self.flags += self._failures()
        self._write_run(seconds)

    # ------------------------------------------------------------------ one shard

    def _shard(
        self, entry: Perturbation, step: Step, strength: float, rows: np.ndarray, done: int, total: int
    ) -> tuple[pd.DataFrame, dict[str, np.ndarray], dict[str, np.ndarray]]:
        clean, perturbed, extra = [], [], []
        size = self._at_a_time(entry, step) if entry.replay == "galaxy" else REPLAY
        for start in range(0, len(rows), size):
            which = rows[start : start + size]
            x, changed, columns = self._perturb(entry, step, strength, which)
            clean.append(x.cpu())
            perturbed.append(changed.cpu())
            extra.append(columns)
            self._tell(entry.name, done + start + len(which), total)
        before, after = torch.cat(clean), torch.cat(perturbed)
        outputs = self.subject.outputs(after)
        if self.subject.fingerprint() != self.fingerprint:
            raise BrokenPromise(f"{entry.name} changed the network (weights, gradients, mode or hooks)")
        maps = {
            name: np.concatenate([c[name] for c in extra]) for name, values in extra[0].items() if np.ndim(values) == 3
        }
        table = pd.DataFrame(
            {
                "id": [self.galaxies.ids[i] for i in rows],
                "logits": list(outputs.logits.numpy()),
                "latent": list(outputs.latent.numpy()),
                **{
                    column: np.asarray(distance(after, before, norm), dtype=np.float64)
                    for column, norm in (("l0", "L0"), ("l2", "L2"), ("linf", "Linf"))
                },
                **{name: _flat([c[name] for c in extra]) for name in extra[0] if name not in maps},
            }
        )
        if "success" in table:
            table["claimed"] = table["success"]  # by the attack's own stop rule
            table["success"] = self._measured_success(step, rows, outputs.logits)
        kept = [k for k, row in enumerate(rows) if int(row) in self.kept]
        images = {
            "ids": np.array([self.galaxies.ids[rows[k]] for k in kept], dtype=str),
            "clean": before[kept].numpy(),
            "perturbed": after[kept].numpy(),
        }
        if maps:
            maps["ids"] = table["id"].to_numpy(dtype=str)
        return table, images, maps

    def _at_a_time(self, entry: Perturbation, step: Step) -> int:
        """Galaxies perturbed between two lines of progress; fewer of a long search on a CPU: no number changes."""
        if entry.access != "logits" or entry.most_queries is None or self.subject.device.type != "cpu":
            return self.batch
        x = self.model.contract.to_input(self.galaxies.batch(slice(0, 1)), self.galaxies.bands)
        most = entry.most_queries({**step.options, "shape": x.shape[1:]})
        return max(1, min(self.batch, QUERIES // most))

    def _perturb(
        self, entry: Perturbation, step: Step, strength: float, which: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
        """Clean and perturbed input images of a few galaxies, and what an attack says of itself."""
        contract, bands = self.model.contract, self.galaxies.bands
        ids = [self.galaxies.ids[i] for i in which]
        purpose = "attack" if entry.kind == "attack" else "perturb"
        device = self.subject.device
        draws = Draws(ids, self.plan.seed, purpose, device=device)
        raw = self.galaxies.batch(which)
        x = contract.to_input(raw, bands)
        if entry.kind == "attack":
            images = x.to(device)
            victim = self._victim(which, images)
            labels = self._targets(which).to(device)
            given = images
            if entry.space == "flux":
                sky = self.galaxies.observation(which)
                given = Observation(sky.flux.to(device), sky.exposure)
            fitted = None if entry.fit is None or strength == entry.identity else self._fitted(entry, step, strength)
            result = entry.run_attack(given, labels, victim, strength, draws, fitted=fitted, **step.options)
            columns: dict[str, Any] = {"queries": result.queries.cpu().numpy(), "success": result.success.cpu().numpy()}
            for name, values in result.details.items():
                columns[name] = _column(values, images)
            changed = contract.to_input(result.images.cpu(), bands) if entry.space == "flux" else result.images
            return x, changed, columns
        if entry.space == "flux":
            sky = self.galaxies.observation(which)
            changed = entry(Observation(sky.flux.to(device), sky.exposure), strength, draws, **step.options)
            return x, contract.to_input(changed.flux.cpu(), bands), {}
        if entry.space == "stretch":

            def stretched(values: torch.Tensor) -> torch.Tensor:
                return entry(Unstretched(values, contract.stretch), strength, draws, **step.options)

            return x, contract.to_input(raw.to(device), bands, stretched).cpu(), {}
        return x, entry(x.to(device), strength, draws, **step.options).cpu(), {}

    def _fitted(self, entry: Perturbation, step: Step, strength: float) -> dict[str, torch.Tensor]:
        """What a perturbation of the whole set was fitted to: from the record, or else fitted now and written there."""
        arrays = self.record.fitted(step.name, strength)
        if not arrays:
            assert self.fitting is not None  # refused before the start
            fitting, device = self.fitting.with_classes(self.model.contract.classes), self.subject.device
            x = self.model.contract.to_input(fitting.batch(slice(None)), fitting.bands).to(device)
            labels = torch.from_numpy(fitting.labels).to(device)
            draws = Draws(fitting.ids, self.plan.seed, "attack", device=device)
            self._tell(f"fit {step.name}", 0, 1)
            fitted = entry.fit_to(x, labels, self.subject.victim(x), strength, draws, **step.options)
            if self.subject.fingerprint() != self.fingerprint:
                raise BrokenPromise(f"{entry.name} changed the network (weights, gradients, mode or hooks)")
            self._begin()
            arrays = {name: tensor.numpy() for name, tensor in fitted.items()}
            self.record.write_fitted(step.name, strength, arrays | {"ids": np.array(fitting.ids, dtype=str)})
        return {name: torch.from_numpy(a) for name, a in arrays.items() if name != "ids"}

    def _victim(self, which: np.ndarray, images: torch.Tensor) -> SubjectVictim:
        """The subject bound to the input images of a few galaxies and to their exposure."""
        exposure = self.galaxies.exposure
        return self.subject.victim(images, None if exposure is None else exposure.take(which))

    def _targets(self, which: np.ndarray) -> torch.Tensor:
        """The labels an attack starts from: the true ones, or the model's own where there are none."""
        own = self.clean.logits[which].argmax(dim=1)
        if self.galaxies.labels is None:
            return own
        labels = torch.from_numpy(self.galaxies.labels[which])
        return torch.where(labels < 0, own, labels)

    def _measured_success(self, step: Step, rows: np.ndarray, logits: torch.Tensor) -> np.ndarray:
        """Measured here, whatever the attack claims: right before, and afterwards wrong (or the target class)."""
        labels, before = self._targets(rows), _predicted(self.clean.logits[rows])
        after = _predicted(logits)
        target = step.options.get("target")
        hit = after != labels if target is None else after == int(target)
        return ((before == labels) & hit & (after != before)).numpy()

    # ------------------------------------------------------------------ what is written

    def _flags(self) -> list[Flag]:
        raw = self.galaxies.batch(slice(0, LOOK))
        x = self.model.contract.to_input(raw, self.galaxies.bands)
        raw = raw[:, self.model.contract.channel_order(self.galaxies.bands)]
        first = Outputs(self.clean.logits[: len(x)], self.clean.latent[: len(x)])
        flags = doubts(self.subject, raw, x, first)
        flags += [Flag(**flag) for flag in self.model.training.get("flags", ())]
        identity = self._identity_flag(x, first)
        if identity:
            flags.append(identity)
        if self.plan.pixels is not None and self.plan.pixels.reason:
            flags.append(
                Flag(
                    "dense_inference",
                    f"changed pixels are not followed through the whole network: {self.plan.pixels.reason}",
                    "nothing to mend: the numbers are the same, only slower",
                )
            )
        refuses = self.subject.bounds(x).refuses if any(s.options.get("certificate") for s in self.plan.steps) else None
        if refuses is not None:
            flags.append(
                Flag("no_certificate", f"nothing can be proved of this network: {refuses}", "leave certificate out")
            )
        if self.model.trained_on is not None:
            overlap = int(torch.isin(id_hashes(self.galaxies.ids), self.model.trained_on).sum())
            if overlap:
                flags.append(
                    Flag(
                        "training_overlap",
                        f"{overlap} of {len(self.galaxies)} galaxies were used in training or validation",
                        "attack the test split",
                    )
                )
        return flags

    def _failures(self) -> list[Flag]:
        """Images that a library's attack could do nothing with: they count as not flipped, which is no robustness."""
        found = []
        for unit in self.record.units():
            rows = self.record.unit(unit.perturbation, unit.strength)
            failed = int(np.count_nonzero(rows["failed"])) if "failed" in rows else 0  # pyright: ignore
            if failed:
                which = f"{unit.perturbation} at {unit.strength:g}"
                text = f"{which} returned no numbers for {failed} of {len(rows)} galaxies, which count as not flipped"
                found.append(Flag("attack_failed", text, "take another attack, or other options"))
        return found

    def _identity_flag(self, x: torch.Tensor, clean: Outputs) -> Flag | None:
        """Identity strength and zero budget must give exactly the clean predictions."""
        which = np.arange(len(x))
        for step in self.plan.steps:
            entry = get(step.name)
            if entry.identity is None:
                continue
            _, same, _ = self._perturb(entry, step, entry.identity, which)
            gap = (self.subject.outputs(same.cpu()).logits - clean.logits).abs().max()
            if not torch.equal(same.cpu(), x) or not float(gap) <= TOLERANCE:
                return Flag(
                    "zero_budget",
                    f"{step.name} at its identity strength {entry.identity:g} does not give the clean predictions",
                    "report it; numbers of this perturbation are not differences from clean",
                )
        return None

    def _write_run(self, seconds: float | None) -> None:
        """run.json, without its timing until the run is finished: flags are complete only then."""
        before = self.record.run if (self.record.path / "run.json").exists() else {}
        spent = (before.get("timing") or {}).get("seconds", before.get("seconds_before", 0.0))
        timing = None if seconds is None else {"seconds": round(seconds + spent, 2)}
        run = run_document(self.plan, self.model, self.subject, self.galaxies, self.fitting, timing, self.flags)
        self.record.write_run(jsonable(run if timing else run | {"seconds_before": spent}))

    def _tell(self, what: str, done: int, total: int) -> None:
        if self.progress:
            self.progress(what, done, total)


def _by_key(ids: tuple[str, ...]) -> np.ndarray:
    return np.argsort([hashlib.blake2b(f"choose\0{i}".encode(), digest_size=8).digest() for i in ids], kind="stable")


def _column(values: Any, images: torch.Tensor) -> Any:
    """A detail of an attack for a table: numbers (N,), lists of numbers; as it is if it is a map (N, H, W)."""
    values = torch.as_tensor(values).cpu()
    if values.shape == (len(images), *images.shape[2:]):
        return values.numpy()
    return list(values.flatten(1).numpy()) if values.ndim > 1 else values.numpy()


def _flat(parts: list[Any]) -> list[Any]:
    return [value for part in parts for value in part]


def _predicted(logits: torch.Tensor) -> torch.Tensor:
    """Predicted classes; -1 where a logit is not finite."""
    return torch.where(torch.isfinite(logits).all(dim=1), logits.argmax(dim=1), -1)

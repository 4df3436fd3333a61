"""Run action.yml and the lines of docs/ci.md as a CI service would, on a model and galaxies of ours.

`make gate` calls it: python tests/ci_recipes.py MODEL DATA PLACE. Lines that install something are left out:
robustastro is that of this environment, which nothing here may change.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^( *)```(sh|yaml|python)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
INPUT = re.compile(r"\$\{\{ *inputs\.([\w-]+) *\}\}")
INSTALLS = re.compile(r"\b(pip[0-9.]*|uv|conda|mamba|apt|apt-get)\b")


def action() -> dict[str, Any]:
    """action.yml."""
    return yaml.safe_load((ROOT / "action.yml").read_text())


def run_action(inputs: Mapping[str, str], place: Path, runner: Path) -> tuple[int, dict[str, str]]:
    """Exit status and outputs of the shell lines of action.yml, run in `place` and stopping at the first that fails.

    `runner` is the folder for the files that GitHub gives an action.
    """
    given = {name: about.get("default", "") for name, about in action()["inputs"].items()} | dict(inputs)
    files = {f"GITHUB_{name.upper()}": runner.resolve() / name for name in ("output", "step_summary")}
    runner.mkdir(parents=True, exist_ok=True)
    files["GITHUB_OUTPUT"].write_text("")
    github = {"GITHUB_ACTIONS": "true"} | {name: str(file) for name, file in files.items()}
    status = 0
    for step in action()["runs"]["steps"]:
        if status == 0 and "run" in step and not INSTALLS.search(step["run"]):
            wanted = {name: INPUT.sub(lambda m: given[m[1]], value) for name, value in step.get("env", {}).items()}
            status = shell(step["run"], place, wanted | github)
    return status, dict(line.split("=", 1) for line in files["GITHUB_OUTPUT"].read_text().splitlines())


def shell(lines: str, place: Path, extra: Mapping[str, str] | None = None) -> int:
    """Exit status of lines in bash, started as GitHub starts it; what they say goes to our own output.

    Raises
    ------
    RuntimeError : the lines could install something. Nothing is run.
    """
    if INSTALLS.search(lines):
        raise RuntimeError(f"these lines could install something here: {lines}")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", lines]
    return subprocess.run(command, cwd=place, env={**os.environ, **(extra or {}), "PATH": path}, check=False).returncode


def recipes(page: str) -> Iterator[tuple[str, Any]]:
    """("sh", lines), ("action", inputs) and ("file", text) of a page, in their order; nothing that installs."""
    for _, kind, text in BLOCK.findall(page):
        if kind != "yaml":
            yield {"sh": "sh", "python": "file"}[kind], text
            continue
        workflow = yaml.safe_load(text)
        for job in (workflow.get("jobs") or workflow).values():  # of GitHub, or of GitLab
            steps = [*job.get("steps", []), *({"run": line} for line in job.get("script", []))]
            for step in steps:
                if "run" in step and not INSTALLS.search(step["run"]):
                    yield "sh", step["run"]
                elif "/robustastro@" in step.get("uses", ""):
                    yield "action", step["with"]


def main(model: str, data: str, place: Path) -> int:
    """Run the page, each recipe once; the exit status of the first that fails."""
    shutil.rmtree(place, ignore_errors=True)
    work = place / "work"
    work.mkdir(parents=True)
    shutil.copy(model, work / "model.pt")
    shutil.copy(data, work / "test.h5")
    ran: list[str] = []
    for kind, what in recipes((ROOT / "docs/ci.md").read_text()):
        if any(str(what) in done for done in ran):
            continue
        print(f"--- {kind}\n{what}", flush=True)
        status = 0
        if kind == "file":  # its name stands in the first line
            (work / what.partition("\n")[0].removeprefix("# ")).write_text(what)
        elif kind == "action":
            status, outputs = run_action(what, work, place / "runner")
            status = status or int(outputs != {"verdict": "pass"})
        else:
            status = shell(what, work)
        if status:
            print(f"docs/ci.md: this recipe ended with exit status {status}", file=sys.stderr)
            return status
        ran.append(str(what))
    print(f"docs/ci.md: {len(ran)} recipes run")
    return 0 if ran else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))

"""What may be imported when: help and the read side start without torch."""

import subprocess
import sys

import pytest

HEAVY = "torch scipy.stats seaborn matplotlib pandas galsim sklearn"


def loaded_after(program: str) -> set[str]:
    text = f"{program}\nimport sys\nprint('LOADED', [m for m in {HEAVY.split()!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(eval(done.stdout.rpartition("LOADED")[2]))


HELP = """
from robustastro.cli import main
try:
    main({arguments!r})
except SystemExit as ended:
    assert ended.code == 0
"""


@pytest.mark.parametrize("arguments", [["--help"], ["attack", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments):
    assert loaded_after(HELP.format(arguments=arguments)) == set()


@pytest.mark.parametrize("module", ["perturbations", "robustastro", "perturbations.errors", "robustastro.record"])
def test_packages_are_lazy(module):
    assert loaded_after(f"import {module}") <= {"pandas"}


def test_every_public_name_is_there():
    import perturbations
    import robustastro

    for package in (perturbations, robustastro):
        for name in package.__all__:
            assert getattr(package, name) is not None
        with pytest.raises(AttributeError):
            _ = package.no_such_name

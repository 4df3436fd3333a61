"""Where networks look: galaxies beside the Grad-CAM maps of every model for every class."""

from __future__ import annotations

import textwrap
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from perturbations.errors import InputError, unknown_name
from robustastro.figures.images import DISPLAYED, band_note, display
from robustastro.figures.style import PAGE, blank, style

CMAP, FRAME = "cividis", "#DE8F05"  # made for colour-blind readers; orange of the colour-blind palette
LINE = 20  # letters of a domain's name in a line beside its image
TALL = 8.8  # inches: what fits on a page above its caption
SMOOTH, LEVEL = 2.0, 0.25  # pixels, and the share of the peak above the median at which a galaxy is outlined


@dataclass(frozen=True, eq=False)
class Maps:
    """Grad-CAM maps of N galaxies for K classes by M models, as `evaluate.gradcam.write_gradcam` stores them.

    Parameters
    ----------
    images : (N, C, H, W) in input space.
    maps : (M, N, K, H, W), 0 to 1, each with 1 as its largest value; 0 everywhere where nothing speaks for the class.
    probabilities : (M, N, K).
    labels : (N,) places of the true classes; negative: unknown.
    domains : (N,) what the images are of, such as "LSST Y10".
    models, classes, bands : names, (M,), (K,), (C,).
    """

    images: np.ndarray
    maps: np.ndarray
    probabilities: np.ndarray
    labels: np.ndarray
    domains: tuple[str, ...]
    models: tuple[str, ...]
    classes: tuple[str, ...]
    bands: tuple[str, ...]

    def __post_init__(self) -> None:
        (m, k), (n, c) = (len(self.models), len(self.classes)), (len(self.domains), len(self.bands))
        size = self.images.shape[2:]
        wanted = {"images": (n, c, *size), "maps": (m, n, k, *size), "probabilities": (m, n, k), "labels": (n,)}
        for name, shape in wanted.items():
            found = getattr(self, name).shape
            if found != shape or not n * m * k:
                raise InputError(f"{name} of shape {found}", f"{shape}, none of them empty", "store the maps again")

    @classmethod
    def read(cls, path: str | Path) -> Maps:
        """The maps of a file.

        Raises
        ------
        InputError : no such file, or not one of Grad-CAM maps.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays: dict[str, Any] = {field.name: stored[field.name] for field in fields(cls)}
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as problem:
            raise InputError(
                f"{path} cannot be read ({str(problem)[:120]})", "a file of Grad-CAM maps", "store the maps again"
            ) from None
        for name in ("domains", "models", "classes", "bands"):
            arrays[name] = tuple(map(str, arrays[name]))
        return cls(**arrays)


def figure(found: Maps, classes: Sequence[str] | None = None) -> Figure:
    """A row a galaxy: its image, then for each model its maps of the classes, the predicted one framed.

    Parameters
    ----------
    classes : those whose maps are drawn; default all. More than four of two models are too small to read.

    Raises
    ------
    InputError : an unknown class.
    """
    shown = _places(found, classes)
    rows, columns = len(found.images), 1 + len(found.models) * len(shown)
    side = min(TALL / rows - 0.14, (PAGE - 0.9) / columns)
    with style():
        fig = blank(1.0 + columns * (side + 0.05), 0.9 + rows * (side + 0.14))
        axes = fig.subplots(rows, columns, squeeze=False)
        for n, line in enumerate(axes):
            low, high = np.percentile(found.images[n], DISPLAYED)
            line[0].imshow(
                display(found.images[n], found.bands, low, high), cmap="gray", vmin=0, vmax=1, interpolation="nearest"
            )
            true = found.classes[found.labels[n]] if found.labels[n] >= 0 else "class unknown"
            line[0].set_ylabel(f"{true}\n{textwrap.fill(found.domains[n], LINE)}", fontsize=7)
            for at, ax in enumerate(line[1:]):
                model, k = divmod(at, len(shown))
                _map(ax, found, model, n, shown[k])
            line[0].spines[:].set_visible(False)
            for ax in line:
                ax.set_xticks([])
                ax.set_yticks([])
        axes[0, 0].set_title("image", fontsize=7)
        for at, ax in enumerate(axes[0, 1:]):
            model, k = divmod(at, len(shown))
            head = found.models[model] if k == 0 else ""
            ax.set_title(f"{head}\nfor {found.classes[shown[k]]}", fontsize=7, loc="left")
        bar = fig.colorbar(axes[0, 1].images[0], ax=axes[:, 1:], location="bottom", shrink=0.6, aspect=40, pad=0.015)
        bar.set_label("Grad-CAM, each map in units of its largest value")
    return fig


def caption(found: Maps, classes: Sequence[str] | None = None) -> str:
    """What the figure shows, in words."""
    shown = [found.classes[k] for k in _places(found, classes)]
    parts = [f"{found.domains.count(domain)} of {domain}" for domain in dict.fromkeys(found.domains)]
    return (
        f"Grad-CAM (Selvaraju et al. 2017) of {', '.join(found.models)} for {', '.join(shown)}: what in the last "
        f"convolution speaks for the class. n = {len(found.images)} galaxies ({', '.join(parts)}), chosen by key, not "
        f"by eye; at the left their true class and domain. {band_note(found.bands)} Each map in units of its own "
        "largest value, so maps tell where a network looks and not how strongly; a map dark everywhere: nothing speaks "
        "for that class. Below each map the probability of its class; orange frame: the predicted class. Lines: "
        f"the galaxy, at {LEVEL:g} of its smoothed peak above the median."
    )


def _places(found: Maps, classes: Sequence[str] | None) -> list[int]:
    wanted = list(found.classes if classes is None else classes)
    for name in wanted:
        if name not in found.classes:
            raise unknown_name("class", name, found.classes)
    return [found.classes.index(name) for name in wanted]


def _map(ax: Axes, found: Maps, model: int, n: int, k: int) -> None:
    """One map, the outline of the galaxy, and the probability of the class."""
    from scipy.ndimage import gaussian_filter

    ax.imshow(found.maps[model, n, k], cmap=CMAP, vmin=0.0, vmax=1.0, interpolation="nearest", gid="map")
    light = gaussian_filter(found.images[n].mean(axis=0), SMOOTH)
    sky = float(np.median(light))
    if (peak := float(light.max())) > sky:
        ax.contour(light, levels=[sky + LEVEL * (peak - sky)], colors="white", linewidths=0.6)
    probabilities = found.probabilities[model, n]
    predicted = np.isfinite(probabilities).all() and int(probabilities.argmax()) == k
    ax.set_xlabel(f"p = {probabilities[k]:.2f}", fontsize=6, labelpad=2, fontweight="bold" if predicted else "normal")
    ax.spines[:].set_visible(True)
    if predicted:
        ax.spines[:].set(color=FRAME, linewidth=2.0)

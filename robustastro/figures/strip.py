"""A strip of images: clean, each rung of a perturbation, and what the last one changed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from robustastro.figures.images import DISPLAYED, difference, display
from robustastro.figures.style import PAGE, blank, style


def figure(
    clean: np.ndarray,
    rungs: Sequence[tuple[str, np.ndarray]],
    bands: tuple[str, ...],
    title: str,
    rows: Sequence[str],
) -> Figure:
    """One row per galaxy; columns clean, each rung under its strength, and last rung minus clean.

    Parameters
    ----------
    clean : (N, C, H, W) in input space.
    rungs : strength with its unit, and images like `clean`, mild to severe.
    bands : names of the bands.
    title : name and parameter of the perturbation.
    rows : what each galaxy is.
    """
    columns = len(rungs) + 2
    with style():
        fig = blank(PAGE, 0.55 + len(clean) * PAGE / columns)
        axes = fig.subplots(len(clean), columns, squeeze=False)
        for k, line in enumerate(axes):
            low, high = np.percentile(clean[k], DISPLAYED)
            for ax, images in zip(line, (clean, *(images for _, images in rungs)), strict=False):
                ax.imshow(display(images[k], bands, low, high), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            change = difference(clean[k], rungs[-1][1][k])
            limit = float(np.abs(change).max()) or 1.0
            line[-1].imshow(change, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
            line[-1].set_xlabel(f"±{limit:.2g}", fontsize=6, labelpad=1)
            line[0].set_ylabel(rows[k])
            for ax in line:
                ax.set_xticks([])
                ax.set_yticks([])
                ax.spines[:].set_visible(True)
        for ax, text in zip(axes[0], ("clean", *(strength for strength, _ in rungs), "last − clean"), strict=True):
            ax.set_title(text, fontsize=7)
        fig.suptitle(title, x=0.01, ha="left", fontsize=8)
    return fig


def caption(bands_note: str) -> str:
    """What the figure shows, in words."""
    return (
        f"Clean image, each rung with its strength, and the last rung minus clean (the band that changed most in each "
        f"pixel; scale in input units below). {bands_note} All on the scale of the clean image, {DISPLAYED[0]:g} to "
        f"{DISPLAYED[1]:g} percentile of input space."
    )

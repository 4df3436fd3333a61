"""A singular isothermal ellipsoid with external shear, and the image of a small source behind it.

Lensing keeps surface brightness: the image at a place is as bright as the source where the lens equation leads from
there, source = image - deflection(image). So rays are followed backwards, once per cell of a grid.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from robustastro.data.mock_light import Blobs

Brightness = Callable[[np.ndarray, np.ndarray], np.ndarray]  # of the source at (x, y) [arcsec]


def deflection(
    x: np.ndarray,
    y: np.ndarray,
    einstein_radius: float,
    axis_ratio: float = 1.0,
    angle: float = 0.0,
    shear: float = 0.0,
    shear_angle: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """How far the light seen at x, y [arcsec] was bent, by x and by y [arcsec].

    Convergence sqrt(q) einstein_radius / (2 sqrt(q^2 x'^2 + y'^2)) along axes x', y' turned by `angle`: Kormann,
    Schneider & Bartelmann 1994, A&A 284, 285, so that the critical curve keeps the area of a circle of
    `einstein_radius`. A `shear` stretches the image along `shear_angle` [rad].
    """
    q = min(axis_ratio, 1.0 - 1e-6)  # a circle is the limit
    cos, sin = np.cos(angle), np.sin(angle)
    along, across = x * cos + y * sin, y * cos - x * sin
    radius = np.maximum(np.hypot(q * along, across), 1e-12)
    f = np.sqrt(1.0 - q * q)
    strength = einstein_radius * np.sqrt(q) / f
    bent_along, bent_across = strength * np.arctan(f * along / radius), strength * np.arctanh(f * across / radius)
    g1, g2 = shear * np.cos(2.0 * shear_angle), shear * np.sin(2.0 * shear_angle)
    return (
        bent_along * cos - bent_across * sin + g1 * x + g2 * y,
        bent_along * sin + bent_across * cos + g2 * x - g1 * y,
    )


def lensed(brightness: Brightness, reach: float, cell: float, **lens: float) -> Blobs:
    """The image of a source, as one blob per cell that it lights up.

    Parameters
    ----------
    brightness : of the source [flux per square arcsec].
    reach : half the side of the grid around the lens [arcsec].
    cell : side of a cell [arcsec], small beside the source.
    lens : what `deflection` takes.

    Returns
    -------
    Blobs whose weights add up to the flux of the image: the source's times its magnification.
    """
    axis = np.arange(-reach, reach, cell) + 0.5 * cell
    x, y = (values.ravel() for values in np.meshgrid(axis, axis))
    bent_x, bent_y = deflection(x, y, **lens)
    flux = brightness(x - bent_x, y - bent_y) * cell**2
    lit = flux > 1e-3 * flux.max()
    return Blobs(x[lit], y[lit], np.full(int(lit.sum()), 0.6 * cell), flux[lit])

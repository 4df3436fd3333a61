"""What storing an image does to it, one image at a time: astropy.io.fits, Pillow, NumPy."""

from __future__ import annotations

import io

import numpy as np
from astropy.io import fits
from PIL import Image

LEVEL = 256.0  # steps per noise before Hcompress, as ours


def _tables(flux: np.ndarray, **settings) -> np.ndarray:
    """Each band written into a file in memory, and read back."""
    back = np.empty_like(flux)
    for band, seen in zip(flux, back, strict=True):
        file = io.BytesIO()
        fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(band, **settings)]).writeto(file)
        file.seek(0)
        with fits.open(file) as hdus:
            seen[:] = hdus[1].data  # type: ignore[attr-defined]
    return back


def fits_rice(flux: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    seed = int(rng.integers(1, 10001))
    return _tables(flux, compression_type="RICE_1", quantize_level=level, quantize_method=1, dither_seed=seed)


def fits_gzip_quantized(flux: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    return _tables(flux, compression_type="GZIP_2", quantize_level=level, quantize_method=-1)


def fits_hcompress(flux: np.ndarray, scale: float, rng: np.random.Generator) -> np.ndarray:
    return _tables(
        flux,
        compression_type="HCOMPRESS_1",
        quantize_level=LEVEL,
        quantize_method=1,
        dither_seed=int(rng.integers(1, 10001)),
        hcomp_scale=round(scale * LEVEL),
        tile_shape=flux.shape[1:],
    )


def _picture(values: np.ndarray, **settings) -> np.ndarray:
    picture = (values * 255.0).round().astype(np.uint8).transpose(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, **settings)
    return np.asarray(Image.open(file)).transpose(2, 0, 1).astype(np.float32) / 255.0


def jpeg(values: np.ndarray, quality: float, rng: np.random.Generator) -> np.ndarray:
    """Inside imagecorruptions too this is Pillow, at five fixed qualities."""
    return _picture(values, format="JPEG", quality=int(quality))


def jpeg2000(values: np.ndarray, ratio: float, rng: np.random.Generator) -> np.ndarray:
    return _picture(
        values, format="JPEG2000", quality_mode="rates", quality_layers=[ratio], irreversible=True, no_jp2=True
    )


def quantize(values: np.ndarray, bits: float, rng: np.random.Generator) -> np.ndarray:
    steps = np.float32(2.0**bits - 1.0)
    return np.round(values * steps) / steps


def float16(flux: np.ndarray, mantissa: float, rng: np.random.Generator) -> np.ndarray:
    """NumPy has half precision alone, which overflows; fractions and exponents give any number of bits."""
    fraction, exponent = np.frexp(flux)
    unit = np.float32(2.0 ** (mantissa + 1.0))
    return np.ldexp(np.round(fraction * unit) / unit, exponent)


PEERS = {
    "fits_rice": ("astropy", fits_rice),
    "fits_gzip_quantized": ("astropy", fits_gzip_quantized),
    "fits_hcompress": ("astropy", fits_hcompress),
    "jpeg": ("Pillow", jpeg),
    "jpeg2000": ("Pillow", jpeg2000),
    "quantize": ("NumPy", quantize),
    "float16": ("NumPy", float16),
}

# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Types of arguments and results of many functions.

They are imported for annotations only, not when a program runs.
"""

from collections.abc import Callable
from os import PathLike
from typing import Any, Protocol

import numpy as np
from astropy.io import fits
from astropy.modeling import Model
from astropy.nddata import NDData
from astropy.units import Quantity
from numpy.typing import ArrayLike

__all__ = ['HDU', 'ArrayOrQuantity', 'ExecutorLike', 'FilePath',
           'FloatOrArray', 'FloatOrQuantity', 'ImageLike', 'IntOrArray',
           'PSFLike', 'VaryingPSF']


class ExecutorLike(Protocol):
    """
    An executor of `concurrent.futures`, or a client of dask.distributed.
    """

    def submit(self, function: Callable, /, *args: Any, **kwargs: Any) -> Any:
        """
        Return the future of a call.
        """


class VaryingPSF(Protocol):
    """
    A PSF with an image at each position, such as an ``EmpiricalPSF``.
    """

    def __call__(self, x: ArrayLike | None = None,
                 y: ArrayLike | None = None) -> np.ndarray:
        """
        Return the images of the PSF at positions in the field.
        """

    def image(self, x: float | None = None, y: float | None = None, *,
              oversampling: int = 1) -> np.ndarray:
        """
        Return samples of the PSF at a position.
        """

    def as_gaussians(self, n_gaussians: int = 3) -> Any:
        """
        Return the PSF at the center of the field as a sum of Gaussians.
        """


# the name of a file
FilePath = str | PathLike[str]
# an image in a FITS file, compressed or not
HDU = fits.PrimaryHDU | fits.ImageHDU | fits.CompImageHDU
# an image, with or without a unit, or with a mask and uncertainties, too
ImageLike = ArrayLike | Quantity | NDData
# a PSF: an image of odd size, a model of photutils, or a varying PSF
PSFLike = ArrayLike | Model | VaryingPSF

# Results whose types depend on the arguments. They are `Any` for type
# checkers: a union would make them reject correct programs, such as one
# that uses the unit of a result of a map with a unit.

# a number for numbers, an array for arrays
FloatOrArray = Any
IntOrArray = Any
# with the unit of the data, if they have one
FloatOrQuantity = Any
ArrayOrQuantity = Any

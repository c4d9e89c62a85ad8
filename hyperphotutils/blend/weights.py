# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Extra pixel weights.
"""

import numpy as np

__all__ = ['SIGNAL_WEIGHTS', 'WEIGHTS', 'WEIGHT_MAPS', 'pixel_weights']

WEIGHTS = ('inverse_rms', 'snr', 'power_snr', 'spatial', 'map', 'mask')
# Those that depend on the signal, and those that are read from a map.
SIGNAL_WEIGHTS = ('snr', 'power_snr')
WEIGHT_MAPS = ('map', 'mask')

# No pixel has less than this fraction of the largest weight of its group:
# a background without pixels is confused with a wider source.
_SMALLEST_RATIO = 0.1


def pixel_weights(names, usable, *, snr=None, distance=None,
                  weight_map=None, power=2.0):
    r"""
    Return the factors of the residuals of groups of sources, scaled to a mean
    square of 1 over the usable pixels of each group; 0 for others.

    Residuals, in units of the errors of the pixels, are multiplied by the
    product :math:`w` of

    ============= ==================================================
    name          factor
    ============= ==================================================
    'inverse_rms' 1: the errors are what residuals are divided by
    'snr'         :math:`\max(s, 1)` with the signal-to-noise ratio
                  :math:`s` of the pixel
    'power_snr'   :math:`\max(s, 1)^p`
    'spatial'     :math:`\exp(-d^2 / 2)` with the distance :math:`d`
                  from the nearest source in FWHMs of the beam
    'map'         the weight map
    'mask'        1 where the weight map is positive
    ============= ==================================================

    The second and the third are at least a tenth of their maximum over the
    group.
    """
    weights = usable.astype(float)
    for name in names:
        if name in SIGNAL_WEIGHTS:
            signal = np.where(usable, np.maximum(snr, 1.0), 1.0)
            # Relative to the highest, whatever the power.
            signal = (signal / signal.max(axis=1, keepdims=True))**(
                power if name == 'power_snr' else 1.0)
            weights *= np.maximum(signal, _SMALLEST_RATIO)
        elif name == 'spatial':
            weights *= np.exp(-0.5 * distance**2)
        elif name == 'map':
            weights *= np.where(usable, weight_map, 0.0)
        elif name == 'mask':
            weights *= weight_map > 0.0
    n_usable = np.maximum(usable.sum(axis=1, keepdims=True), 1)
    square = np.sum(weights**2, axis=1, keepdims=True) / n_usable
    return weights / np.sqrt(np.where(square > 0.0, square, 1.0))

# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Goodness of fit of groups.
"""

import numpy as np

from hyperphotutils.background.selection import bic, nmse, reduced_chi2

__all__ = ['fit_quality']


def fit_quality(batch, absolute):
    """
    Return ``nmse``, ``reduced_chi2``, and ``bic`` of each group of a batch;
    ``absolute`` is whether the errors of the pixels are known.
    """
    chi2, n_pixels = batch.result.chi2, batch.n_pixels
    n_params = batch.result.covariance.shape[1]
    gaussian = chi2
    if not absolute:
        # The log-likelihood with the variance of the residuals as noise.
        gaussian = n_pixels * np.log(
            np.maximum(chi2, np.finfo(float).tiny) / np.maximum(n_pixels, 1))
    return {'nmse': nmse(chi2, batch.data_power),
            'reduced_chi2': reduced_chi2(chi2, n_pixels, n_params),
            'bic': bic(gaussian, n_pixels, n_params)}

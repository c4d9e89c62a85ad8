# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Explanations of single sources in words.
"""

from types import MappingProxyType

import numpy as np

from hyperphotutils.utils.flags import FLAG_DESCRIPTIONS, decode_flags

__all__ = ['explain_source']

# What a user can do about a flag.
_REMEDIES = MappingProxyType({
    'off_map': 'Check the position and the mask.',
    'too_few_pixels': 'Check the mask, or increase fit_radius of the fitter.',
    'no_convergence': 'Increase max_iter of the fitter.',
    'near_bound': 'Increase fwhm_range or max_shift of the fitter if the '
                  'source is real.',
    'n_pixels_fit_partial': 'The errors take the missing pixels into '
                            'account.',
    'group_split': 'Increase max_group_size of the fitter.',
    'residual_detection': 'Compare it with the residual image; '
                          'max_rounds=0 turns this search off.',
    'partial_aperture': 'Prefer flux_fit to aperture_flux.',
    'no_covariance': 'Fix the shape or the position of the source.',
    'split_pair': 'Compare the sum of both fluxes with other resolutions; '
                  'max_rounds=0 turns splitting off.',
    'held_shape': 'The size is not a measurement; the error of the flux '
                  'assumes a point source.',
    'doubtful': 'Treat the flux as an upper limit until other data confirm '
                'the source.',
    'bad_pixels': 'mask_bad_pixels=False uses all pixels.',
    'saturated': 'The flux follows from the unsaturated pixels, and depends '
                 'on the assumed profile.',
})


def explain_source(table, source_id, *, fwhm):
    """
    Explain in words how a source was measured.

    Parameters
    ----------
    table : `~astropy.table.QTable`
        A catalog of `~hyperphotutils.photometry.HyperPhotometry`.

    source_id : int
        The ``id`` of the source.

    fwhm : float
        The FWHM of the beam in pixels.

    Returns
    -------
    text : str
        The explanation, with a line for the detection, the group, the
        background, the flux, the size, the quality of the fit, and for
        each flag.

    Raises
    ------
    ValueError
        If the table has no source with this ``id``.

    Examples
    --------
    >>> from hyperphotutils.datasets import make_blended_map
    >>> from hyperphotutils.photometry import HyperPhotometry, explain_source
    >>> sim = make_blended_map((120, 120), 12, blend_fraction=0, seed=1)
    >>> phot = HyperPhotometry(fwhm=4.0)
    >>> table = phot(sim.image)
    >>> text = explain_source(table, 1, fwhm=4.0)
    >>> print(text.splitlines()[1])
    Group: fitted alone.
    """
    index = np.flatnonzero(np.asarray(table['id']) == source_id)
    if len(index) != 1:
        msg = (f'the table has no source with id {source_id!r}; its ids are '
               f'{min(table["id"])} to {max(table["id"])}')
        raise ValueError(msg)
    row = table[int(index[0])]
    flags = decode_flags([int(row['flags'])])[0]
    lines = [_detection(row, flags)]
    if not np.isfinite(row['x_fit']):
        lines.append('Fit: none, and all values are missing.')
    else:
        lines += [_group(table, row, fwhm), _background(row), _flux(row),
                  _size(row, flags, fwhm), _quality(row)]
    lines += [f'Flag {name}: {FLAG_DESCRIPTIONS[name]}. '
              f'{_REMEDIES.get(name, "")}'.rstrip() for name in flags]
    return '\n'.join(lines)


def _detection(row, flags):
    """
    Explain where the source comes from.
    """
    x, y = row['x_init'], row['y_init']
    place = f'at x = {x:.1f}, y = {y:.1f}'
    if 'residual_detection' in flags:
        return (f'Detection: {place}, in the residual after the first fit, '
                'beside a brighter source.')
    if 'split_pair' in flags:
        return (f'Detection: {place}, as one of two sources that together '
                'fit one detection better.')
    return f'Detection: {place}, on the map.'


def _group(table, row, fwhm):
    """
    Explain which sources were fitted together.
    """
    others = table[(table['group_id'] == row['group_id'])
                   & (table['id'] != row['id'])]
    if not len(others):
        return 'Group: fitted alone.'
    distance = np.hypot(others['x_fit'] - row['x_fit'],
                        others['y_fit'] - row['y_fit']) / fwhm
    nearest = int(np.nanargmin(distance))
    return (f'Group: fitted together with {len(others)} other '
            f'source{"s" * (len(others) > 1)}; the nearest one is id '
            f'{others["id"][nearest]}, {distance[nearest]:.1f} beams away.')


def _background(row):
    """
    Explain the background.
    """
    value = f'{row["local_bkg"]:.3g}'
    if row['bkg_method'] == 'joint':
        return (f'Background: {value} at the source, from a polynomial of '
                f'order {row["bkg_order"]} fitted together with the group.')
    return (f'Background: {value} at the source, subtracted before the fit '
            f'(method {row["bkg_method"]}, order {row["bkg_order"]}).')


def _flux(row):
    """
    Explain both fluxes, and how much they differ.
    """
    fit, fit_error = row['flux_fit'], row['flux_err']
    aperture, error = row['aperture_flux'], row['aperture_flux_err']
    text = (f'Flux: {fit:.4g} with an error of {fit_error:.2g} from the fit, '
            f'{aperture:.4g} with an error of {error:.2g} in the aperture; '
            f'signal-to-noise ratio of the peak {row["snr"]:.1f}.')
    if abs(aperture - fit) > 3.0 * max(error, fit_error):
        text += (' The two differ by more than 3 errors: the source is not '
                 'a Gaussian, or its background is structured.')
    return text


def _size(row, flags, fwhm):
    """
    Explain the size in units of the beam.
    """
    major, minor = (row[f'fwhm_{axis}_fit'] / fwhm
                    for axis in ('major', 'minor'))
    text = f'Size: FWHMs of {major:.2f} and {minor:.2f} beams'
    if 'fixed_shape' in flags or 'held_shape' in flags:
        return f'{text}, which were not fitted.'
    error = row['fwhm_major_err'] / fwhm
    if major - 1.0 > 3.0 * error:
        return f'{text}: larger than the beam.'
    return f'{text}: not resolved, within 3 errors.'


def _quality(row):
    """
    Explain the goodness of fit.
    """
    chi2 = row['reduced_chi2']
    text = (f'Goodness of fit: reduced chi2 of {chi2:.2f} on '
            f'{row["n_pixels_fit"]} pixels')
    # The scatter of reduced chi2 for independent pixels is a lower limit
    # for correlated ones.
    if chi2 > 1.0 + 5.0 * np.sqrt(2.0 / max(row['n_pixels_fit'], 1)):
        return (f'{text}, which is poor: the shape of the source, neighbors '
                'that were not detected, or the background differ from the '
                'model.')
    return f'{text}.'

# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Registry of the columns of result tables: names, units, types,
descriptions, and their names in other formats.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import astropy.units as u
import numpy as np
from astropy.table import Column, QTable

from hyperphotutils.utils.tables import integrated_unit

if TYPE_CHECKING:
    from astropy.wcs import WCS

__all__ = ['RESULT_COLUMNS', 'RESULT_TABLES', 'ResultColumn',
           'describe_columns', 'find_column', 'make_empty_table']


@dataclass(frozen=True)
class ResultColumn:
    """
    Class to describe a column of results.

    Its name in FITS files and VOTables is the same as in tables.

    Parameters
    ----------
    name : str
        The name of the column.

    description : str
        The description of the values, in one line.

    unit : str, optional
        ``'data'`` for the unit of the pixels of the map, ``'flux'`` for
        that of a sum over pixels (see
        `~hyperphotutils.utils.integrated_unit`), ``'pix'`` for pixels,
        which have no unit in a table, as in photutils; or a unit. Empty
        (default) for numbers without a unit and texts.

    dtype : str, optional
        The numpy type of the values. The default is ``'f8'``; ``'O'``
        for a `~astropy.coordinates.SkyCoord`.

    ucd : str, optional
        The unified content descriptor for VOTables (UCD1+ of the IVOA).

    hyper_name : str, optional
        The name of the column in Hyper's catalogs; empty (default) if
        they do not have it.

    Examples
    --------
    >>> from hyperphotutils.catalog import RESULT_COLUMNS
    >>> column = RESULT_COLUMNS['aperture_flux']
    >>> print(column.hyper_name, column.unit, column.ucd)
    FLUX flux phot.flux.density
    """

    name: str
    description: str
    unit: str = ''
    dtype: str = 'f8'
    ucd: str = ''
    hyper_name: str = ''

    def unit_for(self, data_unit: u.UnitBase | None) -> u.UnitBase | None:
        """
        Return the unit of the column for a map.

        Parameters
        ----------
        data_unit : `~astropy.units.Unit` or `None`
            The unit of the pixels.

        Returns
        -------
        unit : `~astropy.units.Unit` or `None`
            The unit; `None` for columns without one.
        """
        if self.unit in ('', 'pix'):
            return None
        if self.unit == 'data':
            return data_unit
        if self.unit == 'flux':
            return integrated_unit(data_unit)
        return u.Unit(self.unit)


def _with_error(name, description, unit, ucd, hyper_name='',
                hyper_error=''):
    # a value, and its standard error: of x_fit it is x_err
    return (ResultColumn(name, description, unit, ucd=ucd,
                         hyper_name=hyper_name),
            ResultColumn(f'{name.removesuffix("_fit")}_err',
                         f'standard error of {name}', unit,
                         ucd=f'stat.error;{ucd.partition(";")[0]}',
                         hyper_name=hyper_error))


_REGISTRY = (
    # place in a cube
    ResultColumn('channel', 'channel of the cube, from 0', dtype='i8',
                 ucd='meta.number'),
    ResultColumn('velocity', 'velocity of the channel', 'km/s',
                 ucd='spect.dopplerVeloc'),
    ResultColumn('frequency', 'frequency of the channel', 'Hz',
                 ucd='em.freq'),
    ResultColumn('wavelength', 'wavelength of the channel', 'm',
                 ucd='em.wl'),
    ResultColumn('spectral_value', 'spectral coordinate of the channel'),
    # names and groups
    ResultColumn('id', 'identification number of the source, from 1',
                 dtype='i8', ucd='meta.id;meta.main', hyper_name='HYPER_ID'),
    ResultColumn('n_bands', 'number of bands in which the source was '
                 'detected', dtype='i8', ucd='meta.number'),
    ResultColumn('reference_band', 'band of the position and the shape: the '
                 'one with the smallest beam', dtype='U1',
                 ucd='meta.id;instr.bandpass'),
    ResultColumn('separation', 'separation from sky_centroid', 'arcsec',
                 ucd='pos.angDistance'),
    ResultColumn('n_candidates', 'number of rows with which the source '
                 'could have been matched', dtype='i8', ucd='meta.number'),
    ResultColumn('forced', 'whether the source was not detected in the band, '
                 'but measured at its position', dtype='?',
                 ucd='meta.code'),
    ResultColumn('group_id', 'number of the group that was fitted together',
                 dtype='i8', ucd='meta.id.assoc', hyper_name='CLUSTER'),
    ResultColumn('group_size', 'number of sources in the group', dtype='i8',
                 ucd='meta.number', hyper_name='DEBLEND'),
    # positions in pixels
    ResultColumn('x_centroid', 'x of the detection', 'pix',
                 ucd='pos.cartesian.x'),
    ResultColumn('y_centroid', 'y of the detection', 'pix',
                 ucd='pos.cartesian.y'),
    ResultColumn('x_init', 'x where the fit started: the detection, or the '
                 'given position', 'pix', ucd='pos.cartesian.x'),
    ResultColumn('y_init', 'y where the fit started: the detection, or the '
                 'given position', 'pix', ucd='pos.cartesian.y'),
    *_with_error('x_fit', 'x of the source', 'pix', 'pos.cartesian.x'),
    *_with_error('y_fit', 'y of the source', 'pix', 'pos.cartesian.y'),
    # the fitted Gaussian
    *_with_error('amplitude_fit', 'peak of the fitted Gaussian', 'data',
                 'phot.flux.density;stat.max', 'FLUX_PEAK'),
    *_with_error('fwhm_major_fit', 'FWHM along the major axis', 'pix',
                 'phys.angSize.smajAxis'),
    *_with_error('fwhm_minor_fit', 'FWHM along the minor axis', 'pix',
                 'phys.angSize.sminAxis'),
    *_with_error('theta_fit', 'angle of the major axis, counterclockwise '
                 'from the positive x axis', 'deg', 'pos.posAng'),
    *_with_error('flux_fit', 'integral of the fitted Gaussian', 'flux',
                 'phot.flux.density;meta.modelled'),
    # the aperture
    *_with_error('aperture_flux', 'flux in the aperture, times '
                 'aperture_correction', 'flux', 'phot.flux.density', 'FLUX',
                 'FLUX_ERR'),
    ResultColumn('aperture_correction', 'one over the fraction of the flux '
                 'of a Gaussian in the aperture', ucd='arith.factor'),
    ResultColumn('aperture_residual', 'flux in the aperture that remains '
                 'without the fitted Gaussian, not corrected', 'flux',
                 ucd='phot.flux.density;arith.diff', hyper_name='RESIDUALS'),
    # background and quality
    ResultColumn('local_bkg', 'background at the position', 'data',
                 ucd='phot.flux.density;instr.background'),
    ResultColumn('bkg_order', 'order of the polynomial background',
                 dtype='i8', ucd='meta.number', hyper_name='POLYN'),
    ResultColumn('bkg_method', 'how the background was fitted', dtype='U5',
                 ucd='meta.code'),
    ResultColumn('bkg_size', 'side of the box of the background', 'pix',
                 ucd='phys.angSize'),
    ResultColumn('peak', 'value of the map at the highest pixel', 'data',
                 ucd='phot.flux.density;stat.max'),
    ResultColumn('snr', 'signal-to-noise ratio of the peak', ucd='stat.snr'),
    ResultColumn('sharpness', 'peak relative to that of a source of the size '
                 'of the beam', ucd='src.morph.param'),
    ResultColumn('roundness', 'elongation along y (positive) or x '
                 '(negative)', ucd='src.morph.param'),
    ResultColumn('shoulder_score', 'asymmetry of the surroundings, from 0 '
                 'to 1', ucd='src.morph.param',
                 hyper_name='SHOULDER_SCORE'),
    ResultColumn('flux', 'flux of a source of the size of the beam with this '
                 'peak, a sum of pixel values', 'data',
                 ucd='phot.flux.density'),
    ResultColumn('nmse', 'mean squared residual in units of the mean squared '
                 'data of the footprint', ucd='stat.fit.residual',
                 hyper_name='NMSE'),
    ResultColumn('reduced_chi2', 'chi-squared of the fit per degree of '
                 'freedom', ucd='stat.fit.chi2', hyper_name='CHI2_RED'),
    ResultColumn('bic', 'Bayesian information criterion of the fit',
                 ucd='stat.fit.goodness', hyper_name='BIC'),
    ResultColumn('n_pixels_fit', 'number of fitted pixels of the group',
                 dtype='i8', ucd='meta.number'),
    ResultColumn('flags', 'bit mask, see hyperphotutils.utils.decode_flags',
                 dtype='i8', ucd='meta.code.qual', hyper_name='STATUS'),
    # the sky
    ResultColumn('sky_centroid', 'position on the sky', 'deg', dtype='O',
                 ucd='pos'),
    ResultColumn('lon_err', 'standard error of the position to the East, a '
                 'length on the sky', 'arcsec', ucd='stat.error;pos'),
    ResultColumn('lat_err', 'standard error of the position to the North',
                 'arcsec', ucd='stat.error;pos'),
    *_with_error('fwhm_major_sky', 'FWHM along the major axis on the sky',
                 'arcsec', 'phys.angSize.smajAxis', 'FWHM_1'),
    *_with_error('fwhm_minor_sky', 'FWHM along the minor axis on the sky',
                 'arcsec', 'phys.angSize.sminAxis', 'FWHM_2'),
    *_with_error('position_angle', 'angle of the major axis, east of north '
                 'in the frame of sky_centroid', 'deg', 'pos.posAng', 'PA'),
    ResultColumn('beam_area_pix', 'area of the beam at the position, in '
                 'pixels', 'pix', ucd='phys.angArea;instr.beam'),
    # rejected detections
    ResultColumn('search', 'where it was detected: 0 on the map, 1 and more '
                 'on the residual of the fit, in this search', dtype='i8',
                 ucd='meta.number'),
    ResultColumn('reason', 'why it has no row in the catalog, a key of '
                 'REJECTION_REASONS', dtype='U20', ucd='meta.note'),
    # galaxies: where the fit of a Sersic profile started, and its result
    ResultColumn('flux_init', 'flux where the fit started', 'flux',
                 ucd='phot.flux.density'),
    ResultColumn('r_eff_init', 'effective radius where the fit started',
                 'pix', ucd='src.morph.scLength'),
    ResultColumn('n_init', 'Sersic index where the fit started',
                 ucd='src.morph.param'),
    ResultColumn('q_init', 'axis ratio where the fit started',
                 ucd='phys.size.axisRatio'),
    ResultColumn('theta_init', 'angle of the major axis where the fit '
                 'started', 'deg', ucd='pos.posAng'),
    *_with_error('r_eff_fit', 'effective (half-light) radius along the '
                 'major axis', 'pix', 'src.morph.scLength'),
    *_with_error('n_fit', 'Sersic index', '', 'src.morph.param'),
    *_with_error('q_fit', 'axis ratio, minor over major', '',
                 'phys.size.axisRatio'),
    ResultColumn('flux_stamp_fit', 'flux of the fitted profile on the stamp',
                 'flux', ucd='phot.flux.density;meta.modelled'),
    *_with_error('sky_fit', 'sky of the stamp at the position', 'data',
                 'phot.flux.density;instr.background'),
    ResultColumn('chi2', 'chi-squared of the fit', ucd='stat.fit.chi2'),
    ResultColumn('n_iterations', 'number of steps of the fit', dtype='i8',
                 ucd='meta.number'),
    ResultColumn('r_eff_sky_fit', 'effective radius along the major axis on '
                 'the sky', 'arcsec', ucd='src.morph.scLength'),
    ResultColumn('orientation', 'position angle of the galaxy, east of north '
                 'in the frame of sky_centroid', 'deg', ucd='pos.posAng'),
    ResultColumn('stamp_size', 'side of the stamp of the fit', 'pix',
                 dtype='i8', ucd='phys.angSize'),
    ResultColumn('star_index', 'probability that the detection is a star',
                 ucd='src.class.starGalaxy'),
    ResultColumn('kron_flux', 'flux of the detection in its Kron aperture',
                 'flux', ucd='phot.flux.density'),
    ResultColumn('snr_detection', 'signal-to-noise ratio of the flux in the '
                 'segment', ucd='stat.snr'),
    *_with_error('mag_fit', 'magnitude of flux_fit', 'mag', 'phot.mag'),
    # the best model of a grid, and the parabola around it
    ResultColumn('n_grid', 'Sersic index of the best model of the grid',
                 ucd='src.morph.param'),
    ResultColumn('r_eff_grid', 'effective radius of the best model of the '
                 'grid', 'pix', ucd='src.morph.scLength'),
    ResultColumn('q_grid', 'axis ratio of the best model of the grid',
                 ucd='phys.size.axisRatio'),
    ResultColumn('theta_grid', 'angle of the major axis of the best model of '
                 'the grid', 'deg', ucd='pos.posAng'),
    ResultColumn('chi2_grid', 'chi-squared of the best model of the grid',
                 ucd='stat.fit.chi2'),
    ResultColumn('flux_grid', 'flux of the best model of the grid', 'flux',
                 ucd='phot.flux.density;meta.modelled'),
    ResultColumn('sky_grid', 'sky that was fitted with the best model of the '
                 'grid', 'data', ucd='phot.flux.density;instr.background'),
    ResultColumn('model_index', 'number of the best model in the order of '
                 'the grid, from 0', dtype='i8', ucd='meta.number'),
    *_with_error('r_eff_parabola', 'effective radius at the minimum of the '
                 'parabola', 'pix', 'src.morph.scLength'),
    *_with_error('n_parabola', 'Sersic index at the minimum of the parabola',
                 '', 'src.morph.param'),
    *_with_error('q_parabola', 'axis ratio at the minimum of the parabola',
                 '', 'phys.size.axisRatio'),
    *_with_error('theta_parabola', 'angle of the major axis at the minimum '
                 'of the parabola', 'deg', 'pos.posAng'),
)

RESULT_COLUMNS = MappingProxyType({column.name: column
                                   for column in _REGISTRY})
"""
The `ResultColumn` of each column by name.
"""

# What columns of sources mean in the table of galaxies
_OF_GALAXIES = {name: replace(RESULT_COLUMNS[name], description=description)
                for name, description in (
    ('group_size', 'number of sources that were fitted on the stamp'),
    ('flux_fit', 'flux of the fitted profile, to infinity'),
    ('snr', 'signal-to-noise ratio of the flux, for a known shape'),
    ('n_pixels_fit', 'number of fitted pixels of the stamp'))}

_SKY = ('sky_centroid', 'lon_err', 'lat_err', 'fwhm_major_sky',
        'fwhm_major_sky_err', 'fwhm_minor_sky', 'fwhm_minor_sky_err',
        'position_angle', 'position_angle_err')
_GALAXY_SKY = ('sky_centroid', 'r_eff_sky_fit', 'orientation')

RESULT_TABLES = MappingProxyType({
    'detection': ('id', 'x_centroid', 'y_centroid', 'peak', 'snr',
                  'sharpness', 'roundness', 'shoulder_score', 'flux'),
    'photometry': (
        'id', 'group_id', 'group_size', 'x_init', 'y_init', 'x_fit', 'y_fit',
        'x_err', 'y_err', 'amplitude_fit', 'amplitude_err', 'fwhm_major_fit',
        'fwhm_major_err', 'fwhm_minor_fit', 'fwhm_minor_err', 'theta_fit',
        'theta_err', 'flux_fit', 'flux_err', 'aperture_flux',
        'aperture_flux_err', 'aperture_correction', 'aperture_residual',
        'local_bkg', 'bkg_order', 'bkg_method', 'bkg_size', 'snr',
        'shoulder_score', 'nmse', 'reduced_chi2', 'bic', 'n_pixels_fit',
        'flags', *_SKY),
    'rejected': ('x_init', 'y_init', 'sky_centroid', 'snr', 'search',
                 'reason'),
    'galaxies': (
        'id', 'group_size', *(
            f'{name}_{suffix}' for suffix in ('init', 'fit', 'err')
            for name in ('flux', 'x', 'y', 'r_eff', 'n', 'q', 'theta')),
        'flux_stamp_fit', 'sky_fit', 'sky_err', 'n_grid', 'r_eff_grid',
        'q_grid', 'theta_grid', 'chi2_grid', 'chi2', 'reduced_chi2',
        'n_pixels_fit', 'n_iterations', 'snr', *_GALAXY_SKY, 'flags'),
    'galaxy_grid': (
        'n_grid', 'q_grid', 'theta_grid', 'r_eff_grid', 'chi2_grid',
        'flux_grid', 'sky_grid', 'model_index', 'r_eff_parabola',
        'r_eff_parabola_err'),
})
"""
The names of the columns of each kind of table, in their order: of the
finder, of the photometry, of its rejected detections, of fits of galaxies,
and of the best models of a grid. Tables of images without a WCS have no
columns of positions, angles, and radii on the sky, such as
``sky_centroid``.
"""


def find_column(name: str, *, bands: Iterable[str] = (),
                kind: str = '') -> ResultColumn | None:
    """
    Return the entry of a column in the registry.

    Parameters
    ----------
    name : str
        The name of the column.

    bands : iterable of str, optional
        The names of the bands of the table: ``flux_fit_red`` is
        ``flux_fit`` of the band ``red``.

    kind : str, optional
        The kind of table, a key of
        `~hyperphotutils.catalog.RESULT_TABLES`: ``flux_fit`` of
        ``'galaxies'`` is the flux of a Sersic profile.

    Returns
    -------
    column : `ResultColumn` or `None`
        The column; `None` if it is not registered.

    Examples
    --------
    >>> from hyperphotutils.catalog import find_column
    >>> print(find_column('snr_red', bands=['red']).description)
    signal-to-noise ratio of the peak; band red
    """
    if kind == 'galaxies' and name in _OF_GALAXIES:
        return _OF_GALAXIES[name]
    if name in RESULT_COLUMNS:
        return RESULT_COLUMNS[name]
    for band in bands:
        column = RESULT_COLUMNS.get(name.removesuffix(f'_{band}'))
        if column is not None:
            return replace(
                column, name=name, hyper_name='',
                description=f'{column.description}; band {band}',
                ucd=column.ucd.removesuffix(';meta.main'))
    return None


def describe_columns(table: QTable, *, unit: u.UnitBase | None = None,
                     kind: str = '') -> QTable:
    """
    Set the units and descriptions of the columns of a result.

    Columns that are not registered stay as they are, and so do units
    that are already set.

    Parameters
    ----------
    table : `~astropy.table.QTable`
        The table, changed in place. The names of its bands, if it has
        several, are in ``meta['bands']``.

    unit : `~astropy.units.Unit` or `None`, optional
        The unit of the pixels of the map. If `None` (default), columns
        in this unit get none.

    kind : str, optional
        The kind of table, as for `find_column`.

    Returns
    -------
    table : `~astropy.table.QTable`
        The same table.

    Examples
    --------
    >>> import astropy.units as u
    >>> from astropy.table import QTable
    >>> from hyperphotutils.catalog import describe_columns
    >>> table = QTable({'theta_fit': [30.0], 'local_bkg': [0.5]})
    >>> _ = describe_columns(table, unit=u.Jy / u.pix)
    >>> print(table['theta_fit'].unit, table['local_bkg'].unit)
    deg Jy / pix
    >>> print(table['local_bkg'].info.description)
    background at the position
    """
    bands = table.meta.get('bands', ())
    for name in table.colnames:
        known = find_column(name, bands=bands, kind=kind)
        if known is None:
            continue
        values = table[name]
        own = known.unit_for(unit)
        if own is not None and isinstance(values, Column) and (
                values.unit is None and values.dtype.kind == 'f'):
            table[name] <<= own
        table[name].info.description = known.description
    return table


def make_empty_table(kind: Literal['detection', 'photometry', 'rejected',
                                   'galaxies', 'galaxy_grid'], *,
                     unit: u.UnitBase | None = None,
                     wcs: WCS | None = None) -> QTable:
    """
    Make a result without rows.

    Parameters
    ----------
    kind : {'detection', 'photometry', 'rejected', 'galaxies', \
            'galaxy_grid'}
        The kind of table, a key of
        `~hyperphotutils.catalog.RESULT_TABLES`.

    unit : `~astropy.units.Unit` or `None`, optional
        The unit of the pixels of the map.

    wcs : `~astropy.wcs.WCS` or `None`, optional
        The celestial WCS of the map. If `None` (default), the columns on
        the sky are left out.

    Returns
    -------
    table : `~astropy.table.QTable`
        The table, with the units, types, and descriptions of a result
        with rows.

    Examples
    --------
    >>> import astropy.units as u
    >>> from hyperphotutils.catalog import make_empty_table
    >>> table = make_empty_table('photometry', unit=u.Jy / u.pix)
    >>> print(len(table), table['flux_fit'].unit)
    0 Jy
    """
    table = QTable()
    for name in RESULT_TABLES[kind]:
        column = RESULT_COLUMNS[name]
        if name in {*_SKY, *_GALAXY_SKY} and wcs is None:
            continue
        if name == 'sky_centroid':
            table[name] = wcs.pixel_to_world(np.empty(0), np.empty(0))
        else:
            table[name] = np.empty(0, dtype=column.dtype)
    return describe_columns(table, unit=unit, kind=kind)

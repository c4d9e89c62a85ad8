# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Catalogs, check images, and configurations of SExtractor and PSFEx.
"""

import warnings
from dataclasses import dataclass, field
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import ascii as ascii_tables
from astropy.io import fits
from astropy.table import QTable, Table
from astropy.utils.exceptions import AstropyUserWarning
from photutils.segmentation import SegmentationImage

from hyperphotutils.detection import ExtendedSourceFinder, ExtendedSources
from hyperphotutils.maps.images import refuse_damaged_file
from hyperphotutils.psf import EmpiricalPSFBuilder, StarSelector

__all__ = [
    'PSFExConfig',
    'SExtractorConfig',
    'read_psfex_config',
    'read_sextractor_catalog',
    'read_sextractor_config',
    'read_sextractor_images',
]

# Our columns by those of SExtractor (Bertin & Arnouts 1996, A&AS, 117, 393),
# and their units. Its fluxes are in the counts of the image, without a unit.
_COLUMNS = {
    'NUMBER': ('id', None),
    'ISOAREA_IMAGE': ('area', u.pix**2),
    'A_IMAGE': ('semimajor_axis', u.pix),
    'B_IMAGE': ('semiminor_axis', u.pix),
    'THETA_IMAGE': ('orientation', u.deg),
    'ELLIPTICITY': ('ellipticity', None),
    'FWHM_IMAGE': ('fwhm', u.pix),
    'FLUX_MAX': ('max_value', None),
    'FLUX_ISO': ('segment_flux', None),
    'FLUXERR_ISO': ('segment_flux_err', None),
    'FLUX_AUTO': ('kron_flux', None),
    'FLUXERR_AUTO': ('kron_flux_err', None),
    'FLUX_RADIUS': ('half_light_radius', u.pix),
    'MAG_AUTO': ('mag', None),
    'MAGERR_AUTO': ('mag_err', None),
    'SNR_WIN': ('snr', None),
    'CLASS_STAR': ('star_index', None),
    'FLAGS': ('sextractor_flags', None),
}
# Positions, the best first; pixels count from 1 there, as in FITS.
_PIXEL_COLUMNS = (('X_IMAGE', 'Y_IMAGE'), ('XWIN_IMAGE', 'YWIN_IMAGE'),
                  ('XPEAK_IMAGE', 'YPEAK_IMAGE'))
_SKY_COLUMNS = (('ALPHA_J2000', 'DELTA_J2000'), ('ALPHA_SKY', 'DELTA_SKY'),
                ('ALPHAWIN_J2000', 'DELTAWIN_J2000'))

# What SExtractor and PSFEx (Bertin 2011, ASP Conference Series, 442, 435) do
# without a key: the values of their files of defaults.
_SEX_DEFAULTS = {'DETECT_THRESH': '1.5', 'DETECT_MINAREA': '5',
                 'DEBLEND_NTHRESH': '32', 'DEBLEND_MINCONT': '0.005',
                 'BACK_SIZE': '64', 'BACK_FILTERSIZE': '3', 'GAIN': '0.0',
                 'MAG_ZEROPOINT': '0.0', 'SEEING_FWHM': '1.2',
                 'PIXEL_SCALE': '1.0', 'SATUR_LEVEL': '50000.0'}
_PSFEX_DEFAULTS = {'PSF_SIZE': '25,25', 'PSF_SAMPLING': '0.0',
                   'PSFVAR_DEGREES': '2', 'SAMPLE_MINSN': '20',
                   'SAMPLE_MAXELLIP': '0.3'}


def read_sextractor_catalog(path):
    """
    Read a catalog of SExtractor.

    Parameters
    ----------
    path : str or `~pathlib.Path`
        A file of the type ``FITS_LDAC``, ``FITS_1.0``, or
        ``ASCII_HEAD``.

    Returns
    -------
    catalog : `~astropy.table.QTable`
        The columns have our names where we have the same (see
        `~hyperphotutils.detection.ExtendedSourceFinder`): ``id``,
        ``x_centroid`` and ``y_centroid`` (which count from 0),
        ``sky_centroid``, ``semimajor_axis``, ``kron_flux``,
        ``half_light_radius``, ``mag``, ``star_index`` (``CLASS_STAR``),
        ...; ``sextractor_flags`` are the flags of SExtractor. Other
        columns keep their names and values.

    Raises
    ------
    ValueError
        If the file is not such a catalog, or has no positions.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from hyperphotutils.compat.sextractor import read_sextractor_catalog
    >>> text = '''#   1 NUMBER       Running object number
    ... #   2 X_IMAGE      Object position along x          [pixel]
    ... #   3 Y_IMAGE      Object position along y          [pixel]
    ... #   4 CLASS_STAR   S/G classifier output
    ...          1   11.000   21.500   0.98
    ... '''
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / 'image.cat'
    ...     _ = path.write_text(text)
    ...     catalog = read_sextractor_catalog(path)
    >>> print(catalog['x_centroid'][0], catalog['star_index'][0])
    10.0 0.98
    """
    path = Path(path)
    with path.open('rb') as file:
        is_fits = file.read(6) == b'SIMPLE'
    raw = _read_fits(path) if is_fits else _read_ascii(path)
    table = QTable()
    if 'NUMBER' not in raw.colnames:
        table['id'] = np.arange(1, len(raw) + 1)
    # the columns that are used for the positions
    used = set()
    present = set(raw.colnames)
    pair = next((pair for pair in _PIXEL_COLUMNS if set(pair) <= present),
                None)
    if pair is not None:
        for name, column in zip(pair, ('x_centroid', 'y_centroid'),
                                strict=True):
            table[column] = _plain(raw[name]) - 1.0
        used |= set(pair)
    pair = next((pair for pair in _SKY_COLUMNS if set(pair) <= present),
                None)
    if pair is not None:
        table['sky_centroid'] = SkyCoord(
            *(_plain(raw[name]) for name in pair), unit='deg')
        used |= set(pair)
    if not used:
        msg = (f"'{path}' has no positions: expected X_IMAGE and Y_IMAGE, or "
               f'ALPHA_J2000 and DELTA_J2000; found '
               f'{", ".join(raw.colnames)}')
        raise ValueError(msg)
    for name, (own, unit) in _COLUMNS.items():
        if name in raw.colnames:
            values = _plain(raw[name])
            table[own] = values if unit is None else values << unit
            used.add(name)
    for name in raw.colnames:
        if name not in used:
            table[name] = raw[name]
    return table


def read_sextractor_images(catalog, *, segmentation, rms,
                           background_subtracted=None, background=None,
                           image=None):
    """
    Read a catalog and the check images of SExtractor.

    Parameters
    ----------
    catalog : str or `~pathlib.Path`
        The catalog, see `read_sextractor_catalog`.

    segmentation : str or `~pathlib.Path`
        The check image ``SEGMENTATION``.

    rms : str or `~pathlib.Path`
        The check image ``BACKGROUND_RMS``.

    background_subtracted : str or `~pathlib.Path`, optional
        The check image ``-BACKGROUND``.

    background : str or `~pathlib.Path`, optional
        The check image ``BACKGROUND``, with ``image`` in place of
        ``background_subtracted``.

    image : str or `~pathlib.Path`, optional
        The image.

    Returns
    -------
    sources : `~hyperphotutils.detection.ExtendedSources`
        The result of `~hyperphotutils.detection.ExtendedSourceFinder`.
        Without ``image`` and ``background``, the background is NaN.

    Raises
    ------
    ValueError
        If a file is missing, has another shape, or the segments are not
        those of the catalog.
    """
    labels = _read_image(segmentation).astype(int)
    deviation = _read_image(rms, labels.shape)
    level = np.full(labels.shape, np.nan)
    if background is not None:
        level = _read_image(background, labels.shape)
    if background_subtracted is not None:
        data = _read_image(background_subtracted, labels.shape)
        if image is not None and background is None:
            level = _read_image(image, labels.shape) - data
    elif image is not None and background is not None:
        data = _read_image(image, labels.shape) - level
    else:
        msg = ('background_subtracted must be given, or image and '
               'background')
        raise ValueError(msg)
    table = read_sextractor_catalog(catalog)
    missing = np.setdiff1d(table['id'], labels)
    if len(missing):
        msg = (f"'{segmentation}' has no segment {missing[0]} ({len(missing)} "
               f"of {len(table)} are missing): it is not that of '{catalog}'")
        raise ValueError(msg)
    return ExtendedSources(table, SegmentationImage(labels), data, level,
                           deviation)


@dataclass(frozen=True)
class SExtractorConfig:
    """
    The keys of a configuration of SExtractor that matter here.

    It is returned by `read_sextractor_config`.

    Parameters
    ----------
    finder : dict
        The arguments of `~hyperphotutils.detection.ExtendedSourceFinder`
        but for ``fwhm``.

    seeing : float
        The full width at half maximum of the PSF in arcseconds
        (``SEEING_FWHM``).

    pixel_scale : float or `None`
        The size of a pixel in arcseconds (``PIXEL_SCALE``); `None` if it
        is that of the WCS.

    gain : float or `None`
        The electrons per count (``GAIN``); `None` for infinite.

    ignored : tuple of str
        The keys that have no effect here.
    """

    finder: dict
    seeing: float
    pixel_scale: float | None
    gain: float | None
    ignored: tuple = field(default=())

    def make_finder(self, pixel_scale=None):
        """
        Make the finder.

        Parameters
        ----------
        pixel_scale : float, optional
            The size of a pixel in arcseconds, for files in which it is 0.

        Returns
        -------
        finder : `~hyperphotutils.detection.ExtendedSourceFinder`
            The finder.

        Raises
        ------
        ValueError
            If the size of a pixel is not known.
        """
        scale = self.pixel_scale or pixel_scale
        if scale is None:
            msg = ('pixel_scale must be given, since PIXEL_SCALE is 0 in the '
                   'configuration')
            raise ValueError(msg)
        return ExtendedSourceFinder(self.seeing / scale, **self.finder)


def read_sextractor_config(path):
    """
    Read a configuration file of SExtractor (``default.sex``).

    Parameters
    ----------
    path : str or `~pathlib.Path`
        The file.

    Returns
    -------
    config : `SExtractorConfig`
        The keys that are used: ``DETECT_THRESH``, ``DETECT_MINAREA``,
        ``DEBLEND_NTHRESH``, ``DEBLEND_MINCONT``, ``BACK_SIZE``,
        ``BACK_FILTERSIZE``, ``GAIN``, ``MAG_ZEROPOINT``,
        ``SATUR_LEVEL``, ``SEEING_FWHM``, and ``PIXEL_SCALE``, with the
        values of SExtractor where they are missing.

    Raises
    ------
    ValueError
        If a line or a value is not understood.

    Warns
    -----
    ~astropy.utils.exceptions.AstropyUserWarning
        One that names all other keys of the file.
    """
    values, ignored = _read_keys(path, _SEX_DEFAULTS)
    if ',' in values['DETECT_THRESH']:
        msg = (f"'{path}': DETECT_THRESH must be one number, in units of the "
               f'rms: {values["DETECT_THRESH"]!r}')
        raise ValueError(msg)

    def number(key):
        return _number(values[key], key, path)

    finder = {'threshold': number('DETECT_THRESH'),
              'n_pixels': int(number('DETECT_MINAREA')),
              'n_levels': int(number('DEBLEND_NTHRESH')),
              'contrast': number('DEBLEND_MINCONT'),
              'bkg_size': int(number('BACK_SIZE')),
              'bkg_filter_size': int(number('BACK_FILTERSIZE')),
              'zero_point': number('MAG_ZEROPOINT'),
              'saturation': number('SATUR_LEVEL')}
    # a contrast of 1 switches deblending off
    finder['deblend'] = finder['contrast'] < 1.0
    # 0 means the scale of the WCS, and an infinite gain
    return SExtractorConfig(finder, number('SEEING_FWHM'),
                            number('PIXEL_SCALE') or None,
                            number('GAIN') or None, ignored)


@dataclass(frozen=True)
class PSFExConfig:
    """
    The keys of a configuration of PSFEx that matter here.

    It is returned by `read_psfex_config`.

    Parameters
    ----------
    selector : dict
        The arguments of `~hyperphotutils.psf.StarSelector`.

    builder : dict
        The arguments of `~hyperphotutils.psf.EmpiricalPSFBuilder`.

    ignored : tuple of str
        The keys that have no effect here.
    """

    selector: dict
    builder: dict
    ignored: tuple = field(default=())

    def make_selector(self, fwhm=None):
        """
        Make the selector of stars.

        Parameters
        ----------
        fwhm : float, optional
            The full width at half maximum of the PSF in pixels.

        Returns
        -------
        selector : `~hyperphotutils.psf.StarSelector`
            The selector.
        """
        return StarSelector(fwhm, **self.selector)

    def make_builder(self):
        """
        Make the builder of the PSF.

        Returns
        -------
        builder : `~hyperphotutils.psf.EmpiricalPSFBuilder`
            The builder.
        """
        return EmpiricalPSFBuilder(**self.builder)


def read_psfex_config(path):
    """
    Read a configuration file of PSFEx (``default.psfex``).

    Parameters
    ----------
    path : str or `~pathlib.Path`
        The file.

    Returns
    -------
    config : `PSFExConfig`
        The keys that are used: ``PSF_SIZE``, ``PSF_SAMPLING``,
        ``PSFVAR_DEGREES``, ``SAMPLE_MINSN``, and ``SAMPLE_MAXELLIP``,
        with the values of PSFEx where they are missing.

    Raises
    ------
    ValueError
        If a line or a value is not understood.

    Warns
    -----
    ~astropy.utils.exceptions.AstropyUserWarning
        One that names all other keys of the file.
    """
    values, ignored = _read_keys(path, _PSFEX_DEFAULTS)
    # Of lists, such as PSF_SIZE 25,25, the first: ours are squares.
    sampling, ellipticity, snr, size, order = (
        _number(values[key].split(',')[0], key, path) for key in (
            'PSF_SAMPLING', 'SAMPLE_MAXELLIP', 'SAMPLE_MINSN', 'PSF_SIZE',
            'PSFVAR_DEGREES'))
    # PSF_SAMPLING is the step of the samples in pixels; 0 is automatic
    oversampling = max(round(1.0 / sampling), 1) if sampling else 1
    # PSF_SIZE counts samples, not pixels; ours has to be odd
    half = int(size / oversampling) // 2
    return PSFExConfig(
        {'min_snr': snr, 'max_ellipticity': ellipticity},
        {'size': 2 * max(half, 4) + 1, 'oversampling': oversampling,
         'order': int(order)}, ignored)


def _read_fits(path):
    with (refuse_damaged_file(path, 'its table cannot be read'),
          fits.open(path) as hdus):
        tables = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU)]
        # FITS_LDAC begins with a table of the headers of the image
        objects = [hdu for hdu in tables if hdu.name == 'LDAC_OBJECTS']
        chosen = (objects or [hdu for hdu in tables
                              if hdu.name != 'LDAC_IMHEAD'])[:1]
        if not chosen:
            msg = f"'{path}' has no table of sources"
            raise ValueError(msg)
        if len(objects) > 1:
            msg = (f"'{path}' has {len(objects)} tables of sources, one for "
                   'each extension of the image: only one is read at a time')
            raise ValueError(msg)
        data = chosen[0].data
        return Table({name: np.array(data[name]).astype(
            data[name].dtype.newbyteorder('='))
            for name in chosen[0].columns.names})


def _read_ascii(path):
    try:
        return ascii_tables.read(path, format='sextractor')
    except (ascii_tables.InconsistentTableError, UnicodeDecodeError,
            ValueError) as exc:
        msg = (f"'{path}' is not a catalog of SExtractor: expected FITS_LDAC, "
               f'FITS_1.0, or ASCII_HEAD ({exc})')
        raise ValueError(msg) from exc


def _plain(column):
    """
    Return a column without unit and mask.
    """
    column = getattr(column, 'value', column)
    return np.asarray(np.ma.filled(column, np.nan)
                      if np.ma.isMaskedArray(column) else column)


def _read_image(path, shape=None):
    with (refuse_damaged_file(path, 'its image cannot be read'),
          fits.open(path) as hdus):
        image = next((np.array(hdu.data) for hdu in hdus
                      if hdu.is_image and hdu.data is not None), None)
    if image is None or image.ndim != 2:
        msg = f"'{path}' has no 2D image"
        raise ValueError(msg)
    if shape is not None and image.shape != shape:
        msg = (f"'{path}' must have the shape of the segmentation, {shape}: "
               f'got {image.shape}')
        raise ValueError(msg)
    return image.astype(image.dtype.newbyteorder('='))


def _read_keys(path, defaults):
    """
    Read the keys of a file, and warn once of those without effect.
    """
    values, ignored = dict(defaults), []
    # comments of old files are often in Latin-1
    for line in Path(path).read_text(encoding='utf-8',
                                     errors='replace').splitlines():
        text = line.partition('#')[0].strip()
        if not text:
            continue
        key, _, value = text.replace('\t', ' ').partition(' ')
        if not value.strip():
            msg = f"'{path}': no value in the line {line.strip()!r}"
            raise ValueError(msg)
        if key in defaults:
            values[key] = value.strip()
        else:
            ignored.append(key)
    if ignored:
        warnings.warn(f"'{path}': keys without effect here: "
                      f'{", ".join(ignored)}', AstropyUserWarning,
                      stacklevel=3)
    return values, tuple(ignored)


def _number(text, key, path):
    try:
        return float(text)
    except ValueError:
        msg = f"'{path}': {key} must be a number: {text!r}"
        raise ValueError(msg) from None

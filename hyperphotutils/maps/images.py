# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Selection of the image in a FITS file, an HDU list, or an HDU.
"""

from __future__ import annotations

import lzma
import os
import re
import stat
import struct
import tempfile
import warnings
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, field
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from astropy.io import fits
from astropy.io.fits.verify import VerifyWarning
from astropy.table import Table
from astropy.utils.exceptions import AstropyUserWarning
from numpy.typing import DTypeLike

from hyperphotutils.maps.errors import MapError
from hyperphotutils.maps.structure import check_structure
from hyperphotutils.utils.stored import (
    FULL,
    StoredImage,
    explain_full,
    row_blocks,
)

if TYPE_CHECKING:
    from hyperphotutils.utils.typing import HDU, FilePath

__all__ = ['ErrorPlane', 'FitsImage', 'load_image']

# Names of the map itself in a file with several images.
_IMAGE_NAMES = ('IMAGE', 'SCI', 'SIGNAL', 'FLUX', 'DATA')

# Names of errors, in order of preference, and of variances. They may be
# followed by MAP, and by a number that the image has, too.
_ERROR_NAMES = ('ERR', 'ERROR', 'ERRORS', 'STDDEV', 'STDEV', 'STD', 'SIGMA',
                'RMS', 'UNCERT', 'UNCERTAINTY', 'UNC')
_VARIANCE_NAMES = ('VAR', 'VARIANCE')

# The values of UTYPE by which CCDData states the kind of its uncertainty, and
# astropy's short names of these; the power of the standard deviation that it
# is. Others, such as those of the Virtual Observatory, state no kind.
_ERROR_KINDS = {'stddevuncertainty': 1, 'std': 1, 'varianceuncertainty': 2,
                'var': 2, 'inversevariance': -2, 'ivar': -2}

# Names of masks and of bit flags of the pixels.
_QUALITY_NAMES = ('MASK', 'DQ', 'FLAG', 'FLAGS', 'QUALITY')

# The values of bad pixels with which masks are written, of any data type.
_MASK_VALUES = (1, 255)

# Words in the names of masks that do not mark bad pixels.
_SOURCE_WORDS = ('SOURCE', 'SOURCES', 'OBJECT', 'OBJECTS')

# Words in the names of images that are never the map of a file with several
# images, such as SCI_ERR and VAR_POISSON.
_AUXILIARY_NAMES = {
    *_ERROR_NAMES, *_VARIANCE_NAMES, 'NOISE', 'IVAR', 'INVVAR', 'WEIGHT',
    'WEIGHTS', 'WHT', 'WGT', 'WT', 'COVERAGE', 'COV', 'COVARIANCE',
    'EXPOSURE', 'EXP', 'EXPTIME', 'HITS', 'NHITS', 'MASK', 'MASKS', 'FLAG',
    'FLAGS', 'DQ', 'QUALITY', 'BKG', 'BACKGROUND', 'BACKGROUNDS', 'CON',
    'CONTEXT', 'SNR'}

# Keywords that an extension may inherit from the primary header.
_INHERITED = ('BUNIT', 'BMAJ', 'BMIN', 'BPA', 'RESTFRQ', 'RESTFREQ',
              'OBJECT', 'HISTORY')

# Errors that astropy raises for a damaged or truncated file, compressed or
# not: it does not validate what it reads.
_DAMAGED = (OSError, EOFError, TypeError, ValueError, LookupError,
            AttributeError, ArithmeticError, AssertionError, MemoryError,
            RuntimeError, fits.VerifyError, zlib.error, lzma.LZMAError,
            struct.error)

# The number of bytes, and their values, by which a text is recognized.
_START = 512
_TEXT = re.compile(rb'[\t\n\f\r -~\x80-\xff]*')

# Warnings of astropy about headers that it can repair.
_REPAIRED = ('.*may have been truncated', 'non-ASCII characters are present',
             'Header block contains null bytes',
             'The following header keyword is invalid',
             'Unexpected extra padding', 'Unexpected bytes trailing END',
             'Error validating header',
             '.*Missing padding', 'Invalid keyword',
             'An exception occurred matching an HDU header',
             'The HDU will be treated as corrupted')


@dataclass(frozen=True)
class FitsImage:
    """
    Class for an image as stored in a file.

    Parameters
    ----------
    data : `~numpy.ndarray` or `~hyperphotutils.utils.StoredImage`
        The values, with all axes of the file; in a file of their own, only
        the last two axes.

    header : `~astropy.io.fits.Header`
        The header, with the keywords that an extension inherits from
        the primary header.

    filename : str or `None`
        The name of the file, if it comes from one.

    extension : str
        The number and the name of the extension.

    beams_table : `~astropy.table.Table` or `None`
        CASA's table of the beams of the planes.

    error : `ErrorPlane` or `None`
        The errors of the values, if the file has them.

    masks : dict
        The masks of the pixels by extension, if they were asked for:
        `True` for bad pixels; `None` for bit flags, of which some may
        mark good pixels; and a message for a mask that belongs, by its
        name or version, to no image in the file.

    Examples
    --------
    >>> import numpy as np
    >>> from astropy.io import fits
    >>> from hyperphotutils.maps import load_image
    >>> image = load_image(fits.PrimaryHDU(np.ones((3, 4))))
    >>> print(image.data.shape, image.extension)
    (3, 4) 0 (PRIMARY)
    """

    data: np.ndarray
    header: fits.Header
    filename: str | None
    extension: str
    beams_table: Table | None = None
    error: ErrorPlane | None = None
    masks: dict = field(default_factory=dict)


@dataclass(frozen=True)
class ErrorPlane:
    """
    Class for the errors of an image, as stored in a file.

    Parameters
    ----------
    data : `~numpy.ndarray`
        The standard deviations, variances, or inverse variances, as
        float64.

    header : `~astropy.io.fits.Header`
        The header.

    extension : str
        The number and the name of the extension.

    power : int
        The power of the standard deviations that ``data`` are: 1, 2
        (variances), or -2 (inverse variances).
    """

    data: np.ndarray
    header: fits.Header
    extension: str
    power: int


def load_image(path_or_hdu: FilePath | fits.HDUList | HDU, *,
               ext: int | str | tuple | None = None,
               error_extension: int | str | tuple | Literal[False]
                   | None = False, masks: bool = False,
               dtype: DTypeLike = float,
               file: FilePath | None = None) -> FitsImage:
    """
    Load an image from a file or from an open HDU.

    Parameters
    ----------
    path_or_hdu : str, path-like, `~astropy.io.fits.HDUList` or HDU
        The FITS file, or an opened one.

    ext : int, str or tuple, optional
        The extension: its number, its name, or its name and version. If
        `None`, the only image, else the one named IMAGE, SCI, SIGNAL,
        FLUX or DATA, else the primary one. If several images
        remain, the first is used, with a warning. Images of errors,
        weights, coverage, exposure, masks, flags and backgrounds are
        never used. Ignored if an HDU is given.

    error_extension : int, str, tuple, `None`, or `False`, optional
        The extension with the errors of the values, `None` to recognize
        it by its name, such as ERR, ERROR, STDDEV, RMS, UNCERT or VAR,
        or `False` (the default) for none.

    masks : bool, optional
        Whether extensions with a mask of the pixels (MASK) or with bit
        flags (DQ, FLAGS, QUALITY) are loaded, too. The default is
        `False`.

    dtype : dtype, optional
        The type of the values.

    file : path-like, optional
        A new file for the values, which then are a
        `~hyperphotutils.utils.StoredImage`, unless an axis other than
        the last two has more than one pixel: use it for images that are
        too large for the memory.

    Returns
    -------
    image : `~hyperphotutils.maps.FitsImage`
        The image.

    Raises
    ------
    TypeError
        If ``path_or_hdu`` is none of these types.

    MapError
        If the file does not exist, is not a valid FITS file, or has no
        image with at least two axes. The message does not name the
        file.

    Examples
    --------
    >>> import numpy as np
    >>> from astropy.io import fits
    >>> from hyperphotutils.maps import load_image
    >>> hdus = fits.HDUList([fits.PrimaryHDU(),
    ...                      fits.ImageHDU(np.ones((3, 4)), name='error'),
    ...                      fits.ImageHDU(np.ones((3, 4)), name='image')])
    >>> print(load_image(hdus).extension)
    2 (IMAGE)
    """
    with find_image(path_or_hdu, ext=ext, error_extension=error_extension,
                    masks=masks) as (hdu, about):
        if masks:
            about['masks'] = {extension: found if isinstance(found, str)
                              else _load_mask(found)
                              for extension, found in about['masks'].items()}
        return FitsImage(data=load_values(hdu, dtype=dtype, file=file),
                         **about)


@contextmanager
def find_image(path_or_hdu, *, ext=None, error_extension=False,
               masks=False):
    """
    Find an image without loading its values; the arguments are those of
    `load_image`.

    This is a context manager that returns the HDU of the image, and a
    dictionary with the arguments of `FitsImage` other than the values:
    ``error`` and ``masks`` are missing if their arguments are `False`, and
    ``masks`` has HDUs instead of values.
    """
    for keyword, value in (('ext', ext), ('error_extension',
                                          error_extension or None)):
        pair = value if isinstance(value, tuple) else (value, 1)
        if value is not None and not (
                len(pair) == 2 and isinstance(pair[0], str | Integral)
                and isinstance(pair[1], Integral)
                and not isinstance(pair[0], bool)):
            msg = (f'{keyword} must be the number or the name of an '
                   'extension, or a tuple of its name and version: got '
                   f'{value!r}')
            raise TypeError(msg)
    with ignore_repaired():
        if isinstance(path_or_hdu, str | PathLike):
            # (Path.expanduser raises an error for an unknown user)
            path = Path(os.path.expanduser(path_or_hdu))  # noqa: PTH111
            with _open(path) as (hdus, n_whole):
                yield _describe(hdus, ext, str(path_or_hdu),
                                error_extension, masks, n_whole)
        elif isinstance(path_or_hdu, fits.HDUList):
            yield _describe(path_or_hdu, ext, path_or_hdu.filename(),
                            error_extension, masks)
        elif hasattr(path_or_hdu, 'header') and hasattr(path_or_hdu, 'data'):
            place = path_or_hdu.fileinfo() or {}
            yield _describe([path_or_hdu], 0,
                            getattr(place.get('file'), 'name', None),
                            error_extension, masks)
        else:
            msg = ('path_or_hdu must be the name of a FITS file, an HDUList '
                   f'or an HDU: got {type(path_or_hdu).__name__}')
            raise TypeError(msg)


def load_values(hdu, *, dtype=None, file=None):
    """
    Return all values of the image in an HDU, in a new file if it is given.
    """
    what = (f'the data of the extension {hdu.name or "unnamed"} are not '
            'whole')
    with refuse_damage(what), np.errstate(all='ignore'):
        if file is None or any(n != 1 for n in hdu.shape[:-2]):
            return np.array(hdu.data, dtype=dtype)
        # an HDU that is not in a file has no sections
        values = hdu.section if hdu.fileinfo() else hdu.data
    image = StoredImage.create(file, hdu.shape[-2:], dtype)
    plane = (0,) * (len(hdu.shape) - 2)
    for rows in row_blocks(image.shape):
        with refuse_damage(what), np.errstate(all='ignore'):
            part = np.asarray(values[*plane, rows], dtype=dtype)
        # errors of writing say nothing about the file that is read
        image[rows] = part
    return image


@contextmanager
def ignore_repaired():
    """
    Ignore warnings about headers that astropy can repair.

    Truncation matters only if data are missing, which is detected when
    they are read; a file without padding at its end is complete.
    """
    with warnings.catch_warnings():
        for message in _REPAIRED:
            warnings.filterwarnings('ignore', message, AstropyUserWarning)
        warnings.simplefilter('ignore', VerifyWarning)
        yield


@contextmanager
def refuse_damage(what, path=None):
    """
    Raise a `MapError` instead of the errors of astropy and h5py for a damaged
    file.

    The message begins with the ``path``, if it is given; errors of values
    that name it are raised as they are.
    """
    try:
        yield
    except (MapError, PermissionError, FileNotFoundError, IsADirectoryError):
        raise
    except Exception as error:
        # the error for damaged tiles has no public name; astropy extracts
        # zipped files to the temporary folder, which may be full
        if getattr(error, 'errno', None) in FULL or not (
                isinstance(error, _DAMAGED)
                or type(error).__name__ == 'CfitsioException'):
            raise
        if type(error) is ValueError and path and str(path) in str(error):
            raise
        name = f"'{path}' " if path else ''
        msg = f'{name}is truncated or damaged: {what}; make or fetch it again'
        raise MapError(msg) from None


@contextmanager
def refuse_damaged_file(path, what):
    """
    Raise a `MapError` that names the file if it is damaged, without warnings
    about it; for readers of other files than images.
    """
    with ignore_repaired(), refuse_damage(what, path):
        yield


@contextmanager
def _open(path):
    """
    Open a FITS file; yield its HDUs and the number of complete ones.
    """
    what = 'its headers cannot be read'
    try:
        # check that a path is a file, not a folder, pipe, or device
        try:
            mode = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError, ValueError):
            msg = 'no such file'
            raise MapError(msg) from None
        if not stat.S_ISREG(mode):
            kind = 'a folder' if stat.S_ISDIR(mode) else 'a device or pipe'
            msg = f'is {kind}: give the FITS file'
            raise MapError(msg)
        with path.open('rb') as file:
            start = file.read(_START)
        if not start.startswith(b'SIMPLE'):
            # FITS headers have no line feeds
            if b'\n' in start and _TEXT.fullmatch(start):
                msg = ('is a text file, not a FITS file: give the FITS file '
                       'of the map')
                raise MapError(msg)
            if start.startswith(b'\x89HDF'):
                msg = 'is an HDF5 file, not a FITS file: give the FITS image'
                raise MapError(msg)
            what += ', or it is not a FITS file'
        with refuse_damage(what):
            n_hdus, n_whole = check_structure(path)
            # no memory mapping: the data are converted anyway
            file = fits.open(path, memmap=False)
    except OSError as error:
        reason = explain_full(error, tempfile.gettempdir())
        msg = f'cannot be read: {reason or error}'
        raise MapError(msg) from None
    except ImportError as error:
        # some kinds of compression need optional packages
        msg = f'cannot be read: {error}; decompress it'
        raise MapError(msg) from None
    with file:
        with refuse_damage(what):
            # astropy itself searches for more HDUs, endlessly in some files
            hdus = file if n_hdus is None else fits.HDUList(
                [file[number] for number in range(n_hdus)])
            if any(type(hdu).__name__ == '_CorruptedHDU' for hdu in hdus):
                raise ValueError
        yield hdus, n_whole


def _check_whole(number, extension, n_whole):
    """
    Check that a file is not truncated before the values of an extension.
    """
    if n_whole is not None and number >= n_whole:
        msg = ('is truncated or damaged: the file ends before the values of '
               f'the extension {extension}, which its header declares by '
               'NAXIS; make or fetch it again')
        raise MapError(msg)


def _describe(hdus, ext, filename, error_extension, masks, n_whole=None):
    """
    Return the selected image of an HDU list and its `FitsImage` arguments.
    """
    with refuse_damage('its headers cannot be read'):
        number = _choose(hdus) if ext is None else _find(hdus, ext)
        hdu = hdus[number]
        extension = _label(hdu, number)
        if not _is_image(hdu):
            kind = 'a table' if 'TFIELDS' in hdu.header else 'empty'
            msg = f'extension {extension} is {kind}: a map is an image'
            raise MapError(msg)
        _check_axes(hdu)
        header, primary = hdu.header.copy(), hdus[0].header
        # nothing is inherited from a primary HDU with data (FITS standard
        # 4.0, section 4.4.2.6)
        if not (hdus[0] is hdu or _is_image(hdus[0])) and header.get(
                'INHERIT', True):
            header.extend([card for card in primary.cards
                           if card.keyword in _INHERITED
                           and card.keyword not in header])
        table = None
        if header.get('CASAMBM', False):
            table = next((other for other in hdus
                          if other.name.upper() == 'BEAMS'
                          and 'TFIELDS' in other.header), None)
        if table is not None:
            with refuse_damage('its BEAMS table is not whole'):
                table = Table.read(table)
        about = {'header': header, 'filename': filename,
                 'extension': extension, 'beams_table': table}
        _check_whole(number, extension, n_whole)
        if error_extension is not False:
            about['error'] = _load_error(hdus, number, error_extension,
                                         n_whole)
        if masks:
            about['masks'] = _find_masks(hdus, number, n_whole)
    return hdu, about


def _label(hdu, number):
    return f'{number} ({hdu.name or "unnamed"})'


def _is_image(hdu):
    return hdu.is_image and len(hdu.shape) > 0


def _choose(hdus):
    """
    Return the number of the map among the images of a file.
    """
    images = [number for number, hdu in enumerate(hdus)
              if _is_image(hdu) and len(hdu.shape) > 1]
    if not images:
        flat = [hdu for hdu in hdus if _is_image(hdu)]
        if flat:
            _check_axes(flat[0])
        msg = f'has no image: it holds {_contents(hdus)}'
        raise MapError(msg)
    if len(images) > 1:
        images = [number for number in images
                  if not _is_auxiliary(hdus[number])]
    if not images:
        msg = ('has no map among its images, by their names: it holds '
               f'{_contents(hdus)}; give ext= for one of them')
        raise MapError(msg)
    for name in _IMAGE_NAMES:
        for number in images:
            if hdus[number].name.upper() == name:
                return number
    if len(images) > 1 and images[0] != 0:
        msg = (f'several images: {_contents(hdus)}; taking extension '
               f'{images[0]}, give ext= for another')
        warnings.warn(msg, AstropyUserWarning, stacklevel=7)
    return images[0]


def _find(hdus, ext, *, keyword='ext'):
    """
    Return the number of the extension that an argument selects.
    """
    if not isinstance(hdus, fits.HDUList):
        hdus = fits.HDUList(hdus)
    try:
        number = hdus.index_of(ext)
        if number >= 0:
            hdus[number]
            return number
    except (KeyError, IndexError):
        pass
    msg = f'has no extension {keyword}={ext!r}: it holds {_contents(hdus)}'
    raise MapError(msg)


def _contents(hdus):
    kinds = []
    for number, hdu in enumerate(hdus):
        shape = 'x'.join(str(n) for n in hdu.shape) if _is_image(hdu) else (
            'table' if 'TFIELDS' in hdu.header else 'no data')
        kinds.append(f'{number} {hdu.name} ({shape})')
    return ', '.join(kinds)


def _check_axes(hdu):
    if len(hdu.shape) < 2:
        msg = (f'NAXIS = 1: {hdu.shape[0]} values in a row are a spectrum '
               'or a profile, not a map')
        raise MapError(msg)


def _load_error(hdus, number, error_extension, n_whole):
    """
    Load the errors of the image with a number, or return `None`.
    """
    if error_extension is not None:
        found = _find(hdus, error_extension, keyword='error_extension')
    elif _is_auxiliary(hdus[number]):
        return None
    else:
        wanted = {(name, _stem(hdus[number])[1], hdus[number].ver)
                  for name in _ERROR_NAMES + _VARIANCE_NAMES}
        named = {_stem(hdu)[0]: other
                 for other, hdu in reversed(list(enumerate(hdus)))
                 if _is_image(hdu) and (*_stem(hdu), hdu.ver) in wanted}
        # errors before variances
        found = next((named[name] for name in _ERROR_NAMES + _VARIANCE_NAMES
                      if name in named), None)
    if found is None:
        return None
    if found == number:
        msg = (f'error_extension={error_extension!r} is the map itself: '
               'give another, or False for none')
        raise MapError(msg)
    hdu = hdus[found]
    extension = _label(hdu, found)
    if not _is_image(hdu):
        msg = (f'error_extension={error_extension!r} is not an image: it has '
               f'{_contents(hdus)}')
        raise MapError(msg)
    _check_whole(found, extension, n_whole)
    # CCDData states the kind of the errors, else it is that of the name
    stated = str(hdu.header.get('UTYPE', '')).strip().lower()
    power = _ERROR_KINDS.get(
        stated, 2 if _stem(hdu)[0] in _VARIANCE_NAMES else 1)
    return ErrorPlane(load_values(hdu, dtype=float), hdu.header.copy(),
                      extension, power)


def _find_masks(hdus, number, n_whole):
    """
    Return the masks and bit flags of the image with a number by extension:
    their HDUs, or messages about masks that belong to no image in the file.
    """
    image = hdus[number]
    if _is_auxiliary(image):
        return {}
    images = [hdu for hdu in hdus if _is_image(hdu) and not _is_auxiliary(hdu)]
    masks = {}
    for other, hdu in enumerate(hdus):
        if not _is_image(hdu) or hdu is image:
            continue
        extension = _label(hdu, other)
        if _is_quality_of(hdu, image):
            _check_whole(other, extension, n_whole)
            masks[extension] = hdu
        elif (_may_be_mask_of(hdu, image)
                and not any(_is_quality_of(hdu, one) for one in images)):
            masks[extension] = _explain_unpaired(hdu, image,
                                                 _label(image, number))
    return masks


def _is_quality_of(hdu, image):
    """
    Whether an HDU has the mask or the bit flags of an image: it is named
    MASK, with the number of the image, or has the name of the image, too,
    such as SCI_MASK; and their versions agree.
    """
    return hdu.ver == image.ver and _is_named_as_quality_of(hdu, image)


def _is_named_as_quality_of(hdu, image):
    name, number = _stem(hdu)
    words = sorted(_words(hdu))
    return (name in _QUALITY_NAMES and number == _stem(image)[1]) or any(
        words == sorted([*_words(image), name]) for name in _QUALITY_NAMES)


def _may_be_mask_of(hdu, image):
    """
    Whether an HDU is a mask of bad pixels, by its name, that has as many
    pixels as an image or as its planes.
    """
    shape = tuple(n for n in hdu.shape if n > 1)
    lengths = [tuple(n for n in axes if n > 1)
               for axes in (image.shape, image.shape[-2:])]
    # MASKED is a map without the masked pixels
    return bool(re.search('MASK(?!ED)', hdu.name.upper())) and (
        shape in lengths and set(_SOURCE_WORDS).isdisjoint(_words(hdu)))


def _explain_unpaired(hdu, image, extension):
    """
    Return the message about a mask whose name or version is that of no image
    in the file.
    """
    changes = []
    if not _is_named_as_quality_of(hdu, image):
        number = _stem(image)[1]
        changes.append(f"EXTNAME = '{'MASK_' if number else 'MASK'}{number}'")
    if hdu.ver != image.ver:
        changes.append(f'EXTVER = {image.ver}')
    return ('is not that of the image by its EXTNAME or EXTVER: if it masks '
            f'extension {extension}, set its {" and ".join(changes)}')


def _load_mask(hdu):
    """
    Return the mask in an HDU, or `None` if it has bit flags.
    """
    values = load_values(hdu)
    return values != 0 if is_mask(hdu, [values]) else None


def is_mask(hdu, parts):
    """
    Whether the values of an HDU, in any number of parts, are a mask: all are
    0, which is good in masks and bit flags, or one of the values with which
    masks are written. Any other value, even if it is the only one, may be
    that of a flag, such as that of the pixels of sources.
    """
    mark = None
    named = 'MASK' in _words(hdu)
    for values in parts:
        marks = values[values != 0]
        if marks.size == 0:
            continue
        if mark is None:
            mark = marks[0]
        if not named or mark not in _MASK_VALUES or (marks != mark).any():
            return False
    return True


def _stem(hdu):
    """
    Return the name of an HDU without MAP and a number, and the number.
    """
    name, number = re.fullmatch(r'(.*?)[ _-]*(\d*)\s*',
                                hdu.name.upper()).groups()
    return re.sub(r'[ _-]*MAP$', '', name), number


def _words(hdu):
    """
    Return the words and numbers in the name of an HDU, without MAP.
    """
    words = re.findall('[A-Z]+|[0-9]+', hdu.name.upper())
    words = [re.sub('MAPS?$', '', word) for word in words]
    return [word for word in words if word]


def _is_auxiliary(hdu):
    """
    Whether the name of an HDU marks errors, weights, or similar images.
    """
    words = {re.sub('MAPS?$', '', word)
             for word in re.findall('[A-Z]+', hdu.name.upper())}
    if any(word.startswith('SUB') for word in words):
        # background-subtracted maps are science images
        words -= {'BKG', 'BACKGROUND'}
    return not words.isdisjoint(_AUXILIARY_NAMES)

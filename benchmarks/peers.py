# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Run Hyper-py as its users do and read its catalog.

Hyper-py (``hyper-py-photometry`` on the package index) runs by its own
command line in an environment of its own, with its own default
configuration except for the paths, the detection threshold, and
``parallel_maps: false``.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

import astropy.units as u
import yaml
from astropy.coordinates import SkyCoord
from astropy.table import Table

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = HERE / '.environments'


class NotRunError(Exception):
    """
    A program could not be installed, failed, or took too long.
    """


def environment(name, folder=ENVIRONMENTS):
    """
    Find the Python of the environment of a program, or make it.

    Parameters
    ----------
    name : str
        The program: its environment has what ``requirements-NAME.txt``
        lists.

    folder : `~pathlib.Path`, optional
        The folder of the environments.

    Returns
    -------
    python : `~pathlib.Path`
        The interpreter. Links are not followed: the folder in which it
        lies tells Python the environment.
    """
    scripts = 'Scripts' if os.name == 'nt' else 'bin'
    python = folder.absolute() / name / scripts / 'python'
    if not python.exists():
        print(f'making the environment of {name} in {folder}',
              file=sys.stderr)
        venv.create(folder / name, with_pip=True)
        made = subprocess.run(
            [python, '-m', 'pip', 'install', '--quiet', '-r',
             HERE / f'requirements-{name}.txt'],
            capture_output=True, text=True, check=False)
        if made.returncode:
            shutil.rmtree(folder / name)
            last = made.stderr.strip().splitlines()[-1:]
            msg = f'{name} cannot be installed: {" ".join(last)}'
            raise NotRunError(msg)
    return python


def hyper_py_python(python=None):
    """
    Find the Python that has Hyper-py, or make an environment for it.

    Parameters
    ----------
    python : str, optional
        The interpreter; if `None`, that of `environment`.

    Returns
    -------
    python : `~pathlib.Path`
        The interpreter.
    """
    if python is not None:
        return Path(python).absolute()
    return environment('hyper-py')


def run_hyper_py(python, path, image, n_sigma=4.0):
    """
    Run Hyper-py on a map.

    Parameters
    ----------
    python : `~pathlib.Path`
        The interpreter of its environment.

    path : path-like
        The map.

    image : `~astropy.nddata.CCDData`
        The same map as `~hyperphotutils.maps.read_map` reads it.

    n_sigma : float, optional
        The detection threshold.

    Returns
    -------
    table : `~astropy.table.Table`
        Its catalog with our column names in Jy, Jy/pixel and pixels,
        without units.

    seconds : float
        The time of the whole process.
    """
    with tempfile.TemporaryDirectory() as folder:
        config = write_hyper_config(python, folder, path, n_sigma=n_sigma)
        seconds = call_hyper_py(python, config)
        catalog = hyper_catalog_file(folder, path)
        return read_hyper_catalog(catalog, image), seconds


def call_hyper_py(python, config):
    """
    Run Hyper-py with a configuration and time the whole process.
    """
    start = time.perf_counter()
    subprocess.run([python.parent / 'hyper_py', config], check=True,
                   capture_output=True)
    return time.perf_counter() - start


def hyper_catalog_file(folder, path):
    """
    Name the catalog of a map in the folder of its configuration.
    """
    return Path(folder, 'output', 'params', f'params_{Path(path).stem}.csv')


def read_hyper_catalog(path, image):
    """
    Read a catalog with Hyper's columns, of whatever program.

    Hyper-py writes an IPAC table, whose positions have five decimals of
    a degree, and a CSV with all digits.
    """
    suffix = Path(path).suffix
    table = Table.read(path, format='ascii.ecsv' if suffix == '.csv'
                       else 'ascii.ipac')
    beam = image.meta['beam_area_pix'] * u.pix
    peak = u.Quantity(table['FLUX_PEAK'])
    if u.beam in peak.unit.bases:
        peak = peak * u.beam / beam
    # its positions are equatorial, in whatever frame the map is
    x, y = image.wcs.celestial.world_to_pixel(SkyCoord(
        *(u.Quantity(table[name]).value * u.deg for name in ('RA', 'DEC')),
        frame='fk5'))
    return Table({
        'x_fit': x, 'y_fit': y,
        'amplitude_fit': peak.to_value(u.Jy / u.pix),
        # its CSV has one-element arrays here
        'flux_fit': u.Quantity(table['FLUX']).to_value(u.Jy).ravel(),
        'flux_err': u.Quantity(table['FLUX_ERR']).to_value(u.Jy)})


def hyper_py_versions(python):
    """
    Look up the versions of Hyper-py and photutils in an environment.
    """
    return _ask(python, 'from importlib.metadata import version; '
                'answer = [version("hyper-py-photometry"), '
                'version("photutils")]')


def write_hyper_config(python, folder, path, *, n_sigma=None,
                       products=False):
    """
    Write Hyper-py's default configuration with our paths into it.

    Parameters
    ----------
    python : `~pathlib.Path`
        The interpreter of its environment.

    folder : path-like
        Where the configuration and, later, the products are written.

    path : path-like
        The map.

    n_sigma : float or `None`, optional
        The detection threshold; `None` for that of the configuration.

    products : bool, optional
        Whether it writes FITS files of groups, sources and backgrounds.

    Returns
    -------
    written : `~pathlib.Path`
        The configuration.
    """
    folder, path = Path(folder), Path(path).resolve()
    site = _ask(python, 'import sysconfig; '
                'answer = sysconfig.get_path("purelib")')
    default = Path(site, 'hyper_py', 'assets', 'default_config.yaml')
    config = yaml.safe_load(default.read_text(encoding='utf-8'))
    maps = folder / 'maps'
    maps.mkdir()
    (maps / path.name).symlink_to(path)
    (maps / 'maps_list.txt').write_text(f'{path.name}\n', encoding='utf-8')
    config['paths']['input']['dir_maps'] = str(maps)
    config['paths']['output']['dir_root'] = str(folder / 'output')
    config['control']['parallel_maps'] = False
    if n_sigma is not None:
        config['detection']['sigma_thres'] = n_sigma
    config['fits_output'].update(dict.fromkeys(
        ('fits_fitting', 'fits_deblended', 'fits_bg_separate'), products))
    written = folder / 'config.yaml'
    written.write_text(yaml.safe_dump(config), encoding='utf-8')
    return written


def _ask(python, code):
    """
    Run code that sets ``answer`` with another interpreter.
    """
    code += '; import json; print(json.dumps(answer))'
    return json.loads(subprocess.run(
        [python, '-c', code], check=True, capture_output=True,
        text=True).stdout)

# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Subtract one pair of images with another program.

It is called by ``subtraction.py`` with the Python of an environment that has
the program, and needs nothing of hyperphotutils::

    python subtraction_peers.py sfft pair.npz difference.npz

The file of the pair has ``science``, ``template``, ``bad`` (unusable pixels
of either image), ``saturated``, and ``convolve``. The programs get images
without the median of the sky, with bad pixels set to it; they have no masks,
and saturated stars are left out of the fit as their documentation advises.
"""

import sys
import tempfile
import time

import numpy as np
from scipy.ndimage import binary_dilation


def run_sfft(science, template, ignored, convolve):
    """
    Subtract with SFFT, on the CPU.
    """
    from astropy.io import fits
    from sfft.CustomizedPacket import Customized_Packet
    with tempfile.TemporaryDirectory() as folder:
        names = {}
        for name, image in (('s', science), ('t', template)):
            for kind, values in (('', image),
                                 ('m', np.where(ignored, 0.0, image))):
                names[kind + name] = f'{folder}/{kind}{name}.fits'
                fits.writeto(names[kind + name], values.astype('f4'))
        _, difference = Customized_Packet.CP(
            names['t'], names['s'], names['mt'], names['ms'],
            'REF' if convolve == 'template' else 'SCI', 10, KerPolyOrder=2,
            BGPolyOrder=2, BACKEND_4SUBTRACT='Numpy',
            NUM_CPU_THREADS_4SUBTRACT=1, VERBOSE_LEVEL=0)
    return difference.T


def run_ois(science, template, ignored, _):
    """
    Subtract with ois: one kernel of delta functions, as its kernels that
    vary take minutes.
    """
    import ois
    return np.ma.getdata(ois.optimal_system(
        np.ma.array(science, mask=ignored),
        np.ma.array(template, mask=ignored), kernelshape=(11, 11),
        bkgdegree=2, method='Bramich')[0])


PROGRAMS = {'sfft': run_sfft, 'ois': run_ois}


def main():
    """
    Run the program twice, and time the second run.
    """
    name, pair, output = sys.argv[1:]
    with np.load(pair) as data:
        bad, convolve = data['bad'], str(data['convolve'])
        images = []
        for key in ('science', 'template'):
            image = data[key].astype(float)
            image -= np.median(image[~bad])
            image[bad] = 0.0
            images.append(image)
        ignored = (binary_dilation(bad, iterations=2)
                   | binary_dilation(data['saturated'], iterations=12))
    # numba compiles in the first
    PROGRAMS[name](*images, ignored, convolve)
    begin = time.process_time()
    difference = PROGRAMS[name](*images, ignored, convolve)
    np.savez(output, difference=difference,
             cpu=time.process_time() - begin)


if __name__ == '__main__':
    main()

# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Cholesky factors of the covariance matrices of footprints.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import blas, lapack

__all__ = ['FootprintFactors']

# Functions of BLAS that solve with a triangular matrix or multiply by it: the
# first for many vectors at once, the second for one, at twice the speed.
_SOLVE = blas.dtrsm, blas.dtrsv
_MULTIPLY = blas.dtrmm, blas.dtrmv


class FactorCache:
    """
    Cache of factors of at most ``max_bytes``.

    All groups of a map are fitted in turn, several times. If the oldest
    factors were replaced first, none would be found again on a map with
    more factors than are kept; factors are therefore replaced at random.
    Several threads may use a cache.
    """

    def __init__(self, max_bytes):
        self.max_bytes = max_bytes
        self.n_bytes = 0
        self._factors = {}
        self._keys = []
        self._random = random.Random(0)  # noqa: S311
        self._lock = threading.Lock()

    def __getstate__(self):
        # Factors are quickly made again, and larger than all else that a
        # process is sent.
        return self.max_bytes

    def __setstate__(self, max_bytes):
        self.__init__(max_bytes)

    def __len__(self):
        return len(self._factors)

    def get(self, key, make):
        """
        Return the factor of a key, which must not be changed; ``make()``
        returns it where none is kept.
        """
        factor = self._factors.get(key)
        if factor is not None:
            return factor
        factor = make()
        if factor.nbytes > self.max_bytes:
            return factor
        with self._lock:
            kept = self._factors.get(key)
            if kept is not None:
                return kept
            while self.n_bytes + factor.nbytes > self.max_bytes:
                chosen = self._random.randrange(len(self._keys))
                self._keys[chosen], self._keys[-1] = (self._keys[-1],
                                                      self._keys[chosen])
                self.n_bytes -= self._factors.pop(self._keys.pop()).nbytes
            self._factors[key] = factor
            self._keys.append(key)
            self.n_bytes += factor.nbytes
        return factor


class FootprintFactors:
    r"""
    The factors of the covariance matrices of ``g`` footprints.

    With the lower triangular factors :math:`L` of the covariance
    matrices :math:`C = L L^T` of the pixels, :math:`L^{-1}` makes their
    noise white.

    Parameters
    ----------
    factors : list of 2D `~numpy.ndarray`
        The different factors :math:`L` or their inverses, in Fortran
        order; what is above their diagonals is not used.

    inverted : sequence of bool
        Which of them are inverses: to multiply by one takes half the
        time of solving with a factor, but it must be made first.

    columns : list of slice or 1D int `~numpy.ndarray`
        Which of the ``p`` pixels of a footprint the rows of each factor
        belong to. The others are padding and left as they are.

    which : 1D int `~numpy.ndarray` of shape (g,)
        The index of the factor of each footprint. Footprints that share
        a factor are fastest next to each other.

    See Also
    --------
    hyperphotutils.noise.CorrelatedNoise.factors

    Examples
    --------
    >>> import numpy as np
    >>> from hyperphotutils.noise import CorrelatedNoise
    >>> noise = CorrelatedNoise.from_beam(2.0, fwhm=4.0)
    >>> factors = noise.factors([[3, 4, 5]], [[7, 7, 7]])
    >>> white = factors.whiten(np.eye(3)[None])[0]
    >>> covariance = noise.covariance([3, 4, 5], [7, 7, 7])
    >>> print(np.allclose(white.T @ covariance @ white, np.eye(3),
    ...                   atol=1e-5))
    True
    """

    def __init__(self, factors: Sequence[np.ndarray],
                 inverted: Sequence[bool] | np.ndarray,
                 columns: Sequence[slice | NDArray[np.integer]],
                 which: NDArray[np.integer]) -> None:
        self._factors = factors
        self._inverted = inverted
        self._columns = columns
        self._which = which

    def __len__(self) -> int:
        return len(self._which)

    @property
    def size(self) -> int:
        """
        The number of elements of all factors.
        """
        return sum(factor.size for factor in self._factors)

    def take(self, index: slice | ArrayLike) -> FootprintFactors:
        """
        Return the factors of some of the footprints.

        Parameters
        ----------
        index : slice or 1D int `~numpy.ndarray`
            The indices of the footprints.

        Returns
        -------
        factors : `FootprintFactors`
            Their factors.
        """
        return FootprintFactors(self._factors, self._inverted,
                                self._columns, self._which[index])

    def whiten(self, rows: np.ndarray) -> np.ndarray:
        r"""
        Return :math:`L^{-1} v` for vectors of pixels.

        Parameters
        ----------
        rows : `~numpy.ndarray` of shape (g, k, p)
            The vectors of each footprint. They are overwritten.

        Returns
        -------
        rows : `~numpy.ndarray` of shape (g, k, p)
            The results.
        """
        return self._apply(rows, _SOLVE, transposed=0)

    def whiten_transposed(self, rows: np.ndarray) -> np.ndarray:
        r"""
        Return :math:`L^{-T} v` for vectors of pixels.

        Of whitened vectors these are the products with :math:`C^{-1}`.

        Parameters
        ----------
        rows : `~numpy.ndarray` of shape (g, k, p)
            The vectors of each footprint. They are overwritten.

        Returns
        -------
        rows : `~numpy.ndarray` of shape (g, k, p)
            The results.
        """
        return self._apply(rows, _SOLVE, transposed=1)

    def correlate(self, rows: np.ndarray) -> np.ndarray:
        r"""
        Return :math:`L^T v` for vectors of pixels, whose scalar products
        are :math:`v^T C v`.

        Parameters
        ----------
        rows : `~numpy.ndarray` of shape (g, k, p)
            The vectors of each footprint. They are overwritten.

        Returns
        -------
        rows : `~numpy.ndarray` of shape (g, k, p)
            The results.
        """
        return self._apply(rows, _MULTIPLY, transposed=1)

    def _apply(self, rows, functions, *, transposed):
        """
        Call a function of BLAS for factors, or that of the others for
        inverses, with each of them and the vectors of all footprints that
        have it.
        """
        rows = np.ascontiguousarray(rows)
        n_pixels = rows.shape[2]
        ends = np.append(np.flatnonzero(np.diff(self._which)) + 1,
                         len(self._which))
        begin = 0
        for end in ends:
            kind = self._which[begin]
            factor = self._factors[kind]
            of_matrix, of_vector = (
                functions if not self._inverted[kind]
                else _MULTIPLY if functions is _SOLVE else _SOLVE)
            block = rows[begin:end].reshape(-1, n_pixels)
            begin = end
            columns = (slice(None) if len(factor) == n_pixels
                       else self._columns[kind])
            if len(block) == 1:
                block[0, columns] = of_vector(
                    factor, block[0, columns], lower=1, trans=transposed)
            elif len(factor) == n_pixels:
                # BLAS works in place on the transpose of a C array.
                of_matrix(1.0, factor, block.T, lower=1, trans_a=transposed,
                          overwrite_b=1)
            else:
                block[:, columns] = of_matrix(
                    1.0, factor, block[:, columns].T, lower=1,
                    trans_a=transposed).T
        return rows


def cholesky(matrix, *, inverse=False):
    """
    Return the lower Cholesky factor, or its inverse, of a matrix in C order,
    which is overwritten; what is to the left of its diagonal is not used.

    The result is in Fortran order, with anything above its diagonal.
    """
    factor, info = lapack.dpotrf(matrix.T, lower=1, clean=0, overwrite_a=1)
    if info != 0:
        msg = ('the covariance matrix of the pixels is not positive definite '
               f'(leading minor {info})')
        raise np.linalg.LinAlgError(msg)
    if inverse:
        factor, _ = lapack.dtrtri(factor, lower=1, overwrite_c=1)
    return factor

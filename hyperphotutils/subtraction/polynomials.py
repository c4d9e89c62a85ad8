# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Polynomials of the position in an image.
"""

import numpy as np
from numpy.polynomial.legendre import leggrid2d, legvander

__all__ = ['polynomial_degrees', 'polynomial_order', 'polynomial_surface',
           'polynomial_terms', 'sample_grid', 'scaled_position']


def polynomial_degrees(order):
    """
    Return the degrees in x and y of the terms of a polynomial, sorted by
    the total one, so that the terms of a lower order are the first.
    """
    return [(total - j, j) for total in range(order + 1)
            for j in range(total + 1)]


def polynomial_order(n_terms):
    """
    Return the order of a polynomial of two variables; the largest whose
    terms are no more than ``n_terms``.
    """
    # there are (order + 1) (order + 2) / 2 terms
    return int(np.sqrt(2.0 * n_terms + 0.25) - 1.5)


def scaled_position(position, size):
    """
    Scale pixel positions to -1 and 1 at the edges of the image.
    """
    return (2.0 * np.asarray(position, dtype=float) - (size - 1)) / size


def polynomial_terms(x, y, order, shape):
    """
    Evaluate products of Legendre polynomials at positions in an image of
    some (ny, nx) shape; the terms are along a new last axis.
    """
    x, y = np.broadcast_arrays(scaled_position(x, shape[1]),
                               scaled_position(y, shape[0]))
    # Legendre polynomials are nearly orthogonal over the field, which keeps
    # the normal equations well conditioned; legvander makes arrays of scalars
    along_x, along_y = (legvander(axis, order).reshape(*axis.shape, -1)
                        for axis in (x, y))
    return np.stack([along_x[..., i] * along_y[..., j]
                     for i, j in polynomial_degrees(order)], axis=-1)


def polynomial_surface(x, y, coefficients, shape):
    """
    Evaluate a polynomial at columns ``x`` and rows ``y``, as a 2D array.
    """
    order = polynomial_order(len(coefficients))
    table = np.zeros((order + 1, order + 1))
    for value, (i, j) in zip(coefficients, polynomial_degrees(order),
                             strict=True):
        table[j, i] = value
    return leggrid2d(scaled_position(y, shape[0]),
                     scaled_position(x, shape[1]), table)


def sample_grid(shape, n_grid=7):
    """
    Return the x and y of positions on a grid that reaches to the edges of
    an image.
    """
    if n_grid == 1:
        return tuple(np.array([0.5 * (size - 1)]) for size in shape[::-1])
    x, y = np.meshgrid(*(np.linspace(0.0, size - 1.0, n_grid)
                         for size in shape[::-1]))
    return x.ravel(), y.ravel()

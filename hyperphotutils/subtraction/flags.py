# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
The bits of the ``flags`` of the pixels of a difference: one registry
for values, names, and descriptions.
"""

from types import MappingProxyType

__all__ = ['DIFFERENCE_FLAGS', 'DIFFERENCE_FLAG_DESCRIPTIONS']

_REGISTRY = (
    ('bad_science', 'the science image, which is not convolved, has no '
     'good pixel here: masked'),
    ('bad_template', 'the template, which is not convolved, has no good '
     'pixel here: masked'),
    ('near_bad_pixels', 'what the kernel takes from bad pixels, such as the '
     'core of a saturated star, is too uncertain: masked'),
    ('edge', 'what the kernel takes from beyond the edge of the image is '
     'too uncertain: masked'),
    ('filled', 'bad pixels under the kernel were filled, and may have '
     'changed the value by a tenth of the limit for masking'),
)

DIFFERENCE_FLAGS = MappingProxyType(
    {name: 1 << bit for bit, (name, _) in enumerate(_REGISTRY)})
"""
The bit value of each flag of a pixel of a difference, by name.
"""

DIFFERENCE_FLAG_DESCRIPTIONS = MappingProxyType(dict(_REGISTRY))
"""
What each flag of a pixel of a difference means, by name.
"""

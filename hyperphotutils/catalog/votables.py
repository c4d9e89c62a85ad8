# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Checks of a VOTable before it is parsed.
"""

from xml.parsers import expat

from hyperphotutils.catalog.angles import show_value
from hyperphotutils.catalog.errors import CatalogError

__all__ = ['check_votable']

_MAX_DEPTH = 100


def check_votable(content):
    """
    Raise an error for a VOTable with a ``STREAM`` that refers to another
    file, which astropy would open, with entities, which may expand without
    limit, or with deep nesting.

    Examples
    --------
    >>> from hyperphotutils.catalog.votables import check_votable
    >>> check_votable(b'<VOTABLE><STREAM href="http://x.org"/></VOTABLE>')
    Traceback (most recent call last):
        ...
    hyperphotutils.catalog.errors.CatalogError: its data are elsewhere ...
    """
    depth = 0

    def start(name, attributes):
        nonlocal depth
        depth += 1
        if depth > _MAX_DEPTH:
            msg = 'its elements are nested too deeply'
            raise CatalogError(msg)
        # (a namespace may have a prefix; parsers may ignore the case,
        # unlike XML)
        if name.rpartition(':')[2].upper() != 'STREAM':
            return
        for key, value in attributes.items():
            if key.rpartition(':')[2].lower() == 'href':
                msg = (f'its data are elsewhere, at {show_value(value)}, and '
                       'no other file or address is opened: save it with its '
                       'data inside')
                raise CatalogError(msg)

    def end(_):
        nonlocal depth
        depth -= 1

    def refuse(*_):
        msg = 'it defines XML entities, which no VOTable needs: remove them'
        raise CatalogError(msg)

    # Expat itself opens no external entity, but its handler is called for
    # each declaration, also for those of a "billion laughs".
    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.EntityDeclHandler = refuse
    parser.Parse(content, True)  # noqa: FBT003 (no keyword)

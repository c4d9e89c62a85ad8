# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Sphinx configuration of hyperphotutils.

The documentation builds without a network. Set the environment variable
``HYPERPHOTUTILS_INTERSPHINX`` to anything for links into the
documentation of numpy, scipy, astropy, photutils, and others.
"""

import builtins
import csv
import os
import sys
from pathlib import Path

from sphinx_astropy.conf.v2 import *  # noqa: F403
from sphinx_astropy.conf.v2 import (
    exclude_patterns,
    extensions,
    intersphinx_mapping,
    numpydoc_xref_ignore,
    rst_epilog,
)

sys.path.insert(0, str(Path(__file__).parents[1]))

import hyperphotutils
from hyperphotutils.catalog import (
    RESULT_COLUMNS,
    RESULT_TABLES,
    find_column,
)
from hyperphotutils.photometry import REJECTION_REASONS
from hyperphotutils.pipeline.config_files import config_template
from hyperphotutils.pipeline.galaxy_fits import ADDED_COLUMNS
from hyperphotutils.pipeline.products import PRODUCTS
from hyperphotutils.psf import STAR_FLAG_DESCRIPTIONS, STAR_FLAGS
from hyperphotutils.subtraction import (
    DIFFERENCE_FLAG_DESCRIPTIONS,
    DIFFERENCE_FLAGS,
)
from hyperphotutils.utils import FLAG_DESCRIPTIONS, FLAGS

# -- Project ------------------------------------------------------------
project = 'hyperphotutils'
author = 'hyperphotutils developers'
copyright = f'2026, {author}'
release = hyperphotutils.__version__
version = '.'.join(release.split('.')[:2])

# -- Links --------------------------------------------------------------
nitpicky = True
if os.environ.get('HYPERPHOTUTILS_INTERSPHINX'):
    # its second location does not exist any more
    intersphinx_mapping.pop('pythonloc', None)
    intersphinx_mapping.pop('h5py', None)
    intersphinx_mapping.update({
        'photutils': (
            'https://photutils.readthedocs.io/en/stable/', None),
        'regions': (
            'https://astropy-regions.readthedocs.io/en/stable/', None),
        'radio_beam': (
            'https://radio-beam.readthedocs.io/en/stable/', None),
        'spectral_cube': (
            'https://spectral-cube.readthedocs.io/en/stable/', None),
        'pydantic': ('https://docs.pydantic.dev/latest/', None),
    })
else:
    # an empty mapping fetches nothing
    intersphinx_mapping.clear()

# No inventory is at hand without a network, so that links to other
# packages cannot be checked; links to this package always are.
external = (
    'astropy|erfa|h5py|matplotlib|np|numpy|photutils|pydantic|pydantic_core|'
    'radio_beam|regions|scipy|sklearn|spectral_cube|tqdm|yaml'
)
# the standard library: its modules, and the names of builtins
standard = (
    'abc|argparse|ast|collections|concurrent|contextlib|dataclasses|'
    'datetime|enum|functools|io|itertools|logging|os|pathlib|sys|typing|'
    'warnings|types'
)
builtin = '|'.join(name for name in dir(builtins) if name[0] != '_')
nitpick_ignore_regex = [
    (r'py:.*', rf'({external})(\..+)?'),
    (r'py:.*', rf'({standard})(\..+)?'),
    (r'py:.*', rf'({builtin})(\..+)?'),
    # inherited documentation of pydantic, without the module's name
    (r'py:.*', 'ConfigDict'),
    # internal objects that hold a public result together
    (r'py:.*', r'hyperphotutils\.background\.(boxes|candidates)\..+'),
]


def resolve_module_path(app, env, node, contnode):
    """
    Link a name given with its module to the subpackage's page.

    automodapi does so for classes only.
    """
    package, *parts = node.get('reftarget', '').split('.')
    if package != project or len(parts) < 3:
        return None
    public = '.'.join((package, parts[0], *parts[2:]))
    return env.get_domain('py').resolve_xref(
        env, node['refdoc'], app.builder, 'obj', public, node, contnode)


def setup(app):
    """
    Connect what this file adds to Sphinx.
    """
    app.connect('missing-reference', resolve_module_path)


# -- Extensions ---------------------------------------------------------
# plots are made from the code in pages and docstrings
plot_html_show_formats = False
plot_html_show_source_link = False
plot_include_source = True
plot_formats = [('png', 100)]
plot_rcparams = {'savefig.bbox': 'tight', 'image.origin': 'lower'}
plot_apply_rcparams = True

# types in docstrings become links, except for these words
numpydoc_xref_param_type = False
numpydoc_xref_ignore |= {'shape', 'dtype'}
# citations in docstrings may be listed without being called in the text
suppress_warnings = ['app.add_directive', 'ref.footnote']

# the pages are read without a network, too: MathJax is copied into them
extensions += ['sphinx_design', 'sphinx-mathjax-offline']
# inheritance diagrams need graphviz
extensions.remove('sphinx.ext.inheritance_diagram')
extensions.remove('sphinx_astropy.ext.intersphinx_toggle')
extensions.remove('sphinx.ext.todo')
automodapi_inheritance_diagram = False
# constructors are documented by their class, and types in the text
autoclass_content = 'class'
autodoc_typehints = 'none'

exclude_patterns += ['_build', '_templates']
rst_epilog += """
.. _photutils: https://photutils.readthedocs.io
.. _regions: https://astropy-regions.readthedocs.io
.. _HYPER: https://doi.org/10.1051/0004-6361/201323254
"""

# made next to what automodapi makes: the reference of all keys of the
# configuration, of all flags, and of the products, and pictures that
# pyplot, and thus the plot directive, does not know
_API = Path(__file__).parent / 'api'
_API.mkdir(exist_ok=True)
(_API / 'config.yaml').write_text(config_template(), encoding='utf-8')


def write_definitions(path, descriptions, bits=None):
    """
    Write a definition list of flags or reasons.
    """
    lines = [f'``{name}``' + (f' ({bits[name]})' if bits else '')
             + f'\n    {description}\n\n'
             for name, description in descriptions.items()]
    path.write_text(''.join(lines), encoding='utf-8')


write_definitions(_API / 'flags.inc', FLAG_DESCRIPTIONS, FLAGS)
write_definitions(_API / 'star_flags.inc', STAR_FLAG_DESCRIPTIONS, STAR_FLAGS)
write_definitions(_API / 'difference_flags.inc', DIFFERENCE_FLAG_DESCRIPTIONS,
                  DIFFERENCE_FLAGS)
write_definitions(_API / 'rejection_reasons.inc', REJECTION_REASONS)


def write_columns(path, columns):
    """
    Write a table of columns of results.
    """
    units = {'data': 'map', 'flux': 'map \N{MULTIPLICATION SIGN} pixel',
             'pix': 'pixels', '': ''}
    rows = [('Column', 'Unit', 'Description', 'IPAC and CSV')]
    rows += [(f'``{column.name}``', units.get(column.unit, column.unit),
              column.description, column.hyper_name) for column in columns]
    path.write_text('.. list-table::\n   :header-rows: 1\n\n' + ''.join(
        '   * - ' + '\n     - '.join(row).replace(' \n', '\n').rstrip(' ')
        + '\n' for row in rows), encoding='utf-8')


tables = dict(RESULT_TABLES) | {'galaxies_run': ADDED_COLUMNS}
for kind, names in tables.items():
    write_columns(_API / f'columns_{kind}.inc',
                  [find_column(name, kind=kind) for name in names])
write_columns(_API / 'columns_all.inc', sorted(
    RESULT_COLUMNS.values(), key=lambda column: column.name))
write_columns(_API / 'columns_other.inc', [
    column for column in RESULT_COLUMNS.values()
    if not any(column.name in names for names in tables.values())])


def write_product_table(kind):
    """
    Write the table of the products of a kind of job.
    """
    rows = [('file', 'key in ``output``', 'contents')]
    for product in PRODUCTS:
        if kind in product.kinds:
            state = 'on' if product.default else 'off'
            key = f'``{product.key}`` ({state})' if product.key else ''
            rows.append((f'``{product.name}``', key, product.description))
    rows += [('``run.log``', '', 'log of the run, with the configuration'),
             ('``run.json``', '', 'record of settings and input files, used '
              'to continue a run')]
    with (_API / f'products_{kind}.csv').open(
            'w', newline='', encoding='utf-8') as file:
        csv.writer(file).writerows(rows)


for name in ('map', 'cube', 'subtraction', 'sky', 'psf', 'stamps',
             'galaxies'):
    write_product_table(name)


def draw_overview(path):
    """
    Draw the overview of the map that "Getting started" measures.
    """
    from hyperphotutils.datasets import make_blended_map
    from hyperphotutils.photometry import HyperPhotometry
    from hyperphotutils.visualization import plot_overview

    sim = make_blended_map((200, 200), 40, seed=3)
    phot = HyperPhotometry(fwhm=sim.image.meta['beam_fwhm_pix'])
    table = phot(sim.image)
    figure = plot_overview(sim.image.data << sim.image.unit, table,
                           wcs=sim.image.wcs,
                           background=phot.make_background_image(),
                           model=phot.make_model_image(),
                           residual=phot.make_residual_image())
    figure.savefig(path, dpi=100)


def draw_psf(folder):
    """
    Draw the pictures of the page on PSFs.
    """
    from hyperphotutils.datasets import make_star_field
    from hyperphotutils.psf import (
        EmpiricalPSFBuilder,
        StarSelector,
        plot_psf,
        plot_selection,
        plot_stars,
    )

    field = make_star_field((600, 600), 60, n_galaxies=30, variation=1.0,
                            neighbor_fraction=0.2, n_cosmic_rays=40, seed=2)
    stars = StarSelector(fwhm=3.0)(field.data, error=field.error)
    psf = EmpiricalPSFBuilder(size=25, order=2)(field.data, stars,
                                                 error=field.error)
    plot_selection(stars).savefig(folder / 'star_selection.png', dpi=80)
    plot_stars(psf, max_stars=20).savefig(folder / 'stars.png', dpi=90)
    plot_psf(psf).savefig(folder / 'psf.png', dpi=80)


draw_overview(_API / 'overview.png')
draw_psf(_API)

# -- HTML ---------------------------------------------------------------
html_title = f'{project} {version}'
html_theme_options = {
    'logo': {'text': project},
    'collapse_navigation': True,
    'navigation_depth': 2,
    'show_nav_level': 2,
    'show_toc_level': 2,
    'header_links_before_dropdown': 5,
    'use_edit_page_button': False,
    'search_as_you_type': True,
    'icon_links': [],
}
# the landing page and single pages need no navigation beside them
html_sidebars = {'index': [], 'install': [], 'changes': []}
html_static_path = ['_static']
html_css_files = ['hyperphotutils.css']
htmlhelp_basename = f'{project}doc'

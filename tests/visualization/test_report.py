# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of reports.
"""

import base64
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.table import QTable
from PIL import Image

from hyperphotutils.utils import FLAGS, add_gaussians
from hyperphotutils.visualization import make_report


@pytest.fixture
def table():
    return QTable({
        'id': [1, 2, 3],
        'x_fit': [20.0, 41.5, np.nan], 'y_fit': [12.0, 58.2, np.nan],
        'fwhm_major_fit': [4.0, 6.0, np.nan],
        'fwhm_minor_fit': [4.0, 5.0, np.nan],
        'theta_fit': [0.0, 30.0, np.nan] * u.deg,
        'flux_fit': [1.0, np.nan, np.inf] * u.Jy,
        'flags': [0, FLAGS['saturated'], FLAGS['off_map']],
        'name': ['a', '</script><b>', 'c'],
        'sky_centroid': SkyCoord([1, 2, 3], [4, 5, 6], unit='deg'),
    })


@pytest.fixture
def image():
    data = np.zeros((70, 60))
    add_gaussians(data, [20.0, 41.5], [12.0, 58.2], [5.0, 9.0], [4.0, 6.0],
                  [4.0, 5.0], [0.0, 30.0])
    return data


def read_data(page):
    """
    Return what the script of the page reads.
    """
    return json.loads(re.search(
        r'<script type="application/json" id="data">(.*?)</script>', page,
        re.DOTALL)[1])


class Elements(HTMLParser):
    """
    All elements of a page, with their attributes.
    """

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


class TestMakeReport:
    def test_values(self, table):
        """
        The page has all values, None where there is none, and units.
        """
        data = read_data(make_report(table, title='map'))['catalog']
        names = [column['name'] for column in data['columns']]
        rows = [dict(zip(names, row, strict=True)) for row in data['rows']]
        assert [row['id'] for row in rows] == [1, 2, 3]
        assert [row['flux_fit'] for row in rows] == [1.0, None, None]
        assert rows[1]['ra'] == 2.0
        assert rows[1]['flags'] == FLAGS['saturated']
        assert data['columns'][names.index('flux_fit')]['unit'] == 'Jy'

    def test_nothing_runs(self, table, image):
        """
        Names and texts cannot add elements, and nothing is loaded from
        elsewhere.
        """
        bad = '<script>alert(1)</script>'
        page = make_report(table, title=bad, facts={bad: bad},
                           images={'data': image}, explanations=[bad] * 3,
                           rejected=table,
                           charts={bad: {'x': [1, 2], 'y': [1, 2],
                                         'x_label': bad, 'y_label': bad}},
                           texts={bad: bad})
        elements = Elements(page).found
        assert len([tag for tag, _ in elements if tag == 'script']) == 2
        for _, attributes in elements:
            for name in ('src', 'href'):
                target = attributes.get(name) or '#'
                assert target.startswith(('#', 'data:image/png;base64,'))
        assert read_data(page)['explanations'] == [bad] * 3

    def test_cutouts(self, table, image):
        """
        Each cut-out has the brightest pixel at its source; pixels off
        the image are marked.
        """
        cutouts = read_data(make_report(table, title='map', images={
            'data': image << u.Jy, 'residual': 0.0 * image}))['cutouts']
        assert cutouts['names'] == ['data', 'residual']
        size = cutouts['size']
        pixels = np.array(Image.open(io.BytesIO(base64.b64decode(
            cutouts['sprites'][0].split(',')[1])))).astype(int)
        assert pixels.shape == (3 * size, 2 * size)
        for k in range(2):
            data = pixels[k * size:(k + 1) * size, :size]
            data = np.where(data == 255, -1, data)
            row, col = np.unravel_index(np.argmax(data), data.shape)
            x, y = cutouts['ellipses'][k][:2]
            assert abs(col - x) <= 1.0
            assert abs(size - 1 - row - y) <= 1.0
        # rows below 0: the source at y = 12 has 17 pixels below it
        assert (pixels[size - 1, :size] == 255).all()
        assert (pixels[2 * size:] == 255).all()
        residual = pixels[:2 * size, size:]
        assert set(np.unique(residual)) == {127, 255}

    def test_size(self, table):
        """
        The page of a catalog with 500 sources is smaller than 5 MB.
        """
        rng = np.random.default_rng(1)
        rows = np.repeat(0, 500)
        large = table[rows]
        for k in range(40):
            large[f'column_{k}'] = rng.normal(size=500)
        large['x_fit'], large['y_fit'] = rng.uniform(0, 400, (2, 500))
        noise = rng.normal(size=(400, 400))
        page = make_report(large, title='large', images={
            'data': noise, 'model': noise, 'residual': noise})
        assert len(page.encode()) < 5e6

    def test_chart(self, table):
        """
        A histogram is a line with steps at its edges.
        """
        page = make_report(table, title='map', charts={'Widths': {
            'x': [0, 1, 2], 'y': [5, np.nan], 'x_label': 'a & b',
            'y_label': 'number'}})
        assert 'a &amp; b' in page
        assert '<polyline' in page

    def test_no_sources(self, table):
        """
        A catalog without sources has a page, too.
        """
        page = make_report(table[:0], title='empty',
                           images={'data': np.zeros((3, 3))})
        assert read_data(page)['catalog']['rows'] == []

    def test_decimals(self):
        """
        Values and errors have the same decimals: two digits of the error.
        """
        columns = read_data(make_report(QTable({
            'flux_fit': [1.23456, 2.0] * u.mJy,
            'flux_err': [0.0123, 0.021] * u.mJy,
            'snr': [12.3456, 7.0]}), title='map'))['catalog']['columns']
        decimals = {column['name']: column['decimals'] for column in columns}
        assert decimals == {'flux_fit': 3, 'flux_err': 3, 'snr': 3}

    def test_logarithmic_axes(self):
        """
        Powers of ten are at their place.
        """
        table = QTable({'id': [1]})
        page = make_report(table, title='map', charts={'Power': {
            'x': [0.01, 0.1, 1.0], 'y': {'a': [1e-4, 0, 1], 'b': [1, 2, 3]},
            'x_label': 'frequency', 'y_label': 'power', 'x_log': True,
            'y_log': True}, 'Picture': {
                'image': np.array([[0.0, np.nan], [1.0, 2.0]]),
                'label': '0 to 2'}})
        assert '10⁻²' in page
        assert page.count('<polyline') == 2
        assert '0 to 2' in page


BROWSER = shutil.which('chromium') or shutil.which('google-chrome')


@pytest.mark.skipif(BROWSER is None, reason='there is no browser')
@pytest.mark.parametrize(('steps', 'expected'), [
    # the first source is selected at first
    ('', {'ids': '1 2 3', 'title': 'Source 1', 'count': '3 rows'}),
    ('head("snr").click()', {'ids': '3 1 2'}),
    ('head("snr").click(); head("snr").click()', {'ids': '2 1 3'}),
    ('type("snr > 8")', {'ids': '1 2', 'count': '2 of 3 rows'}),
    ('type("flags = saturated, snr > 8")', {'ids': '2'}),
    ('type("OFF_MAP")', {'ids': '3'}),
    ('rows()[1].click()', {'title': 'Source 2'}),
    ('press(rows()[0], "ArrowDown"); press(rows()[1], "Enter")',
     {'title': 'Source 2', 'focus': '1'}),
])
def test_page_in_a_browser(tmp_path, steps, expected):
    """
    Tables can be sorted, filtered, and read with the keyboard.
    """
    page = make_report(QTable({
        'id': [1, 2, 3], 'snr': [8.2, 30.1, 5.0],
        'flags': [0, FLAGS['saturated'], FLAGS['off_map']]}), title='Map')
    script = """<script>
const rows = () => [...document.querySelectorAll('#catalog tbody tr')];
const head = name => [...document.querySelectorAll('#catalog th button')]
  .find(button => button.textContent.startsWith(name));
const type = text => {
  const input = document.querySelector('#catalog input');
  input.value = text;
  input.dispatchEvent(new Event('input'));
};
const press = (row, key) => row.dispatchEvent(
  new KeyboardEvent('keydown', {key, bubbles: true}));
STEPS;
const found = {
  ids: rows().map(row => row.firstChild.textContent).join(' '),
  title: document.querySelector('#source h3').textContent,
  count: document.querySelector('#catalog .count').textContent,
  focus: document.activeElement.dataset.row ?? '',
};
document.title = 'FOUND' + JSON.stringify(found);
</script></body>""".replace('STEPS', steps)
    path = tmp_path / 'page.html'
    path.write_text(page.replace('</body>', script), encoding='utf-8')
    output = subprocess.run(
        [BROWSER, '--headless', '--no-sandbox', '--disable-gpu',
         '--no-first-run', '--disable-background-networking',
         '--disable-component-update', '--disable-sync',
         f'--user-data-dir={tmp_path / "profile"}', '--dump-dom',
         path.as_uri()], check=True, capture_output=True, text=True).stdout
    found = json.loads(re.search('<title>FOUND(.*?)</title>', output)[1]
                       .replace('&gt;', '>'))
    assert expected == {name: found[name] for name in expected}

# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of file names: expanded, and escaped in all products.
"""

import os
import shutil
from pathlib import Path

import pytest

from hyperphotutils.catalog import read_catalog
from hyperphotutils.pipeline import (
    ConfigError,
    OutputError,
    PipelineConfig,
    expand_maps,
    load_config,
    plan_jobs,
    process_maps,
)
from hyperphotutils.pipeline.recover import recover_map
from hyperphotutils.pipeline.text import expand_path, printable

STRANGE = ['#1', 'a\nb', 'a\tb', 'a\u2028b', 'a"b', "a'b", '[1]', '*',
           '$HOME', 'a$b$c', '\x1b[31mred', 'a\u202eb', 'a b ', 'a,b', 'a|b',
           'a\\b', '~x', '=1+1', '-x', '--x', 'nan', 'run.log', 'x' * 245,
           os.fsdecode(b'caf\xe9')]


@pytest.fixture(name='home')
def fixture_home(tmp_path, monkeypatch):
    """
    The working folder, which is also the home of the user.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('USERPROFILE', str(tmp_path))
    monkeypatch.setenv('FIELD', 'orion')
    monkeypatch.delenv('NO_SUCH', raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ('name', 'expected'),
    [('a/b.fits', 'a/b.fits'), ('~/b.fits', '{home}/b.fits'),
     ('~/$FIELD', '{home}/orion'),
     ('~', '{home}'), ('$FIELD/b', 'orion/b'), ('${{FIELD}}x', 'orionx'),
     ('$FIELD$FIELD', 'orionorion'), ('a~b', 'a~b'), ('a$', 'a$'),
     ('./~b', '{home}/~b')],
)
def test_names_are_expanded(home, name, expected):
    assert expand_path(name.format()) == expected.format(home=home)


@pytest.mark.parametrize(
    ('name', 'message'),
    [('$NO_SUCH/a', "variable 'NO_SUCH' is not set"),
     ('${NO_SUCH}', "variable 'NO_SUCH' is not set"),
     ('~no.such.user/a', r"no such user; write './~no.such.user/a'"),
     ('a\0b', 'NUL'), ('', 'must be the name of a file')],
)
@pytest.mark.usefixtures('home')
def test_names_that_cannot_be_expanded_are_errors(name, message):
    with pytest.raises(ValueError, match=message):
        expand_path(name)
    with pytest.raises(ConfigError, match=message):
        expand_maps([name])
    with pytest.raises(ConfigError, match=message):
        load_config(name)
    with pytest.raises(ValueError, match=message):
        PipelineConfig(output={'directory': name})
    with pytest.raises(ConfigError, match=message):
        recover_map('a.fits', PipelineConfig(), name)


def test_names_of_existing_files_are_not_expanded(home):
    for name in ('$FIELD', '~x', '${NO_SUCH}'):
        (home / name).touch()
    assert expand_path('$FIELD') == '$FIELD'
    assert expand_path('${NO_SUCH}') == '${NO_SUCH}'
    assert expand_maps(['*x']) == [str(home / '~x')]


def test_all_names_of_a_configuration_are_expanded(home):
    (home / 'orion').mkdir()
    for name in ('a.fits', 'b.fits'):
        (home / 'orion' / name).touch()
    (home / 'list.txt').write_text('~/orion/b.fits\n', encoding='utf-8-sig')
    (home / 'c.yaml').write_text(
        'input: {maps: ["~/$FIELD/a.*", "@~/list.txt"]}\n'
        'sources: {table: ~/t.csv}\n'
        'fit: {weights: map, weight_map: $FIELD/w.fits}\n'
        'cubes: {region: "${FIELD}.reg"}\n'
        'output: {directory: ~/results}\n')
    config = load_config('~/c.yaml').config
    assert config.sources.table == f'{home}/t.csv'
    assert config.fit.weight_map == 'orion/w.fits'
    assert config.cubes.region == 'orion.reg'
    jobs = plan_jobs(config)
    assert [job.path for job in jobs] == [f'{home}/orion/a.fits',
                                          f'{home}/orion/b.fits']
    assert jobs[0].folder == home / 'results' / 'a'


@pytest.mark.parametrize('name', STRANGE)
def test_name_of_a_map_is_a_word_and_a_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(f'./{name}.fits').touch()
    job, = plan_jobs(PipelineConfig(input={'maps': [f'./{name}.fits']}))
    assert job.map_id.isprintable()
    assert not set(job.map_id) & set('\\/:*?"\'<>|$`')
    assert job.map_id[0] not in '#~=@+- '
    # a temporary name is longer
    assert len(os.fsencode(job.map_id)) < 150


def test_maps_with_strange_names_give_readable_products(
    map_file, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for name in STRANGE:
        shutil.copy(map_file, f'{name}.fits')
    config = PipelineConfig(
        input={'maps': [f'./{name}.fits' for name in STRANGE]},
        output={'overview': False, 'csv': True},
        run={'detection_only': True})
    outcomes = process_maps(config)
    assert [item.reason for item in outcomes] == [None] * len(STRANGE)
    out = Path('hyperphot_output')
    table = read_catalog(out / 'catalog_all.ecsv')
    ids = [item.job.map_id for item in outcomes]
    assert list(dict.fromkeys(table['map_id'])) == ids
    n_each = len(table) // len(STRANGE)
    assert len(table) == n_each * len(STRANGE)
    assert list(read_catalog(out / 'diagnostics.ecsv')['map_id']) == ids
    for item in outcomes:
        for suffix in ('ecsv', 'ipac', 'csv'):
            found = read_catalog(item.job.folder / f'catalog.{suffix}')
            assert len(found) == n_each
            if suffix != 'ecsv':
                assert set(map(str, found['MAP_ID'])) == {item.job.map_id}
    texts = [path.read_text('utf-8') for path in out.rglob('*')
             if path.is_file()]
    assert all(line.isprintable() for text in texts
               for line in text.split('\n'))
    assert all(item.earlier for item in process_maps(config))


def test_list_has_any_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('list.txt').write_text('a\u2028b.fits\r\n./#1.fits # one\n#no\n',
                                encoding='utf-8', newline='')
    assert expand_maps(['list.txt']) == ['a\u2028b.fits', './#1.fits']
    Path('large.txt').write_bytes(b'x' * (2**24 + 1))
    with pytest.raises(ConfigError, match='larger than 16 MiB'):
        expand_maps(['large.txt'])


def test_printable_is_one_line_without_control_characters():
    assert printable('a b\xe4') == 'a b\xe4'
    assert printable('\x1b[31m\n\u2028\u202e\x9b') == (
        r'\x1b[31m\n\u2028\u202e\x9b')
    assert printable(os.fsdecode(b'caf\xe9')) == r'caf\xe9'
    assert printable('\ud800') == r'\ud800'


@pytest.mark.parametrize('what', ['map', 'table', 'combined'])
def test_no_input_is_replaced(copy_map, tmp_path, what):
    """
    Overwrite replaces only products.
    """
    maps, sections = [copy_map('a.fits'), copy_map('b.fits')], {}
    out = tmp_path / 'out'
    if what == 'map':
        maps = [copy_map('out/background/background.fits')]
        read = maps[0]
    else:
        process_maps(PipelineConfig(
            input={'maps': list(map(str, maps))},
            output={'directory': str(out), 'overview': False}))
        read = out / ('a/catalog.ecsv' if what == 'table'
                      else 'catalog_all.ecsv')
        sections['sources'] = {'table': str(read)}
    before = read.read_bytes()
    with pytest.raises(OutputError, match=f'{read.name}: is read by this'):
        process_maps(PipelineConfig(
            input={'maps': list(map(str, maps))},
            output={'directory': str(out), 'overwrite': True}, **sections))
    assert read.read_bytes() == before


@pytest.mark.parametrize('name', ['run.log', 'catalog_all.ecsv',
                                  'diagnostics.ecsv'])
def test_blocked_product_is_found_before_any_work(
    copy_map, tmp_path, monkeypatch, name
):
    from hyperphotutils.pipeline import process

    monkeypatch.setattr(process, 'process_map', None)
    maps = [str(copy_map(name)) for name in ('a.fits', 'b.fits')]
    (tmp_path / 'out' / name).mkdir(parents=True)
    with pytest.raises(OutputError, match=f'{name}: is in the way'):
        process_maps(PipelineConfig(
            input={'maps': maps},
            output={'directory': str(tmp_path / 'out'), 'overwrite': True}))

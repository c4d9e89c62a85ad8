# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Random and damaged configurations.
"""

import re

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from hyperphotutils.pipeline import (
    ConfigError,
    PipelineConfig,
    config_template,
    config_to_yaml,
    read_config,
)

TEMPLATE = config_template()
# the template with its keys in force
ACTIVE = re.sub(r'(?m)^( *)# ?(\w+:)', r'\1\2', TEMPLATE)
KEYS = sorted(f'{section}.{name}'
              for section, field in PipelineConfig.model_fields.items()
              for name in field.annotation.model_fields)

# what YAML, Python and people treat in a special way
TOKENS = (
    '&a', '*a', '<<: *a', '!!python/object:os.system', '!!set', '!!binary',
    '!!timestamp x', '!a', '---', '...', '%YAML 1.2', '{', '}', '[', ']', ',',
    ':', '- ', '? ', '|', '>', '"', "'", '#', '\t', '\n', '\r', '\0', '\x07',
    '\x85', '\u2028', '\ufeff', '\ud7ff', '\U0010ffff', '~', 'null', 'nan',
    '.nan', '.inf', '-.inf', '1e999', '9' * 400, '0x', '0b2', '1_0', '1:60',
    '2026-13-45', '2026-01-01', 'yes', 'off', '$HOME', '~nobody', '=', '<<',
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(),
    st.floats(), st.text(max_size=8), st.binary(max_size=4),
    st.dates(), st.datetimes(), st.sampled_from((10**400, -10**400, 1e308)))
VALUES = st.recursive(SCALARS, lambda inner: st.one_of(
    st.lists(inner, max_size=4),
    st.dictionaries(st.one_of(st.text(max_size=4), st.integers(),
                              st.sampled_from(KEYS)), inner, max_size=3)),
    max_leaves=6)


@st.composite
def random_texts(draw):
    """
    Draw YAML of known sections and keys with any values.
    """
    values = {}
    for key in draw(st.lists(st.sampled_from(KEYS), max_size=4)):
        section, name = key.split('.')
        values.setdefault(section, {})[name] = draw(VALUES)
    return yaml.dump(values, allow_unicode=draw(st.booleans()),
                     default_flow_style=draw(st.booleans())).encode()


@st.composite
def damaged_texts(draw):
    """
    Draw a configuration with a few places changed.
    """
    text = draw(st.sampled_from((TEMPLATE, ACTIVE)))
    for _ in range(draw(st.integers(1, 4))):
        lines = text.splitlines(keepends=True)
        row = draw(st.integers(0, len(lines) - 1))
        kind = draw(st.sampled_from(('insert', 'cut', 'double', 'value')))
        line = lines[row]
        column = draw(st.integers(0, len(line)))
        if kind == 'insert':
            token = draw(st.one_of(st.sampled_from(TOKENS),
                                   st.text(max_size=3)))
            lines[row] = line[:column] + token + line[column:]
        elif kind == 'cut':
            lines[row] = line[:column]
        elif kind == 'double':
            lines.insert(row, line)
        elif ':' in line:
            token = draw(st.sampled_from(TOKENS))
            lines[row] = f'{line.partition(":")[0]}: {token}\n'
        text = ''.join(lines)
    return text.encode('utf-8', 'surrogatepass')


def check(content, folder, cpu_limit):
    """
    Check that a file is a configuration, or a `ConfigError` that names it.
    """
    path = folder / 'fuzz.yaml'
    path.write_bytes(content)
    try:
        with cpu_limit(5):
            config = read_config(path)
    except ConfigError as exc:
        assert exc.problems
        for problem in exc.problems:
            assert problem.startswith(f'{path}: ')
            assert problem.isprintable()
            assert len(problem) < 2000
            # pydantic's names for what it calls
            assert 'function-' not in problem
        return
    # a valid configuration can be written, and is the same when read
    path.write_text(config_to_yaml(config), encoding='utf-8')
    assert read_config(path) == config


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('fuzz')


@given(random_texts())
def test_random_values(folder, cpu_limit, content):
    """
    Any values of known keys are valid or refused by file and key.
    """
    check(content, folder, cpu_limit)


@given(damaged_texts())
@example(b'fit: ' + b'[' * 3000)
@example(b'fit: ' + b'{a: ' * 3000)
@example(b'fit: &a [*a]')
@example(b'fit: &a {poly_order: *a}')
@example(b'a: &a [1]\n' + b''.join(
    b'%c: &%c [%s]\n' % (i, i, b','.join([b'*%c' % (i - 1)] * 9))
    for i in range(98, 106)) + b'fit: {poly_order: *i}')
@example(b'<<: [1]')
@example(b'fit: {<<: {poly_order: 1}}')
@example(b'detection: {n_sigma: 2026-13-45}')
@example(b'detection: {n_sigma: ' + b'9' * 5000 + b'}')
@example(b'? [a, b]\n: 1')
@example(b'? {a: b}\n: 1')
@example(b'fit: !!binary "!"')
@example(b'fit: !!python/name:os.system ""')
@example(b'\xff\xfe')
@example(b'output: {folder: "a\\0b"}')
@example(b'output: {folder: "\\ud800"}')
def test_damaged_files(folder, cpu_limit, content):
    """
    A damaged configuration is valid or refused by file and line.
    """
    check(content, folder, cpu_limit)


@given(st.binary(max_size=60))
def test_random_bytes(folder, cpu_limit, content):
    """
    Bytes of any kind are refused, or happen to be a configuration.
    """
    check(content, folder, cpu_limit)

# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Tests of working on a cluster of dask.distributed.
"""

import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from numpy.testing import assert_array_equal

from hyperphotutils.catalog import read_catalog
from hyperphotutils.datasets import make_blended_map
from hyperphotutils.detection import HighPassStarFinder
from hyperphotutils.photometry import InjectionRecovery
from hyperphotutils.pipeline import PipelineConfig, process_maps
from hyperphotutils.pipeline import process as process_module
from hyperphotutils.pipeline.cli import main
from hyperphotutils.utils import as_executor, connect_scheduler, error_of
from hyperphotutils.utils.executors import work_through

distributed = pytest.importorskip('distributed')


@pytest.fixture(scope='module', name='cluster')
def fixture_cluster():
    """
    Two processes; one that dies is replaced.
    """
    with distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=':0',
            host='127.0.0.1') as cluster:
        yield cluster


@pytest.fixture(name='client')
def fixture_client(cluster):
    with distributed.Client(cluster) as client:
        yield client


@pytest.fixture(name='maps')
def fixture_maps(copy_map, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return [copy_map(f'{number}.fits').name for number in range(6)]


@pytest.fixture(name='kill_a_worker')
def fixture_kill_a_worker(client):
    """
    A function that kills a worker as soon as a condition holds.
    """
    threads = []

    def begin(condition):
        pids = client.run(os.getpid)

        def wait_and_kill():
            while not condition():
                time.sleep(0.01)
            pid = pids[min(pids)]
            os.kill(pid, signal.SIGKILL)

        threads.append(threading.Thread(target=wait_and_kill))
        threads[-1].start()

    yield begin
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()


def products(folder):
    return {str(path.relative_to(folder)): path.read_bytes()
            for path in Path(folder).rglob('*')
            if path.is_file() and path.suffix not in {
                '.html', '.log', '.json'}}


def test_run_with_a_killed_worker_gives_the_serial_products(
    maps, cluster, kill_a_worker, capsys
):
    """
    From the command line, with relative paths.
    """
    Path('c.yaml').write_text('output: {overview: false}')
    command = ['run', *maps, '--config', 'c.yaml', '--output-dir']
    assert main([*command, 'serial']) == 0
    kill_a_worker(lambda: list(Path('out').glob('*/catalog.ecsv')))
    assert main([*command, 'out', '--scheduler',
                 cluster.scheduler_address]) == 0
    assert capsys.readouterr().err == ''
    assert products('out') == products('serial')
    assert len(read_catalog('out/catalog_all.ecsv')) > 6 * 5


def test_client_is_an_executor_of_a_run(maps, client):
    config = PipelineConfig(
        input={'maps': [*maps, 'missing.fits']},
        output={'directory': 'out', 'overview': False},
        run={'detection_only': True})
    outcomes = process_maps(config, executor=client)
    assert [item.reason for item in outcomes] == [
        *6 * [None], 'missing.fits: no such file']
    with ThreadPoolExecutor(2) as threads:
        assert all(item.earlier for item in
                   process_maps(config, executor=threads)[:6])


def test_scheduler_that_ends_is_told_and_the_run_continued(
    maps, capsys, monkeypatch
):
    command = ['run', *maps, '--detection-only', '--output-dir', 'out']
    assert main([*command[:-1], 'serial']) == 0
    capsys.readouterr()
    with distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=':0',
            host='127.0.0.1') as cluster:
        def close_after_the_first(job, future):
            outcome = original(job, future)
            cluster.close()
            return outcome

        original = process_module._outcome
        with monkeypatch.context() as patch:
            patch.setattr(process_module, '_outcome', close_after_the_first)
            status = main([*command, '--scheduler',
                           cluster.scheduler_address])
    _, err = capsys.readouterr()
    assert status == 1
    assert err.startswith('hyperphot: the connection to the workers is lost')
    assert err.endswith(' of 6 maps are done; rerun the same command to '
                        'continue\n')
    assert main(command) == 0
    assert products('out') == products('serial')


def test_recovery_with_a_killed_worker_is_the_serial_one(
    client, kill_a_worker
):
    sky = make_blended_map((100, 100), 6, seed=1).image
    finder = HighPassStarFinder(fwhm=4.0, n_sigma=5.0)
    options = {'n_repeats': 12, 'n_per_map': 3, 'seed': 1}
    serial = InjectionRecovery(finder, **options)(sky)
    kill_a_worker(lambda: True)
    result = InjectionRecovery(finder, executor=client, **options)(sky)
    for name in ('injected', 'detections', 'table'):
        one, other = getattr(serial, name), getattr(result, name)
        for column in one.colnames:
            assert_array_equal(one[column], other[column])


def test_recover_takes_a_scheduler(map_file, cluster, tmp_path, capsys):
    """
    Also the file that a scheduler writes its address to.
    """
    scheduler_file = tmp_path / 'scheduler.json'
    scheduler_file.write_text(f'{{"address": "{cluster.scheduler_address}"}}')
    Path(tmp_path, 'c.yaml').write_text('run: {detection_only: true}')
    command = ['recover', str(map_file), '--n-repeats', '2', '--config',
               str(tmp_path / 'c.yaml'), '--output-dir']
    assert main([*command, str(tmp_path / 'serial')]) == 0
    expected = capsys.readouterr().out.splitlines()[:-1]
    assert main([*command, str(tmp_path / 'out'), '--scheduler',
                 str(scheduler_file)]) == 0
    assert capsys.readouterr().out.splitlines()[:-1] == expected


def test_item_that_kills_every_worker_is_named(client):
    """
    It is given up after some attempts; the others are done.
    """
    outcomes = {item: error_of(future) for item, future in
                work_through(end_at_zero, range(3), executor=client)}
    assert type(outcomes[0]).__name__ == 'KilledWorker'
    assert outcomes[1] is None
    assert outcomes[2] is None


def end_at_zero(number):
    if number == 0:
        os._exit(1)


def test_work_is_sent_once_and_not_again(client):
    executor = as_executor(client)
    shared = executor.share({'a': 1})
    assert executor.submit(dict.get, shared, 'a').result() == 1
    assert executor.submit(dict.get, shared, 'a').result() == 1


def test_no_scheduler_is_told_in_a_line(maps, capsys, monkeypatch):
    monkeypatch.setattr('hyperphotutils.utils.executors._TIMEOUT', 0.5)
    assert main(['run', *maps, '--scheduler', 'tcp://127.0.0.1:9']) == 2
    assert capsys.readouterr().err == (
        'hyperphot: run.scheduler: tcp://127.0.0.1:9: no dask scheduler '
        'answers\n')
    monkeypatch.setitem(sys.modules, 'distributed', None)
    assert main(['run', *maps, '--scheduler', 'tcp://127.0.0.1:9']) == 2
    assert "pip install 'hyperphotutils[dask]'" in capsys.readouterr().err
    assert not Path('hyperphot_output').exists()


def test_connection_is_closed(cluster):
    with connect_scheduler(cluster.scheduler_address) as client:
        assert client.status == 'running'
    assert client.status == 'closed'

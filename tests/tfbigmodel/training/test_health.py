"""The heartbeat between workers: real sockets and real processes on loopback, without TensorFlow."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from pipelines.errors import UserError
from tfbigmodel.local_workers import free_ports
from tfbigmodel.training.cluster import cluster_of_environment, read_cluster, tf_config
from tfbigmodel.training.config import WorkersConfig
from tfbigmodel.training.health import WorkerGone, watched

AGAIN = "; start all workers again with the same command: the run goes on from its last checkpoint"


def addresses(count):
    return [f"127.0.0.1:{port}" for port in free_ports(count)]


def cluster(hosts, index):
    return read_cluster(tf_config(hosts, index))


class Worker(threading.Thread):
    """A worker whose work is `work`; it keeps what came of it."""

    def __init__(self, hosts, index, work=lambda peers: None, settings=None, **options):
        super().__init__(daemon=True)
        self.hosts, self.index, self.work, self.options = hosts, index, work, options
        self.settings = settings or WorkersConfig(start_seconds=20, silence_seconds=2)
        self.error, self.said = None, []
        self.start()

    def run(self):
        try:
            with watched(cluster(self.hosts, self.index), self.settings, self.said.append, **self.options) as peers:
                self.work(peers)
        except Exception as error:
            self.error = error
        self.ended = time.monotonic()

    def outcome(self):
        self.join(30)
        assert not self.is_alive()
        return self.error


def until_lost(peers):
    raise peers.lost(20) or AssertionError("nobody was lost")


def test_workers_that_come_and_go_at_different_times_lose_nobody():
    hosts = addresses(3)
    workers = [Worker(hosts, 2, lambda peers: time.sleep(0.3)), Worker(hosts, 0)]
    time.sleep(0.5)
    assert all(worker.is_alive() for worker in workers), "they wait for the third"
    workers.append(Worker(hosts, 1, lambda peers: time.sleep(1.5)))
    assert [worker.outcome() for worker in workers] == [None] * 3
    assert workers[1].ended > workers[2].ended - 0.3, "the chief is the last to leave"


def test_one_worker_alone_and_no_cluster_are_not_watched():
    for alone in (None, cluster(["127.0.0.1:1"], 0)):
        with watched(alone, WorkersConfig()) as peers:
            assert peers.lost() is None


def test_who_does_not_come_is_named():
    hosts = addresses(3)
    settings = WorkersConfig(start_seconds=1.5, silence_seconds=2)
    workers = [Worker(hosts, index, settings=settings) for index in (0, 1)]
    expected = f"waited 1.5 s (training.workers.start_seconds) in vain for worker 2 ({hosts[2]}){AGAIN}"
    assert [str(worker.outcome()) for worker in workers] == [expected, expected]
    assert [worker.error.exit_code for worker in workers] == [138, 138]


def test_a_chief_that_does_not_come_is_named():
    hosts = addresses(2)
    error = Worker(hosts, 1, settings=WorkersConfig(start_seconds=1, silence_seconds=2)).outcome()
    host, port = hosts[0].split(":")
    assert str(error) == (
        f"waited 1 s (training.workers.start_seconds) in vain for worker 0 ({hosts[0]}); "
        f"{host}:{int(port) + 1000}: Connection refused{AGAIN}"
    )


def fails(error):
    def work(peers):
        raise error

    return work


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize(
    ("error", "told", "code"),
    [
        (UserError("no data\nhere"), "no data here", 2),
        (RuntimeError("cannot"), f"RuntimeError: cannot{AGAIN}", 138),
    ],
)
def test_the_others_are_told_why_one_ended(index, error, told, code):
    hosts = addresses(3)
    workers = [Worker(hosts, i, fails(error) if i == index else until_lost) for i in range(3)]
    outcomes = [worker.outcome() for worker in workers]
    assert outcomes.pop(index) is error
    assert [str(each) for each in outcomes] == [f"worker {index} ({hosts[index]}) has ended with an error: {told}"] * 2
    assert [each.exit_code for each in outcomes] == [code] * 2


def test_what_follows_from_anothers_end_is_told_as_that():
    hosts = addresses(2)

    def aborted(peers):
        peers.lost(20)
        raise RuntimeError("collective ops is aborted")

    workers = [Worker(hosts, 0, aborted), Worker(hosts, 1, fails(OSError("disk")))]
    assert isinstance(workers[0].outcome(), WorkerGone)
    assert "OSError: disk" in str(workers[0].error)


def test_a_stop_that_all_agreed_on_is_nobodys_loss():
    class Stop(Exception):
        pass

    hosts = addresses(2)
    workers = [Worker(hosts, 0, lambda peers: time.sleep(1), together=(Stop,))]
    workers.append(Worker(hosts, 1, fails(Stop()), together=(Stop,)))
    assert workers[0].outcome() is None
    assert isinstance(workers[1].outcome(), Stop)


def test_strangers_and_garbage_disturb_nothing():
    hosts = addresses(3)
    chief = Worker(hosts, 0)
    join(hosts, 1).close()  # from now on it listens
    host, port = hosts[0].split(":")
    sent = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\x00\n",
        b"[1]\n",
        b"9" * 100_000,
        b"[" * 15_000 + b"\n",
        b'{"join": 7}\n',
        b'{"join": true}\n',
        b'{"join": "1"}\n',
        b'{"bye": true}\n',
    ]
    with contextlib.ExitStack() as stack:
        for text in sent * 20:  # more than are let in at a time
            connection = stack.enter_context(socket.create_connection((host, int(port) + 1000), timeout=5))
            with contextlib.suppress(OSError):
                connection.sendall(text)
        workers = [Worker(hosts, index, lambda peers: time.sleep(0.5)) for index in (1, 2)]
        assert [worker.outcome() for worker in (chief, *workers)] == [None] * 3


def test_another_list_of_workers_is_refused():
    hosts = addresses(2)
    chief = Worker(hosts, 0, settings=WorkersConfig(start_seconds=3, silence_seconds=2))
    other = Worker([hosts[0], "127.0.0.1:9"], 1, settings=WorkersConfig(start_seconds=9))
    assert str(chief.outcome()).partition("; start")[0] == (
        f"waited 3 s (training.workers.start_seconds) in vain for worker 1 ({hosts[1]}); "
        f"worker 1 ({hosts[1]}) came with another list of workers, and was refused"
    )
    assert str(other.outcome()) == f"worker 0 ({hosts[0]}) has another list of workers; give all the same"
    assert other.error.exit_code == 2


def join(hosts, index):
    """What a worker's process does first, and no more."""
    import tfbigmodel.training.heartbeat as heartbeat

    end = heartbeat.Follower(cluster(hosts, index), WorkersConfig())
    while end._link is None:
        end.poll()
    return end


def test_two_processes_with_one_index_are_told():
    hosts = addresses(3)
    chief = Worker(hosts, 0, settings=WorkersConfig(start_seconds=3, silence_seconds=2))
    first = join(hosts, 1)
    time.sleep(0.5)
    twin = Worker(hosts, 1)
    assert str(twin.outcome()) == f"worker 1 ({hosts[1]}) is there already; give each process an index of its own"
    first.close()
    assert "in vain for worker 1" in str(chief.outcome())


def test_one_that_died_while_the_rest_was_awaited_may_come_again():
    hosts = addresses(3)
    workers = [Worker(hosts, 0)]
    join(hosts, 1).close()
    workers += [Worker(hosts, index) for index in (1, 2)]
    assert [worker.outcome() for worker in workers] == [None] * 3


def test_one_that_is_back_before_the_run_has_ended_waits_for_the_next():
    hosts = addresses(2)
    chief = Worker(hosts, 0, until_lost)
    first = join(hosts, 1)
    time.sleep(0.5)
    back = Worker(hosts, 1, settings=WorkersConfig(start_seconds=15, silence_seconds=5))
    time.sleep(0.5)
    first.close()
    assert str(chief.outcome()).startswith(f"worker 1 ({hosts[1]}) is gone: it was killed, or its machine went down")
    assert Worker(hosts, 0).outcome() is None, "the chief's next process"
    assert back.outcome() is None


def test_ports_that_cannot_be_used():
    hosts = addresses(2)
    _, port = hosts[0].split(":")
    with socket.create_server(("", int(port))):
        assert str(Worker(hosts, 0).outcome()) == (
            f"worker 0 ({hosts[0]}): port {port} cannot be used here: Address already in use; end what is there, or "
            "give this worker another port"
        )
    with socket.create_server(("127.0.0.1", int(port) + 1000)):
        assert str(Worker(hosts, 0).outcome()).startswith(
            f"cannot listen at 127.0.0.1:{int(port) + 1000} for the other workers' heartbeats: Address already in use"
        )
    far = WorkersConfig(health_port_offset=65000)
    assert "above 65535; lower one of them" in str(Worker(hosts, 0, settings=far).outcome())
    pair = [hosts[0], f"127.0.0.1:{int(port) + 1000}"]
    assert "is a worker's own address; choose another" in str(Worker(pair, 0).outcome())


def test_a_name_of_another_machine_is_listened_for_at_all_of_this_ones_addresses():
    ports = [host.split(":")[1] for host in addresses(2)]
    hosts = [f"{name}:{port}" for name, port in zip(("no-such-host.invalid", "127.0.0.1"), ports, strict=True)]
    chief = Worker(hosts, 0, settings=WorkersConfig(start_seconds=1.5, silence_seconds=2))
    join([f"127.0.0.1:{ports[0]}", hosts[1]], 1)  # by the address, which makes it another list
    assert "came with another list of workers, and was refused" in str(chief.outcome())


WORKER = """
import sys, time
from tfbigmodel.training.cluster import cluster_of_environment
from tfbigmodel.training.config import WorkersConfig
from tfbigmodel.training.health import watched
with watched(cluster_of_environment("multi_worker"), WorkersConfig(silence_seconds=3)):
    print("all are here", flush=True)
    time.sleep(300)  # as in a collective operation
"""


def start_processes(hosts):
    return [
        subprocess.Popen(
            [sys.executable, "-c", WORKER],
            env={**os.environ, "TF_CONFIG": tf_config(hosts, index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(len(hosts))
    ]


def test_processes_that_hang_are_ended_with_the_name_of_the_one_that_is_gone():
    killed = "is gone: it was killed, or its machine went down"
    silent = "has not been heard of for 3 s: it hangs, or the network to it is cut"
    cases = [(0, signal.SIGKILL, killed), (1, signal.SIGKILL, killed), (0, signal.SIGSTOP, silent), (2, 19, silent)]
    clusters = [addresses(3) for _ in cases]
    runs = [start_processes(hosts) for hosts in clusters]
    try:
        for processes, (index, number, _) in zip(runs, cases, strict=True):
            for process in processes:
                assert process.stdout.readline() == "all are here\n"
            processes[index].send_signal(number)
        started = time.monotonic()
        for hosts, processes, (index, _, what) in zip(clusters, runs, cases, strict=True):
            for process in processes[:index] + processes[index + 1 :]:
                _, errors = process.communicate(timeout=30)
                assert errors == f"error: worker {index} ({hosts[index]}) {what}{AGAIN}\n"
                assert process.returncode == 138
        assert time.monotonic() - started < 20
    finally:
        for process in (process for processes in runs for process in processes):
            process.kill()
            process.communicate()


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ('{"cluster": {"worker": "a:1"}, "task": {"type": "worker", "index": 0}}', "with whole lists of addresses"),
        ('{"cluster": {"worker": {"0": "a:1"}}, "task": {"type": "worker", "index": 0}}', "with whole lists"),
        ('{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "worker", "index": 0}}', "received 'ps'"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "evaluator", "index": 0}}', "received 'evaluator'"),
        ('{"cluster": {"chief": ["a:1", "b:1"]}, "task": {"type": "chief", "index": 0}}', "one chief, received 2"),
        ('{"cluster": {"worker": ["a"]}, "task": {"type": "worker", "index": 0}}', "such as host1:2222, received 'a'"),
        ('{"cluster": {"worker": [7]}, "task": {"type": "worker", "index": 0}}', "such as host1:2222, received 7"),
        ('{"cluster": {"worker": ["a:0"]}, "task": {"type": "worker", "index": 0}}', "received 'a:0'"),
        ('{"cluster": {"worker": ["::1:1"]}, "task": {"type": "worker", "index": 0}}', "received '::1:1'"),
        ('{"cluster": {"worker": ["a:1", "a:1"]}, "task": {"type": "worker", "index": 0}}', "a:1 is there twice"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "chief", "index": 0}}', "number of chiefs, 0"),
    ],
)
def test_a_malformed_cluster_is_told(value, told):
    with pytest.raises(UserError, match="TF_CONFIG") as raised:
        read_cluster(value)
    assert told in str(raised.value)


def test_a_chief_of_its_own_comes_first():
    value = {"cluster": {"worker": ["b:1", "[::1]:1"], "chief": ["a:1"]}, "task": {"type": "worker", "index": "1"}}
    found = read_cluster(json.dumps(value))
    assert found.names == ("chief (a:1)", "worker 0 (b:1)", "worker 1 ([::1]:1)")
    assert (found.index, found.is_chief) == (2, False)


def test_workers_that_would_each_train_alone_are_refused(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", tf_config(["a:1", "b:1"], 1))
    with pytest.raises(UserError, match="names 2 workers, and with training"):
        cluster_of_environment("default")
    for harmless in (tf_config(["a:1"], 0), "another program's"):
        monkeypatch.setenv("TF_CONFIG", harmless)
        assert cluster_of_environment("default") is None

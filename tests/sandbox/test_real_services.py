"""Real servers in a sandbox, with their own Python clients on this machine."""

import pytest


@pytest.fixture
def redis_port(sandbox):
    """A redis-server in a sandbox, at a local port."""
    if sandbox.run(["redis-server", "--version"]).exit_code == 127:
        pytest.skip("the image has no redis-server: Debian's package redis-server has it")
    with sandbox.start(["redis-server", "--port", "6390", "--bind", "127.0.0.1", "--save", ""]) as server:
        sandbox.wait_for_port(6390, process=server)
        sandbox.wait_for_log(server, "Ready to accept connections")
        with sandbox.forward(6390) as address:
            yield address


def test_redis_is_reached_by_its_client(redis_port):
    redis = pytest.importorskip("redis")
    with redis.Redis(*redis_port) as client:
        client.set("greeting", b"\0\xffhello")
        with client.pipeline() as pipeline:
            for number in range(500):
                pipeline.set(f"key{number}", b"x" * 1000)
            pipeline.execute()

        assert client.get("greeting") == b"\0\xffhello"
        assert client.dbsize() == 501


def test_redis_publishes_to_a_subscriber(redis_port):
    redis = pytest.importorskip("redis")
    with redis.Redis(*redis_port) as client, client.pubsub() as subscriber:
        subscriber.subscribe("news")
        assert subscriber.get_message(timeout=10)["type"] == "subscribe"
        client.publish("news", "first")

        assert subscriber.get_message(timeout=10)["data"] == b"first"


@pytest.fixture
def postgres_port(sandbox):
    """A PostgreSQL in a sandbox, at a local port."""
    found = sandbox.run("ls -d /usr/lib/postgresql/*/bin").stdout.split()
    if not found:
        pytest.skip("the image has no PostgreSQL: Debian's package postgresql has it")
    # PostgreSQL refuses to run as root.
    user = None if sandbox.run(["id", "-u"]).stdout != "0\n" else 33
    if user is not None and sandbox.run(["chown", "33", "/srv"]).exit_code:
        pytest.skip("this sandbox has root alone, and PostgreSQL refuses to run as root")
    setup = (
        f"export LC_ALL=C; {found[-1]}/initdb -D /srv/data -U tester --auth=trust --encoding=UTF8 --no-sync >/dev/null"
    )
    sandbox.run(setup, uid=user, check=True, timeout=120)
    options = ["-D", "/srv/data", "-p", "5433", "-c", "unix_socket_directories=/srv", "-c", "fsync=off"]
    with sandbox.start([f"{found[-1]}/postgres", *options], uid=user) as server:
        sandbox.wait_for_log(server, "ready to accept connections", timeout=60)
        with sandbox.forward(5433) as address:
            yield address


def test_postgresql_is_reached_by_its_client(postgres_port):
    psycopg = pytest.importorskip("psycopg")
    host, port = postgres_port
    with psycopg.connect(host=host, port=port, user="tester", dbname="postgres") as connection:
        connection.execute("CREATE TABLE notes (id serial, text text)")
        with connection.cursor().copy("COPY notes (text) FROM STDIN") as copy:
            for number in range(1000):
                copy.write_row((f"note {number}",))

        assert connection.execute("SELECT count(*), max(text) FROM notes").fetchone() == (1000, "note 999")

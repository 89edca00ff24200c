"""psycopg 3 at its normal work: `psycopg.py postgresql://user:password@host:port/database`. Prints `ok NAME` lines."""

import os
import sys
import threading

# This file is named after the driver: its own folder must not be where the driver is looked for.
del sys.path[0]

import psycopg
from psycopg import errors
from psycopg_pool import ConnectionPool

DSN = sys.argv[1] if len(sys.argv) > 1 else os.environ["PGMOOR_DSN"]
TABLE = "psycopg_work_%d" % os.getpid()


def ok(name):
    print("ok", name, flush=True)


def expect(error, act):
    try:
        act()
    except error:
        return
    raise AssertionError("%s expected" % error.__name__)


def main():
    with psycopg.connect(DSN, autocommit=True) as conn:
        assert conn.execute("select 1").fetchone() == (1,)
        assert conn.info.parameter_status("server_version").startswith("1")
        ok("simple")
        row = conn.execute("select %s::int + 1, %s, %s", (41, "t\u00e9xt", None)).fetchone()
        assert row == (42, "t\u00e9xt", None), row
        assert conn.execute("select %b::bytea", (bytes(range(256)) * 100,), binary=True).fetchone()[0] == bytes(range(256)) * 100
        ok("parameters")
        for number in range(20):
            assert conn.execute("select %s::int * 2", (number,), prepare=True).fetchone() == (number * 2,)
        conn.execute("create table %s (id int primary key, body text)" % TABLE)
        try:
            work(conn)
        finally:
            conn.execute("drop table %s" % TABLE)


def work(conn):
    with conn.cursor() as cur:
        cur.executemany("insert into %s values (%%s, %%s)" % TABLE, [(n, "row %d" % n) for n in range(1000)])
    assert conn.execute("select count(*) from %s" % TABLE).fetchone() == (1000,)
    ok("prepared statements")
    transactions(conn)
    with conn.cursor() as cur:
        with cur.copy("copy %s from stdin" % TABLE) as copy:
            for n in range(2000, 22000):
                copy.write_row((n, "copied"))
        with cur.copy("copy (select id from %s where body = 'copied') to stdout" % TABLE) as copy:
            assert sum(1 for _ in copy.rows()) == 20000

        def broken():
            with cur.copy("copy %s from stdin" % TABLE) as copy:
                copy.write("not a row\n")

        expect(errors.InvalidTextRepresentation, broken)
        assert cur.execute("select 1").fetchone() == (1,)
    ok("copy")
    conn.execute("listen psycopg_news")
    with psycopg.connect(DSN, autocommit=True) as other:
        other.execute("notify psycopg_news, 'hello'")
    assert [n.payload for n in conn.notifies(timeout=20, stop_after=1)] == ["hello"]
    ok("listen and notify")
    timer = threading.Timer(0.3, conn.cancel)
    timer.start()
    expect(errors.QueryCanceled, lambda: conn.execute("select pg_sleep(60)"))
    timer.join()
    conn.execute("set statement_timeout = '200ms'")
    expect(errors.QueryCanceled, lambda: conn.execute("select pg_sleep(60)"))
    conn.execute("reset statement_timeout")
    ok("cancel and timeout")
    with conn.transaction(), conn.cursor("server_side") as cur:
        cur.itersize = 1000
        cur.execute("select g, repeat('x', 100) from generate_series(1, 50000) g")
        assert sum(1 for _ in cur) == 50000
    with psycopg.connect(DSN) as other:
        assert sum(1 for _ in other.cursor().stream("select generate_series(1, 20000)")) == 20000
    ok("cursors")
    with conn.pipeline():
        cursors = [conn.execute("select %s::int", (n,)) for n in range(500)]
        assert [cur.fetchone()[0] for cur in cursors] == list(range(500))

    def failing():
        with conn.pipeline():
            conn.execute("select 1")
            conn.execute("select 1/0")
            conn.execute("select 2")

    expect(errors.DivisionByZero, failing)
    assert conn.execute("select 3").fetchone() == (3,)
    ok("pipelines")
    with ConnectionPool(DSN, min_size=2, max_size=4, open=True) as pool:
        pool.wait(20)
        threads = [threading.Thread(target=pooled, args=(pool,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert POOLED == 80, POOLED
    ok("pool")


def transactions(conn):
    with conn.transaction():
        conn.execute("insert into %s values (-1, 'kept')" % TABLE)

        def inner():
            with conn.transaction():
                conn.execute("insert into %s values (-2, 'undone')" % TABLE)
                conn.execute("insert into %s values (-1, 'twice')" % TABLE)

        expect(errors.UniqueViolation, inner)
        conn.execute("insert into %s values (-3, 'kept')" % TABLE)

    def undone():
        with conn.transaction():
            conn.execute("insert into %s values (-4, 'undone')" % TABLE)
            conn.execute("select 1/0")

    expect(errors.DivisionByZero, undone)
    assert conn.execute("select array_agg(id order by id) from %s where id < 0" % TABLE).fetchone() == ([-3, -1],)
    with psycopg.connect(DSN) as other:
        expect(errors.UndefinedTable, lambda: other.execute("select * from no_such_table"))
        expect(errors.InFailedSqlTransaction, lambda: other.execute("select 1"))
        other.rollback()
        assert other.execute("select 1").fetchone() == (1,)
    ok("transactions and savepoints")


POOLED = 0
LOCK = threading.Lock()


def pooled(pool):
    global POOLED
    for n in range(10):
        with pool.connection(timeout=20) as conn:
            assert conn.execute("select %s::int", (n,)).fetchone() == (n,)
        with LOCK:
            POOLED += 1


main()
print("done psycopg", psycopg.__version__)

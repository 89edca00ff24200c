"""psycopg 3 with its backend ended in the midst of transactions: `psycopg.py URI`."""

import os
import sys

# This file is named after the driver: its own folder must not be where the driver is looked for.
del sys.path[0]

import psycopg

DSN = sys.argv[1]
TABLE = "psycopg_replayed_%d" % os.getpid()


def main():
    with psycopg.connect(DSN, application_name="psycopg_other", autocommit=True) as other:

        def lose():
            ended = other.execute(
                "select count(pg_terminate_backend(pid, 5000)) from pg_stat_activity"
                " where application_name = 'psycopg' and usename = 'app'"
            ).fetchone()[0]
            assert ended == 1, ended

        other.execute("create table %s (id int primary key, body text)" % TABLE)
        with psycopg.connect(DSN) as conn:
            work(conn, lose)
        assert other.execute("select count(*), min(id), max(id) from %s" % TABLE).fetchone() == (1010, 1, 1010)


def work(conn, lose):
    put = "insert into %s values (%%s, %%s)" % TABLE
    conn.prepare_threshold = 2
    for n in range(1, 7):
        conn.execute(put, (n, "row"))
    lose()
    conn.execute(put, (7, "row"))
    conn.commit()
    with conn.transaction():
        conn.execute(put, (8, "row"))
        try:
            with conn.transaction():
                conn.execute(put, (9, "undone"))
                conn.execute(put, (8, "twice"))
        except psycopg.errors.UniqueViolation:
            pass
        lose()
        conn.execute(put, (9, "row"))
    with conn.cursor("server_side") as cur:
        cur.itersize = 100
        cur.execute("select id from wide order by id")
        for expected, (found,) in enumerate(cur, 1):
            assert expected == found
            if found == 250:
                lose()
            if found == 1000:
                break
    conn.commit()
    with conn.pipeline():
        cursors = [conn.execute(put, (n, "piped")) for n in range(10, 110)]
    lose()
    with conn.pipeline():
        cursors += [conn.execute(put, (n, "piped")) for n in range(110, 210)]
    assert all(cur.rowcount == 1 for cur in cursors)
    conn.commit()
    with conn.cursor() as cur:
        with cur.copy("copy %s from stdin" % TABLE) as copy:
            for n in range(210, 1011):
                copy.write_row((n, "copied"))
        lose()
    conn.commit()
    conn.execute(put, (2000, "never"))
    lose()
    conn.rollback()


main()
print("done psycopg")

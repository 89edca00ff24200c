"""asyncpg at its normal work: `asyncpg.py postgresql://user:password@host:port/database`. Prints `ok NAME` lines."""

import asyncio
import io
import os
import sys

# This file is named after the driver: its own folder must not be where the driver is looked for.
del sys.path[0]

import asyncpg

DSN = sys.argv[1] if len(sys.argv) > 1 else os.environ["PGMOOR_DSN"]
TABLE = "asyncpg_work_%d" % os.getpid()


def ok(name):
    print("ok", name, flush=True)


async def expect(error, awaitable):
    try:
        await awaitable
    except error:
        return
    raise AssertionError("%s expected" % error.__name__)


async def main():
    conn = await asyncpg.connect(DSN, timeout=20)
    assert await conn.fetchval("select 1") == 1
    assert await conn.execute("select 1; select 2") == "SELECT 1"
    ok("simple")
    assert tuple(await conn.fetchrow("select $1::int + 1, $2::text, $3::bytea", 41, "t\u00e9xt", b"\0\1")) == (42, "t\u00e9xt", b"\0\1")
    ok("parameters")
    statement = await conn.prepare("select $1::int * 2")
    for number in range(20):
        assert await statement.fetchval(number) == number * 2
        assert await conn.fetchval("select $1::int * 3", number) == number * 3
    ok("prepared statements")
    await conn.execute("create table %s (id int primary key, body text)" % TABLE)
    try:
        await work(conn)
    finally:
        await conn.execute("drop table %s" % TABLE)
        await conn.close(timeout=10)


async def work(conn):
    await conn.executemany("insert into %s values ($1, $2)" % TABLE, [(n, "row") for n in range(1000)])
    async with conn.transaction():
        await conn.execute("insert into %s values (-1, 'kept')" % TABLE)
        try:
            async with conn.transaction():
                await conn.execute("insert into %s values (-2, 'undone')" % TABLE)
                await conn.execute("insert into %s values (-1, 'twice')" % TABLE)
        except asyncpg.UniqueViolationError:
            pass
        await conn.execute("insert into %s values (-3, 'kept')" % TABLE)
    transaction = conn.transaction(isolation="serializable")
    await transaction.start()
    await expect(asyncpg.DivisionByZeroError, conn.fetch("select 1/$1::int", 0))
    await expect(asyncpg.InFailedSQLTransactionError, conn.fetch("select 1"))
    await transaction.rollback()
    assert await conn.fetchval("select array_agg(id order by id) from %s where id < 0" % TABLE) == [-3, -1]
    ok("transactions and savepoints")
    assert await conn.copy_records_to_table(TABLE, records=[(n, "copied") for n in range(2000, 22000)]) == "COPY 20000"
    out = io.BytesIO()
    await conn.copy_from_query("select id from %s where body = 'copied'" % TABLE, output=out)
    assert out.getvalue().count(b"\n") == 20000
    await expect(asyncpg.UniqueViolationError, conn.copy_records_to_table(TABLE, records=[(2000, "twice")]))
    ok("copy")
    heard = asyncio.get_running_loop().create_future()
    await conn.add_listener("asyncpg_news", lambda *news: heard.done() or heard.set_result(news[3]))
    other = await asyncpg.connect(DSN, timeout=20)
    await other.execute("notify asyncpg_news, 'hello'")
    await other.close()
    assert await asyncio.wait_for(heard, 20) == "hello"
    ok("listen and notify")
    # The client's own timeout cancels the statement on the server.
    await expect(asyncio.TimeoutError, conn.fetch("select pg_sleep(60)", timeout=0.3))
    assert await conn.fetchval("select 1") == 1
    task = asyncio.ensure_future(conn.execute("select pg_sleep(60)"))
    await asyncio.sleep(0.2)
    task.cancel()
    await expect(asyncio.CancelledError, task)
    assert await conn.fetchval("select 1") == 1
    await conn.execute("set statement_timeout = '200ms'")
    await expect(asyncpg.QueryCanceledError, conn.fetch("select pg_sleep(60)"))
    await conn.execute("reset statement_timeout")
    ok("cancel and timeout")
    async with conn.transaction():
        count = 0
        async for _ in conn.cursor("select g, repeat('x', 100) from generate_series(1, 50000) g", prefetch=500):
            count += 1
        assert count == 50000
    assert len(await conn.fetch("select generate_series(1, 100000)")) == 100000
    ok("cursors")
    async with asyncpg.create_pool(DSN, min_size=2, max_size=4, timeout=20) as pool:
        assert await asyncio.gather(*(pool.fetchval("select $1::int", n) for n in range(80))) == list(range(80))
        async with pool.acquire() as one:
            await one.execute("set work_mem = '7MB'")
        async with pool.acquire() as one:
            assert await one.fetchval("show work_mem") == "4MB", "the pool resets what it takes back"
    ok("pool")


asyncio.run(main())
print("done asyncpg", asyncpg.__version__)

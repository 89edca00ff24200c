"""asyncpg with its backend ended in the midst of transactions: `asyncpg.py URI`."""

import asyncio
import os
import sys

# This file is named after the driver: its own folder must not be where the driver is looked for.
del sys.path[0]

import asyncpg

DSN = sys.argv[1].split("?")[0]
TABLE = "asyncpg_replayed_%d" % os.getpid()


async def main():
    other = await asyncpg.connect(DSN, server_settings={"application_name": "asyncpg_other"})
    conn = await asyncpg.connect(DSN, server_settings={"application_name": "asyncpg"})

    async def lose():
        ended = await other.fetchval(
            "select count(pg_terminate_backend(pid, 5000)) from pg_stat_activity"
            " where application_name = 'asyncpg' and usename = 'app'"
        )
        assert ended == 1, ended

    await other.execute("create table %s (id int primary key, body text)" % TABLE)
    put = "insert into %s values ($1, $2)" % TABLE
    async with conn.transaction():
        await conn.execute(put, 1, "row")
        await lose()
        await conn.execute(put, 2, "row")
        try:
            async with conn.transaction():
                await conn.execute(put, 3, "undone")
                await conn.execute(put, 1, "twice")
        except asyncpg.UniqueViolationError:
            pass
        await lose()
        await conn.execute(put, 3, "row")
    async with conn.transaction(isolation="repeatable_read"):
        expected = 1
        async for record in conn.cursor("select id from wide order by id", prefetch=100):
            assert record["id"] == expected
            if expected == 250:
                await lose()
            expected += 1
            if expected > 1000:
                break
    async with conn.transaction():
        await conn.executemany(put, [(n, "many") for n in range(4, 500)])
        await lose()
        await conn.copy_records_to_table(TABLE, records=[(n, "copied") for n in range(500, 1000)])
        await lose()
    row = await conn.fetchrow("select count(*), max(id) from %s" % TABLE)
    assert tuple(row) == (999, 999), row
    await conn.close()
    await other.close()


asyncio.run(main())
print("done asyncpg")

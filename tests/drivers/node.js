// node-postgres at its normal work: `node node.js postgresql://user:password@host:port/database`. Prints `ok NAME` lines.
// Modules are looked for in NODE_PATH.
'use strict';

const assert = require('node:assert');
const { pipeline } = require('node:stream/promises');
const { Readable } = require('node:stream');
const { Client, Pool } = require('pg');
const Cursor = require('pg-cursor');
const copy = require('pg-copy-streams');

const dsn = process.argv[2] || process.env.PGMOOR_DSN;
const table = `node_work_${process.pid}`;
const ok = (name) => console.log('ok', name);
const fails = (code, promise) => assert.rejects(promise, (error) => {
  assert.strictEqual(error.code, code, error);
  return true;
});

async function simple(client) {
  assert.strictEqual((await client.query('select 1 as one')).rows[0].one, 1);
  assert.strictEqual((await client.query("select 1; select 'two' as x")).length, 2);
  ok('simple');
  const { rows } = await client.query('select $1::int + 1 as n, $2::text as t, $3::bytea as b', [41, 't\u00e9xt', Buffer.from([0, 1])]);
  assert.deepStrictEqual(rows[0], { n: 42, t: 't\u00e9xt', b: Buffer.from([0, 1]) });
  ok('parameters');
  for (let n = 0; n < 20; n += 1) {
    const result = await client.query({ name: 'double', text: 'select $1::int * 2 as n', values: [n] });
    assert.strictEqual(result.rows[0].n, n * 2);
  }
  ok('prepared statements');
}

async function transactions(client) {
  await client.query('begin');
  await client.query(`insert into ${table} values (-1, 'kept')`);
  await client.query('savepoint s');
  await fails('23505', client.query(`insert into ${table} values ($1, $2)`, [-1, 'twice']));
  await fails('25P02', client.query('select 1'));
  await client.query('rollback to s');
  await client.query('commit');
  await client.query('begin');
  await client.query(`insert into ${table} values (-2, 'undone')`);
  await client.query('rollback');
  assert.strictEqual((await client.query(`select count(*)::int as n from ${table}`)).rows[0].n, 1);
  ok('transactions and savepoints');
}

async function copies(client) {
  const lines = function* lines() { for (let n = 0; n < 20000; n += 1) yield `${n}\tcopied\n`; };
  await pipeline(Readable.from(lines()), client.query(copy.from(`copy ${table} from stdin`)));
  let bytes = 0;
  for await (const part of client.query(copy.to(`copy (select id from ${table} where body = 'copied') to stdout`))) bytes += part.length;
  assert.strictEqual(bytes, 108890);
  await fails('22P02', pipeline(Readable.from(['not a row\n']), client.query(copy.from(`copy ${table} from stdin`))));
  assert.strictEqual((await client.query('select 1 as n')).rows[0].n, 1);
  ok('copy');
}

async function news(client) {
  await client.query('listen node_news');
  const heard = new Promise((resolve) => { client.once('notification', (message) => resolve(message.payload)); });
  const other = new Client({ connectionString: dsn });
  await other.connect();
  await other.query("notify node_news, 'hello'");
  await other.end();
  assert.strictEqual(await heard, 'hello');
  ok('listen and notify');
}

async function cancels(client) {
  await client.query("set statement_timeout = '200ms'");
  await fails('57014', client.query('select pg_sleep(60)'));
  await client.query('reset statement_timeout');
  const { rows: [{ pid }] } = await client.query('select pg_backend_pid() as pid');
  const sleeping = fails('57014', client.query('select pg_sleep(60)'));
  const other = new Client({ connectionString: dsn });
  await other.connect();
  for (;;) {
    const { rows } = await other.query("select pg_cancel_backend(pid) from pg_stat_activity where pid = $1 and query ~ 'pg_sleep' and state = 'active'", [pid]);
    if (rows.length > 0) break;
  }
  await sleeping;
  await other.end();
  ok('cancel and timeout');
}

async function cursors(client) {
  await client.query('begin');
  const cursor = client.query(new Cursor('select g from generate_series(1, 50000) g'));
  let count = 0;
  for (;;) {
    const rows = await cursor.read(1000);
    if (rows.length === 0) break;
    count += rows.length;
  }
  await cursor.close();
  await client.query('commit');
  assert.strictEqual(count, 50000);
  assert.strictEqual((await client.query("select repeat('x', 1000000) as x")).rows[0].x.length, 1000000);
  ok('cursors');
  const all = await Promise.all(Array.from({ length: 300 }, (_, n) => client.query('select $1::int as n', [n])));
  assert.ok(all.every((result, n) => result.rows[0].n === n));
  ok('queued queries');
}

async function pool() {
  const shared = new Pool({ connectionString: dsn, max: 4, connectionTimeoutMillis: 20000 });
  const all = await Promise.all(Array.from({ length: 80 }, (_, n) => shared.query('select $1::int as n', [n])));
  assert.ok(all.every((result, n) => result.rows[0].n === n));
  await shared.end();
  ok('pool');
}

async function main() {
  const client = new Client({ connectionString: dsn, connectionTimeoutMillis: 20000 });
  await client.connect();
  await simple(client);
  await client.query(`create table ${table} (id int primary key, body text)`);
  try {
    for (const work of [transactions, copies, news, cancels, cursors]) await work(client);
  } finally {
    await client.query(`drop table ${table}`);
    await client.end();
  }
  await pool();
  console.log('done node-postgres', require('pg/package.json').version);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});

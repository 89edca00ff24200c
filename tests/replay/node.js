// node-postgres with its backend ended in the midst of transactions: `node.js URI`.
"use strict";

const assert = require("node:assert");
const { Client } = require("pg");

const uri = process.argv[2].split("?")[0];
const table = `node_replayed_${process.pid}`;

async function open(name) {
  const client = new Client({ connectionString: uri, application_name: name });
  await client.connect();
  return client;
}

async function main() {
  const other = await open("node_other");
  const client = await open("node");
  const lose = async () => {
    const ended = await other.query(
      "select count(pg_terminate_backend(pid, 5000))::int as count from pg_stat_activity" +
        " where application_name = 'node' and usename = 'app'",
    );
    assert.strictEqual(ended.rows[0].count, 1);
  };
  await other.query(`create table ${table} (id int primary key, body text)`);
  const put = (id) => client.query(`insert into ${table} values ($1, $2) returning id`, [id, "row"]);
  const named = (id) => client.query({ name: "put", text: `insert into ${table} values ($1, 'named')`, values: [id] });
  await client.query("BEGIN");
  assert.strictEqual((await put(1)).rows[0].id, 1);
  await named(2);
  await lose();
  await named(3);
  await put(4);
  await client.query("SAVEPOINT s");
  await assert.rejects(put(1), { code: "23505" });
  await client.query("ROLLBACK TO s");
  await lose();
  await Promise.all([put(5), named(6), put(7)]);
  await client.query("COMMIT");
  await client.query("BEGIN");
  await put(8);
  await lose();
  await client.query("ROLLBACK");
  const kept = await client.query(`select count(*)::int as count from ${table}`);
  assert.strictEqual(kept.rows[0].count, 7);
  await client.end();
  await other.end();
}

main().then(() => console.log("done node"));

#!/bin/sh
# psql at its normal work: `psql.sh postgresql://user:password@host:port/database`. Prints `ok NAME` lines.
set -eu
dsn=${1:-${PGMOOR_DSN:?}}
table=psql_work_$$
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

sql() { psql -XAtq -v ON_ERROR_STOP=1 "$dsn" "$@"; }
ok() { echo "ok $1"; }
same() { [ "$1" = "$2" ] || { echo "expected <$2>, got <$1>" >&2; exit 1; }; }

same "$(sql -c 'select 1; select 2')" "$(printf '1\n2')"
ok simple
same "$(sql -v name="O'Hara" -f - <<'SQL'
select :'name', :{?name};
SQL
)" "O'Hara|t"
ok parameters
same "$(sql -f - <<'SQL'
prepare twice(int) as select $1 * 2;
execute twice(4);
execute twice(21);
SQL
)" "$(printf '8\n42')"
ok "prepared statements"

sql -c "create table $table (id int primary key, body text)"
trap 'sql -c "drop table if exists $table"; rm -rf "$work"' EXIT
same "$(psql -XAtq "$dsn" 2>/dev/null -f - <<SQL
begin;
insert into $table values (1, 'kept');
savepoint s;
insert into $table values (1, 'twice');
select 'not run';
rollback to s;
commit;
begin; insert into $table values (2, 'undone'); rollback;
select count(*) from $table;
\\set ON_ERROR_ROLLBACK on
begin; insert into $table values (3, 'kept');
select 1/0;
commit;
select count(*) from $table;
SQL
)" "$(printf '1\n2')"
ok "transactions and savepoints"

seq 1000 20999 | sed 's/$/\tcopied/' >"$work/in"
sql -c "\\copy $table from '$work/in'" -c "\\copy (select id, body from $table where body = 'copied' order by id) to '$work/out'"
cmp "$work/in" "$work/out"
if echo 'not a row' | sql -c "\\copy $table from pstdin" 2>/dev/null; then exit 1; fi
ok copy

same "$(sql -c 'listen psql_news' -c "notify psql_news, 'hello'" | sed 's/ received from.*//')" \
    'Asynchronous notification "psql_news" with payload "hello"'
ok "listen and notify"

# Ctrl-C: psql sends a CancelRequest with the key it was given, and goes on.
mkfifo "$work/pid"
( sh -c 'echo $$ >"$1"; exec psql -XAtq "$2" -c "select pg_sleep(60) /* psql_work */"' sh "$work/pid" "$dsn" >"$work/cancelled" 2>&1 || : ) &
read -r pid <"$work/pid"
until [ "$(sql -c "select count(*) from pg_stat_activity where query like '%/* psql_work */' and state = 'active'")" = 1 ]; do :; done
kill -INT "$pid"
wait
grep -q 'canceling statement due to user request' "$work/cancelled"
same "$(psql -XAtq "$dsn" -c "set statement_timeout = '200ms'" -c 'select pg_sleep(60)' 2>&1)" 'ERROR:  canceling statement due to statement timeout'
ok "cancel and timeout"

same "$(sql -v FETCH_COUNT=1000 -c 'select generate_series(1, 50000)' | wc -l | tr -d ' ')" 50000
same "$(sql -c "\\d $table" | head -n 1)" 'id|integer||not null|'
same "$(sql -c 'select current_user' -c '\c -' -c 'select current_user' | sort -u | wc -l | tr -d ' ')" 1
ok cursors
echo "done $(psql --version)"

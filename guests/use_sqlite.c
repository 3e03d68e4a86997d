/* A database in memory: rows inserted, an index made, rows joined, grouped, sorted, changed and deleted. Size: thousands of
 * rows. The library is fetched (see tools/build_guests.py); this is what drives it. */
#define _GNU_SOURCE
#include "guest.h"
#include <sqlite3.c>

static sqlite3 *db;

static void check(int code, int want) {
    if (code != want) {
        printf("sqlite: %d %s\n", code, sqlite3_errmsg(db));
        exit(1);
    }
}

static void run(const char *text) { check(sqlite3_exec(db, text, NULL, NULL, NULL), SQLITE_OK); }

static void show(const char *name, const char *text) {
    sqlite3_stmt *q;
    check(sqlite3_prepare_v2(db, text, -1, &q, NULL), SQLITE_OK);
    uint64_t hash = GUEST_HASH, rows = 0;
    while (sqlite3_step(q) == SQLITE_ROW) {
        rows++;
        for (int i = 0; i < sqlite3_column_count(q); i++) {
            const unsigned char *value = sqlite3_column_text(q, i);
            hash = guest_hash(hash, value ? (const char *)value : "-", value ? (size_t)sqlite3_column_bytes(q, i) : 1);
        }
    }
    check(sqlite3_finalize(q), SQLITE_OK);
    printf("%s: %llu rows %016llx\n", name, (unsigned long long)rows, (unsigned long long)hash);
}

int main(int argc, char **argv) {
    unsigned long n = guest_size(argc, argv, 1) * 1000;
    check(sqlite3_open(":memory:", &db), SQLITE_OK);
    run("create table item (id integer primary key, kind integer, price real, name text)");
    run("create table kind (id integer primary key, title text)");
    run("begin");
    sqlite3_stmt *insert;
    check(sqlite3_prepare_v2(db, "insert into item values (?, ?, ?, ?)", -1, &insert, NULL), SQLITE_OK);
    uint64_t seed = 61;
    for (unsigned long i = 0; i < n; i++) {
        uint64_t r = guest_random(&seed);
        char name[32];
        int length = snprintf(name, sizeof name, "item %lx of %lu", (unsigned long)(r >> 44), i % 100);
        sqlite3_bind_int64(insert, 1, (sqlite3_int64)i);
        sqlite3_bind_int64(insert, 2, (sqlite3_int64)(r >> 58));
        sqlite3_bind_double(insert, 3, (double)(r >> 20 & 0xffff) / 8);
        sqlite3_bind_text(insert, 4, name, length, SQLITE_TRANSIENT);
        check(sqlite3_step(insert), SQLITE_DONE);
        sqlite3_reset(insert);
    }
    sqlite3_finalize(insert);
    run("with recursive k(i) as (select 0 union all select i + 1 from k where i < 63) "
        "insert into kind select i, 'kind ' || i from k");
    run("commit");
    run("create index by_name on item (name)");
    show("grouped", "select title, count(*), sum(price), min(name) from item join kind on kind.id = item.kind "
                    "group by title order by sum(price) desc");
    show("searched", "select id, name from item where name like 'item a%' order by price, id limit 500");
    show("looked up", "select a.id, b.id from item a join item b on b.name = a.name and b.id <> a.id order by 1, 2 limit 1000");
    run("update item set price = price * 1.25, name = upper(name) where kind % 3 = 0");
    run("delete from item where id % 7 = 3");
    show("changed", "select kind, round(avg(price), 3), max(name), total(length(name)) from item group by kind");
    sqlite3_close(db);
    return 0;
}

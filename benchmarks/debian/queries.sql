CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT, value REAL);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 150000)
INSERT INTO t SELECT i, 'name' || (i * 7919 % 10007), i * 0.5 FROM n;
CREATE INDEX by_name ON t(name);
SELECT name, count(*), sum(value) FROM t GROUP BY name ORDER BY 3 DESC LIMIT 3;
SELECT count(*) FROM t a JOIN t b ON a.name = b.name WHERE a.id < 3000;
UPDATE t SET value = value + id WHERE id % 3 = 0;
SELECT round(avg(value), 3), max(length(name)) FROM t WHERE name LIKE '%99%';

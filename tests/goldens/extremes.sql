-- The largest and the smallest value that was written stand.
--: schema a
CREATE TABLE runs(id INTEGER PRIMARY KEY, last TEXT, -- @merge max
  best REAL); -- @merge runs.best min
--: a
INSERT INTO runs VALUES(1, '2026-01-01', 12.5), (2, NULL, NULL);
--: sync
--: b
UPDATE runs SET last = '2026-03-01', best = 11.0;
--: other c
UPDATE runs SET last = '2026-02-01', best = 10.5;
--: sync
--: show
SELECT id, last, best FROM runs ORDER BY id;

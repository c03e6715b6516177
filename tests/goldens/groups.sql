-- Columns of a group are written together.
--: schema a
CREATE TABLE people(id INTEGER PRIMARY KEY, street TEXT, city TEXT, phone TEXT); -- @group people(street, city)
--: a
INSERT INTO people VALUES(1, 'Old Street', 'Oldtown', '1');
--: sync
--: b
UPDATE people SET street = 'New Street', city = 'Newtown';
--: c
UPDATE people SET city = 'Othertown', phone = '2';
--: sync
--: show
SELECT street, city, phone FROM people;

'use strict';
// Two devices of a Node.js app that sync their notes through a folder: node two_devices.js [folder]

const { mkdtempSync } = require('node:fs');
const { tmpdir } = require('node:os');
const { join } = require('node:path');
const Database = require('better-sqlite3');
const isle = require('isle-sqlite');

const folder = process.argv[2] ?? mkdtempSync(join(tmpdir(), 'isle-'));
const bucket = join(folder, 'bucket');

// A device has a file, and a folder of its own that tells it apart; an app has one such folder, and need not name it.
function device(name) {
  const db = isle.load(new Database(join(folder, `${name}.db`)));
  db.prepare('SELECT isle_init(?, ?)').get('notes', join(folder, `${name}-home`));
  return db;
}

const value = (db, sql, ...params) => db.prepare(sql).pluck().get(...params);

const laptop = device('laptop');
laptop.exec('CREATE TABLE notes(id TEXT PRIMARY KEY DEFAULT (lower(hex(randomblob(16)))), title TEXT, stars INTEGER)');
value(laptop, "SELECT isle_track('notes')");
laptop.exec("INSERT INTO notes(title, stars) VALUES('Dune', 3)");
value(laptop, 'SELECT isle_sync(?)', bucket);

const phone = device('phone');
value(phone, 'SELECT isle_key_import(?)', value(laptop, 'SELECT isle_key_export()'));
value(phone, 'SELECT isle_sync(?)', bucket);

// Offline, both write to the same row.
laptop.exec("UPDATE notes SET stars = 5 WHERE title = 'Dune'");
phone.exec("UPDATE notes SET title = 'Dune, again' WHERE title = 'Dune'; INSERT INTO notes(title, stars) VALUES('Solaris', 4)");

for (const db of [laptop, phone, laptop]) value(db, 'SELECT isle_sync()');

for (const db of [laptop, phone]) {
  for (const row of db.prepare('SELECT title, stars FROM notes ORDER BY title').raw().all()) console.log(row.join(' | '));
}
console.log(value(laptop, 'SELECT isle_hash()') === value(phone, 'SELECT isle_hash()') ? 'the same' : 'not the same');

'use strict';

const { join } = require('node:path');

const suffix = { darwin: '.dylib', win32: '.dll' }[process.platform] ?? '.so';

/** Where the extension is. */
const path = join(__dirname, `isle${suffix}`);

/** Loads isle into a connection of better-sqlite3, or of node:sqlite that was opened with `allowExtension: true`. */
function load(db) {
  db.loadExtension(path);
  return db;
}

module.exports = { load, path };

/** Where the extension is. */
export const path: string;

/** Loads isle into a connection of better-sqlite3, or of node:sqlite that was opened with `allowExtension: true`. */
export function load<T extends { loadExtension(path: string): unknown }>(db: T): T;

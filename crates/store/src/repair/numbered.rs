//! Rows that clash in a UNIQUE index and show under a number: `Music`, `Music (2)`, `Music (3)`.
//!
//! A column of the index says so (`-- @duplicates rename`). The first claim shows as it is merged, the others in their order with
//! the smallest numbers from 2 on that no merged row has as its own value. A number is never sent: a row that is renamed by
//! hand has a name of its own from then on.
//!
//! Two groups never give one name, for what a name was made of can be read from it. Which rows stood in the way of a number is noted in
//! `isle_claim` under `n:<index>`, so that the group is looked at again when one of them goes; one that comes is known by its name.

use std::collections::HashMap;
use std::sync::Arc;

use isle_changeset::{Value, ValueRef};
use rusqlite::params;

use super::{Repair, RowId};
use crate::StoreError;
use crate::constraints::{Unique, packed};
use crate::error::Doing as _;
use crate::shadow;
use crate::tracked::Tracked;

/// A group of clashing rows: table, constraint, values.
pub(super) type Group = (i64, String, Vec<u8>);

/// What rows show instead of a merged value, by group: the cell and the value.
pub(super) type Names = HashMap<Group, HashMap<RowId, (usize, Value)>>;

/// The name without its number: `Music` of `Music (2)`.
pub(super) fn without_number(name: &[u8]) -> Option<&[u8]> {
    let open = name.strip_suffix(b")")?;
    let digits = open.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let base = open[..open.len() - digits].strip_suffix(b" (")?;
    (digits > 0).then_some(base)
}

impl Repair<'_> {
    /// The group that gives numbers to the name whose number a merged row has as its own.
    pub(super) fn group_of_number(&self, tracked: &Tracked, index: &Unique, values: &[u8]) -> Option<Group> {
        let at = index.renamed?;
        let mut values = self.unpacked(values, index.parts.len()).ok()?;
        let Value::Text(name) = &values[at] else { return None };
        values[at] = Value::Text(without_number(name)?.to_vec());
        let values: Vec<ValueRef<'_>> = values.iter().map(Value::as_ref).collect();
        Some((tracked.no, format!("u:{}", index.name), packed(&values, &index.parts)?))
    }

    /// Gives numbers to all rows of a group but the first; they are in the shadow.
    pub(super) fn number(
        &mut self,
        tracked: &Arc<Tracked>,
        index: &Unique,
        group: &Group,
        order: &[RowId],
    ) -> Result<(), StoreError> {
        let Some((at, cell)) = index.renamed.and_then(|at| Some((at, index.parts[at].cell?))) else { return Ok(()) };
        let (no, noted) = (tracked.no, format!("n:{}", index.name));
        let sql = "DELETE FROM isle_claim WHERE t = ?1 AND c = ?2 AND v = ?3";
        self.conn.prepare_cached(sql).and_then(|mut s| s.execute(params![no, noted, group.2])).doing("drop claims")?;
        let mut names = HashMap::new();
        let mut number = 1u64;
        for row in order.iter().skip(1) {
            let (_, key) = self.key(row)?;
            let key: Vec<_> = key.iter().map(Value::as_ref).collect();
            let columns = crate::constraints::list(&index.parts);
            let Some(mut values) = shadow::values(self.conn, tracked, (true, &columns, ""), &key)? else { continue };
            let Value::Text(name) = values[at].clone() else { continue };
            loop {
                number += 1;
                let candidate = [name.as_slice(), format!(" ({number})").as_bytes()].concat();
                values[at] = Value::Text(candidate);
                let references: Vec<_> = values.iter().map(Value::as_ref).collect();
                let Some(wanted) = packed(&references, &index.parts) else { break };
                let owners = self.owners(tracked, index, &wanted)?;
                for owner in &owners {
                    self.claim(owner, &noted, &group.2, None)?;
                }
                if owners.is_empty() {
                    names.insert(row.clone(), (cell, values[at].clone()));
                    break;
                }
            }
        }
        self.names.insert(group.clone(), names);
        Ok(())
    }

    /// The merged rows that have these values.
    fn owners(&self, tracked: &Arc<Tracked>, index: &Unique, values: &[u8]) -> Result<Vec<RowId>, StoreError> {
        let mut owners: Vec<RowId> = self.holder(tracked, index, values)?.into_iter().collect();
        let sql = "SELECT k FROM isle_claim WHERE t = ?1 AND c = ?2 AND v = ?3";
        let mut statement = self.conn.prepare_cached(sql).doing("read claims")?;
        let constraint = format!("u:{}", index.name);
        let keys =
            statement.query_map(params![tracked.no, constraint, values], |row| row.get(0)).doing("read claims")?;
        for key in keys {
            owners.push((tracked.no, key.doing("read claims")?));
        }
        Ok(owners)
    }

    /// What a row shows instead of merged values; nothing for a row that shows as it is merged.
    pub(super) fn instead_of(&mut self, row: &RowId) -> Result<Vec<(usize, Value)>, StoreError> {
        let mut instead = self.names_of(row)?;
        let (tracked, key) = self.key(row)?;
        if tracked.required.is_empty() {
            return Ok(instead);
        }
        let key: Vec<_> = key.iter().map(Value::as_ref).collect();
        let columns = format!("NULL{}", tracked.column_list(""));
        let merged = shadow::values(self.conn, &tracked, (true, &columns, ""), &key)?.unwrap_or_default();
        let lacks = |(cell, _): &&(usize, Value)| merged.get(*cell) == Some(&Value::Null);
        instead.extend(tracked.required.iter().filter(lacks).cloned());
        Ok(instead)
    }

    /// The numbers under which a row shows, by cell.
    pub(super) fn names_of(&mut self, row: &RowId) -> Result<Vec<(usize, Value)>, StoreError> {
        let tracked = self.table(row.0)?;
        if tracked.unique.iter().all(|index| index.renamed.is_none()) {
            return Ok(Vec::new());
        }
        let sql =
            "SELECT c, v FROM isle_claim WHERE t = ?1 AND k = ?2 AND +behind IS NOT NULL AND substr(c, 1, 2) = 'u:'";
        let mut statement = self.conn.prepare_cached(sql).doing("read claims")?;
        let claims = statement.query_map(params![row.0, row.1], |row| Ok((row.get(0)?, row.get(1)?)));
        let claims = claims.doing("read claims")?.collect::<Result<_, _>>().doing("read claims")?;
        let claims: Vec<(String, Vec<u8>)> = claims;
        drop(statement);
        let mut names = Vec::new();
        for (constraint, values) in claims {
            let index = tracked.unique.iter().find(|index| constraint == format!("u:{}", index.name));
            let Some(index) = index.filter(|index| index.renamed.is_some()) else { continue };
            let group = (row.0, constraint, values);
            if !self.names.contains_key(&group) {
                let (order, _) = self.ordered(&tracked, index, &group.2)?;
                self.number(&tracked, index, &group, &order)?;
            }
            names.extend(self.names.get(&group).and_then(|names| names.get(row)).cloned());
        }
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use super::without_number;

    #[test]
    fn a_number_is_what_isle_would_have_written() {
        assert_eq!(without_number(b"Music (2)"), Some(b"Music".as_slice()));
        assert_eq!(without_number(b"a (2) (13)"), Some(b"a (2)".as_slice()));
        for name in ["Music", "Music (x)", "Music ()", "Music(2)", "(2)", ""] {
            assert_eq!(without_number(name.as_bytes()), None, "{name}");
        }
        assert_eq!(without_number(b" (2)"), Some(b"".as_slice()));
    }
}

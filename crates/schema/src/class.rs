//! How much a change of the schema asks of other devices and of the rows.

use serde::Serialize;

use crate::Step;

/// Classes of changes, the mildest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[non_exhaustive]
pub enum Class {
    /// Something new: tables, columns, indexes, views. Nothing that was there is any different.
    Additive,
    /// Names, what is shown, how values merge: no row is touched.
    Compatible,
    /// Rows have to fit it, or are copied: another definition of a table, a UNIQUE index.
    Converting,
}

impl Class {
    /// `A`, `B` or `C`.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Additive => "A",
            Class::Compatible => "B",
            Class::Converting => "C",
        }
    }
}

impl Step {
    /// The class of this step.
    pub fn class(&self) -> Class {
        match self {
            Step::CreateTable(_)
            | Step::AddColumn { .. }
            | Step::PutObject(_)
            | Step::PutLocal(_)
            | Step::SetVersion(_)
            | Step::Requires(_) => Class::Additive,
            Step::CreateIndex { index, .. } => match is_unique(&index.sql) {
                true => Class::Converting,
                false => Class::Additive,
            },
            Step::Redefine { .. } => Class::Converting,
            Step::RenameColumn { .. }
            | Step::RenameTable { .. }
            | Step::DropIndex { .. }
            | Step::DropObject { .. }
            | Step::HideColumn { .. }
            | Step::SetKind { .. }
            | Step::SetGroup { .. }
            | Step::RenameDuplicates { .. }
            | Step::DropVersion(_) => Class::Compatible,
        }
    }
}

/// Whether SQLite's own text of an index says that it is UNIQUE: the word stands second.
fn is_unique(sql: &str) -> bool {
    sql.split_whitespace().nth(1).is_some_and(|word| word.eq_ignore_ascii_case("unique"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{IndexDefinition, TableId};

    #[test]
    fn an_index_is_additive_unless_rows_have_to_fit_it() {
        let class = |sql: &str| {
            let index = IndexDefinition { sql: sql.into(), table_name: "t".into(), columns: vec![] };
            Step::CreateIndex { table: TableId::from_bytes([1; 16]), name: "i".into(), index }.class()
        };
        assert_eq!(class("CREATE INDEX \"unique\" ON t(a)"), Class::Additive);
        assert_eq!(class("create\n unique index i ON t(a)"), Class::Converting);
        assert!(Class::Additive < Class::Compatible && Class::Compatible < Class::Converting);
    }
}

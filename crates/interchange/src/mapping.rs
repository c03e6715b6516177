//! How documents and tables belong together.

use serde::Deserialize;

use crate::error::MappingError;
use crate::node::{Datum, Node};

/// How the documents of a folder and the tables of a file belong together.
#[derive(Debug, Clone)]
pub struct Mapping {
    /// The documents, in the order in which they are read.
    pub sources: Vec<Source>,
    /// The hash of the mapping as it was written.
    pub hash: [u8; 32],
}

/// A document, and the table that its rows go to.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The document, below the folder that is imported.
    pub file: String,
    /// How it is written; by its name if that is not said.
    #[serde(default)]
    format: Option<Format>,
    /// The table.
    pub table: String,
    /// The members that lead to the rows.
    #[serde(default, deserialize_with = "one_or_more")]
    pub at: Vec<String>,
    /// How the rows lie there.
    #[serde(deserialize_with = "one_or_more")]
    pub rows: Vec<Shape>,
    /// Other members of the objects on the way, which an export writes and an import looks for.
    #[serde(default)]
    frame: toml::Table,
    /// The columns, in the order in which an export writes them.
    pub columns: Columns,
    /// The column that keeps, as a JSON object, the members of a row without a column of their own.
    #[serde(default)]
    pub rest: Option<String>,
    /// What is done with such members if there is no such column.
    #[serde(default)]
    pub unknown: Unknown,
    /// What is done with a second row of one key in one document.
    #[serde(default)]
    pub duplicates: Duplicates,
    /// The columns that put an export's rows in order; those of the primary key if none is named.
    #[serde(default, deserialize_with = "one_or_more")]
    pub order: Vec<String>,
    /// The members that lead to the rows of other sources of the document.
    #[serde(skip)]
    others: Vec<Vec<String>>,
}

/// How rows lie in a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// A list; each element is a row.
    Items,
    /// An object; each member is a row.
    Entries,
    /// The value itself is a row.
    Record,
}

/// How a document is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// JSON.
    Json,
    /// YAML 1.2.
    Yaml,
}

/// What is done with members that no column takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unknown {
    /// The document is refused.
    #[default]
    Refuse,
    /// They are left out.
    Ignore,
}

/// What is done with a second row of one key in one document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Duplicates {
    /// The document is refused.
    #[default]
    Refuse,
    /// The first one counts.
    First,
    /// The last one counts.
    Last,
}

/// What a column holds of a row.
#[derive(Debug, Clone, Deserialize)]
#[serde(from = "Written")]
pub struct Column {
    /// Where its value is.
    pub from: From,
    /// Which values it takes.
    pub form: Form,
    /// Its value where the row has no such member.
    pub default: Option<Node>,
}

/// Where the value of a column is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    /// Below these members of the row.
    Members(Vec<String>),
    /// The name of the entry: of the outermost one, if there are several levels.
    Key,
    /// The place in the list, from 0.
    Index,
    /// The row's value itself.
    Value,
    /// 32 hexadecimal digits of the BLAKE3 hash of the row's value, members sorted by name: a key that is the same on every device.
    Hash,
    /// The default, in every row.
    Constant,
}

/// Which values a column takes, and how it holds them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// Numbers and texts, as they are.
    #[default]
    Plain,
    /// Texts alone.
    Text,
    /// Whole numbers alone.
    Integer,
    /// Numbers alone.
    Real,
    /// `true` and `false`, as 1 and 0.
    Bool,
    /// Any value, as JSON text.
    Json,
    /// Bytes, as a text in base64.
    Base64,
}

/// Columns in the order of the mapping.
#[derive(Debug, Clone)]
pub struct Columns(pub Vec<(String, Column)>);

impl<'de> Deserialize<'de> for Columns {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> serde::de::Visitor<'de> for V {
            type Value = Columns;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a table of columns")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Columns, A::Error> {
                let mut columns = Vec::new();
                while let Some(column) = map.next_entry()? {
                    columns.push(column);
                }
                Ok(Columns(columns))
            }
        }
        deserializer.deserialize_map(V)
    }
}

/// A column as the mapping has it.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Written {
    Name(String),
    Full(Full),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Full {
    #[serde(default, deserialize_with = "one_or_more")]
    from: Vec<String>,
    #[serde(default, rename = "as")]
    form: Form,
    #[serde(default)]
    default: Option<toml::Value>,
    #[serde(default)]
    value: Option<toml::Value>,
}

impl std::convert::From<Written> for Column {
    fn from(written: Written) -> Column {
        let full = match written {
            Written::Name(name) => Full { from: vec![name], form: Form::Plain, default: None, value: None },
            Written::Full(full) => full,
        };
        let from = match full.from.as_slice() {
            [] => From::Constant,
            [one] if one == "$key" => From::Key,
            [one] if one == "$index" => From::Index,
            [one] if one == "$value" => From::Value,
            [one] if one == "$hash" => From::Hash,
            _ => From::Members(full.from),
        };
        let form = if from == From::Index { Form::Integer } else { full.form };
        // A default beside a constant is found by the check.
        let default = full.value.or(full.default).map(|value| node(&value));
        Column { from, form, default }
    }
}

/// A value of TOML as one of a document. Times stand as their text.
fn node(value: &toml::Value) -> Node {
    Node::new(match value {
        toml::Value::String(text) => Datum::Text(text.clone()),
        toml::Value::Integer(integer) => Datum::Integer(*integer),
        toml::Value::Float(real) => Datum::Real(*real),
        toml::Value::Boolean(value) => Datum::Bool(*value),
        toml::Value::Datetime(time) => Datum::Text(time.to_string()),
        toml::Value::Array(items) => Datum::List(items.iter().map(node).collect()),
        toml::Value::Table(table) => {
            Datum::Map(table.iter().map(|(name, value)| (name.clone(), node(value))).collect())
        }
    })
}

/// One of something, or a list.
fn one_or_more<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMore<T> {
        One(T),
        More(Vec<T>),
    }
    Ok(match OneOrMore::deserialize(deserializer)? {
        OneOrMore::One(one) => vec![one],
        OneOrMore::More(more) => more,
    })
}

impl Column {
    /// The members of the row that lead to it.
    fn members(&self) -> Option<&Vec<String>> {
        match &self.from {
            From::Members(members) => Some(members),
            _ => None,
        }
    }
}

impl Format {
    /// By the end of a file's name.
    pub fn of_name(name: &str) -> Option<Format> {
        let end = name.rsplit_once('.')?.1.to_ascii_lowercase();
        match end.as_str() {
            "json" => Some(Format::Json),
            "yaml" | "yml" => Some(Format::Yaml),
            _ => None,
        }
    }
}

impl Mapping {
    /// Reads a mapping.
    ///
    /// # Errors
    /// [`MappingError`], with the source that it is about.
    pub fn from_toml(text: &str) -> Result<Mapping, MappingError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct File {
            source: Vec<Source>,
        }
        let mut file: File = toml::from_str(text)
            .map_err(|error| MappingError::Syntax { reason: error.to_string().trim().to_owned() })?;
        for source in &file.source {
            let refused = |reason| MappingError::Source { file: source.file.clone(), reason };
            source.check().map_err(refused)?;
        }
        let taken: Vec<(String, Vec<String>)> = file.source.iter().map(|s| (s.file.clone(), s.at.clone())).collect();
        let frames: Vec<(String, toml::Table)> =
            file.source.iter().map(|s| (s.file.clone(), s.frame.clone())).collect();
        for (n, source) in file.source.iter_mut().enumerate() {
            // One of several sources of a document says what stands beside them.
            for (_, frame) in frames.iter().filter(|(file, _)| *file == source.file) {
                for (name, value) in frame {
                    source.frame.entry(name.as_str()).or_insert_with(|| value.clone());
                }
            }
            for (_, at) in taken
                .iter()
                .enumerate()
                .filter(|(m, (file, _))| *m != n && *file == source.file)
                .map(|(_, other)| other)
            {
                // One of them would take what the other one does, and an export could not tell them apart.
                if at.starts_with(&source.at) || source.at.starts_with(at) {
                    let reason = "two sources of one document take the same part of it".to_owned();
                    return Err(MappingError::Source { file: source.file.clone(), reason });
                }
                source.others.push(at.clone());
            }
        }
        Ok(Mapping { sources: file.source, hash: *blake3::hash(text.as_bytes()).as_bytes() })
    }

    /// One list of objects, a table's rows with its columns as members, in one document.
    pub fn plain(file: &str, format: Format, table: &str, columns: &[String]) -> Mapping {
        let column = |name: &String| {
            let from = From::Members(vec![name.clone()]);
            (name.clone(), Column { from, form: Form::Plain, default: None })
        };
        let source = Source {
            file: file.to_owned(),
            format: Some(format),
            table: table.to_owned(),
            at: Vec::new(),
            rows: vec![Shape::Items],
            frame: toml::Table::new(),
            columns: Columns(columns.iter().map(column).collect()),
            rest: None,
            unknown: Unknown::Refuse,
            duplicates: Duplicates::Refuse,
            order: Vec::new(),
            others: Vec::new(),
        };
        let told = format!("{table}\0{}", columns.join("\0"));
        Mapping { sources: vec![source], hash: *blake3::hash(told.as_bytes()).as_bytes() }
    }
}

impl Source {
    /// How the document is written.
    pub fn format(&self) -> Format {
        self.format.or_else(|| Format::of_name(&self.file)).unwrap_or(Format::Json)
    }

    /// The members that stand beside the rows on the way to them.
    pub fn frame(&self) -> Vec<(String, Node)> {
        self.frame.iter().map(|(name, value)| (name.clone(), node(value))).collect()
    }

    /// Columns that have the same value in all its rows, with their places among [`Source::column_names`] and how they are filled.
    pub fn constants(&self) -> impl Iterator<Item = (usize, &str, &Column)> {
        let all = self.columns.0.iter().enumerate();
        all.filter(|(_, (_, column))| column.from == From::Constant)
            .map(|(n, (name, column))| (n, name.as_str(), column))
    }

    /// Whether a member beside the one at this level leads to another source's rows.
    pub(crate) fn is_others(&self, level: usize, member: &str) -> bool {
        let leads = |other: &Vec<String>| {
            other.get(level).is_some_and(|name| name == member) && other.get(..level) == self.at.get(..level)
        };
        self.others.iter().any(leads)
    }

    /// The columns that it fills, that for the rest included.
    pub fn column_names(&self) -> impl Iterator<Item = &str> {
        self.columns.0.iter().map(|(name, _)| name.as_str()).chain(self.rest.as_deref())
    }

    fn check(&self) -> Result<(), String> {
        let inside = |part: std::path::Component<'_>| matches!(part, std::path::Component::Normal(_));
        if self.file.is_empty() || !std::path::Path::new(&self.file).components().all(inside) {
            return Err("its file has to lie below the folder that is imported".to_owned());
        }
        if self.format.is_none() && Format::of_name(&self.file).is_none() {
            return Err("its name does not say how it is written; add format = \"json\" or \"yaml\"".to_owned());
        }
        let levels = self.rows.iter().filter(|shape| **shape != Shape::Record).count();
        if self.rows.is_empty() || self.rows.len() > 2 || (self.rows.len() > 1 && levels < self.rows.len()) {
            return Err("rows is \"items\", \"entries\", \"record\", or a list of two of the first two".to_owned());
        }
        if self.rows.len() == 2 && self.rows != [Shape::Entries, Shape::Items] {
            return Err("two levels are [\"entries\", \"items\"]".to_owned());
        }
        if self.columns.0.is_empty() {
            return Err("it names no column".to_owned());
        }
        let mut names: Vec<String> = self.column_names().map(str::to_ascii_lowercase).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("it fills column {} twice", twice[0]));
        }
        let mut members: Vec<&Vec<String>> = self.columns.0.iter().filter_map(|(_, column)| column.members()).collect();
        members.sort_unstable();
        if let Some(pair) = members.windows(2).find(|pair| pair[1].starts_with(pair[0])) {
            return Err(format!("two columns take the member {}, or a part of it", pair[0].join(".")));
        }
        if self.at.first().is_some_and(|first| self.frame.contains_key(first)) {
            return Err("its frame has the member in which the rows are".to_owned());
        }
        let has = |wanted: &From| self.columns.0.iter().any(|(_, column)| column.from == *wanted);
        if has(&From::Key) && !self.rows.contains(&Shape::Entries) {
            return Err("$key is the name of an entry, and rows has no \"entries\"".to_owned());
        }
        if !has(&From::Key) && self.rows.contains(&Shape::Entries) {
            return Err("the names of the entries go nowhere; give a column from = \"$key\"".to_owned());
        }
        if has(&From::Value)
            && (self.rest.is_some() || self.columns.0.iter().any(|(_, c)| matches!(c.from, From::Members(_))))
        {
            return Err("a column that takes $value whole leaves nothing for members or the rest".to_owned());
        }
        for (name, column) in &self.columns.0 {
            match &column.from {
                From::Constant if column.default.is_none() => {
                    return Err(format!("column {name} has neither from nor value"));
                }
                From::Constant if crate::constant(column).is_none() => {
                    return Err(format!("column {name}: its value is not of its form"));
                }
                From::Members(path) => {
                    if let Some(odd) = path.iter().find(|part| part.starts_with('$')) {
                        return Err(format!("column {name}: {odd} is none of $key, $index, $value and $hash"));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

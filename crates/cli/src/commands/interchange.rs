//! Documents into rows, and back.

use std::path::Path;
use std::time::Duration;

use isle::{
    DocumentFormat, ExportFollower, ExportOptions, Exported, ImportOptions, Imported, Mapping, Replica, SourceState,
    Verification,
};
use serde_json::json;

use super::remotes;
use crate::args::{Args, DialectBy, Documents, Export, ExportAction, Import, ImportAction};
use crate::failure::{Failure, Kind};
use crate::output::{Cell, Out, bytes, count, printable, time};
use crate::spinner;

/// Differences that are shown to a person for each document.
const SHOWN_MAX: usize = 10;
/// How often it is looked whether something was written. Documents are to be no more than two seconds behind.
const FOLLOW_EVERY: Duration = Duration::from_millis(250);

pub(crate) fn import(args: &Args, action: &ImportAction, out: &mut Out) -> anyhow::Result<u8> {
    let replica = remotes::open_synced(args)?;
    match action {
        ImportAction::Json(wanted) => run(&replica, wanted, DocumentFormat::Json, out),
        ImportAction::Yaml(wanted) => run(&replica, wanted, DocumentFormat::Yaml, out),
        ImportAction::Status(documents) => status(&replica, documents, out),
        ImportAction::Verify(documents) => verify(&replica, documents, out),
        ImportAction::Archives => archives(&replica.import_archives()?, "kept", out),
        ImportAction::Prune { older_than, dry_run } => {
            let now = jiff::Timestamp::now().as_millisecond().unsigned_abs();
            let before = now.saturating_sub(older_than.as_millis() as u64);
            let gone = replica.prune_import_archives(before, *dry_run)?;
            archives(&gone, if *dry_run { "would go" } else { "removed" }, out)
        }
    }
}

pub(crate) fn export(args: &Args, action: &ExportAction, out: &mut Out) -> anyhow::Result<u8> {
    let replica = remotes::open_synced(args)?;
    match action {
        ExportAction::Json(wanted) => write(&replica, wanted, DocumentFormat::Json, out),
        ExportAction::Yaml(wanted) => write(&replica, wanted, DocumentFormat::Yaml, out),
        ExportAction::Sql { tables, dialect } => {
            let dialect = match dialect {
                DialectBy::Sqlite => isle::Dialect::Sqlite,
                DialectBy::Postgres => isle::Dialect::Postgres,
                DialectBy::Mysql => isle::Dialect::Mysql,
            };
            replica.export_sql(&named(tables), dialect, out.writer())?;
            Ok(0)
        }
        ExportAction::Jsonl { folder, tables } => {
            let written = spinner::beside("exporting", || replica.export_jsonl(&named(tables), folder))?;
            exported(&written, out)
        }
    }
}

fn named(tables: &[String]) -> Vec<&str> {
    tables.iter().map(String::as_str).collect()
}

/// The mapping that was asked for.
fn mapping(replica: &Replica, documents: &Documents, format: Option<DocumentFormat>) -> anyhow::Result<Mapping> {
    if let Some(path) = &documents.map {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::new(Kind::Invalid, format!("the mapping {} cannot be read: {error}", path.display()))
        })?;
        let mut mapping = Mapping::from_toml(&text).map_err(isle::InterchangeError::from).map_err(isle::Error::from)?;
        if let Some(format) = format {
            mapping.sources.retain(|source| source.format() == format);
            if mapping.sources.is_empty() {
                let message = format!("the mapping {} names no document of this format", path.display());
                return Err(Failure::new(Kind::Invalid, message).into());
            }
        }
        return Ok(mapping);
    }
    let table = documents.table.as_deref().unwrap_or_default();
    let name = documents.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let named = DocumentFormat::of_name(&name);
    let format = format.or(named).unwrap_or(DocumentFormat::Json);
    // In a folder the document is called as its table.
    let name = match (named, format) {
        (Some(_), _) => name,
        (None, DocumentFormat::Yaml) => format!("{table}.yaml"),
        (None, _) => format!("{table}.json"),
    };
    Ok(replica.plain_mapping(&name, format, table)?)
}

fn run(replica: &Replica, wanted: &Import, format: DocumentFormat, out: &mut Out) -> anyhow::Result<u8> {
    let mapping = mapping(replica, &wanted.documents, Some(format))?;
    let path = &wanted.documents.path;
    let mut steps = Vec::new();
    if wanted.checklist {
        let folder = isle::backup_folder(replica.path())?;
        let made = match spinner::beside("copying", || replica.back_up(&folder, "import", None))? {
            isle::BackedUp::Done(backup) => format!("a backup of the database is {}", backup.path.display()),
            isle::BackedUp::SkippedEmpty => "the database was empty: no backup is needed".to_owned(),
        };
        steps.push((true, made));
    }
    let options = ImportOptions::default()
        .replace(wanted.replace)
        .again(wanted.again)
        .archive(wanted.archive)
        .dry_run(wanted.dry_run);
    // What is compared afterwards is still under its name.
    let first = if wanted.checklist { options.clone().archive(false) } else { options };
    let mut report = spinner::beside("importing", || replica.import(&mapping, path, &first))?;
    if wanted.checklist {
        checklist(replica, &mapping, wanted, &mut steps)?;
        let sound = steps.iter().all(|(done, _)| *done);
        if wanted.archive && sound {
            let archived = replica.import(&mapping, path, &ImportOptions::default().archive(true))?;
            for (told, now) in report.sources.iter_mut().zip(archived.sources) {
                (told.archive, told.archive_error) = (now.archive, now.archive_error);
            }
        }
        let kept = match wanted.archive && sound {
            true => "as ….bak; `isle import prune` removes them after 30 days",
            false => "where they are; keep them for 30 days",
        };
        steps.push((true, format!("the documents stay {kept}")));
    }
    let failed = report.sources.iter().filter_map(|source| source.archive_error.as_deref());
    steps.extend(failed.map(|error| (false, format!("the rows are there; {error}"))));
    let sound = steps.iter().all(|(done, _)| *done);
    let list: Vec<_> = steps.iter().map(|(done, what)| json!({ "done": done, "what": what })).collect();
    let mut object = json!(report);
    if let (Some(fields), true) = (object.as_object_mut(), wanted.checklist) {
        fields.insert("checklist".to_owned(), list.into());
    }
    if !out.json(&object)? {
        show(&report.sources, out)?;
        if let Some(backup) = &report.backup {
            out.note(format!("as it was before, the database is backup {}", backup.get(..8).unwrap_or(backup)))?;
        }
        for (done, what) in &steps {
            let mark = if *done { out.style.green("✓") } else { out.style.yellow("!") };
            out.line(format!("{mark} {}", printable(what)))?;
        }
        if wanted.dry_run {
            out.note("nothing was changed")?;
        }
    }
    Ok(if sound { 0 } else { Kind::Failed.code() })
}

/// What is looked at after a careful move.
fn checklist(
    replica: &Replica,
    mapping: &Mapping,
    wanted: &Import,
    steps: &mut Vec<(bool, String)>,
) -> anyhow::Result<()> {
    let compared = spinner::beside("comparing", || replica.verify_import(mapping, &wanted.documents.path))?;
    let what = if compared.is_equal() {
        "documents and tables say the same, both ways"
    } else {
        "documents and tables differ: `isle import verify` says where"
    };
    steps.push((compared.is_equal(), what.to_owned()));
    let report = spinner::beside("checking", || replica.check())?;
    let sound = report.findings.is_empty();
    let what = if sound { "the database is sound" } else { "the database is not sound: `isle doctor` says why" };
    steps.push((sound, what.to_owned()));
    Ok(())
}

fn show(sources: &[Imported], out: &mut Out) -> anyhow::Result<()> {
    let row = |source: &Imported| {
        let state = match source.state {
            SourceState::Absent => Cell::dim("absent"),
            SourceState::New if source.inserted + source.same + source.kept + source.replaced > 0 => {
                Cell::text(told(source))
            }
            SourceState::New => Cell::text("not imported"),
            SourceState::Known => Cell::dim("imported before"),
            SourceState::Imported => Cell::text(told(source)),
        };
        let younger = source.inserted > 0 && !source.oldest && source.state == SourceState::Imported;
        let younger = if younger { "as of now: this file has older rows of the table  " } else { "" };
        let archive = source.archive.as_ref().map(|path| format!("now {}", path.display())).unwrap_or_default();
        vec![Cell::text(&source.file), Cell::text(&source.table), state, Cell::dim(format!("{younger}{archive}"))]
    };
    out.table(&["DOCUMENT", "TABLE", "", ""], sources.iter().map(row).collect())?;
    for source in sources.iter().filter(|source| !source.differences.is_empty()) {
        for difference in source.differences.iter().take(SHOWN_MAX) {
            let what = match difference.column.as_str() {
                "" => format!("{} {}: {}", source.table, difference.key, difference.table),
                column => format!(
                    "{} {}: {column} is {}, the document has {}",
                    source.table, difference.key, difference.table, difference.document
                ),
            };
            out.line(out.style.yellow(printable(&what)))?;
        }
        if source.kept > 0 {
            out.note(format!(
                "{} of {} stay as they are; --replace lets the document count",
                count(source.kept, "row"),
                source.file
            ))?;
        }
    }
    Ok(())
}

/// What came of a document's rows.
fn told(source: &Imported) -> String {
    let parts = [
        (source.inserted, "new"),
        (source.same, "there already"),
        (source.replaced, "replaced"),
        (source.kept, "kept as they are"),
        (source.deleted, "deleted here before"),
        (source.dropped, "left out: their key comes twice"),
    ];
    let told: Vec<String> = parts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    format!("{}{}{}", count(source.rows, "row"), if told.is_empty() { "" } else { ": " }, told.join(", "))
}

fn status(replica: &Replica, documents: &Documents, out: &mut Out) -> anyhow::Result<u8> {
    let mapping = mapping(replica, documents, None)?;
    let sources = replica.import_status(&mapping, &documents.path)?;
    if !out.json(&sources)? {
        show(&sources, out)?;
    }
    Ok(0)
}

fn verify(replica: &Replica, documents: &Documents, out: &mut Out) -> anyhow::Result<u8> {
    let mapping = mapping(replica, documents, None)?;
    let verified = spinner::beside("comparing", || replica.verify_import(&mapping, &documents.path))?;
    let equal = verified.is_equal();
    let mut object = json!(verified);
    if let Some(fields) = object.as_object_mut() {
        fields.insert("equal".to_owned(), equal.into());
    }
    if !out.json(&object)? {
        show_verified(&verified, out)?;
    }
    Ok(if equal { 0 } else { Kind::Failed.code() })
}

fn show_verified(verified: &Verification, out: &mut Out) -> anyhow::Result<()> {
    for source in &verified.sources {
        let table = printable(&source.table);
        for key in source.missing_keys.iter().take(SHOWN_MAX) {
            out.line(format!("{table} {}: not in the table", printable(key)))?;
        }
        for difference in source.differences.iter().take(SHOWN_MAX) {
            let (key, column) = (printable(&difference.key), printable(&difference.column));
            let (here, there) = (printable(&difference.table), printable(&difference.document));
            out.line(format!("{table} {key}: {column} is {here}, the document has {there}"))?;
        }
        if !source.unmapped.is_empty() {
            let columns = printable(&source.unmapped.join(", "));
            out.note(format!("{table}: not in the mapping, and not compared: {columns}"))?;
        }
        for key in source.extra_keys.iter().take(SHOWN_MAX) {
            out.line(format!("{table} {}: not in the document", printable(key)))?;
        }
    }
    let row = |source: &isle::VerifiedSource| {
        let what = match (source.present, source.missing, source.differing, source.extra) {
            (false, ..) => Cell::dim("absent"),
            (_, 0, 0, 0) => Cell::text(format!("{}, all the same", count(source.rows, "row"))),
            (_, missing, differing, extra) => Cell::text(format!(
                "{}: {missing} missing in the table, {differing} with other values, {extra} in the table alone",
                count(source.rows, "row")
            )),
        };
        vec![Cell::text(&source.file), Cell::text(&source.table), what]
    };
    out.table(&["DOCUMENT", "TABLE", ""], verified.sources.iter().map(row).collect())
}

fn archives(archives: &[isle::Archive], what: &str, out: &mut Out) -> anyhow::Result<u8> {
    if out.json(&archives)? {
        return Ok(0);
    }
    for archive in archives {
        let size = archive.bytes.map_or_else(|| "gone".to_owned(), bytes);
        out.line(format!("{} {} {size}", time(archive.archived_ms), printable(&archive.path.display().to_string())))?;
    }
    out.note(format!("{} {what}", count(archives.len() as u64, "document")))?;
    Ok(0)
}

fn write(replica: &Replica, wanted: &Export, format: DocumentFormat, out: &mut Out) -> anyhow::Result<u8> {
    let mapping = mapping(replica, &wanted.documents, Some(format))?;
    let (path, options) = (&wanted.documents.path, ExportOptions::default().keep(wanted.keep));
    if !wanted.follow {
        let written = spinner::beside("exporting", || replica.export(&mapping, path, &options))?;
        return exported(&written, out);
    }
    follow(replica, &mapping, path, &options, out)
}

/// Exports after each change, until the process ends. Documents are renamed into place: there is no bad moment for that.
fn follow(
    replica: &Replica,
    mapping: &Mapping,
    path: &Path,
    options: &ExportOptions,
    out: &mut Out,
) -> anyhow::Result<u8> {
    let mut follower = ExportFollower::new(replica)?;
    loop {
        if follower.has_news()? {
            match replica.export(mapping, path, options) {
                Ok(mut written) => {
                    written.retain(|exported| exported.written);
                    if !written.is_empty() {
                        exported(&written, out)?;
                    }
                }
                // The next change may mend it.
                Err(error) => out.note(out.style.yellow(format!("not written: {error}")))?,
            }
            out.flush()?;
        }
        std::thread::sleep(FOLLOW_EVERY);
    }
}

fn exported(written: &[Exported], out: &mut Out) -> anyhow::Result<u8> {
    if out.json(&written)? {
        return Ok(0);
    }
    for exported in written {
        let path = printable(&exported.path.display().to_string());
        let kept =
            exported.kept.as_ref().map(|kept| format!("; what was there is {}", kept.display())).unwrap_or_default();
        let what = if exported.written { "" } else { ", as it was" };
        out.line(format!("{path}: {}, {}{what}{kept}", count(exported.rows, "row"), bytes(exported.bytes)))?;
    }
    Ok(0)
}

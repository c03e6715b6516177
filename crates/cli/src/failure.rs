//! What an error becomes: a message, a hint and an exit code.

use std::fmt;
use std::io::{self, Write as _};
use std::process::ExitCode;

use isle::{ErrorKind, RemoteError, StoreError};

/// What went wrong, as scripts see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Failed,
    Invalid,
    Decision,
    Blocked,
}

impl Kind {
    pub(crate) fn code(self) -> u8 {
        match self {
            Kind::Failed => 1,
            Kind::Invalid => 2,
            Kind::Decision => 3,
            Kind::Blocked => 4,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Kind::Failed => "failed",
            Kind::Invalid => "invalid",
            Kind::Decision => "decision",
            Kind::Blocked => "blocked",
        }
    }

    /// The kind of an error, whoever made it.
    pub(crate) fn of(error: &anyhow::Error) -> Kind {
        for cause in error.chain() {
            if let Some(failure) = cause.downcast_ref::<Failure>() {
                return failure.kind;
            }
            if let Some(error) = cause.downcast_ref::<isle::Error>() {
                return Kind::of_isle(error);
            }
        }
        Kind::Failed
    }

    pub(crate) fn of_isle(error: &isle::Error) -> Kind {
        match error.kind() {
            ErrorKind::Invalid => Kind::Invalid,
            ErrorKind::Decision => Kind::Decision,
            ErrorKind::Blocked => Kind::Blocked,
            _ => Kind::Failed,
        }
    }
}

/// An error of the command line itself.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: Kind,
    message: String,
    hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Failure {
        Failure { kind, message: message.into(), hint: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Whether the reader of stdout went away.
pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// The message and its causes, each once: many messages quote their cause already.
pub(crate) fn messages<'e>(chain: impl Iterator<Item = &'e (dyn std::error::Error + 'static)>) -> Vec<String> {
    let mut messages: Vec<String> = Vec::new();
    for text in chain.map(ToString::to_string) {
        // SQLite's code says less than the text around it.
        let code = !messages.is_empty() && text.starts_with("Error code ");
        if !code && !messages.iter().any(|known| known.contains(&text)) {
            messages.push(text);
        }
    }
    messages
}

fn hint(error: &anyhow::Error) -> Option<String> {
    for cause in error.chain() {
        if let Some(failure) = cause.downcast_ref::<Failure>() {
            return failure.hint.clone();
        }
        if let Some(error) = cause.downcast_ref::<isle::Error>() {
            return hint_of_isle(error).map(str::to_owned);
        }
    }
    None
}

/// What to do about an error of the library, where its message does not say it.
pub(crate) fn hint_of_isle(error: &isle::Error) -> Option<&'static str> {
    match error {
        isle::Error::Remote { source: RemoteError::InsecureHttp { .. }, .. } => {
            Some("if the network between is trusted: `isle remote add --insecure-http …`")
        }
        isle::Error::Store(StoreError::Untrackable { .. }) => {
            Some("`isle status` lists what is tracked; the other tables stay on this device and keep working")
        }
        isle::Error::Store(StoreError::NoSuchTable { .. }) => Some("`isle status` lists the tables of the file"),
        isle::Error::Store(StoreError::Internal { .. }) => Some("`isle doctor` looks for damage"),
        isle::Error::Peer { .. } => Some(
            "a device can be reached while `isle serve` (or `isle invite`) runs there; `isle peers` shows where it is looked for, \
             `isle peers add DEVICE ADDRESS` says where it is",
        ),
        isle::Error::NoSuchPeer { found: 0, .. } => Some(
            "a device that joined with a key file instead of a ticket is put out with `isle devices retire`, then `isle key rotate` and `isle sync`",
        ),
        _ => None,
    }
}

/// Shows an error and gives its exit code.
pub(crate) fn report(error: &anyhow::Error, operation: &str, json: bool) -> ExitCode {
    let kind = Kind::of(error);
    let messages = messages(error.chain());
    let mut text = String::new();
    if json {
        let hint = hint(error);
        let (kind, code, message) = (kind.as_str(), kind.code(), messages.join(": "));
        let mut fields = serde_json::json!({ "operation": operation, "kind": kind, "code": code, "message": message });
        if let (Some(hint), Some(fields)) = (hint, fields.as_object_mut()) {
            fields.insert("hint".to_owned(), hint.into());
        }
        text = format!("{}\n", serde_json::json!({ "error": fields }));
    } else {
        for (n, message) in messages.iter().enumerate() {
            let label = if n == 0 { "error" } else { "  because" };
            text.push_str(&format!("{label}: {message}\n"));
        }
        if let Some(hint) = hint(error) {
            text.push_str(&format!("hint: {hint}\n"));
        }
    }
    // Nobody reads stderr: the exit code still tells.
    let _ = io::stderr().write_all(text.as_bytes());
    ExitCode::from(kind.code())
}

/// Help, the version, or what was typed wrongly.
pub(crate) fn usage(error: &clap::Error, json: bool) -> ExitCode {
    let code = u8::try_from(error.exit_code()).unwrap_or(2);
    if json && error.use_stderr() {
        let text = error.render().to_string();
        // How it is used, and where help is, is for people.
        let message = text.trim().trim_start_matches("error: ").split("\n\nUsage:").next().unwrap_or_default();
        let message = message.split("\n\nFor more").next().unwrap_or_default().trim();
        let object =
            serde_json::json!({ "error": { "kind": Kind::Invalid.as_str(), "code": code, "message": message } });
        let _ = writeln!(io::stderr(), "{object}");
    } else {
        // Nobody reads it: the exit code still tells.
        let _ = error.print();
    }
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_its_message_quotes_is_not_said_twice() {
        let error = anyhow::anyhow!("no such table: x").context("cannot run: no such table: x").context("exec");
        assert_eq!(messages(error.chain()), ["exec", "cannot run: no such table: x"]);
    }

    #[test]
    fn kinds_are_found_below_contexts() {
        let error = anyhow::Error::new(Failure::new(Kind::Blocked, "no")).context("while trying");
        assert_eq!(Kind::of(&error).code(), 4);
        let error = anyhow::Error::new(isle::Error::NoRemote).context("sync");
        assert_eq!(Kind::of(&error).code(), 2);
    }
}

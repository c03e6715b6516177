//! Whether a file is what its kind says, and what is in it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::{gguf, ppn};

/// What a validator found in a file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// What the file calls itself; without it, it is called like its file without the ending.
    pub name: Option<String>,
    /// All that is worth keeping, as a JSON object; `None` if there is nothing.
    pub metadata: Option<Map<String, Value>>,
}

/// Why a file is not what its kind says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

impl Invalid {
    /// For a reason.
    pub fn because(reason: impl fmt::Display) -> Invalid {
        Invalid(reason.to_string())
    }
}

/// Looks into files of a kind. Apps can bring their own.
pub trait Validator: Send + Sync + fmt::Debug {
    /// Looks at a file of `bytes` bytes that is called `name`; it stands at its beginning, and may be read in any order.
    ///
    /// # Errors
    /// Why it is none of the kind; such a file never becomes a row.
    fn look(&self, name: &str, file: &mut File, bytes: u64) -> Result<Facts, Invalid>;
}

/// Validators by name.
#[derive(Debug, Clone)]
pub struct Validators {
    named: BTreeMap<String, Arc<dyn Validator>>,
}

impl Default for Validators {
    /// `any`, `text`, `gguf` and `ppn`.
    fn default() -> Validators {
        let mut named: BTreeMap<String, Arc<dyn Validator>> = BTreeMap::new();
        named.insert("any".to_owned(), Arc::new(Any));
        named.insert("text".to_owned(), Arc::new(Text));
        named.insert("gguf".to_owned(), Arc::new(Model));
        named.insert("ppn".to_owned(), Arc::new(WakeWord));
        Validators { named }
    }
}

impl Validators {
    /// Adds one, in the place of another of its name.
    pub fn add(&mut self, name: impl Into<String>, validator: Arc<dyn Validator>) {
        self.named.insert(name.into(), validator);
    }

    /// The one of a name.
    pub fn get(&self, name: &str) -> Option<&Arc<dyn Validator>> {
        self.named.get(name)
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.named.keys().map(String::as_str)
    }
}

/// Takes every file.
#[derive(Debug)]
struct Any;

impl Validator for Any {
    fn look(&self, _: &str, _: &mut File, _: u64) -> Result<Facts, Invalid> {
        Ok(Facts::default())
    }
}

/// Takes UTF-8.
#[derive(Debug)]
struct Text;

impl Validator for Text {
    fn look(&self, _: &str, file: &mut File, _: u64) -> Result<Facts, Invalid> {
        let (mut block, mut kept, mut at) = (vec![0; 64 * 1024], 0, 0_u64);
        loop {
            let Some(free) = block.get_mut(kept..) else { return Err(Invalid::because("it is no UTF-8 text")) };
            let read = file.read(free).map_err(Invalid::because)?;
            let filled = kept + read;
            let part = block.get(..filled).unwrap_or_default();
            let valid = match std::str::from_utf8(part) {
                Ok(_) => filled,
                Err(error) if error.error_len().is_none() && read > 0 => error.valid_up_to(),
                Err(error) => {
                    let place = at + error.valid_up_to() as u64;
                    return Err(Invalid(format!("it is no UTF-8 text: byte {place} does not fit")));
                }
            };
            if read == 0 {
                return Ok(Facts::default());
            }
            block.copy_within(valid..filled, 0);
            at += valid as u64;
            kept = filled - valid;
        }
    }
}

#[derive(Debug)]
struct Model;

impl Validator for Model {
    fn look(&self, _: &str, file: &mut File, bytes: u64) -> Result<Facts, Invalid> {
        let model = gguf::read(file, bytes).map_err(Invalid::because)?;
        let found = json!({
            "gguf_version": model.version,
            "architecture": model.architecture,
            "quantization": model.quantization,
            "context_length": model.context_length,
            "vocab_size": model.vocabulary,
            "parameters_count": model.parameters,
            "tensors": model.tensors,
            "model_config": model.metadata,
        });
        let metadata = match found {
            Value::Object(fields) => Some(fields),
            _ => None,
        };
        Ok(Facts { name: model.name, metadata })
    }
}

#[derive(Debug)]
struct WakeWord;

impl Validator for WakeWord {
    fn look(&self, name: &str, _: &mut File, bytes: u64) -> Result<Facts, Invalid> {
        let word = ppn::check(name, bytes).map_err(Invalid::because)?;
        Ok(Facts { name: Some(word.name), metadata: None })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, Write as _};

    use super::*;

    fn look(validator: &str, name: &str, content: &[u8]) -> Result<Facts, Invalid> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file.rewind().unwrap();
        Validators::default().get(validator).unwrap().look(name, &mut file, content.len() as u64)
    }

    #[test]
    fn text_may_break_a_character_between_two_reads_but_not_at_its_end() {
        let long = "ä€𝄞".repeat(40_000);
        assert_eq!(look("text", "a.txt", long.as_bytes()), Ok(Facts::default()));
        assert_eq!(look("text", "a.txt", b""), Ok(Facts::default()));
        let cut = look("text", "a.txt", &long.as_bytes()[..long.len() - 1]);
        assert_eq!(cut, Err(Invalid(format!("it is no UTF-8 text: byte {} does not fit", long.len() - 4))));
        let damaged = [long.as_bytes(), b"\xff tail"].concat();
        let refused = look("text", "a.txt", &damaged);
        assert_eq!(refused, Err(Invalid(format!("it is no UTF-8 text: byte {} does not fit", long.len()))));
    }

    #[test]
    fn a_wake_word_has_its_name_from_the_file() {
        let facts = look("ppn", "Hey Barista.PPN", &[0; 2048]).unwrap();
        assert_eq!(facts.name.as_deref(), Some("Hey Barista"));
        assert!(look("ppn", "a.ppn", &[0; 10]).is_err());
    }

    #[test]
    fn an_apps_validator_takes_the_place_of_one() {
        #[derive(Debug)]
        struct Never;
        impl Validator for Never {
            fn look(&self, _: &str, _: &mut File, _: u64) -> Result<Facts, Invalid> {
                Err(Invalid::because("never"))
            }
        }
        let mut validators = Validators::default();
        validators.add("rom", Arc::new(Never));
        assert!(validators.names().eq(["any", "gguf", "ppn", "rom", "text"]));
        let refused = validators.get("rom").unwrap().look("x", &mut tempfile::tempfile().unwrap(), 0);
        assert_eq!(refused, Err(Invalid("never".to_owned())));
    }
}

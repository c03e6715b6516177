//! What a device knows outside any database file: its id and name, and what each of its replicas has handed over.
//!
//! ```text
//! <home>/device.key         the secret of the device's Ed25519 key pair, 64 hexadecimal digits; for its owner alone
//! <home>/device.json        { "id", "name" }; the id is derived from the key
//! <home>/keys/<group>.json  { "keys": [{ "epoch", "secret", "author" }] }: the group's keys; for their owner alone
//! <home>/invites/<id>.json  { "group", "secret", "expires_ms" }: tickets that nobody used yet
//! <home>/plain-remotes.json ["address"]: remotes without encryption that were added on this device
//! <home>/sites/<site>.json  { "path", "published", "chain" }
//! <home>/sites/<site>.live  locked while a process is connected for this site; beside it, where it listens
//! ```
//! A file of SQLite can be copied, restored or rolled back; this folder is not part of it, and so tells when that happened.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use isle_clock::{DeviceId, GroupId, SiteId};
use isle_identity::{DeviceKey, DeviceSecret, InviteSecret, device_id};
use isle_store::Runtime;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Error;

/// The device on which replicas live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Derived from the key.
    pub id: DeviceId,
    /// For people; others see it beside the device's changes.
    pub name: String,
    /// What others know the device by, and check its signatures with. The secret half stays in the device's own folder.
    pub key: DeviceKey,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
}

/// What the file of the device says.
#[derive(Serialize, Deserialize)]
struct DeviceFile {
    id: DeviceId,
    name: String,
    #[serde(default)]
    created_ms: u64,
}

/// What is known of a replica of this device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SiteRecord {
    /// Where its file was when it last handed something over.
    #[serde(with = "path_text")]
    pub(crate) path: PathBuf,
    /// Its last version that others may know.
    pub(crate) published: u64,
    /// The hash of that version's header, in hexadecimal digits.
    pub(crate) chain: String,
}

/// An invitation that was made here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Invite {
    pub(crate) group: GroupId,
    pub(crate) secret: InviteSecret,
    pub(crate) expires_ms: u64,
    pub(crate) used: bool,
}

/// How long an invitation is remembered after it has expired, in milliseconds: to say so to whoever comes late.
const INVITE_KEPT_MS: u64 = 24 * 60 * 60 * 1000;

/// A path as text: `%` and bytes that are not UTF-8 are written as `%` and two digits.
mod path_text {
    use std::path::{Path, PathBuf};

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::new();
        for chunk in path.as_os_str().as_encoded_bytes().utf8_chunks() {
            text += &chunk.valid().replace('%', "%25");
            text.extend(chunk.invalid().iter().map(|byte| format!("%{byte:02x}")));
        }
        serializer.serialize_str(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut bytes = Vec::with_capacity(text.len());
        let mut parts = text.split('%');
        bytes.extend(parts.next().unwrap_or_default().as_bytes());
        for part in parts {
            let byte = part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
            bytes.push(byte.ok_or_else(|| serde::de::Error::custom("path with a broken escape"))?);
            bytes.extend(&part.as_bytes()[2..]);
        }
        Ok(from_bytes(bytes))
    }

    #[cfg(unix)]
    fn from_bytes(bytes: Vec<u8>) -> PathBuf {
        PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(bytes))
    }

    #[cfg(not(unix))]
    fn from_bytes(bytes: Vec<u8>) -> PathBuf {
        String::from_utf8_lossy(&bytes).into_owned().into()
    }
}

/// The folder, opened.
#[derive(Debug, Clone)]
pub(crate) struct KeyStore {
    pub(crate) home: PathBuf,
}

impl KeyStore {
    /// The folder of this user: `ISLE_HOME`, else `isle` in the platform's data folder.
    pub(crate) fn default_home() -> Result<PathBuf, Error> {
        if let Some(home) = std::env::var_os("ISLE_HOME").filter(|home| !home.is_empty()) {
            return Ok(home.into());
        }
        let strategy = etcetera::choose_base_strategy().map_err(|error| Error::KeyStore {
            path: PathBuf::from("~"),
            source: io::Error::new(io::ErrorKind::NotFound, error.to_string()),
        })?;
        Ok(etcetera::BaseStrategy::data_dir(&strategy).join("isle"))
    }

    pub(crate) fn open(home: PathBuf) -> Result<KeyStore, Error> {
        let sites = home.join("sites");
        create_private(&sites).map_err(|source| Error::KeyStore { path: sites, source })?;
        Ok(KeyStore { home })
    }

    /// Notes that this device was told to use a remote without encryption.
    pub(crate) fn trust_plain(&self, url: &str) -> Result<(), Error> {
        let _alone = self.lock_named(&self.home, "plain-remotes")?;
        let mut trusted = self.trusted_plain()?;
        match trusted.insert(url.to_owned()) {
            true => write(&self.home.join("plain-remotes.json"), &trusted, true),
            false => Ok(()),
        }
    }

    /// The addresses of such remotes.
    pub(crate) fn trusted_plain(&self) -> Result<BTreeSet<String>, Error> {
        Ok(read(&self.home.join("plain-remotes.json"))?.unwrap_or_default())
    }

    /// The device; made when it is asked for first.
    pub(crate) fn device(&self, runtime: &dyn Runtime) -> Result<Device, Error> {
        let path = self.home.join("device.json");
        let known: Option<DeviceFile> = read(&path)?;
        let keyless = !self.home.join("device.key").exists();
        let key = self.secret(runtime)?.key();
        let id = device_id(&key);
        if let Some(known) = known.filter(|_| keyless) {
            // Made by an isle that knew no keys.
            write(&path, &DeviceFile { id, ..known }, true)?;
        }
        let found: Option<DeviceFile> = read(&path)?;
        if let Some(found) = found.filter(|found| found.id == id) {
            return Ok(Device { id, name: found.name, key, created_ms: found.created_ms });
        }
        // Two processes may be first at once: the file that stands in the end counts.
        let created_ms = runtime.now_ms();
        write(&path, &DeviceFile { id, name: host_name(), created_ms }, false)?;
        let found: DeviceFile = read(&path)?.ok_or_else(|| damaged(&path, "it vanished"))?;
        if found.id != id {
            return Err(damaged(
                &path,
                "it is of another device than device.key beside it: one of the two was copied here",
            ));
        }
        Ok(Device { id, name: found.name, key, created_ms: found.created_ms })
    }

    pub(crate) fn rename_device(&self, device: &Device, name: &str) -> Result<Device, Error> {
        let file = DeviceFile { id: device.id, name: name.to_owned(), created_ms: device.created_ms };
        write(&self.home.join("device.json"), &file, true)?;
        Ok(Device { name: file.name, ..device.clone() })
    }

    /// The device's key pair; made when it is asked for first.
    pub(crate) fn secret(&self, runtime: &dyn Runtime) -> Result<DeviceSecret, Error> {
        let path = self.home.join("device.key");
        let failed = |source| Error::KeyStore { path: path.clone(), source };
        if !path.exists() {
            let seed = crate::replica::random_32(runtime);
            let text = data_encoding::HEXLOWER.encode(&seed);
            // Two processes may be first at once: the file that stands in the end counts.
            write_text(&path, &text, false)?;
        }
        keep_private(&path).map_err(failed)?;
        let text = fs::read_to_string(&path).map_err(failed)?;
        let seed = data_encoding::HEXLOWER.decode(text.trim().as_bytes()).ok();
        let seed = seed.and_then(|seed| <[u8; 32]>::try_from(seed).ok());
        let seed = seed.ok_or_else(|| damaged(&path, "it does not hold 64 hexadecimal digits"))?;
        DeviceSecret::from_seed(seed).map_err(|error| damaged(&path, &error.to_string()))
    }

    pub(crate) fn site(&self, site: SiteId) -> Result<Option<SiteRecord>, Error> {
        read(&self.site_path(site))
    }

    pub(crate) fn put_site(&self, site: SiteId, record: &SiteRecord) -> Result<(), Error> {
        write(&self.site_path(site), record, true)
    }

    /// Waits until no other process syncs as this site; the lock ends with the file that is given back.
    pub(crate) fn lock(&self, site: SiteId) -> Result<fs::File, Error> {
        let path = self.home.join("sites").join(format!("{site}.lock"));
        let locked = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let locked = locked.and_then(|file| file.lock().map(|()| file));
        locked.map_err(|source| Error::KeyStore { path, source })
    }

    /// As [`KeyStore::lock_named`], and waits for nobody: `None` if somebody does such work.
    pub(crate) fn try_lock_named(&self, file: &Path, work: &str) -> Result<Option<fs::File>, Error> {
        let path = self.live_lock_path(file).with_extension(work);
        let failed = |source| Error::KeyStore { path: path.clone(), source };
        let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// Waits until no other handle, in this process or another, does work of this name on a database; the lock ends with the file that is given back.
    pub(crate) fn lock_named(&self, file: &Path, work: &str) -> Result<fs::File, Error> {
        let path = self.live_lock_path(file).with_extension(work);
        let locked = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let locked = locked.and_then(|file| file.lock().map(|()| file));
        locked.map_err(|source| Error::KeyStore { path, source })
    }

    /// Remembers an invitation, and forgets those that expired long ago.
    pub(crate) fn put_invite(&self, invite: &Invite, now_ms: u64) -> Result<(), Error> {
        let folder = self.home.join("invites");
        create_private(&folder).map_err(|source| Error::KeyStore { path: folder.clone(), source })?;
        for old in self.invites()?.iter().filter(|old| old.expires_ms.saturating_add(INVITE_KEPT_MS) < now_ms) {
            for path in [self.invite_path(old, "json"), self.invite_path(old, "used")] {
                // One that cannot be removed has expired all the same.
                let _ = fs::remove_file(path);
            }
        }
        write(&self.invite_path(invite, "json"), invite, true)
    }

    /// The invitations that were made here, used ones included.
    pub(crate) fn invites(&self) -> Result<Vec<Invite>, Error> {
        let folder = self.home.join("invites");
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(Error::KeyStore { path: folder, source }),
        };
        let mut invites = Vec::new();
        for entry in entries {
            let path = entry.map_err(|source| Error::KeyStore { path: folder.clone(), source })?.path();
            let used = match path.extension().and_then(|extension| extension.to_str()) {
                Some("json") => false,
                Some("used") => true,
                _ => continue,
            };
            match read::<Invite>(&path) {
                Ok(invite) => invites.extend(invite.map(|invite| Invite { used, ..invite })),
                Err(error) => tracing::warn!(%error, "an invitation cannot be read and is passed over"),
            }
        }
        Ok(invites)
    }

    /// Marks an invitation as used; false if somebody was faster.
    pub(crate) fn use_invite(&self, invite: &Invite) -> Result<bool, Error> {
        let path = self.invite_path(invite, "json");
        match fs::rename(&path, self.invite_path(invite, "used")) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(Error::KeyStore { path, source }),
        }
    }

    /// The name of its file does not show the secret.
    fn invite_path(&self, invite: &Invite, extension: &str) -> PathBuf {
        let name = blake3::hash(invite.secret.as_bytes()).to_hex();
        self.home.join("invites").join(format!("{}.{extension}", &name[..32]))
    }

    /// Holds a lock that stands for this database for as long as the process is live on it, with what it says of itself beside it; `None` if another process
    /// holds it.
    pub(crate) fn lock_live(&self, file: &Path, addresses: &[String]) -> Result<Option<fs::File>, Error> {
        let path = self.live_lock_path(file);
        let failed = |source| Error::KeyStore { path: path.clone(), source };
        let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(None),
            Err(fs::TryLockError::Error(source)) => return Err(failed(source)),
        }
        write(&path.with_extension("live.json"), &addresses, true)?;
        Ok(Some(file))
    }

    /// Where another process of this device listens for this database, if one does.
    pub(crate) fn live_addresses(&self, file: &Path) -> Result<Vec<String>, Error> {
        let path = self.live_lock_path(file);
        let Ok(file) = fs::OpenOptions::new().write(true).open(&path) else { return Ok(Vec::new()) };
        match file.try_lock() {
            // Nobody holds it: what is written beside it is of before.
            Ok(()) => Ok(Vec::new()),
            Err(_) => Ok(read(&path.with_extension("live.json"))?.unwrap_or_default()),
        }
    }

    /// By the file's real path: its site id may change while somebody is live on it.
    fn live_lock_path(&self, file: &Path) -> PathBuf {
        let name = blake3::hash(file.as_os_str().as_encoded_bytes()).to_hex();
        self.home.join("sites").join(format!("{}.live", &name[..32]))
    }

    fn site_path(&self, site: SiteId) -> PathBuf {
        self.home.join("sites").join(format!("{site}.json"))
    }
}

fn damaged(path: &Path, reason: &str) -> Error {
    Error::KeyStoreDamaged { path: path.to_owned(), reason: reason.to_owned() }
}

pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::KeyStore { path: path.to_owned(), source }),
    };
    serde_json::from_str(&text).map(Some).map_err(|error| damaged(path, &error.to_string()))
}

/// Writes beside, makes it durable, and moves it into place; without `replace` a file that stands is kept.
pub(crate) fn write(path: &Path, content: &impl Serialize, replace: bool) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(content)
        .map_err(|error| Error::KeyStore { path: path.to_owned(), source: io::Error::other(error) })?;
    write_text(path, &text, replace)
}

fn write_text(path: &Path, text: &str, replace: bool) -> Result<(), Error> {
    let failed = |source| Error::KeyStore { path: path.to_owned(), source };
    let mut nonce = [0; 8];
    getrandom::fill(&mut nonce).map_err(|error| failed(io::Error::other(error)))?;
    let beside = path.with_extension(format!("{:x}.tmp", u64::from_le_bytes(nonce)));
    let result = write_durably(&beside, text.as_bytes()).and_then(|()| {
        if replace {
            return fs::rename(&beside, path);
        }
        let linked = fs::hard_link(&beside, path);
        fs::remove_file(&beside)?;
        match linked {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    });
    if result.is_err() {
        let _ = fs::remove_file(&beside);
    }
    result.map_err(failed)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}

fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write as _;
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// A key is for its owner alone, whatever a backup or an archive made of its mode.
pub(crate) fn keep_private(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let permissions = fs::metadata(path)?.permissions();
        if permissions.mode() & 0o077 != 0 {
            tracing::warn!(path = %path.display(), "others could read a secret key; its mode is set to 600");
            fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        }
    }
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

pub(crate) fn create_private(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

fn host_name() -> String {
    let from_env = ["HOSTNAME", "COMPUTERNAME"].iter().find_map(|name| std::env::var(name).ok());
    let from_file = || fs::read_to_string("/etc/hostname").ok();
    let name = from_env.or_else(from_file).unwrap_or_default();
    let name = crate::names::tame(&name);
    if name.is_empty() { "device".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(unix)]
    fn a_key_is_made_once_and_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("a folder");
        let keys = KeyStore::open(folder.path().join("home")).expect("opens");
        let runtime = crate::SystemRuntime;
        let device = keys.device(&runtime).expect("a device");
        assert_eq!(keys.device(&runtime).expect("the same"), device);
        let path = folder.path().join("home/device.key");
        let mode = || fs::metadata(&path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(), 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("changes");
        assert_eq!((keys.secret(&runtime).expect("reads").key(), mode()), (device.key, 0o600));
        // The name stays with a key that is made anew; the identity does not.
        fs::remove_file(&path).expect("removes");
        let again = keys.device(&runtime).expect("another");
        assert!(again.key != device.key && again.id != device.id && again.name == device.name);
        fs::write(&path, "no key").expect("writes");
        assert!(matches!(keys.device(&runtime), Err(Error::KeyStoreDamaged { .. })));
    }

    #[test]
    fn an_invitation_is_used_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let keys = KeyStore::open(folder.path().to_owned()).expect("opens");
        let secret = InviteSecret::from_random([3; 16]);
        let invite = Invite { group: GroupId::from_bytes([1; 16]), secret, expires_ms: 1_000, used: false };
        keys.put_invite(&invite, 0).expect("remembers");
        fs::write(folder.path().join("invites/odd.json"), "{").expect("writes");
        assert_eq!(keys.invites().expect("a damaged one is passed over"), std::slice::from_ref(&invite));
        assert!(keys.use_invite(&invite).expect("uses") && !keys.use_invite(&invite).expect("used"));
        assert!(keys.invites().expect("lists")[0].used);
        // Long after it has expired nothing of it is left.
        let other = Invite { secret: InviteSecret::from_random([4; 16]), ..invite };
        keys.put_invite(&other, 2_000 + INVITE_KEPT_MS).expect("remembers");
        assert_eq!(keys.invites().expect("lists"), [other]);
    }

    #[test]
    #[cfg(unix)]
    fn a_path_that_is_no_text_reads_back() {
        use std::os::unix::ffi::OsStrExt as _;
        for path in ["/plain/ü.db".as_bytes(), b"/odd/\xff%41\xfe.db"] {
            let path = PathBuf::from(std::ffi::OsStr::from_bytes(path));
            let record = SiteRecord { path, published: 1, chain: String::new() };
            let text = serde_json::to_string(&record).expect("writes");
            assert_eq!(serde_json::from_str::<SiteRecord>(&text).expect("reads"), record);
        }
    }
}

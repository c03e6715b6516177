//! Real inputs: the Chinook music shop on three devices, adopted, edited offline through three kinds of clients, synced in every order; files of two apps that
//! move in and out again.

#![cfg(feature = "real-data")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::path::{Path, PathBuf};

use isle::{RemoteOptions, Replica, params};
use isle_test_s3::{Behaviour, S3Server};
use isle_tests::tool;

fn real(name: &str) -> PathBuf {
    let folder = std::env::var_os("ISLE_REAL_DATA").expect("ISLE_REAL_DATA names the folder of the real inputs");
    let path = Path::new(&folder).join(name);
    assert!(path.exists(), "{} is missing", path.display());
    path
}

struct Fleet {
    folder: tempfile::TempDir,
    devices: Vec<Replica>,
    runtime: tokio::runtime::Runtime,
}

impl Fleet {
    /// Device a adopts the shop; b and c start from the remote.
    fn new(url: &str, options: &RemoteOptions) -> Fleet {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(real("chinook.sqlite"), folder.path().join("a.db")).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let url = url.replace("FOLDER", folder.path().to_str().unwrap());
        let mut devices = Vec::new();
        for name in ["a", "b", "c"] {
            let home = folder.path().join(format!("{name}.home"));
            let builder = Replica::builder(folder.path().join(format!("{name}.db"))).home(home).app("chinook");
            let replica = builder.remote_options(options.clone()).init().unwrap();
            if name == "a" {
                let (tracked, refused) = replica.track_all().unwrap();
                assert_eq!((tracked.len(), refused.len()), (11, 0), "{refused:?}");
            }
            if let Some(first) = devices.first() {
                let keys = Replica::export_keys(first).unwrap();
                isle::import_keys(Some(folder.path().join(format!("{name}.home"))), &keys).unwrap();
            }
            replica.add_remote("shop", &url).unwrap();
            runtime.block_on(replica.sync()).unwrap();
            devices.push(replica);
        }
        Fleet { folder, devices, runtime }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(format!("{name}.db")).to_str().unwrap().to_owned()
    }

    fn sync(&self, device: usize) {
        self.runtime.block_on(self.devices[device].sync()).unwrap();
    }

    /// Conflicting and independent edits on all three, each through another client.
    fn edit(&self) {
        self.devices[0]
            .write(|tx| {
                tx.execute("UPDATE Track SET Name = Name || ' (isle)', UnitPrice = 1.29 WHERE TrackId % 50 = 0", &[])?;
                tx.execute("INSERT INTO Artist VALUES(?1, ?2)", params![1000, "Offline Band"])?;
                tx.execute("INSERT INTO Album VALUES(1000, 'Airplane Mode', 1000)", &[])?;
                tx.execute("DELETE FROM PlaylistTrack WHERE PlaylistId = 1 AND TrackId < 100", &[])?;
                Ok(())
            })
            .unwrap();
        let shell = "PRAGMA foreign_keys = ON;
            UPDATE Track SET Name = Name || ' (shell)' WHERE TrackId % 100 = 0;
            UPDATE Customer SET Email = lower(Email), Company = NULL WHERE CustomerId < 20;
            INSERT INTO Artist VALUES(2000, 'Shell Trio'); INSERT INTO Playlist VALUES(2000, 'From the shell');
            INSERT INTO PlaylistTrack SELECT 2000, TrackId FROM Track WHERE GenreId = 2 AND TrackId < 2000;
            DELETE FROM InvoiceLine WHERE InvoiceId = 5;";
        tool("sqlite3", &["-bail", &self.path("b"), shell], "apt-get install sqlite3");
        let python = format!(
            "import sqlite3\nc = sqlite3.connect({:?}, timeout=30)\nc.execute('PRAGMA foreign_keys = ON')\nwith c:\n\
             \tc.execute(\"UPDATE Track SET Composer = 'python', Milliseconds = Milliseconds + 1 WHERE TrackId % 70 = 0\")\n\
             \tc.execute(\"UPDATE Customer SET Phone = '+49 0', Email = 'py@' || CustomerId WHERE CustomerId BETWEEN 10 AND 30\")\n\
             \tc.executemany('INSERT INTO Genre VALUES(?, ?)', [(n, f'Genre {{n}}') for n in range(100, 120)])\n\
             \tc.execute('DELETE FROM PlaylistTrack WHERE PlaylistId = 8 AND TrackId > 3000')\n",
            self.path("c")
        );
        tool("python3", &["-c", &python], "apt-get install python3");
    }

    /// Everybody has everything, and the file is sound.
    fn assert_settled(&self) {
        let hashes: Vec<_> = self.devices.iter().map(|device| device.state_hash().unwrap()).collect();
        assert!(hashes.iter().all(|hash| *hash == hashes[0]));
        for (device, name) in self.devices.iter().zip(["a", "b", "c"]) {
            assert_eq!(tool("sqlite3", &[&self.path(name), "PRAGMA foreign_key_check"], "apt-get install sqlite3"), "");
            assert!(device.check().unwrap().findings.is_empty());
            let names: Vec<String> =
                device.read(|q| q.all("SELECT Name FROM Artist WHERE ArtistId >= 1000 ORDER BY 1", &[])).unwrap();
            assert_eq!(names, ["Offline Band", "Shell Trio"]);
        }
        let lost = self.devices[0].conflicts(false, 10_000).unwrap();
        assert!(lost.iter().any(|conflict| conflict.table == "Track"), "two devices renamed the same tracks");
    }
}

fn orders() -> [[usize; 3]; 6] {
    [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]
}

#[test]
fn chinook_through_a_folder_in_every_order() {
    for order in orders() {
        let fleet = Fleet::new("FOLDER/bucket", &RemoteOptions::default());
        let rows: i64 = fleet.devices[2].read(|q| q.one("SELECT count(*) FROM PlaylistTrack", &[])).unwrap().unwrap();
        assert_eq!(rows, 8715);
        fleet.edit();
        order.iter().chain(&order).for_each(|device| fleet.sync(*device));
        fleet.assert_settled();
    }
}

#[test]
fn chinook_through_s3_with_cuts_and_errors() {
    for behaviour in [
        Behaviour::default(),
        Behaviour { cut_every: Some(5), ..Behaviour::default() },
        Behaviour { unavailable_every: Some(4), ignores_conditions: true, ..Behaviour::default() },
    ] {
        let server = S3Server::start(behaviour).unwrap();
        let mut options = RemoteOptions::default();
        options.endpoint = Some(server.endpoint());
        options.region = Some("us-east-1".to_owned());
        options.insecure_http = true;
        options.credentials = Some(isle::Credentials::new(S3Server::ACCESS_KEY, S3Server::SECRET_KEY));
        let fleet = Fleet::new(&format!("s3://{}/shop", S3Server::BUCKET), &options);
        fleet.edit();
        [2, 0, 1, 2, 0, 1].iter().for_each(|device| fleet.sync(*device));
        fleet.assert_settled();
    }
}

/// A server that others wrote, from `scripts/test-other-s3`; credentials are in `AWS_*` variables.
#[cfg(feature = "other-s3")]
#[test]
fn chinook_through_another_s3_server() {
    let mut options = RemoteOptions::default();
    options.endpoint = Some(std::env::var("ISLE_TEST_S3_ENDPOINT").expect("ISLE_TEST_S3_ENDPOINT is set"));
    options.insecure_http = true;
    let fleet = Fleet::new(&format!("s3://isle-test/chinook-{}", std::process::id()), &options);
    fleet.edit();
    [1, 2, 0, 1, 2, 0].iter().for_each(|device| fleet.sync(*device));
    fleet.assert_settled();
}

/// The models and wake words as they were published, and two files that are none: through an S3 bucket, and from device to device.
#[test]
fn models_and_wake_words_reach_another_device_by_a_bucket_and_directly() {
    use isle::{FileFilter, InviteOptions, LiveOptions, MoveOptions, ScanOptions, Selection};
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = S3Server::start(Behaviour::default()).unwrap();
    let mut options = RemoteOptions::default();
    options.endpoint = Some(server.endpoint());
    options.insecure_http = true;
    options.credentials = Some(isle::Credentials::new(S3Server::ACCESS_KEY, S3Server::SECRET_KEY));
    let url = format!("s3://{}/library", S3Server::BUCKET);
    let device = |name: &str| {
        let builder = Replica::builder(folder.path().join(format!("{name}.db"))).remote_options(options.clone());
        builder.home(folder.path().join(format!("{name}.home"))).init().unwrap()
    };
    let (a, b, c) = (device("a"), device("b"), device("c"));
    let root = folder.path().join("root");
    for inputs in ["gguf", "ppn"] {
        std::fs::create_dir_all(root.join(inputs)).unwrap();
        for entry in std::fs::read_dir(real(inputs)).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), root.join(inputs).join(entry.file_name())).unwrap();
        }
    }
    let library = a.library();
    library.add_root("root", &root, &[]).unwrap();
    let report = library.scan_now(&ScanOptions::default()).unwrap();
    assert_eq!((report.added, report.invalid), (6, 2), "{report:?}");
    let sql = "SELECT name, architecture, quantization, context_length, vocab_size, parameters_count FROM library_models ORDER BY 2";
    type Model = (String, String, String, i64, i64, i64);
    let models: Vec<Model> = a.read(|q| q.all(sql, params![])).unwrap();
    let model = |name: &str, architecture: &str, quantization: &str, context, vocabulary, parameters| {
        (name.to_owned(), architecture.to_owned(), quantization.to_owned(), context, vocabulary, parameters)
    };
    assert_eq!(
        models,
        [
            model("Tiny Llama", "llama", "Q8_0", 2048, 320, 32_768),
            model("Tiny Llama", "phi3", "F32", 4096, 100, 4_096),
            model("Tiny Qwen", "qwen2", "Q4_0", 32_768, 512, 12_288),
        ]
    );
    let whole = |replica: &Replica| {
        let files = replica.library().files(&FileFilter::default()).unwrap();
        assert_eq!(files.len(), 6);
        for file in files {
            let content = std::fs::read(&file.here[0]).unwrap();
            let name = file.path.strip_prefix("root/").unwrap();
            assert!(content == std::fs::read(root.join(name)).unwrap(), "{name}");
        }
    };
    a.add_remote("bucket", &url).unwrap();
    runtime.block_on(async {
        a.sync().await.unwrap();
        library.push(&MoveOptions::default()).await.unwrap();
        isle::import_keys(Some(folder.path().join("b.home")), &a.export_keys().unwrap()).unwrap();
        b.add_remote("bucket", &url).unwrap();
        b.sync().await.unwrap();
        assert_eq!(b.library().pull(&Selection::All, &MoveOptions::default()).await.unwrap().files, 6);
        whole(&b);
        let listen = Some("127.0.0.1:0".parse().unwrap());
        let live = a.go_live(&LiveOptions { listen, ..LiveOptions::default() }).await.unwrap();
        let invite = InviteOptions { addresses: live.addresses().to_vec(), ..InviteOptions::default() };
        c.join(&a.invite(&invite).unwrap()).await.unwrap();
        assert_eq!(c.library().pull(&Selection::All, &MoveOptions::default()).await.unwrap().files, 6);
        whole(&c);
        live.stop().await.unwrap();
    });
}

fn app(folder: &Path, name: &str, schema: &str) -> Replica {
    let builder = Replica::builder(folder.join(format!("{name}.db"))).home(folder.join(format!("{name}.home")));
    let replica = builder.app(schema).init().unwrap();
    replica.add_plain_remote("all", folder.join("bucket").to_str().unwrap()).unwrap();
    let migrations = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations").join(schema);
    replica.apply_schema(isle::Definition::from_dir(&migrations).unwrap()).unwrap();
    replica
}

fn mapping(schema: &str) -> isle::Mapping {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations").join(schema).join("import.toml");
    isle::Mapping::from_toml(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The counts of rows per document are those of the files; a second device that has files of its own adds what it alone has; the export is what was
/// imported.
#[test]
fn json_files_of_an_app_move_in_on_two_devices_and_out_again() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (app(folder.path(), "a", "wmd"), app(folder.path(), "b", "wmd"));
    let mapping = mapping("wmd");
    let options = isle::ImportOptions::default();
    let report = a.import(&mapping, &real("models"), &options).unwrap();
    let rows: Vec<u64> = report.sources.iter().map(|source| source.inserted).collect();
    assert_eq!(rows, [7, 400, 114, 143, 6, 470, 28, 509, 36, 10]);
    assert!(a.verify_import(&mapping, &real("models")).unwrap().is_equal());

    // Three of the files, one of them changed.
    let others = folder.path().join("others");
    std::fs::create_dir(&others).unwrap();
    for name in ["download_history.json", "model_metadata.json"] {
        std::fs::copy(real("models").join(name), others.join(name)).unwrap();
    }
    std::fs::write(others.join("settings.json"), "{\"theme\": \"light\", \"own\": [1, {\"deep\": null}]}").unwrap();
    let report = b.import(&mapping, &others, &options).unwrap();
    assert_eq!(report.sources.iter().filter(|source| source.state == isle::SourceState::Absent).count(), 7);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for replica in [&a, &b, &a] {
        runtime.block_on(replica.sync()).unwrap();
    }
    assert_eq!(a.state_hash().unwrap(), b.state_hash().unwrap());
    let count = |table: &str| a.read(|q| q.one::<i64>(&format!("SELECT count(*) FROM {table}"), &[])).unwrap().unwrap();
    assert_eq!((count("settings"), count("download_history"), count("model_metadata")), (8, 400, 470));

    let (out_a, out_b) = (folder.path().join("out-a"), folder.path().join("out-b"));
    let export = isle::ExportOptions::default();
    a.export(&mapping, &out_a, &export).unwrap();
    b.export(&mapping, &out_b, &export).unwrap();
    let read = |path: PathBuf| std::fs::read(path).unwrap();
    // The caches stay on their devices, all else is the same to the byte.
    for name in
        ["settings.json", "download_history.json", "model_metadata.json", "model-list.json", "model-aliases.json"]
    {
        assert_eq!(read(out_a.join(name)), read(out_b.join(name)), "{name}");
    }
    let json = |path: PathBuf| serde_json::from_slice::<serde_json::Value>(&read(path)).unwrap();
    for name in
        ["download_history.json", "model_metadata.json", "model-list.json", "popular-models.json", "node_metadata.json"]
    {
        assert_eq!(json(out_a.join(name)), json(real("models").join(name)), "{name}");
    }
}

/// Would catch: an endpoint that answers otherwise after the move to the database.
#[test]
fn an_app_answers_the_same_from_its_files_and_from_the_database() {
    use isle_examples::wmd::Backend;
    let folder = tempfile::tempdir().unwrap();
    for file in real("models").read_dir().unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    let home = folder.path().join("home");
    let said = |backend: &Backend| {
        let history = backend.history().unwrap();
        let names = history.iter().map(|entry| entry["filename"].as_str().unwrap().to_owned());
        let metadata: Vec<_> = names.map(|name| backend.metadata(&name).unwrap()).collect();
        (backend.settings().unwrap(), history, metadata)
    };
    let files = Backend::detect(folder.path(), Some(&home), false).unwrap();
    assert!(matches!(files, Backend::Json(_)));
    let before = said(&files);
    assert!(before.1.len() == 400 && before.2.iter().flatten().count() > 100);
    let database = Backend::migrate(folder.path(), Some(&home), false).unwrap();
    let after = said(&database);
    assert!(matches!(database, Backend::Sqlite(_)));
    assert_eq!(before.0, after.0);
    assert_eq!(before.1, after.1);
    assert_eq!(before.2, after.2);
}

#[test]
fn jobs_of_a_yaml_file_move_in_and_out_again() {
    let folder = tempfile::tempdir().unwrap();
    let a = app(folder.path(), "a", "massugc");
    let mapping = mapping("massugc");
    let report = a.import(&mapping, &real("jobs"), &isle::ImportOptions::default()).unwrap();
    assert_eq!((report.sources[0].rows, report.sources[0].inserted), (1_200, 1_200));
    let out = folder.path().join("campaigns.yaml");
    a.export(&mapping, &out, &isle::ExportOptions::default()).unwrap();
    assert!(a.verify_import(&mapping, &real("jobs")).unwrap().is_equal());
    assert!(a.verify_import(&mapping, &out).unwrap().is_equal());
    std::fs::create_dir(folder.path().join("other")).unwrap();
    let b = app(&folder.path().join("other"), "b", "massugc");
    b.import(&mapping, &out, &isle::ImportOptions::default()).unwrap();
    assert_eq!(a.state_hash().unwrap().visible, b.state_hash().unwrap().visible);
    // One value altered is found.
    let text = std::fs::read_to_string(&out).unwrap();
    std::fs::write(&out, text.replacen("emotion: calm", "emotion: grim", 1)).unwrap();
    let found = a.verify_import(&mapping, &out).unwrap();
    assert_eq!((found.sources[0].differing, found.sources[0].differences[0].document.as_str()), (1, "grim"));
}

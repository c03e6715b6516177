//! Rows and objects of somebody who means harm.

use std::fs;

use isle::{Error, LibraryError, MoveOptions, Selection, params};

use crate::Device;

/// A file of the library as any member can write one.
fn plant(device: &Device, id: &str, path: &str, content: &[u8], bytes: i64) {
    let hash = blake3::hash(content).to_hex();
    let sql = "INSERT INTO library_files(id, path, kind, name, bytes, content, added_ms) VALUES(?1, ?2, 'file', 'x', ?3, ?4, 1)";
    device.replica.write(|tx| tx.execute(sql, params![id, path, bytes, hash.as_str()])).unwrap();
}

async fn victim(folder: &std::path::Path) -> Device {
    let device = Device::with_root(folder, "victim");
    device.add_remote(folder);
    // One chunk in the remote, for rows that claim it.
    device.put("bait.txt", "payload");
    device.scan();
    device.sync().await;
    device
}

#[tokio::test]
async fn paths_of_others_lead_nowhere_outside_their_root() {
    let folder = tempfile::tempdir().unwrap();
    let a = victim(folder.path()).await;
    let paths = [
        "docs/../../escaped.txt",
        "../escaped.txt",
        "/tmp/isle-escaped.txt",
        "docs//escaped.txt",
        "docs/.isle/partial/x",
        "docs/a\0b",
        "docs",
        "",
        "docs/./x",
        "docs/new\nline",
    ];
    for (n, path) in paths.iter().enumerate() {
        plant(&a, &format!("{n:032x}"), path, b"payload", 7);
    }
    let before: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    for (n, path) in paths.iter().enumerate() {
        let result = a.library.pull(&Selection::Files(vec![format!("{n:032x}")]), &MoveOptions::default()).await;
        let Err(Error::Library(LibraryError::Some { problems, .. })) = &result else { panic!("{path:?}: {result:?}") };
        assert!(problems[0].why.contains("is refused"), "{path:?}: {result:?}");
    }
    let after: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(before, after);
    assert_eq!(a.read(".isle/partial/x"), None);
    // The library goes on for everything else.
    assert_eq!(crate::news(&a.scan()), "1 unchanged");
    assert!(a.library.files(&isle::FileFilter::default()).unwrap().len() > paths.len());
}

#[cfg(unix)]
#[tokio::test]
async fn links_in_a_root_are_no_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let a = victim(folder.path()).await;
    let outside = folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, a.root.join("link")).unwrap();
    plant(&a, &"a".repeat(32), "docs/link/planted.txt", b"payload", 7);
    let result = a.library.pull(&Selection::Files(vec!["a".repeat(32)]), &MoveOptions::default()).await;
    assert!(result.is_err(), "{result:?}");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    // Nor is a folder that becomes a link after it was scanned.
    a.put("real/n.txt", "n");
    a.scan();
    let file = a.file("docs/real/n.txt");
    fs::write(outside.join("n.txt"), "n").unwrap();
    fs::remove_dir_all(a.root.join("real")).unwrap();
    std::os::unix::fs::symlink(&outside, a.root.join("real")).unwrap();
    a.library.trash(&file).ok();
    assert_eq!(fs::read_to_string(outside.join("n.txt")).unwrap(), "n");
    a.scan();
    assert!(a.file(&file.id).here.is_empty());
}

#[tokio::test]
async fn sizes_and_lists_that_lie_are_refused_before_anything_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let a = victim(folder.path()).await;
    plant(&a, &"1".repeat(32), "docs/huge.bin", b"payload", 2 << 40);
    plant(&a, &"8".repeat(32), "docs/absurd.bin", b"payload", 1 << 60);
    plant(&a, &"2".repeat(32), "docs/big.bin", b"payload", 5 << 30);
    plant(&a, &"3".repeat(32), "docs/more.txt", b"payload", 8);
    plant(&a, &"4".repeat(32), "docs/less.txt", b"payload", 6);
    plant(&a, &"5".repeat(32), "docs/negative.txt", b"payload", -1);
    plant(&a, &"6".repeat(32), "docs/nothing.txt", b"payload", 0);
    let list = "UPDATE library_files SET chunks = ?2 WHERE id = ?1";
    plant(&a, &"7".repeat(32), "docs/list.bin", b"payload", 7);
    a.replica.write(|tx| tx.execute(list, params![&"7".repeat(32), &[0xff_u8; 71][..]])).unwrap();
    let pull = async |id: String| {
        a.library.pull(&Selection::Files(vec![id]), &MoveOptions::default()).await.unwrap_err().to_string()
    };
    assert!(pull("1".repeat(32)).await.contains("are free"));
    assert!(pull("2".repeat(32)).await.contains("needs a list of chunks"));
    for digit in ["3", "4", "5", "6", "7", "8"] {
        let error = pull(digit.repeat(32)).await;
        assert!(!error.is_empty(), "{digit}");
    }
    let names: Vec<_> = fs::read_dir(&a.root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "the bait and isle's own folder: {names:?}");
    assert!(a.library.status(10).is_ok());
    assert!(a.library.push(&MoveOptions { refresh: true, ..MoveOptions::default() }).await.is_ok());
}

#[tokio::test]
async fn a_file_whose_chunks_are_right_and_whose_whole_is_not_is_thrown_away() {
    let folder = tempfile::tempdir().unwrap();
    let a = victim(folder.path()).await;
    let content = crate::noise(3_000_000, 1);
    a.put("large.bin", &content);
    a.scan();
    a.sync().await;
    // The chunks of the one file under the hash of another.
    let id = a.file("docs/large.bin").id;
    let sql = "UPDATE library_files SET content = ?2 WHERE id = ?1";
    let other = blake3::hash(b"another").to_hex();
    a.replica.write(|tx| tx.execute(sql, params![&id, other.as_str()])).unwrap();
    fs::remove_file(a.root.join("large.bin")).unwrap();
    a.scan();
    let error = a.library.pull(&Selection::Files(vec![id]), &MoveOptions::default()).await.unwrap_err();
    assert!(error.to_string().contains("is not its content"), "{error}");
    assert_eq!(a.read("large.bin"), None);
}

#[tokio::test]
async fn kinds_that_make_no_sense_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let a = victim(folder.path()).await;
    let sql = "INSERT INTO library_kinds(name, definition) VALUES(?1, ?2)";
    for (name, definition) in [
        ("bad", "not json"),
        ("worse", r#"{"name":"other","patterns":["*"],"validator":"any"}"#),
        ("away", r#"{"name":"away","patterns":["*"],"validator":"any","destination":"../../x","rank":-9}"#),
        ("glob", r#"{"name":"glob","patterns":["[a"],"validator":"any"}"#),
    ] {
        a.replica.write(|tx| tx.execute(sql, params![name, definition])).unwrap();
    }
    let names: Vec<String> = a.library.kinds().unwrap().into_iter().map(|kind| kind.name).collect();
    assert_eq!(names, ["gguf", "ppn", "file"]);
    a.put("new.txt", "n");
    assert_eq!(crate::news(&a.scan()), "1 added, 1 unchanged");
}

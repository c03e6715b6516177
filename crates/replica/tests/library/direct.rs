//! Contents between devices, without any remote.

use std::fs;

use isle::{Error, InviteOptions, LibraryError, Live, LiveOptions, MoveOptions, Selection};

use crate::{Device, model, noise};

async fn listen(device: &Device) -> Live {
    let listen = Some("127.0.0.1:0".parse().unwrap());
    device.replica.go_live(&LiveOptions { listen, ..LiveOptions::default() }).await.unwrap()
}

async fn join(a: &Device, live: &Live, b: &Device) {
    let options = InviteOptions { addresses: live.addresses().to_vec(), ..InviteOptions::default() };
    b.replica.join(&a.replica.invite(&options).unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_comes_from_the_device_that_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (Device::with_root(folder.path(), "a"), Device::new(folder.path(), "b"));
    let large = noise(6_000_000, 1);
    a.put("large.bin", &large);
    a.put("models/m.gguf", model("M", "llama", 3));
    a.put("empty", "");
    a.scan();
    let live = listen(&a).await;
    join(&a, &live, &b).await;
    assert_eq!(b.files().len(), 3);
    let path = b.library.open("docs/large.bin", true, &MoveOptions::default()).await.unwrap();
    assert!(fs::read(&path).unwrap() == large);
    let pulled = b.library.pull(&Selection::All, &MoveOptions::default()).await.unwrap();
    assert_eq!(pulled.files, 2);
    // What was written over there since the rows were sent is not what they say: it is not handed out.
    a.put("late.txt", "first");
    a.scan();
    b.replica.sync().await.unwrap();
    a.put("late.txt", "other");
    let refused = b.library.open("docs/late.txt", true, &MoveOptions::default()).await;
    assert!(matches!(refused, Err(Error::Library(LibraryError::NotAvailable { .. }))), "{refused:?}");
    live.stop().await.unwrap();
    // Nobody there: it is said who has it.
    a.put("gone.txt", "gone");
    a.scan();
    let Err(Error::Library(LibraryError::NotAvailable { devices, .. })) = refused else { panic!() };
    assert!(!devices.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_from_a_device_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (Device::with_root(folder.path(), "a"), Device::new(folder.path(), "b"));
    let large = noise(4_000_000, 2);
    a.put("large.bin", &large);
    a.scan();
    let live = listen(&a).await;
    join(&a, &live, &b).await;
    b.library.add_root("docs", &b.root, &[]).unwrap();
    let id = b.file("docs/large.bin").id;
    let partial = b.root.join(".isle/partial").join(&id);
    fs::create_dir_all(partial.parent().unwrap()).unwrap();
    fs::write(&partial, &large[..2_500_000]).unwrap();
    let pulled = b.library.pull(&Selection::Files(vec![id]), &MoveOptions::default()).await.unwrap();
    assert!(pulled.resumed_bytes > 1_500_000 && pulled.fetched_bytes < 2_500_000, "{pulled:?}");
    assert!(b.read("large.bin").unwrap() == large);
    live.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remote_that_lacks_a_file_is_no_reason_not_to_ask_devices() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (Device::with_root(folder.path(), "a"), Device::new(folder.path(), "b"));
    a.put("n.txt", "words");
    a.scan();
    let live = listen(&a).await;
    join(&a, &live, &b).await;
    // Rows go there, and no contents.
    for device in [&a, &b] {
        device.add_remote(folder.path());
        device.replica.sync().await.unwrap();
    }
    let path = b.library.open("docs/n.txt", true, &MoveOptions::default()).await.unwrap();
    assert_eq!(fs::read_to_string(path).unwrap(), "words");
    // From one remote alone, nobody else is asked.
    b.library.trash(&b.file("docs/n.txt")).unwrap();
    b.library.restore(&b.library.file("docs/n.txt").unwrap().id).unwrap();
    fs::remove_dir_all(folder.path().join("b.db.files")).unwrap();
    let only = MoveOptions { remote: Some("shared".into()), ..MoveOptions::default() };
    let refused = b.library.open("docs/n.txt", true, &only).await;
    assert!(refused.is_err(), "{refused:?}");
    live.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_was_put_out_gets_no_contents() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (Device::with_root(folder.path(), "a"), Device::new(folder.path(), "b"));
    a.put("n.txt", "secret");
    a.scan();
    let live = listen(&a).await;
    join(&a, &live, &b).await;
    a.replica.revoke(&b.replica.device().unwrap().key.to_string()).unwrap();
    let refused = b.library.open("docs/n.txt", true, &MoveOptions::default()).await;
    assert!(refused.is_err(), "{refused:?}");
    live.stop().await.unwrap();
}

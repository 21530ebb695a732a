//! File systems that cannot keep the promises of a store are named when it opens; one that is
//! mounted read-only can be looked at.

use std::path::Path;

use oncelog::storage::Owner;
use oncelog::{Background, Claim, Durability, Status, Store, Warning};

use crate::image::{FileSystem, IMAGE_BYTES_MIN, Image, run, scratch};
use crate::keys::{fingerprint, response, scope};
use crate::load::options;

/// A mount that is undone when this is dropped.
struct Mount<'a>(&'a Path);

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        run("umount", &[self.0]);
    }
}

fn warnings(dir: &Path) -> Vec<Warning> {
    let store = Store::options().segment_bytes(64 * 1024).open(dir).unwrap();
    let warnings = store.recovery().warnings.clone();
    store.close().unwrap();
    warnings
}

#[test]
fn a_store_in_memory_or_on_a_layer_is_warned_of_and_one_on_a_disk_is_not() {
    let scratch = scratch();
    let path = |name: &str| {
        let path = scratch.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    };
    let (memory, merged) = (path("memory"), path("merged"));
    run("mount -t tmpfs tmpfs", &[&memory]);
    let memory = Mount(&memory);
    let volatile = Warning::Volatile { file_system: "tmpfs" };
    assert_eq!(warnings(&memory.0.join("store")), [volatile]);
    for kind in [FileSystem::Ext4, FileSystem::Xfs] {
        let image = Image::new(kind, IMAGE_BYTES_MIN);
        assert_eq!(warnings(&image.dir("store")), [], "{kind:?}");
        let [lower, upper, work] = ["lower", "upper", "work"].map(|name| {
            let dir = image.dir(name);
            std::fs::create_dir(&dir).unwrap();
            dir.display().to_string()
        });
        let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        run(&format!("mount -t overlay overlay -o {options}"), &[&merged]);
        let merged = Mount(&merged);
        let layered = Warning::Layered { file_system: "overlay" };
        assert_eq!(warnings(&merged.0.join("store")), [layered], "{kind:?}");
    }
}

#[test]
fn a_store_on_a_read_only_file_system_can_be_looked_at() {
    for kind in [FileSystem::Ext4, FileSystem::Xfs] {
        let image = Image::new(kind, IMAGE_BYTES_MIN);
        let dir = image.dir("store");
        let options = options(Durability::Synced).background(Background::Inline);
        let store = options.open(&dir).unwrap();
        for number in 0..500 {
            let key = number.to_string();
            let claim = store.claim(scope(&key), fingerprint(&key)).unwrap();
            let Claim::Granted(permit) = claim else { panic!("{key}: {claim:?}") };
            permit.complete(&response(&key)).unwrap();
        }
        let open = store.claim(scope("open"), fingerprint("open")).unwrap();
        store.close().unwrap();
        // It holds files open.
        drop(open);
        image.remount_as("ro");
        let made = std::fs::write(dir.join("LOCK"), b"");
        assert!(made.is_err(), "{kind:?}: it is not read-only");
        let snapshot = Store::options().open_read_only(&dir).unwrap();
        assert_eq!(snapshot.owner(), Owner::Gone);
        for number in 0..500 {
            let key = number.to_string();
            let status = snapshot.lookup(scope(&key)).unwrap();
            let Some(Status::Completed(stored)) = status else { panic!("{key}: {status:?}") };
            assert!(stored.bytes() == Some(&*response(&key)), "{key} has another response");
        }
        assert_eq!(snapshot.unresolved().len(), 1);
        assert_eq!(snapshot.entries().filter(Result::is_ok).count(), 501);
        assert!(snapshot.verify().unwrap().is_clean());
        drop(snapshot);
        image.remount_as("rw");
    }
}

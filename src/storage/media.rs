//! Which file systems cannot keep the promises of a store, by the number that `statfs` gives.
//!
//! The numbers are those of `statfs(2)` and of the kernel's `include/uapi/linux/magic.h`. A number
//! that is not here stands for a file system of which nothing bad is known.

use crate::warning::Warning;

/// The kinds of file systems that a warning is for.
#[derive(Clone, Copy)]
enum Kind {
    Volatile,
    Layered,
    Remote,
    UserSpace,
}

const KINDS: &[(i64, Kind, &str)] = &[
    (0x0102_1994, Kind::Volatile, "tmpfs"),
    (0x8584_58f6, Kind::Volatile, "ramfs"),
    (0x794c_7630, Kind::Layered, "overlay"),
    (0x6969, Kind::Remote, "nfs"),
    (0x517b, Kind::Remote, "smb"),
    (0xff53_4d42, Kind::Remote, "cifs"),
    (0xfe53_4d42, Kind::Remote, "smb2"),
    (0x0102_1997, Kind::Remote, "9p"),
    (0x00c3_6400, Kind::Remote, "ceph"),
    (0x5346_414f, Kind::Remote, "afs"),
    (0x6b41_4653, Kind::Remote, "kafs"),
    (0x7375_7245, Kind::Remote, "coda"),
    (0x0bd0_0bd0, Kind::Remote, "lustre"),
    (0x786f_4256, Kind::Remote, "vboxsf"),
    // virtiofs has the number of FUSE.
    (0x6573_5546, Kind::UserSpace, "fuse"),
];

/// What is to be said of a file system with this number.
pub(in crate::storage) fn warnings(magic: i64) -> Vec<Warning> {
    // Some machines give the number as a signed one of 32 bits.
    let found = KINDS.iter().find(|(number, ..)| *number == magic & 0xffff_ffff);
    let warning = found.map(|&(_, kind, file_system)| match kind {
        Kind::Volatile => Warning::Volatile { file_system },
        Kind::Layered => Warning::Layered { file_system },
        Kind::Remote => Warning::Remote { file_system },
        Kind::UserSpace => Warning::UserSpace { file_system },
    });
    Vec::from_iter(warning)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_systems_that_cannot_keep_promises_are_named_and_no_others() {
        let volatile = Warning::Volatile { file_system: "tmpfs" };
        assert_eq!(warnings(0x0102_1994), [volatile]);
        assert_eq!(warnings(0x6969), [Warning::Remote { file_system: "nfs" }]);
        let signed = i64::from(0xff53_4d42_u32.cast_signed());
        assert_eq!(warnings(signed), [Warning::Remote { file_system: "cifs" }]);
        // ext4, xfs, btrfs, zfs.
        for sound in [0xef53, 0x5846_5342, 0x9123_683e, 0x2fc1_2fc1] {
            assert_eq!(warnings(sound), []);
        }
        for (at, (number, ..)) in KINDS.iter().enumerate() {
            assert!(KINDS[at + 1..].iter().all(|(other, ..)| other != number));
        }
    }
}

//! What stands in the way of a store's promises where it was opened.

use std::fmt;

/// What stands in the way of a store's promises, from [`Recovery`](crate::Recovery). The store was
/// opened all the same.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// The file system is in memory: everything is gone with a power cut, and with the mount.
    Volatile {
        /// Its name, such as `tmpfs`.
        file_system: &'static str,
    },
    /// The file system is a layer over others, as in a container: what is written goes with the
    /// container, and where the layer is mounted `volatile` a sync does nothing. Mount a volume.
    Layered {
        /// Its name, such as `overlay`.
        file_system: &'static str,
    },
    /// The file system is kept by another machine, which may drop a lock while its holder lives,
    /// and show an old version of a file.
    Remote {
        /// Its name, such as `nfs`.
        file_system: &'static str,
    },
    /// The file system is a program, of which the kernel cannot say what its locks and syncs do.
    UserSpace {
        /// Its name, such as `fuse`.
        file_system: &'static str,
    },
    /// Others than the owner of the directory may enter, list or change it. Scopes and responses
    /// are in files that only their owner may read; names and sizes are not hidden.
    OpenToOthers {
        /// The permission bits of the directory, such as `0o755`.
        mode: u32,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::Volatile { file_system } => {
                write!(f, "{file_system} is in memory: a power cut takes everything")
            }
            Warning::Layered { file_system } => {
                write!(f, "{file_system} is a layer that goes with its container; mount a volume")
            }
            Warning::Remote { file_system } => {
                write!(f, "{file_system} is kept by another machine: its locks and syncs may lie")
            }
            Warning::UserSpace { file_system } => {
                write!(f, "{file_system} is kept by a program: its locks and syncs may lie")
            }
            Warning::OpenToOthers { mode } => {
                write!(f, "the directory has mode {mode:04o}, which lets others in")
            }
        }
    }
}

//! Why a store cannot be used.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::Path;

/// A store cannot be used now. What it kept still counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lost {
    says: String,
    is_locked: bool,
}

impl Lost {
    /// Returns whether there is no other reason than that another process has the lock.
    pub(crate) fn is_locked(&self) -> bool {
        self.is_locked
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.says)
    }
}

impl Error for Lost {}

/// What is wrong with a file.
#[derive(Debug)]
pub(super) enum Fault {
    Open(io::Error),
    Lock(io::Error),
    Read(io::Error),
    Write(io::Error),
    /// Another process has the lock, and keeps it.
    Locked,
    /// The file, or its folder, is not safe to use: why.
    Unsafe(String),
    /// It is no ledger.
    Foreign,
    /// It is a ledger of another layout than `ours`.
    Layout {
        theirs: u64,
        ours: u64,
    },
    /// It is another file each time that it is looked at.
    Restless,
}

impl Fault {
    pub(super) fn at(self, path: &Path) -> Lost {
        Lost { says: format!("the shared file {} {self}", path.display()), is_locked: matches!(self, Self::Locked) }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(error) => write!(out, "cannot be opened: {error}"),
            Self::Lock(error) => write!(out, "cannot be locked: {error}"),
            Self::Read(error) => write!(out, "cannot be read: {error}"),
            Self::Write(error) => write!(out, "cannot be written: {error}; what was written before still counts"),
            Self::Locked => out.write_str("is locked by another process, which may have been stopped"),
            Self::Unsafe(why) => write!(out, "is not safe to use: {why}"),
            Self::Foreign => out.write_str("is no shared file of turnout, and stays as it is: remove it, or name another path"),
            Self::Layout { theirs, ours } => write!(
                out,
                "has layout {theirs}, but this version of turnout needs layout {ours}: stop the processes of the other \
                 version and remove the file, or name another path"
            ),
            Self::Restless => out.write_str("was replaced again and again while it was opened"),
        }
    }
}

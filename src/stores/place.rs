//! Where a ledger's file is, and how it is opened so that no other user has a hand in it.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::process::geteuid;

use super::fault::Fault;

/// Where a ledger's file is.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    path: PathBuf,
    has_own_folder: bool,
}

/// Which file is open, whatever its path is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    number: u64,
}

impl Place {
    /// Makes the place of a file. With `has_own_folder` its folder is made where there is none, and refused
    /// if other users may enter it.
    pub(crate) fn new(path: impl Into<PathBuf>, has_own_folder: bool) -> Self {
        Self { path: path.into(), has_own_folder }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether a file is the one at the path.
    pub(super) fn has(&self, file: FileId) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|facts| FileId::of(&facts) == file)
    }

    /// Opens the file. Makes an empty one if there is none.
    pub(super) fn open(&self) -> Result<(File, FileId), Fault> {
        if self.has_own_folder
            && let Some(folder) = self.path.parent()
        {
            make_folder(folder)?;
        }
        // A symbolic link may lead anywhere, and a pipe would wait for a reader.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags);
        let file = options.open(&self.path).map_err(|error| match fs::symlink_metadata(&self.path) {
            Ok(facts) if facts.is_symlink() => Fault::Unsafe("it is a symbolic link; name the path that it leads to".to_owned()),
            _ => Fault::Open(error),
        })?;
        let facts = file.metadata().map_err(Fault::Open)?;
        if !facts.is_file() {
            return Err(Fault::Unsafe("it is no regular file".to_owned()));
        }
        is_own(&facts, "it", 0o022, "write to it")?;
        Ok((file, FileId::of(&facts)))
    }
}

impl FileId {
    fn of(facts: &Metadata) -> Self {
        Self { device: facts.dev(), number: facts.ino() }
    }
}

fn make_folder(folder: &Path) -> Result<(), Fault> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(Fault::Open(error)),
        _ => {}
    }
    let facts = fs::symlink_metadata(folder).map_err(Fault::Open)?;
    if !facts.is_dir() {
        return Err(Fault::Unsafe(format!("{} is no folder", folder.display())));
    }
    is_own(&facts, "its folder", 0o077, "use it")
}

/// Refuses what belongs to another user, or lets others do what they must not.
fn is_own(facts: &Metadata, what: &str, forbidden: u32, may: &str) -> Result<(), Fault> {
    let own = geteuid().as_raw();
    if facts.uid() != own {
        return Err(Fault::Unsafe(format!("{what} belongs to user {}, not to user {own}", facts.uid())));
    }
    let mode = facts.mode() & 0o777;
    if mode & forbidden != 0 {
        return Err(Fault::Unsafe(format!("{what} has mode {mode:03o}, so other users may {may}")));
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::base::rng::Rng;

    /// A folder that a test has to itself.
    pub(in crate::stores) struct Folder(pub(in crate::stores) PathBuf);

    impl Folder {
        pub(in crate::stores) fn new() -> Self {
            let random = Rng::new(None).below(u64::MAX);
            let folder = std::env::temp_dir().join(format!("turnout-test-{random:016x}"));
            fs::create_dir(&folder).unwrap();
            Self(folder)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            _ = fs::remove_dir_all(&self.0);
        }
    }

    fn refusal(place: &Place) -> String {
        place.open().unwrap_err().to_string()
    }

    #[test]
    fn a_file_is_made_for_its_user_alone() {
        let folder = Folder::new();
        let place = Place::new(folder.0.join("own").join("ledger"), true);
        let (_file, id) = place.open().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(place.path()), mode(&folder.0.join("own"))), (0o600, 0o700));
        assert!(place.has(id) && place.open().unwrap().1 == id);
        fs::rename(place.path(), folder.0.join("elsewhere")).unwrap();
        assert!(!place.has(id));
        assert_ne!(place.open().unwrap().1, id);
    }

    #[test]
    fn what_others_can_change_is_refused() {
        let folder = Folder::new();
        let place = Place::new(folder.0.join("ledger"), false);
        place.open().unwrap();
        fs::set_permissions(place.path(), Permissions::from_mode(0o620)).unwrap();
        assert_eq!(refusal(&place), "is not safe to use: it has mode 620, so other users may write to it");
        fs::set_permissions(place.path(), Permissions::from_mode(0o644)).unwrap();
        place.open().unwrap();

        let own = folder.0.join("own");
        fs::create_dir(&own).unwrap();
        fs::set_permissions(&own, Permissions::from_mode(0o755)).unwrap();
        let place = Place::new(own.join("ledger"), true);
        assert_eq!(refusal(&place), "is not safe to use: its folder has mode 755, so other users may use it");
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let folder = Folder::new();
        let place = |name: &str| Place::new(folder.0.join(name), false);
        fs::create_dir(folder.0.join("folder")).unwrap();
        assert!(refusal(&place("folder")).starts_with("cannot be opened: "));
        assert!(refusal(&place("nowhere/ledger")).starts_with("cannot be opened: No such file"));
        for target in ["missing", "target"] {
            symlink(folder.0.join(target), folder.0.join("link")).unwrap();
            assert_eq!(refusal(&place("link")), "is not safe to use: it is a symbolic link; name the path that it leads to");
            assert!(!folder.0.join("missing").exists());
            fs::remove_file(folder.0.join("link")).unwrap();
            fs::write(folder.0.join("target"), "mine").unwrap();
        }
        symlink(&folder.0, folder.0.join("own")).unwrap();
        let linked = Place::new(folder.0.join("own").join("ledger"), true);
        assert_eq!(refusal(&linked), format!("is not safe to use: {} is no folder", folder.0.join("own").display()));
        assert!(refusal(&Place::new("/dev/null", false)).contains("it is no regular file"));
    }
}

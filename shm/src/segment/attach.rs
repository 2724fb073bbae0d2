//! Attaching to look: by id, by instance, or an image in a file. Always read-only.

use std::io;
use std::path::Path;

use nix::errno::Errno;

use crate::layout::HeaderError;
use crate::region::sysv;
use crate::region::{ImageMemory, Mapping, SysvMemory};
use crate::segment::SegmentView;
use crate::segment::key::keys_of;
use crate::segment::spec::AttachError;

impl SegmentView {
    /// Attaches a segment by the kernel's id, read-only.
    ///
    /// # Errors
    /// No such segment, no permission, or not one that this program can read.
    pub fn attach_by_id(shm_id: i32) -> Result<Self, AttachError> {
        let memory = SysvMemory::attach(shm_id, true).map_err(|source| refusal(source, shm_id))?;
        Ok(Self::of(Mapping::Sysv(memory), Some(shm_id))?)
    }

    /// Attaches the segment of a user's instance, read-only. What another user has made at its key is passed by, whatever
    /// it says of itself.
    ///
    /// # Errors
    /// No such segment, no permission, or not one that this program can read.
    pub fn attach_by_instance(instance: &str, uid: u32) -> Result<Self, AttachError> {
        let mut problem = None;
        for key in keys_of(instance, uid) {
            let shm_id = match sysv::find(key) {
                Ok(shm_id) => shm_id,
                Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
                    problem = Some(AttachError::DeniedKey(key));
                    continue;
                }
                Err(_) => continue,
            };
            let is_theirs =
                |status: sysv::SysvStatus| status.owner_uid == uid && status.creator_uid == uid;
            // One that cannot even be asked about cannot be attached either, and the attaching says why.
            if sysv::status(shm_id).is_ok_and(|status| !is_theirs(status)) {
                continue;
            }
            match Self::attach_by_id(shm_id) {
                Ok(view)
                    if view.header().instance == instance && view.header().owner_uid == uid =>
                {
                    return Ok(view);
                }
                Ok(_)
                | Err(AttachError::Header(
                    HeaderError::Magic(_) | HeaderError::Small(_) | HeaderError::Size { .. },
                )) => {}
                Err(error) => problem = Some(error),
            }
        }
        Err(problem.unwrap_or_else(|| AttachError::NoInstance {
            instance: instance.to_owned(),
            uid,
        }))
    }

    /// Removes the segment that this looks at from the system, as [`Segment::remove`](crate::Segment::remove) does: for the maker of a
    /// daemon that is gone. Nothing happens for an image.
    ///
    /// # Errors
    /// The kernel refuses: it is another user's.
    pub fn remove(&self) -> io::Result<()> {
        self.shm_id.map_or(Ok(()), sysv::remove)
    }

    /// Maps the image of a segment, read-only.
    ///
    /// # Errors
    /// The file cannot be read, or is no image that this program can read.
    pub fn open_image(path: &Path) -> Result<Self, AttachError> {
        let memory = ImageMemory::open(path).map_err(|source| AttachError::File {
            file: path.to_owned(),
            source,
        })?;
        Ok(Self::of(Mapping::Image(memory), None)?)
    }
}

pub(super) fn refusal(source: io::Error, shm_id: i32) -> AttachError {
    let is = |errno: Errno| source.raw_os_error() == Some(errno as i32);
    if is(Errno::EINVAL) || is(Errno::EIDRM) {
        AttachError::NoId(shm_id)
    } else if is(Errno::EACCES) || is(Errno::EPERM) {
        AttachError::Denied(shm_id)
    } else {
        AttachError::Call {
            call: "shmat",
            source,
        }
    }
}
